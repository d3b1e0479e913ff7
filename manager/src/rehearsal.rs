//! What a change of a service would come to: the control loops go through it on a copy of the state, with nodes that do at once
//! as they are told. Nothing is written, and nobody else sees it.

use crate::{
    allocator, orchestrator,
    plan::{Context, Stage},
    scheduler,
    store::{Action, Conflict, Mutation, Snapshot},
};
use heddle_model::{
    NodeId, ServiceId, TaskId, Timestamp, Version,
    node::NodeState,
    service::{Rebalance, Service},
    task::{Task, TaskState, TaskStatus},
    update::UpdateStatus,
};
use std::{collections::BTreeMap, time::Duration};

/// In the order in which a leader goes through them.
pub const STAGES: [Stage; 5] =
    [allocator::plan, orchestrator::plan, allocator::plan, scheduler::plan, orchestrator::reap];
/// Times that the stages are gone through, at most; a task is replaced in about ten.
const ROUNDS: usize = 2_000;
/// How far its clock goes: a task that fits nowhere is waited for until the update's deadline.
const LONGEST: Duration = Duration::from_secs(86_400);

#[derive(Debug)]
pub struct Rehearsal {
    /// By slot.
    pub tasks: BTreeMap<u64, Planned>,
    /// Delays and times of observation, with programs that start and end at once.
    pub lasts: Duration,
    /// How the update ends.
    pub update: Option<UpdateStatus>,
    /// Whether it came to rest.
    pub ended: bool,
}

/// What becomes of a replica.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The task before and the one after; the same: it stays.
    pub before: Option<Held>,
    pub after: Option<Held>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub task: TaskId,
    /// None: it has found none.
    pub node: Option<NodeId>,
    /// What it says of itself.
    pub message: String,
}

/// Until it comes to rest, or `go_on` says no.
///
/// # Errors
/// What the change is in conflict with.
pub fn rehearse(
    state: &Snapshot,
    change: Vec<Mutation>,
    id: &ServiceId,
    begin: Timestamp,
    go_on: impl Fn() -> bool,
) -> Result<Rehearsal, Conflict> {
    let mut stage = Rehearsing { state: state.clone(), now: begin, counter: 0 };
    let before = held(state, id);
    stage.write(change)?;
    // What else rules would move has nothing to do with it.
    let ruled = stage.state.services.values().filter(|s| !s.spec.rebalance.every.is_zero());
    let resting = ruled.map(|service| {
        let mut service = Service::clone(service);
        service.spec.rebalance = Rebalance::default();
        Mutation::Update(service.into())
    });
    stage.write(resting.collect())?;
    let (mut ended, mut last) = (false, begin);
    for _ in 0..ROUNDS {
        if !go_on() {
            break;
        }
        let of_service = stage.traces(id);
        let (changed, wake) = stage.turn(id)?;
        if stage.traces(id) != of_service {
            last = stage.now;
        }
        if changed {
            continue;
        }
        match wake.filter(|at| *at > stage.now && at.since(begin) < LONGEST) {
            Some(at) => stage.now = at,
            None => {
                ended = true;
                break;
            }
        }
    }
    let mut tasks: BTreeMap<u64, Planned> = BTreeMap::new();
    for (slot, task) in before {
        tasks.entry(slot).or_default().before = Some(task);
    }
    for (slot, task) in held(&stage.state, id) {
        tasks.entry(slot).or_default().after = Some(task);
    }
    let update = stage.state.services.get(id).and_then(|s| s.update.clone());
    Ok(Rehearsal { tasks, lasts: last.since(begin), update, ended })
}

struct Rehearsing {
    state: Snapshot,
    now: Timestamp,
    counter: u128,
}

impl Rehearsing {
    fn write(&mut self, mutations: Vec<Mutation>) -> Result<(), Conflict> {
        let next = Version(self.state.version.0 + 1);
        self.state = self.state.apply(next, &Action { at: self.now, mutations })?;
        Ok(())
    }

    /// Is another when anything of the service is.
    fn traces(&self, id: &ServiceId) -> (Option<Version>, Version, usize) {
        let service = self.state.services.get(id).map(|s| s.meta.version);
        let tasks = self.state.tasks_of_service(id).map(|t| t.meta.version);
        tasks.fold((service, Version(0), 0), |(service, newest, count), at| (service, newest.max(at), count + 1))
    }

    /// Once through all stages, and what the service's nodes do then. Whether anything changed, and when to look again if not.
    fn turn(&mut self, id: &ServiceId) -> Result<(bool, Option<Timestamp>), Conflict> {
        let (mut changed, mut wake) = (false, None::<Timestamp>);
        for stage in STAGES {
            let counter = &mut self.counter;
            let mut random = || {
                *counter += 1;
                counter.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes()
            };
            let acked = self.state.version;
            let plan = stage(&self.state, &mut Context { now: self.now, acked, random: &mut random });
            wake = [wake, plan.wake].into_iter().flatten().min();
            if !plan.mutations.is_empty() {
                self.write(plan.mutations)?;
                changed = true;
            }
        }
        let reports: Vec<_> = self.state.tasks_of_service(id).filter_map(|task| self.done(task)).collect();
        if !reports.is_empty() {
            self.write(reports)?;
            changed = true;
        }
        Ok((changed, wake))
    }

    /// What a task's node has done of what it was told.
    fn done(&self, task: &Task) -> Option<Mutation> {
        let node = self.state.nodes.get(task.node.as_ref()?)?;
        if node.status.state != NodeState::Ready || !task.on_node() {
            return None;
        }
        let is_job = self.state.services.get(&task.service).is_some_and(|s| s.spec.mode.is_job());
        let state = match task.desired {
            TaskState::Running if is_job && task.status.state == TaskState::Running => TaskState::Complete,
            TaskState::Running if task.status.state < TaskState::Running => TaskState::Running,
            TaskState::Running => return None,
            _ if task.stop => TaskState::Shutdown,
            _ => return None,
        };
        let status = TaskStatus { state, since: self.now, ..task.status.clone() };
        Some(Mutation::TaskStatus { id: task.id.clone(), status })
    }
}

/// The newest task of each slot that is to run, or has run to its end.
fn held(state: &Snapshot, id: &ServiceId) -> BTreeMap<u64, Held> {
    let mut tasks: Vec<_> = state.tasks_of_service(id).collect();
    tasks.retain(|t| t.desired <= TaskState::Running && (!t.status.state.is_terminal() || is_done(t)));
    tasks.sort_by_key(|t| t.meta.created_at);
    let of = |t: &Task| Held { task: t.id.clone(), node: t.node.clone(), message: t.status.message.clone() };
    tasks.into_iter().map(|t| (t.slot, of(t))).collect()
}

fn is_done(task: &Task) -> bool {
    task.status.state == TaskState::Complete
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::changes, world::World};
    use heddle_model::{
        service::{Service, ServiceSpec},
        update::UpdateState,
    };

    const NOW: Timestamp = Timestamp(1_000_000);

    fn serving(replicas: u64, set: impl FnOnce(&mut ServiceSpec)) -> (World, ServiceId) {
        let mut world = World::new();
        world.ready_nodes(3);
        let web = world.run(replicas, set);
        world.report(TaskState::Running);
        (world, web)
    }

    fn change(world: &World, web: &ServiceId, set: impl FnOnce(&mut ServiceSpec)) -> Rehearsal {
        let service: &Service = &world.state.services[web];
        let mut spec = service.spec.clone();
        set(&mut spec);
        let wish = changes::Wish { spec, seen: service.meta.version, logins: Default::default() };
        let change = changes::update(&world.state, web.as_str(), wish, NOW).unwrap();
        rehearse(&world.state, change.mutations, web, NOW, || true).unwrap()
    }

    fn replaced(told: &Rehearsal) -> usize {
        let both = |p: &&Planned| p.before.is_some() && p.after.as_ref().is_some_and(|a| Some(a) != p.before.as_ref());
        told.tasks.values().filter(both).count()
    }

    #[test]
    fn an_update_is_gone_through_to_its_end() {
        let (world, web) = serving(3, |spec| spec.update.delay = Duration::from_secs(7));
        let before = world.state.clone();
        let told = change(&world, &web, |spec| spec.task.force_update = 1);
        assert!(told.ended);
        assert_eq!(told.update.as_ref().map(|u| u.state), Some(UpdateState::Completed));
        assert_eq!((told.tasks.len(), replaced(&told)), (3, 3));
        // Two delays, and what is observed.
        assert!(told.lasts >= Duration::from_secs(14), "{:?}", told.lasts);
        assert_eq!(world.state.version, before.version);
        assert_eq!(world.state.tasks, before.tasks);
    }

    #[test]
    fn what_fits_nowhere_is_told_with_the_reason_and_the_end() {
        let (world, web) = serving(2, |_| ());
        let told = change(&world, &web, |spec| spec.task.placement.constraints = vec!["node.hostname==nowhere".into()]);
        let update = told.update.clone().unwrap();
        assert_eq!(update.state, UpdateState::Paused);
        assert!(update.message.contains("3 do not match the constraints"), "{}", update.message);
        assert!(told.lasts >= Duration::from_secs(600), "{:?}", told.lasts);
        let nowhere: Vec<_> =
            told.tasks.values().filter_map(|p| p.after.as_ref()).filter(|h| h.node.is_none()).collect();
        assert!(nowhere.iter().all(|h| h.message.contains("no suitable node")) && !nowhere.is_empty(), "{told:?}");
    }

    #[test]
    fn fewer_and_more_replicas_leave_the_others_alone() {
        let (world, web) = serving(2, |_| ());
        let told = change(&world, &web, |spec| spec.mode = spec.mode.scaled(4).unwrap());
        assert_eq!((told.tasks.len(), replaced(&told)), (4, 0));
        let told = change(&world, &web, |spec| spec.mode = spec.mode.scaled(1).unwrap());
        let gone = told.tasks.values().filter(|p| p.after.is_none()).count();
        assert_eq!((gone, replaced(&told)), (1, 0));
    }
}
