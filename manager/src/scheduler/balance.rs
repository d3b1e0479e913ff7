//! Whether a service's tasks could be spread more evenly than they are.

use super::{
    filter::{Wanted, refusals},
    load::{Load, loads},
};
use crate::store::Snapshot;
use heddle_model::{NodeId, Timestamp, node::Node, service::Service};
use std::{collections::BTreeMap, sync::Arc};

/// Values of a node's attributes that tasks are spread over, up to one of them.
type Branch = Vec<Option<String>>;

/// A node as the scheduler ranks it, save for what other services have there; and what makes room counts here until it has gone.
struct Standing {
    failed: u32,
    /// For each preference the branch, and the service's tasks in it.
    branches: Vec<(Branch, u32)>,
    of_service: u32,
}

impl Standing {
    fn rank(&self) -> (u32, Vec<u32>, u32) {
        (self.failed, self.branches.iter().map(|(_, count)| *count).collect(), self.of_service)
    }

    /// Whether a task that goes from here to there leaves them more even: a difference of one is only turned round.
    fn gains_by(&self, other: &Standing) -> bool {
        let differ = self.branches.iter().zip(&other.branches).find(|((here, _), (there, _))| here != there);
        let (here, there) = match differ {
            Some(((_, here), (_, there))) => (*here, *there),
            None => (self.of_service, other.of_service),
        };
        here >= there + 2
    }

    /// The branches that it is in, and the whole of which they are part.
    fn within(&self) -> impl Iterator<Item = &[Option<String>]> {
        std::iter::once([].as_slice()).chain(self.branches.iter().map(|(branch, _)| branch.as_slice()))
    }
}

/// The slot of a task that is to move next. None: they are as even as they can be.
pub fn next(state: &Snapshot, service: &Service, now: Timestamp) -> Option<u64> {
    let mut like = None;
    let mut last: BTreeMap<&NodeId, u64> = BTreeMap::new();
    let tasks = state.tasks_of_service(&service.id);
    for task in tasks.filter(|t| t.in_service() && t.spec_version == service.spec_version) {
        let slot = last.entry(task.node.as_ref()?).or_default();
        *slot = task.slot.max(*slot);
        like = Some(task);
    }
    let wanted = Wanted::by(state, like?);
    let loads = loads(state, now);
    let standings = standings(state, &loads, &wanted);
    let takes = |id: &NodeId| {
        let (Some(node), Some(load)) = (state.nodes.get(id), loads.get(id)) else { return false };
        refusals(node, load, &wanted).next().is_none()
    };
    // Of all nodes, and of those in each branch, the one where another task is best off.
    let mut best: BTreeMap<&[Option<String>], &Standing> = BTreeMap::new();
    for (_, standing) in standings.iter().filter(|(id, _)| takes(id)) {
        for branch in standing.within() {
            let known = best.entry(branch).or_insert(standing);
            if standing.rank() < known.rank() {
                *known = standing;
            }
        }
    }
    let gains = |here: &Standing| here.within().filter_map(|branch| best.get(branch)).any(|there| here.gains_by(there));
    let from = standings.iter().filter_map(|(id, standing)| Some((standing, *last.get(id)?)));
    from.filter(|(here, _)| gains(here)).max_by_key(|(here, slot)| (here.rank(), *slot)).map(|(_, slot)| slot)
}

fn standings(state: &Snapshot, loads: &BTreeMap<NodeId, Load>, wanted: &Wanted<'_>) -> BTreeMap<NodeId, Standing> {
    let branches = |node: &Node| -> Vec<Branch> {
        let values: Branch = wanted.spread.iter().map(|a| a.of(node).map(Into::into)).collect();
        (1..=values.len()).map(|n| values[..n].to_vec()).collect()
    };
    let nodes: Vec<_> = loads.iter().filter_map(|(id, load)| Some((state.nodes.get(id)?, load))).collect();
    let of = |load: &Load| load.of(&wanted.like.service);
    let mut counts: BTreeMap<Branch, u32> = BTreeMap::new();
    for (node, load) in &nodes {
        branches(node).into_iter().for_each(|branch| *counts.entry(branch).or_default() += of(load));
    }
    let standing = |(node, load): (&Arc<Node>, &Load)| {
        let counted = branches(node).into_iter().map(|branch| {
            let count = counts.get(&branch).copied().unwrap_or(0);
            (branch, count)
        });
        let branches = counted.collect();
        (node.id.clone(), Standing { failed: load.failures(wanted.like), branches, of_service: of(load) })
    };
    nodes.into_iter().map(standing).collect()
}
