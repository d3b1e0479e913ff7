//! Services that are on every node, and those whose tasks end.

use super::{
    cluster::{Cluster, program, run},
    ids,
};
use crate::store::Mutation;
use heddle_model::{
    NodeId,
    node::{Availability, NodeState},
    service::{Mode, RestartCondition, ServiceSpec},
    task::{Task, TaskState, TaskStatus},
    update::{Order, UpdateState},
};
use std::{collections::BTreeSet, time::Duration};

fn global(order: Order) -> Cluster {
    Cluster::serving(3, |spec| (spec.mode, spec.update.order) = (Mode::Global, order))
}

fn on(cluster: &Cluster) -> BTreeSet<NodeId> {
    let serving = cluster.serving_tasks();
    assert!(serving.iter().all(|t| t.node == t.bound), "{serving:#?}");
    let on: BTreeSet<_> = serving.iter().filter_map(|t| t.node.clone()).collect();
    assert_eq!(on.len(), serving.len(), "two on one node");
    on
}

fn go_on(cluster: &mut Cluster) {
    (0..20).for_each(|_| cluster.round());
}

#[test]
fn a_global_service_has_one_task_on_every_node_that_takes_it() {
    let mut cluster = global(Order::StopFirst);
    let nodes = cluster.nodes();
    let before = ids(cluster.serving_tasks());
    assert_eq!(on(&cluster).len(), 3);
    cluster.set(&nodes[0], |spec| spec.availability = Availability::Drain);
    go_on(&mut cluster);
    assert_eq!(on(&cluster), nodes[1..].iter().cloned().collect(), "it goes nowhere else");
    // A pause keeps what is there and makes nothing.
    cluster.set(&nodes[0], |spec| spec.availability = Availability::Pause);
    cluster.set(&nodes[1], |spec| spec.availability = Availability::Pause);
    go_on(&mut cluster);
    assert_eq!(on(&cluster), nodes[1..].iter().cloned().collect());
    (0..2).for_each(|n| cluster.set(&nodes[n], |spec| spec.availability = Availability::Active));
    go_on(&mut cluster);
    assert_eq!(on(&cluster).len(), 3);
    assert_eq!(ids(cluster.serving_tasks()).intersection(&before).count(), 2, "the others never noticed");
    cluster.update(|spec| spec.task.placement.constraints = vec!["node.labels.zone!=b".into()]);
    cluster.until(UpdateState::Completed);
    cluster.set(&nodes[2], |spec| drop(spec.annotations.labels.insert("zone".into(), "b".into())));
    go_on(&mut cluster);
    assert_eq!(on(&cluster), nodes[..2].iter().cloned().collect(), "a label can end it");
}

#[test]
fn a_global_service_is_updated_node_by_node() {
    for order in [Order::StartFirst, Order::StopFirst] {
        let mut cluster = global(order);
        cluster.update(|spec| run(spec, "next"));
        let mut least = 3;
        while cluster.service().is_updating() {
            cluster.round();
            least = least.min(cluster.least_serving());
        }
        assert_eq!(cluster.service().update.as_ref().unwrap().state, UpdateState::Completed);
        assert_eq!(least, if order == Order::StartFirst { 3 } else { 2 }, "{order:?}");
        go_on(&mut cluster);
        assert_eq!(on(&cluster).len(), 3);
        assert!(cluster.alive().iter().all(|t| program(t) == "next"));
    }
}

#[test]
fn a_paused_node_has_its_turn_when_it_is_active() {
    for order in [Order::StartFirst, Order::StopFirst] {
        let mut cluster = global(order);
        let node = cluster.nodes().remove(0);
        cluster.set(&node, |spec| spec.availability = Availability::Pause);
        cluster.update(|spec| run(spec, "next"));
        cluster.until(UpdateState::Completed);
        let old = |cluster: &Cluster| {
            let serving = cluster.serving_tasks();
            serving.iter().filter(|t| program(t) == "true").filter_map(|t| t.node.clone()).collect::<Vec<_>>()
        };
        assert_eq!((old(&cluster), on(&cluster).len()), (vec![node.clone()], 3));
        cluster.set(&node, |spec| spec.availability = Availability::Active);
        go_on(&mut cluster);
        assert_eq!((old(&cluster), on(&cluster).len()), (vec![], 3));
    }
}

#[test]
fn a_node_that_meets_the_constraints_no_more_is_left() {
    let mut cluster = Cluster::serving(6, |spec| {
        (spec.update.order, spec.update.parallelism) = (Order::StartFirst, 2);
        spec.task.placement.constraints = vec!["node.labels.zone!=b".into()];
    });
    let node = cluster.nodes().remove(1);
    cluster.set(&node, |spec| drop(spec.annotations.labels.insert("zone".into(), "b".into())));
    for _ in 0..40 {
        cluster.round();
        assert!(cluster.least_serving() >= 6);
    }
    assert!(cluster.alive().iter().all(|t| t.node.as_ref() != Some(&node)), "{:#?}", cluster.alive());
}

fn job(mode: Mode, set: impl FnOnce(&mut ServiceSpec)) -> Cluster {
    let mut cluster = Cluster::starting(|spec| {
        spec.mode = mode;
        spec.task.restart.condition = RestartCondition::OnFailure;
        spec.task.restart.delay = Duration::from_secs(1);
        set(spec);
    });
    cluster.ends = |_| true;
    cluster
}

fn completed(cluster: &Cluster) -> BTreeSet<u64> {
    let tasks = cluster.tasks();
    let done = tasks.iter().filter(|t| t.status.state == TaskState::Complete && t.desired == TaskState::Running);
    let slots: Vec<_> = done.map(|t| t.slot).collect();
    let set: BTreeSet<_> = slots.iter().copied().collect();
    assert_eq!(slots.len(), set.len(), "one ran to its end twice");
    set
}

#[test]
fn a_job_runs_every_slot_once_and_so_many_at_a_time() {
    let mut cluster = job(Mode::ReplicatedJob { completions: 5, concurrent: 2 }, |_| ());
    let mut most = 0;
    for _ in 0..40 {
        cluster.round();
        most = most.max(cluster.alive().len());
    }
    assert_eq!((completed(&cluster).len(), most), (5, 2));
    let first = ids(cluster.tasks());
    assert_eq!(first.len(), 5);
    go_on(&mut cluster);
    assert_eq!(ids(cluster.tasks()), first, "that was all");
    assert_eq!(super::super::ended(&cluster.state, cluster.service()), (5, 0));

    let more = crate::control::scale(&cluster.state, "web", 7).unwrap();
    cluster.write(more.mutations);
    go_on(&mut cluster);
    assert_eq!(completed(&cluster).len(), 7);
    assert!(ids(cluster.tasks()).is_superset(&first), "what is done is not done again");
    let fewer = crate::control::scale(&cluster.state, "web", 3).unwrap();
    cluster.write(fewer.mutations);
    go_on(&mut cluster);
    assert_eq!(completed(&cluster), BTreeSet::from([1, 2, 3]));

    // Another run.
    let before = ids(cluster.tasks());
    cluster.update(|spec| spec.task.force_update += 1);
    assert!(cluster.service().update.is_none(), "there is nothing to be done one by one");
    go_on(&mut cluster);
    assert_eq!(completed(&cluster).len(), 3);
    assert!(ids(cluster.tasks()).is_disjoint(&before));
}

#[test]
fn a_task_of_a_job_that_fails_is_tried_again_and_at_last_given_up() {
    let mut cluster = job(Mode::ReplicatedJob { completions: 3, concurrent: 1 }, |spec| {
        spec.task.restart.max_attempts = 2;
    });
    cluster.fails = |task: &Task| task.slot == 2;
    (0..80).for_each(|_| cluster.round());
    assert_eq!(completed(&cluster), BTreeSet::from([1, 3]));
    assert_eq!(cluster.tasks().iter().filter(|t| t.slot == 2).count(), 3, "the first try and two more");
    assert_eq!(super::super::ended(&cluster.state, cluster.service()), (2, 1));
}

#[test]
fn a_job_on_every_node_ends_once_on_each() {
    let mut cluster = job(Mode::GlobalJob, |_| ());
    go_on(&mut cluster);
    let nodes = cluster.nodes();
    assert_eq!(completed(&cluster).len(), 3);
    let before = ids(cluster.tasks());
    // What is done stays so, wherever.
    cluster.set(&nodes[0], |spec| spec.availability = Availability::Drain);
    go_on(&mut cluster);
    cluster.set(&nodes[0], |spec| spec.availability = Availability::Active);
    go_on(&mut cluster);
    assert_eq!(ids(cluster.tasks()), before);
    // A node that is drained amid it runs it anew once it is back.
    cluster.ends = |_| false;
    cluster.update(|spec| spec.task.force_update += 1);
    go_on(&mut cluster);
    assert_eq!(on(&cluster).len(), 3);
    cluster.set(&nodes[0], |spec| spec.availability = Availability::Drain);
    go_on(&mut cluster);
    assert_eq!(on(&cluster).len(), 2);
    cluster.ends = |_| true;
    cluster.set(&nodes[0], |spec| spec.availability = Availability::Active);
    go_on(&mut cluster);
    assert_eq!(completed(&cluster).len(), 3);
}

#[test]
fn a_job_is_not_run_anew_for_a_node_that_was_silent() {
    let mut cluster = job(Mode::GlobalJob, |_| ());
    cluster.ends = |_| false;
    go_on(&mut cluster);
    let (node, before) = (cluster.nodes().remove(0), ids(cluster.tasks()));
    cluster.turn(&node, NodeState::Down);
    go_on(&mut cluster);
    cluster.turn(&node, NodeState::Ready);
    cluster.ends = |_| true;
    go_on(&mut cluster);
    assert_eq!((completed(&cluster).len(), ids(cluster.tasks())), (3, before));

    // Where any node may do it another has begun meanwhile, which ends when the first is heard to have done it.
    let mut cluster = job(Mode::ReplicatedJob { completions: 1, concurrent: 0 }, |_| ());
    cluster.ends = |_| false;
    go_on(&mut cluster);
    let first = cluster.alive()[0].clone();
    let node = first.node.clone().unwrap();
    cluster.turn(&node, NodeState::Down);
    (0..4).for_each(|_| cluster.pass());
    assert_eq!(cluster.tasks().len(), 2);
    cluster.turn(&node, NodeState::Ready);
    let status = TaskStatus { state: TaskState::Complete, ..TaskStatus::default() };
    cluster.write(vec![Mutation::TaskStatus { id: first.id, status }]);
    go_on(&mut cluster);
    assert_eq!(cluster.alive().len(), 0, "{:#?}", cluster.alive());
    assert_eq!(super::super::ended(&cluster.state, cluster.service()), (1, 0));
}

#[test]
fn another_run_begins_when_nothing_is_left_of_the_one_before() {
    let mut cluster = job(Mode::ReplicatedJob { completions: 4, concurrent: 2 }, |_| ());
    cluster.ends = |_| false;
    go_on(&mut cluster);
    let before = ids(cluster.alive());
    assert_eq!(before.len(), 2);
    cluster.update(|spec| spec.task.force_update += 1);
    for _ in 0..20 {
        cluster.round();
        let now = ids(cluster.alive());
        assert!(now.len() <= 2 && (now.is_subset(&before) || now.is_disjoint(&before)), "{:#?}", cluster.alive());
    }
    let now = ids(cluster.alive());
    assert!(now.len() == 2 && now.is_disjoint(&before));
}
