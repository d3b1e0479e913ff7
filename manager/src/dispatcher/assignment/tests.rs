//! What is told step by step is what the whole is.

use super::{changes, concerned, same_cluster, view};
use crate::{
    dispatcher::session,
    store::Snapshot,
    world::{Event, World, event},
};
use heddle_model::NodeId;
use proptest::prelude::*;

fn told_right(old: &Snapshot, new: &Snapshot, node: &NodeId) {
    let (before, after) = (view(old, node), view(new, node));
    let Some(changes) = changes(old, new, node) else {
        assert!(before.is_none() || after.is_none());
        return;
    };
    let (mut got, after) = (before.unwrap(), after.unwrap());
    let exact = got.diff(&after);
    assert_eq!(
        (changes.update.len(), changes.remove.len()),
        (exact.update.len(), exact.remove.len()),
        "no more than differs"
    );
    let news =
        !changes.is_empty() || !same_cluster(old, new) || session(old, node, 1, None) != session(new, node, 1, None);
    assert!(!news || concerned(old, new).includes(node), "{changes:?} would not be told to {node}");
    got.apply(changes);
    assert_eq!(got, after);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    #[test]
    fn differences_add_up_to_the_whole(events in prop::collection::vec(event(), 1..30)) {
        let mut world = World::new();
        let mut states = vec![world.state.clone()];
        for (number, event) in events.into_iter().enumerate() {
            world.happen(event, number);
            states.push(world.state.clone());
            world.settle();
            states.push(world.state.clone());
        }
        // Two at one address, of which one goes down and comes back.
        let state = |up| (0..3).map(move |n| Event::NodeState(n, up));
        for event in [Event::AddNode, Event::AddNode].into_iter().chain(state(false)).chain(state(true)) {
            world.happen(event, 200);
            states.push(world.state.clone());
        }
        let nodes: std::collections::BTreeSet<NodeId> = states.iter().flat_map(|s| s.nodes.keys().cloned()).collect();
        for node in &nodes {
            for pair in states.windows(2) {
                told_right(&pair[0], &pair[1], node);
            }
            told_right(&states[0], &world.state, node);
            // Far apart, and backwards: what is shared does not matter.
            told_right(&world.state, &states[states.len() / 2], node);
        }
    }
}
