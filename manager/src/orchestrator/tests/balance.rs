//! Tasks that move to nodes with fewer.

use super::{cluster::Cluster, ids};
use crate::{control::changes, store::Mutation};
use heddle_model::{
    NodeId,
    node::Availability,
    service::{Mode, Rebalance, ServiceSpec},
    update::{Order, UpdateState},
};
use std::{collections::BTreeMap, time::Duration};

/// A drained node is left by all at once.
fn start_first(spec: &mut ServiceSpec) {
    (spec.update.order, spec.update.parallelism) = (Order::StartFirst, 0);
}

/// Six replicas on two of three hosts, the third of which is open again.
fn uneven() -> Cluster {
    let mut cluster = Cluster::serving(6, start_first);
    let node = cluster.nodes()[0].clone();
    cluster.drain(&node);
    (0..80).for_each(|_| cluster.round());
    assert_eq!(counts(&cluster).values().copied().collect::<Vec<_>>(), [3, 3]);
    cluster.set(&node, |spec| spec.availability = Availability::Active);
    (0..20).for_each(|_| cluster.round());
    assert_eq!(counts(&cluster).len(), 2, "nothing moves unasked");
    cluster
}

fn counts(cluster: &Cluster) -> BTreeMap<NodeId, usize> {
    let mut counts = BTreeMap::new();
    for node in cluster.serving_tasks().into_iter().filter_map(|t| t.node.clone()) {
        *counts.entry(node).or_default() += 1;
    }
    counts
}

fn ask(cluster: &mut Cluster, most: Option<u64>) {
    let changed = changes::rebalance(&cluster.state, "web", most).unwrap();
    cluster.write(changed.mutations);
}

/// Until it is over. The fewest that served at any time.
fn go_on(cluster: &mut Cluster, each: impl Fn(&mut Cluster, usize)) -> usize {
    let mut least = usize::MAX;
    for round in 0..200 {
        each(cluster, round);
        cluster.round();
        least = least.min(cluster.least_serving());
    }
    assert_eq!(cluster.service().moves, 0);
    least
}

#[test]
fn nodes_have_as_many_each_and_all_serve_meanwhile() {
    let mut cluster = uneven();
    let before = ids(cluster.serving_tasks());
    ask(&mut cluster, None);
    assert_eq!(go_on(&mut cluster, |_, _| ()), 6);
    assert_eq!(counts(&cluster).values().copied().collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(ids(cluster.serving_tasks()).intersection(&before).count(), 4, "no more move than must");
    let now = ids(cluster.serving_tasks());
    ask(&mut cluster, None);
    go_on(&mut cluster, |_, _| ());
    assert_eq!(ids(cluster.serving_tasks()), now, "what is even stays");
}

#[test]
fn a_budget_is_kept_and_a_new_leader_goes_on() {
    let mut cluster = uneven();
    ask(&mut cluster, Some(1));
    go_on(&mut cluster, |_, _| ());
    assert_eq!(counts(&cluster).values().copied().max(), Some(3));
    assert_eq!(counts(&cluster).len(), 3);
    ask(&mut cluster, Some(5));
    let least = go_on(&mut cluster, |cluster, round| {
        if round % 3 == 0 {
            cluster.new_leader()
        }
    });
    assert_eq!((least, counts(&cluster).values().copied().max()), (6, Some(2)));
}

#[test]
fn by_a_rule_no_more_moves_in_its_time_than_it_says() {
    let mut cluster = Cluster::serving(6, |spec| {
        start_first(spec);
        spec.rebalance = Rebalance { every: Duration::from_secs(3600), most: 1 };
    });
    let node = cluster.nodes()[0].clone();
    cluster.drain(&node);
    (0..80).for_each(|_| cluster.round());
    cluster.set(&node, |spec| spec.availability = Availability::Active);
    (0..80).for_each(|_| cluster.round());
    assert_eq!(counts(&cluster).len(), 2, "its time has not come");
    for want in [vec![1, 2, 3], vec![2, 2, 2], vec![2, 2, 2]] {
        cluster.later(Duration::from_secs(3600));
        let least = go_on(&mut cluster, |cluster, round| {
            if round % 3 == 0 {
                cluster.new_leader()
            }
        });
        let mut now: Vec<usize> = counts(&cluster).into_values().collect();
        now.sort_unstable();
        assert_eq!((now, least), (want, 6));
    }
}

#[test]
fn what_fits_nowhere_holds_nobody_up_and_what_is_asked_for_can_end() {
    // Three may be on each node: a tenth fits nowhere.
    let mut cluster = Cluster::serving(6, |spec| spec.task.placement.max_replicas_per_node = 3);
    let more = changes::scale(&cluster.state, "web", 10).unwrap();
    cluster.write(more.mutations);
    (0..40).for_each(|_| cluster.round());
    let waits = |cluster: &Cluster| cluster.alive().iter().filter(|t| t.node.is_none()).count();
    assert_eq!((waits(&cluster), cluster.serving_tasks().len()), (1, 9));
    ask(&mut cluster, None);
    go_on(&mut cluster, |_, _| ());
    ask(&mut cluster, None);
    assert!(cluster.service().moves > 0);
    ask(&mut cluster, Some(0));
    assert_eq!(cluster.service().moves, 0);
}

#[test]
fn an_update_comes_before_moves() {
    let mut cluster = uneven();
    ask(&mut cluster, None);
    cluster.update(|spec| spec.update.delay = Duration::from_secs(1));
    cluster.until(UpdateState::Completed);
    let said = |cluster: &Cluster| changes::rebalance(&cluster.state, "web", None).map(drop).map_err(|e| e.to_string());
    cluster.update(|spec| spec.task.force_update = 1);
    assert!(said(&cluster).unwrap_err().contains("is being updated"));
    cluster.until(UpdateState::Completed);
    assert_eq!(go_on(&mut cluster, |_, _| ()), 6);
    assert_eq!(counts(&cluster).values().copied().max(), Some(2));
    let mut service = cluster.service().clone();
    service.spec.mode = Mode::Global;
    cluster.write(vec![Mutation::Update(service.into())]);
    assert!(said(&cluster).unwrap_err().contains("is global: only tasks of replicated ones"));
}
