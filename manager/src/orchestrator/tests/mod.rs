//! Updates, rollbacks and drains, on hosts that are simulated.

mod balance;
mod cluster;
mod modes;

use cluster::{Cluster, program, run};
use heddle_model::{
    service::{Mode, RestartCondition, ServiceSpec},
    task::{Task, TaskState},
    update::{FailureAction, Order, Ratio, UpdateState},
};
use proptest::prelude::*;
use std::{collections::BTreeSet, time::Duration};

fn ids<'a>(tasks: impl IntoIterator<Item = &'a Task>) -> BTreeSet<String> {
    tasks.into_iter().map(|t| t.id.to_string()).collect()
}

/// What an update does to a service whose new program ends at once.
fn bad_update(order: Order, action: FailureAction, set: impl FnOnce(&mut ServiceSpec)) -> Cluster {
    let mut cluster = Cluster::serving(6, |spec| {
        (spec.update.order, spec.update.failure_action) = (order, action);
        spec.task.restart.delay = Duration::from_secs(5);
    });
    cluster.fails = |task| program(task) == "bad";
    cluster.update(|spec| {
        run(spec, "bad");
        set(spec);
    });
    cluster
}

#[test]
fn a_bad_update_pauses_and_what_served_serves_on() {
    for (order, serving) in [(Order::StartFirst, 6), (Order::StopFirst, 5)] {
        let mut cluster = bad_update(order, FailureAction::Pause, |_| ());
        cluster.until(UpdateState::Paused);
        assert!(cluster.message().starts_with("1 of 6 replicas failed: web.1."), "{}", cluster.message());
        assert!(cluster.message().ends_with(": exit code 1"), "{}", cluster.message());
        (0..100).for_each(|_| cluster.round());
        assert_eq!(cluster.serving_tasks().len(), serving);
        assert!(cluster.serving_tasks().iter().all(|t| program(t) == "true"));
        let tried = cluster.tasks().iter().filter(|t| program(t) == "bad" && !t.status.state.is_terminal()).count();
        assert!(tried <= usize::from(order == Order::StopFirst), "a pause is a pause");
        // The same again goes on, and ends alike; a good one comes through.
        let same = cluster.service().spec.clone();
        cluster.update(|spec| *spec = same);
        cluster.until(UpdateState::Paused);
        cluster.update(|spec| run(spec, "good"));
        cluster.until(UpdateState::Completed);
        assert_eq!(cluster.serving_tasks().iter().filter(|t| program(t) == "good").count(), 6);
        // What was never reached is no way back.
        let before = cluster.service().previous.as_ref().unwrap();
        assert_eq!(before.spec.task.runtime.program().command, ["true"]);
    }
}

#[test]
fn a_bad_update_is_rolled_back_and_the_others_were_never_touched() {
    for order in [Order::StartFirst, Order::StopFirst] {
        let mut cluster = bad_update(order, FailureAction::Rollback, |_| ());
        let before = ids(cluster.serving_tasks());
        cluster.until(UpdateState::RollbackCompleted);
        assert!(cluster.message().ends_with("exit code 1"), "{}", cluster.message());
        (0..20).for_each(|_| cluster.round());
        let after = ids(cluster.serving_tasks());
        assert_eq!(after.len(), 6);
        let replaced = if order == Order::StartFirst { 0 } else { 1 };
        assert_eq!(after.difference(&before).count(), replaced);
        assert_eq!(cluster.alive().len(), 6);
    }
}

#[test]
fn a_bad_update_can_go_on() {
    let mut cluster = bad_update(Order::StartFirst, FailureAction::Continue, |_| ());
    cluster.until(UpdateState::Completed);
    let failed = &cluster.service().update.as_ref().unwrap().failed;
    assert_eq!(failed.iter().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert!(cluster.message().starts_with("6 of 6 replicas failed: web.6."), "{}", cluster.message());
    assert_eq!(cluster.serving_tasks().len(), 6, "those that were there");

    // A share may fail.
    let some = |spec: &mut ServiceSpec| spec.update.max_failure_ratio = Ratio(500);
    let mut cluster = bad_update(Order::StopFirst, FailureAction::Pause, some);
    cluster.fails = |task| program(task) == "bad" && task.slot % 2 == 0;
    cluster.until(UpdateState::Completed);
    assert!(cluster.message().starts_with("3 of 6 replicas failed"), "{}", cluster.message());
}

#[test]
fn a_rollback_that_fails_pauses() {
    let mut cluster = bad_update(Order::StopFirst, FailureAction::Rollback, |_| ());
    cluster.fails = |task| program(task) == "bad" || task.started.is_none();
    cluster.until(UpdateState::RollbackPaused);
    assert!(cluster.message().starts_with("1 of 6 replicas failed"), "{}", cluster.message());
}

#[test]
fn an_update_that_fits_nowhere_ends_at_its_deadline() {
    let nowhere = |spec: &mut ServiceSpec| {
        spec.task.placement.constraints = vec!["node.hostname==nowhere".into()];
        spec.update.deadline = Duration::from_secs(20);
    };
    for (order, action, state) in [
        (Order::StartFirst, FailureAction::Pause, UpdateState::Paused),
        (Order::StopFirst, FailureAction::Rollback, UpdateState::RollbackCompleted),
    ] {
        let mut cluster = bad_update(order, action, nowhere);
        cluster.fails = |_| false;
        let began = cluster.now;
        cluster.until(state);
        let said = cluster.message();
        assert!(said.contains("not in service after 20s: no suitable node: 3 do not match the constraints"), "{said}");
        assert!(cluster.now.since(began) < Duration::from_secs(40));
        // Resumed, it ends there again.
        if state == UpdateState::Paused {
            let same = cluster.service().spec.clone();
            cluster.update(|spec| *spec = same);
            cluster.until(state);
            assert_eq!(cluster.serving_tasks().len(), 6);
        }
    }
}

#[test]
fn a_failure_long_after_the_start_is_no_matter_of_the_update() {
    let mut cluster = Cluster::serving(3, |spec| {
        (spec.update.delay, spec.update.monitor) = (Duration::from_secs(10), Duration::from_secs(2));
    });
    cluster.update(|spec| run(spec, "next"));
    (0..10).for_each(|_| cluster.round());
    cluster.fails = |task| task.slot == 1 && task.started.is_some_and(|at| at.0 < 1_012_000);
    assert!(cluster.serving_tasks().iter().any(|t| t.slot == 1 && program(t) == "next"));
    cluster.until(UpdateState::Completed);
    assert_eq!(cluster.service().update.as_ref().unwrap().failed, BTreeSet::new());
    assert!(cluster.tasks().iter().any(|t| t.status.state == TaskState::Failed), "it did fail");
}

#[test]
fn two_rollbacks_toggle_and_what_was_scaled_stays() {
    let mut cluster = Cluster::serving(3, |_| ());
    assert!(cluster.service().previous.is_none());
    cluster.update(|spec| run(spec, "next"));
    cluster.until(UpdateState::Completed);
    let scaled = crate::control::scale(&cluster.state, "web", 4).unwrap();
    cluster.write(scaled.mutations);
    (0..10).for_each(|_| cluster.round());
    for wanted in ["true", "next"] {
        cluster.roll_back();
        cluster.until(UpdateState::RollbackCompleted);
        (0..4).for_each(|_| cluster.round());
        assert_eq!(cluster.serving_tasks().iter().filter(|t| program(t) == wanted).count(), 4);
    }
}

#[test]
fn what_makes_the_same_tasks_replaces_none() {
    let mut cluster = Cluster::serving(3, |_| ());
    let before = ids(cluster.alive());
    cluster.update(|spec| drop(spec.annotations.labels.insert("a".into(), "b".into())));
    cluster.until(UpdateState::Completed);
    cluster.update(|spec| spec.mode = Mode::Replicated { replicas: 4 });
    cluster.until(UpdateState::Completed);
    assert!(ids(cluster.alive()).is_superset(&before) && cluster.serving_tasks().len() == 4);
    cluster.update(|spec| spec.task.force_update += 1);
    cluster.until(UpdateState::Completed);
    assert!(ids(cluster.alive()).is_disjoint(&before));
}

#[test]
fn a_new_task_counts_when_every_host_has_it() {
    for order in [Order::StartFirst, Order::StopFirst] {
        let mut cluster = Cluster::serving(6, |spec| spec.update.order = order);
        cluster.update(|spec| run(spec, "next"));
        // The third host follows until the old task is gone, if that is the first thing, and then no more.
        let gone = |cluster: &Cluster| order == Order::StartFirst || cluster.alive().len() < 6;
        while !gone(&cluster) {
            cluster.round();
        }
        for _ in 0..40 {
            cluster.pass();
            (0..2).for_each(|n| cluster.follow(n));
            (0..cluster.alive().len()).for_each(|n| cluster.work(n));
            cluster.later(Duration::from_millis(100));
        }
        let new: Vec<_> = cluster.serving_tasks().into_iter().filter(|t| program(t) == "next").collect();
        assert_eq!(new.len(), 1, "the second waits");
        let old = cluster.serving_tasks().len() - 1;
        assert_eq!(old, if order == Order::StartFirst { 6 } else { 5 });
        cluster.until(UpdateState::Completed);
    }
}

#[test]
fn a_drained_node_is_left_and_by_start_first_nobody_is_missed() {
    for order in [Order::StartFirst, Order::StopFirst] {
        let mut cluster = Cluster::serving(6, |spec| (spec.update.order, spec.update.parallelism) = (order, 2));
        let node = cluster.nodes().remove(0);
        cluster.drain(&node);
        for _ in 0..40 {
            cluster.round();
            assert!(cluster.least_serving() >= if order == Order::StartFirst { 6 } else { 4 });
        }
        assert_eq!(cluster.serving_tasks().len(), 6);
        assert!(cluster.alive().iter().all(|t| t.node.as_ref() != Some(&node)));
    }
}

#[test]
fn an_unhealthy_task_leaves_every_balancer_before_it_stops_and_then_another_follows() {
    let mut cluster = Cluster::serving(3, |spec| spec.task.restart.delay = Duration::from_secs(5));
    let before = ids(cluster.serving_tasks());
    let first = cluster.tasks().iter().find(|t| t.slot == 1).unwrap().id.clone();
    cluster.unhealthy = |task| task.slot == 1 && task.started.is_some_and(|at| at.0 < 1_012_000);
    (0..3).for_each(|n| cluster.work(n));
    assert_eq!(cluster.serving_tasks().len(), 2, "no balancer is to lead to it from now on");
    let find = |cluster: &Cluster| cluster.tasks().into_iter().find(|t| t.id == first).cloned();
    for host in 0..3 {
        cluster.pass();
        let task = find(&cluster).unwrap();
        assert!(!task.stop && task.status.state == TaskState::Running, "host {host} may lead to it still");
        assert_eq!(cluster.tasks().len(), 3, "its replica has no other yet");
        cluster.follow(host);
    }
    cluster.pass();
    assert!(find(&cluster).unwrap().stop);
    let stopped = cluster.now;
    (0..3).for_each(|n| cluster.work(n));
    assert_eq!(find(&cluster).unwrap().status.state, TaskState::Failed);
    cluster.pass();
    let next = cluster.tasks().into_iter().find(|t| t.slot == 1 && t.id != first).unwrap();
    assert_eq!(
        (next.not_before, find(&cluster).unwrap().desired),
        (stopped.plus(Duration::from_secs(5)), TaskState::Shutdown)
    );
    (0..20).for_each(|_| cluster.round());
    assert_eq!(ids(cluster.serving_tasks()).intersection(&before).count(), 2);
    assert_eq!(cluster.serving_tasks().len(), 3);
}

#[test]
fn what_follows_an_unhealthy_task_is_for_the_restart_policy_to_say() {
    for (condition, attempts, made) in
        [(RestartCondition::None, 0, 1), (RestartCondition::OnFailure, 2, 3), (RestartCondition::Any, 1, 2)]
    {
        let mut cluster = Cluster::serving(1, |spec| {
            let restart = &mut spec.task.restart;
            (restart.condition, restart.max_attempts) = (condition, attempts);
        });
        // Those that follow the first are never well.
        cluster.unhealthy = |_| true;
        (0..100).for_each(|_| cluster.round());
        assert_eq!(cluster.tasks().len(), made, "{condition:?}");
        assert!(cluster.tasks().iter().all(|t| t.status.state == TaskState::Failed && t.status.error == "unhealthy"));
    }
}

#[test]
fn an_update_to_what_is_unhealthy_fails() {
    for (order, late) in [Order::StartFirst, Order::StopFirst].into_iter().flat_map(|o| [(o, false), (o, true)]) {
        let mut cluster = Cluster::serving(6, |spec| {
            (spec.update.order, spec.rollback.order) = (order, order);
            spec.update.failure_action = FailureAction::Rollback;
        });
        let before = ids(cluster.serving_tasks());
        // At once, or when they have served for a while.
        cluster.unhealthy = match late {
            true => |task| program(task) == "bad" && task.started.is_some(),
            false => |task| program(task) == "bad",
        };
        cluster.update(|spec| run(spec, "bad"));
        cluster.until(UpdateState::RollbackStarted);
        assert!(cluster.alive().iter().any(|t| t.status.unhealthy), "its end is not waited for");
        cluster.until(UpdateState::RollbackCompleted);
        assert!(cluster.message().starts_with("1 of 6 replicas failed: web.1."), "{}", cluster.message());
        assert!(cluster.message().ends_with(": unhealthy"), "{}", cluster.message());
        (0..20).for_each(|_| cluster.round());
        let after = ids(cluster.serving_tasks());
        assert!(after.len() == 6 && cluster.alive().len() == 6);
        assert!(
            after.intersection(&before).count() >= if late { 5 } else { 6 - usize::from(order == Order::StopFirst) }
        );
    }
}

#[test]
fn an_old_task_that_is_unhealthy_during_an_update_is_not_replaced_twice() {
    for order in [Order::StartFirst, Order::StopFirst] {
        let mut cluster = Cluster::serving(6, |spec| spec.update.order = order);
        cluster.update(|spec| run(spec, "next"));
        cluster.unhealthy = |task| program(task) == "true" && task.slot <= 2;
        cluster.until(UpdateState::Completed);
        (0..20).for_each(|_| cluster.round());
        assert!(cluster.serving_tasks().iter().all(|t| program(t) == "next"));
        assert_eq!((cluster.alive().len(), cluster.serving_tasks().len()), (6, 6));
        assert!(cluster.tasks().iter().all(|t| !t.status.state.is_terminal() || t.desired > TaskState::Running));
    }
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Pass,
    Follow(usize),
    Work(usize),
    Later(u64),
    NewLeader,
    Scale(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Pass),
        6 => (0..3usize).prop_map(Event::Follow),
        6 => any::<usize>().prop_map(Event::Work),
        2 => (1..80u64).prop_map(Event::Later),
        1 => Just(Event::NewLeader),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let scaled = (3..9u64).prop_map(Event::Scale);
    (prop::collection::vec(event(), 0..300), prop::option::of((0..300usize, scaled))).prop_map(|(mut all, scale)| {
        if let Some((at, scale)) = scale {
            all.insert(at.min(all.len()), scale);
        }
        all
    })
}

proptest! {
    /// Whatever comes in which order, and whoever leads: nobody is stopped whom a balancer leads to, as many serve as the
    /// order of the update promises, and it comes to its end.
    #[test]
    fn an_update_never_takes_more_than_it_may(
        events in events(),
        start_first in any::<bool>(),
        parallelism in 0..4u64,
        back in prop::option::of(0..300usize),
    ) {
        let order = if start_first { Order::StartFirst } else { Order::StopFirst };
        let mut cluster = Cluster::serving(6, |spec| {
            for config in [&mut spec.update, &mut spec.rollback] {
                (config.order, config.parallelism, config.monitor) = (order, parallelism, Duration::from_secs(1));
            }
        });
        cluster.update(|spec| run(spec, "next"));
        let mut wanted = 6;
        for (number, event) in events.into_iter().enumerate() {
            if back == Some(number) {
                cluster.roll_back();
            }
            match event {
                Event::Pass => cluster.pass(),
                Event::Follow(node) => cluster.follow(node),
                Event::Work(task) => cluster.work(task),
                Event::Later(ms) => cluster.later(Duration::from_millis(ms)),
                Event::NewLeader => cluster.new_leader(),
                Event::Scale(replicas) => {
                    let scaled = crate::control::scale(&cluster.state, "web", replicas).unwrap();
                    cluster.write(scaled.mutations);
                    wanted = wanted.min(replicas as usize);
                }
            }
            // Those that are surplus go on for a moment; they are no more in change for that.
            if wanted == 6 {
                cluster.check();
            }
            let away = match (start_first, parallelism) {
                (true, _) => 0,
                (false, 0) => wanted,
                (false, n) => n as usize,
            };
            prop_assert!(cluster.least_serving() + away >= wanted, "{} serve", cluster.least_serving());
        }
        let rolled_back = cluster.service().update.as_ref().is_some_and(|u| u.state.is_rollback());
        cluster.until(if rolled_back { UpdateState::RollbackCompleted } else { UpdateState::Completed });
        (0..20).for_each(|_| cluster.round());
        let program_wanted = if rolled_back { "true" } else { "next" };
        prop_assert_eq!(cluster.alive().len() as u64, cluster.replicas());
        prop_assert!(cluster.serving_tasks().iter().all(|t| program(t) == program_wanted));
    }
}
