//! A cluster whose clock, hosts and acknowledgements go on when a test says so.

use crate::{
    control::check,
    plan::Context,
    store::{Action, Mutation, Snapshot},
    world::{STAGES, World},
};
use heddle_model::{
    NodeId, ServiceId, Timestamp, Version,
    node::{Availability, Node, NodeSpec, NodeState, NodeStatus},
    service::{Service, ServiceSpec},
    task::{Task, TaskState, TaskStatus},
    update::{Order, UpdateState},
};
use std::{collections::BTreeMap, time::Duration};

/// What a host's kernel follows, and what it has told the leader that leads now.
struct Host {
    applied: Snapshot,
    acked: Version,
}

pub struct Cluster {
    pub state: Snapshot,
    pub now: Timestamp,
    hosts: BTreeMap<NodeId, Host>,
    web: ServiceId,
    random: u128,
    /// Tasks whose program ends at once.
    pub fails: fn(&Task) -> bool,
    /// Tasks whose checks say so, for as long as they run.
    pub unhealthy: fn(&Task) -> bool,
    /// Tasks whose program runs for a while and then ends well.
    pub ends: fn(&Task) -> bool,
}

impl Cluster {
    /// Three hosts and service "web", whose replicas all serve.
    pub fn serving(replicas: u64, set: impl FnOnce(&mut ServiceSpec)) -> Self {
        let mut cluster = Self::of(replicas, set);
        (0..20).for_each(|_| cluster.round());
        assert_eq!(cluster.least_serving(), replicas as usize);
        cluster
    }

    /// The same before anything has begun to run.
    pub fn starting(set: impl FnOnce(&mut ServiceSpec)) -> Self {
        Self::of(1, set)
    }

    fn of(replicas: u64, set: impl FnOnce(&mut ServiceSpec)) -> Self {
        let mut world = World::new();
        world.ready_nodes(3);
        let web = world.run(replicas, set);
        let applied = &world.state;
        let host = |id: &NodeId| (id.clone(), Host { applied: applied.clone(), acked: Version(0) });
        let hosts = applied.nodes.keys().map(host).collect();
        let (state, now) = (world.state.clone(), Timestamp(1_000_000));
        let never: fn(&Task) -> bool = |_| false;
        Cluster { state, now, hosts, web, random: 1 << 64, fails: never, unhealthy: never, ends: never }
    }

    pub fn service(&self) -> &Service {
        &self.state.services[&self.web]
    }

    pub fn replicas(&self) -> u64 {
        self.service().spec.mode.count().unwrap_or(self.hosts.len() as u64)
    }

    pub fn nodes(&self) -> Vec<NodeId> {
        self.hosts.keys().cloned().collect()
    }

    pub fn tasks(&self) -> Vec<&Task> {
        self.state.tasks_of_service(&self.web).map(|t| &**t).collect()
    }

    /// Tasks with a program, or that are to get one.
    pub fn alive(&self) -> Vec<&Task> {
        self.tasks().into_iter().filter(|t| !t.status.state.is_terminal()).collect()
    }

    pub fn serving_tasks(&self) -> Vec<&Task> {
        self.tasks().into_iter().filter(|t| t.in_service()).collect()
    }

    pub fn write(&mut self, mutations: Vec<Mutation>) {
        let next = Version(self.state.version.0 + 1);
        self.state = self.state.apply(next, &Action { at: self.now, mutations }).unwrap();
    }

    pub fn update(&mut self, set: impl FnOnce(&mut ServiceSpec)) {
        let mut service = self.service().clone();
        let mut spec = service.spec.clone();
        set(&mut spec);
        let spec = check::change(&self.state, &service, spec).unwrap();
        assert!(service.change(spec, self.now), "nothing is to be done");
        self.write(vec![Mutation::Update(service.into())]);
    }

    pub fn roll_back(&mut self) {
        let mut service = self.service().clone();
        assert!(service.roll_back(self.now, String::new()));
        self.write(vec![Mutation::Update(service.into())]);
    }

    pub fn set(&mut self, node: &NodeId, set: impl FnOnce(&mut NodeSpec)) {
        let mut node = Node::clone(&self.state.nodes[node]);
        set(&mut node.spec);
        self.write(vec![Mutation::Update(node.into())]);
    }

    pub fn turn(&mut self, node: &NodeId, state: NodeState) {
        let status = NodeStatus { state, ..NodeStatus::default() };
        self.write(vec![Mutation::NodeStatus { id: node.clone(), status }]);
    }

    pub fn drain(&mut self, node: &NodeId) {
        self.set(node, |spec| spec.availability = Availability::Drain);
    }

    /// The leader's stages, each once.
    pub fn pass(&mut self) {
        for stage in STAGES {
            let acked = self.hosts.values().map(|h| h.acked).min().unwrap();
            let random = &mut self.random;
            let mut random = || {
                *random += 1;
                random.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes()
            };
            let plan = stage(&self.state, &mut Context { now: self.now, acked, random: &mut random });
            if !plan.mutations.is_empty() {
                self.write(plan.mutations);
            }
        }
    }

    /// A host's kernel becomes as the newest state wants it, and the leader hears of it.
    pub fn follow(&mut self, node: usize) {
        let state = self.state.clone();
        let host = self.hosts.values_mut().nth(node % 3).unwrap();
        (host.acked, host.applied) = (state.version, state);
    }

    /// Another manager leads: it knows the state, and no acknowledgement.
    pub fn new_leader(&mut self) {
        self.hosts.values_mut().for_each(|h| h.acked = Version(0));
    }

    /// A host does what is next for one of its tasks.
    pub fn work(&mut self, task: usize) {
        let on_node: Vec<&Task> = self.alive().into_iter().filter(|t| t.node.is_some()).collect();
        let Some(task) = task.checked_rem(on_node.len()).map(|n| on_node[n]) else { return };
        let unhealthy = task.status.unhealthy || (self.unhealthy)(task);
        let (state, error) = match task.desired {
            _ if task.stop && unhealthy => (TaskState::Failed, "unhealthy"),
            _ if task.stop => (TaskState::Shutdown, ""),
            TaskState::Running if (self.fails)(task) => (TaskState::Failed, "exit code 1"),
            TaskState::Running if task.status.state == TaskState::Running && (self.ends)(task) => {
                (TaskState::Complete, "")
            }
            // Before it has been well it is not running.
            _ if unhealthy && task.status.state < TaskState::Running => (TaskState::Starting, "unhealthy"),
            _ if unhealthy => (TaskState::Running, "unhealthy"),
            _ => (TaskState::Running, ""),
        };
        if task.status.state < state || task.status.unhealthy != unhealthy {
            let (since, error) = (self.now, error.into());
            let status = TaskStatus { state, since, error, unhealthy, ..TaskStatus::default() };
            self.write(vec![Mutation::TaskStatus { id: task.id.clone(), status }]);
        }
    }

    pub fn later(&mut self, by: Duration) {
        self.now = self.now.plus(by);
    }

    /// Everybody does something, and half a second goes by.
    pub fn round(&mut self) {
        self.pass();
        (0..3).for_each(|n| self.follow(n));
        (0..self.alive().len()).for_each(|n| self.work(n));
        self.check();
        self.later(Duration::from_millis(500));
    }

    pub fn until(&mut self, state: UpdateState) {
        for _ in 0..400 {
            self.round();
            if self.service().update.as_ref().is_some_and(|u| u.state == state) {
                return;
            }
        }
        panic!("not {state:?}: {:?}, {:#?}", self.service().update, self.alive());
    }

    pub fn message(&self) -> &str {
        self.service().update.as_ref().map_or("", |u| &u.message)
    }

    /// On the host that knows the fewest: replicas that its balancers lead to.
    pub fn least_serving(&self) -> usize {
        self.hosts.values().map(|h| led_to(h, &self.web).count()).min().unwrap()
    }

    /// No balancer leads to a task that has been told to stop, and, where none failed, no more is in change than may be.
    pub fn check(&self) {
        for host in self.hosts.values() {
            for task in led_to(host, &self.web) {
                let now = self.state.tasks.get(&task.id).map(|t| (t.stop, t.status.state));
                assert!(now.is_some_and(|(stop, state)| !stop && state != TaskState::Shutdown), "{task:?}: {now:?}");
            }
        }
        if self.service().update.as_ref().is_some_and(|u| !u.failed.is_empty()) {
            return;
        }
        let (replicas, config) = (self.replicas() as usize, self.service().update_config());
        let at_once = if config.parallelism == 0 { replicas } else { config.parallelism as usize };
        let most = if config.order == Order::StartFirst { replicas + at_once } else { replicas };
        let stay = self.alive().into_iter().filter(|t| t.desired == TaskState::Running || t.on_node());
        let stay = stay.filter(|t| t.desired != TaskState::Remove).count();
        let shown = || self.alive().iter().map(|t| (t.slot, program(t), t.desired, t.status.state)).collect::<Vec<_>>();
        assert!(stay <= most, "{:?}", shown());
    }
}

fn led_to<'a>(host: &'a Host, web: &'a ServiceId) -> impl Iterator<Item = &'a Task> {
    host.applied.tasks_of_service(web).map(|t| &**t).filter(|t| t.in_service())
}

/// The program that tasks of a spec run.
pub fn program(task: &Task) -> &str {
    &task.spec.runtime.program().command[0]
}

pub fn run(spec: &mut ServiceSpec, program: &str) {
    spec.task.runtime.program_mut().command = vec![program.to_owned()];
}
