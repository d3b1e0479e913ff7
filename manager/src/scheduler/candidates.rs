//! Nodes for tasks that ask the same of a node, the best first.

use super::{
    filter::{Wanted, refusals},
    load::Load,
};
use crate::store::Snapshot;
use heddle_model::{NodeId, node::Node, task::Choice};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

/// Of a node, the least is the best: failures of late, tasks of the service that stay there, tasks in all.
type Rank = (u32, u32, u32);

/// Of the best node below a branch: its failures, tasks of the service in each branch on the way to it, tasks of the service there,
/// tasks in all.
type Key = (u32, Vec<u32>, u32, u32);

/// What is placed only makes a node fuller: one that refuses once is not asked again.
pub struct Candidates<'a> {
    wanted: Wanted<'a>,
    root: Branch,
    refused: BTreeMap<&'static str, usize>,
}

/// Nodes that are alike in what tasks are spread over so far.
#[derive(Default)]
struct Branch {
    /// Tasks of the service that stay on them.
    tasks: u32,
    /// By the value of what tasks are spread over next; None: nodes without such a label.
    known: BTreeMap<Option<String>, usize>,
    branches: Vec<Branch>,
    order: BinaryHeap<Reverse<(Key, usize)>>,
    /// At the end of the way.
    nodes: BinaryHeap<Reverse<(Rank, NodeId)>>,
}

impl Branch {
    fn add(&mut self, node: &Node, load: &Load, wanted: &Wanted<'_>) {
        let mut at = self;
        for attribute in &wanted.spread {
            at.tasks += wanted.beside(&node.id, load);
            let Branch { known, branches, .. } = at;
            let next = *known.entry(attribute.of(node).map(Into::into)).or_insert_with(|| {
                branches.push(Branch::default());
                branches.len() - 1
            });
            at = &mut branches[next];
        }
        at.tasks += wanted.beside(&node.id, load);
        at.nodes.push(Reverse((rank(&node.id, load, wanted), node.id.clone())));
    }

    /// After the last node has come.
    fn sort(&mut self) {
        self.branches.iter_mut().for_each(Branch::sort);
        self.order = (0..self.branches.len()).filter_map(|at| Some(Reverse((self.key(at)?, at)))).collect();
    }

    fn key(&self, at: usize) -> Option<Key> {
        let branch = &self.branches[at];
        let (failed, below, of_service, all) = match (branch.order.peek(), branch.nodes.peek()) {
            (Some(Reverse(((failed, below, of_service, all), _))), _) => (*failed, below.as_slice(), *of_service, *all),
            (None, Some(Reverse(((failed, of_service, all), _)))) => (*failed, [].as_slice(), *of_service, *all),
            (None, None) => return None,
        };
        Some((failed, [&[branch.tasks], below].concat(), of_service, all))
    }

    /// Asks the best node, which says how it ranks with the task. None: there is no node left; Some(None): it refuses.
    fn ask(&mut self, take: &mut dyn FnMut(&NodeId) -> Option<Rank>) -> Option<Option<(NodeId, Key)>> {
        if let Some(Reverse(((failed, of_service, all), id))) = self.nodes.pop() {
            let Some(rank) = take(&id) else { return Some(None) };
            self.tasks += 1;
            self.nodes.push(Reverse((rank, id.clone())));
            return Some(Some((id, (failed, Vec::new(), of_service, all))));
        }
        let Reverse((key, at)) = self.order.pop()?;
        let answer = self.branches[at].ask(take);
        if let Some(next) = self.key(at) {
            self.order.push(Reverse((next, at)));
        }
        let taken = answer?;
        self.tasks += u32::from(taken.is_some());
        Some(taken.map(|(id, _)| (id, key)))
    }
}

impl<'a> Candidates<'a> {
    pub fn new(state: &Snapshot, loads: &BTreeMap<NodeId, Load>, wanted: Wanted<'a>) -> Self {
        let mut root = Branch::default();
        let mut add = |(id, load): (&NodeId, &Load)| {
            if let Some(node) = state.nodes.get(id) {
                root.add(node, load, &wanted);
            }
        };
        match &wanted.like.bound {
            Some(id) => loads.get_key_value(id).into_iter().for_each(&mut add),
            None => loads.iter().for_each(&mut add),
        }
        root.sort();
        Self { wanted, root, refused: BTreeMap::new() }
    }

    /// Puts one task somewhere, or says why it fits nowhere.
    pub fn place(&mut self, state: &Snapshot, loads: &mut BTreeMap<NodeId, Load>) -> Result<(NodeId, Choice), String> {
        let Self { wanted, root, refused } = self;
        let mut take = |id: &NodeId| {
            let (node, load) = state.nodes.get(id).zip(loads.get_mut(id))?;
            if let Some(refusal) = refusals(node, load, wanted).next() {
                *refused.entry(refusal.of_many()).or_default() += 1;
                return None;
            }
            load.add(wanted.like);
            Some(rank(id, load, wanted))
        };
        while let Some(answer) = root.ask(&mut take) {
            if let Some((id, (failed, alike, of_service, all))) = answer {
                return Ok((id, Choice { failed, alike: alike.into(), of_service, all }));
            }
        }
        let reasons: Vec<_> = self.refused.iter().map(|(why, n)| format!("{n} {why}")).collect();
        Err(match reasons.as_slice() {
            [] => "no suitable node: there is none".into(),
            _ => format!("no suitable node: {}", reasons.join(", ")),
        })
    }
}

fn rank(id: &NodeId, load: &Load, wanted: &Wanted<'_>) -> Rank {
    (load.failures(wanted.like), wanted.beside(id, load), load.all)
}
