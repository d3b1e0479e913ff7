//! A service: what should run, how often, and how it is reached.

use crate::{
    Annotations, Meta, ServiceId, Timestamp, Version,
    container::Container,
    endpoint::{Endpoint, EndpointSpec, PortConfig, PublishMode},
    health::HealthCheck,
    image::ImageName,
    login::Logins,
    payload::PayloadFile,
    placement::{Placement, Resources},
    shared::Shared,
    update::{Previous, UpdateConfig, UpdateStatus},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// A program of the host's own, run in namespaces of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Program and arguments. A bare program name is looked up in the daemon's PATH; `heddle` is the daemon's own binary.
    pub command: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub dir: Option<String>,
    pub hostname: Option<String>,
}

/// A program of an image, in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    pub image: ImageName,
    /// None: the image's own.
    pub entrypoint: Option<Vec<String>>,
    /// Its command is what follows the entry point; empty: what the image has.
    pub program: ProcessSpec,
}

/// What runs a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Runtime {
    Process(ProcessSpec),
    Image(Box<ImageSpec>),
}

impl Runtime {
    pub const PROCESS: &str = "process";
    pub const CONTAINERD: &str = "containerd";

    pub const fn program(&self) -> &ProcessSpec {
        match self {
            Runtime::Process(program) => program,
            Runtime::Image(image) => &image.program,
        }
    }

    pub const fn program_mut(&mut self) -> &mut ProcessSpec {
        match self {
            Runtime::Process(program) => program,
            Runtime::Image(image) => &mut image.program,
        }
    }

    pub fn image(&self) -> Option<&ImageSpec> {
        match self {
            Runtime::Process(_) => None,
            Runtime::Image(image) => Some(image),
        }
    }

    /// What a node must have for it.
    pub const fn executor(&self) -> &'static str {
        match self {
            Runtime::Process(_) => Self::PROCESS,
            Runtime::Image(_) => Self::CONTAINERD,
        }
    }

    /// In a list of services.
    pub fn shown(&self) -> String {
        match self {
            Runtime::Process(program) => program.command.join(" "),
            Runtime::Image(image) => image.image.to_string(),
        }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Runtime::Process(ProcessSpec::default())
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    None,
    OnFailure,
    #[default]
    Any,
}

/// docker's defaults: any, 5 s, without limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    pub condition: RestartCondition,
    pub delay: Duration,
    /// Zero means no limit.
    pub max_attempts: u64,
    /// Within which attempts are counted; zero means for ever.
    pub window: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: Duration::from_secs(5),
            max_attempts: 0,
            window: Duration::ZERO,
        }
    }
}

/// A network that a service's tasks join, by id in the store and by name or id in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkTarget {
    pub target: String,
    pub aliases: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    pub runtime: Runtime,
    pub restart: RestartPolicy,
    pub placement: Placement,
    pub networks: Vec<NetworkTarget>,
    /// Secrets and configs, each at a path of its own.
    #[serde(default)]
    pub files: Vec<PayloadFile>,
    /// Time between the stop signal and SIGKILL.
    pub stop_grace: Duration,
    /// Between the moment when no balancer sends anything any more and the stop signal: for requests under way.
    #[serde(default = "linger")]
    pub linger: Duration,
    /// Grows when tasks are to be replaced although nothing else changed.
    #[serde(default)]
    pub force_update: u64,
    /// None: that of its image is made, if that has one; else a task is healthy while it runs.
    #[serde(default)]
    pub health: Option<HealthCheck>,
    /// The check of its image is not made.
    #[serde(default)]
    pub no_healthcheck: bool,
    #[serde(default)]
    pub resources: Resources,
    #[serde(default)]
    pub container: Container,
}

impl TaskSpec {
    pub const LINGER: Duration = Duration::from_millis(300);
    /// docker's.
    pub const STOP_GRACE: Duration = Duration::from_secs(10);

    /// Whether its image's own health check is made, if it has one.
    pub fn takes_image_check(&self) -> bool {
        self.health.is_none() && !self.no_healthcheck && self.runtime.image().is_some()
    }

    /// Whether a task may have to show that it is well.
    pub fn may_be_checked(&self) -> bool {
        self.health.is_some() || self.takes_image_check()
    }
}

impl Default for TaskSpec {
    fn default() -> Self {
        Self {
            runtime: Runtime::default(),
            restart: RestartPolicy::default(),
            placement: Placement::default(),
            networks: Vec::new(),
            files: Vec::new(),
            stop_grace: Self::STOP_GRACE,
            linger: Self::LINGER,
            force_update: 0,
            health: None,
            no_healthcheck: false,
            resources: Resources::default(),
            container: Container::default(),
        }
    }
}

fn linger() -> Duration {
    TaskSpec::LINGER
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    Replicated {
        replicas: u64,
    },
    /// One task on every node that takes it.
    Global,
    /// So many tasks that run to their end, and of them so many at once.
    ReplicatedJob {
        completions: u64,
        /// Zero means all.
        concurrent: u64,
    },
    /// One task on every node that takes it, which runs to its end.
    GlobalJob,
}

impl Mode {
    /// More replicas than this are refused as a slip of the keyboard.
    pub const MAX_REPLICAS: u64 = 10_000;

    pub const fn as_str(&self) -> &'static str {
        match self {
            Mode::Replicated { .. } => "replicated",
            Mode::Global => "global",
            Mode::ReplicatedJob { .. } => "replicated-job",
            Mode::GlobalJob => "global-job",
        }
    }

    /// Whether its tasks end by themselves, and are not followed by others then.
    pub const fn is_job(&self) -> bool {
        matches!(self, Mode::ReplicatedJob { .. } | Mode::GlobalJob)
    }

    /// How many tasks there are in all; None: as many as nodes take one.
    pub const fn count(&self) -> Option<u64> {
        match *self {
            Mode::Replicated { replicas } => Some(replicas),
            Mode::ReplicatedJob { completions, .. } => Some(completions),
            Mode::Global | Mode::GlobalJob => None,
        }
    }

    /// How many may run at once; None: as many as there are.
    pub const fn at_once(&self) -> Option<u64> {
        match *self {
            Mode::ReplicatedJob { concurrent, .. } if concurrent > 0 => Some(concurrent),
            _ => None,
        }
    }

    /// The same with another count; None: it has none.
    pub fn scaled(&self, count: u64) -> Option<Mode> {
        match *self {
            Mode::Replicated { .. } => Some(Mode::Replicated { replicas: count }),
            Mode::ReplicatedJob { concurrent, .. } => Some(Mode::ReplicatedJob { completions: count, concurrent }),
            Mode::Global | Mode::GlobalJob => None,
        }
    }
}

/// When tasks move by themselves to nodes that have fewer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebalance {
    /// Between one time that tasks move and the next, at least; zero: none move by themselves.
    pub every: Duration,
    /// Tasks that are moved at a time, at most.
    pub most: u64,
}

impl Rebalance {
    /// A service that moves its tasks more often does little else.
    pub const LEAST: Duration = Duration::from_secs(10);
}

impl Default for Rebalance {
    fn default() -> Self {
        Self { every: Duration::ZERO, most: 1 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    pub annotations: Annotations,
    pub mode: Mode,
    pub task: Shared<TaskSpec>,
    pub endpoint: EndpointSpec,
    #[serde(default)]
    pub update: UpdateConfig,
    #[serde(default)]
    pub rollback: UpdateConfig,
    #[serde(default)]
    pub rebalance: Rebalance,
}

impl ServiceSpec {
    /// Whether tasks made from either are alike.
    pub fn makes_same_tasks(&self, other: &ServiceSpec) -> bool {
        let of_host = |s: &ServiceSpec| -> Vec<PortConfig> {
            s.endpoint.ports.iter().filter(|p| p.mode == PublishMode::Host).cloned().collect()
        };
        self.task == other.task && self.uses_ingress() == other.uses_ingress() && of_host(self) == of_host(other)
    }

    pub fn uses_ingress(&self) -> bool {
        self.endpoint.ports.iter().any(|p| p.mode == PublishMode::Ingress)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub id: ServiceId,
    pub meta: Meta,
    pub spec: ServiceSpec,
    /// The version at which the spec came to make such tasks; tasks of another one are out of date.
    pub spec_version: Version,
    /// None until the allocator has seen the service as it is now.
    pub endpoint: Option<Endpoint>,
    /// The last update or rollback.
    #[serde(default)]
    pub update: Option<UpdateStatus>,
    #[serde(default)]
    pub previous: Option<Box<Previous>>,
    /// Tasks that may yet be moved so that nodes have as many each.
    #[serde(default)]
    pub moves: u64,
    /// When its rule of moves last moved something, or became another.
    #[serde(default)]
    pub rebalanced: Timestamp,
    /// Those of the registries that its images are from.
    #[serde(default)]
    pub logins: Logins,
}

impl Service {
    /// As it is when it is made.
    pub fn new(id: ServiceId, spec: ServiceSpec) -> Self {
        Self {
            id,
            meta: Meta::default(),
            spec,
            spec_version: Version(0),
            endpoint: None,
            update: None,
            previous: None,
            moves: 0,
            rebalanced: Timestamp::default(),
            logins: Logins::default(),
        }
    }

    /// Adds logins, and forgets those of registries that it has no image of, now and before.
    pub fn log_in(&mut self, logins: Logins) {
        self.logins.0.extend(logins.0);
        let specs = [Some(&self.spec), self.previous.as_ref().map(|p| &p.spec)];
        let images = specs.into_iter().flatten().filter_map(|spec| spec.task.runtime.image());
        let registries: Vec<_> = images.map(|image| image.image.parts().registry).collect();
        self.logins.0.retain(|registry, _| registries.contains(&registry.as_str()));
    }

    /// Whether its tasks are given the secret or config with this id, or may be again: until an update is over, the spec
    /// before is the way back.
    pub fn uses(&self, payload: &str) -> bool {
        let names = |spec: &ServiceSpec| spec.task.files.iter().any(|f| f.source == payload);
        let open = self.update.as_ref().is_some_and(|u| u.state.in_progress() || u.state.is_paused());
        names(&self.spec) || open && self.previous.as_ref().is_some_and(|p| names(&p.spec))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::login::{Login, Password};

    fn of(image: &str) -> ServiceSpec {
        let image = ImageSpec { image: image.parse().unwrap(), entrypoint: None, program: ProcessSpec::default() };
        ServiceSpec {
            annotations: Annotations::default(),
            mode: Mode::Global,
            task: TaskSpec { runtime: Runtime::Image(Box::new(image)), ..TaskSpec::default() }.into(),
            endpoint: EndpointSpec::default(),
            update: UpdateConfig::default(),
            rollback: UpdateConfig::default(),
            rebalance: Rebalance::default(),
        }
    }

    #[test]
    fn logins_stay_as_long_as_an_image_may_need_them() {
        let login = |registry: &str| {
            let login = Login { username: "me".into(), password: Password("x".into()) };
            Logins([(registry.to_owned(), login)].into())
        };
        let mut service = Service::new(ServiceId::from_random([1; 16]), of("a.example/x"));
        service.log_in(login("a.example"));
        for (image, known) in [("b.example/x", vec!["a.example", "b.example"]), ("b.example/y", vec!["b.example"])] {
            service.update = None;
            service.change(of(image), Timestamp(1));
            service.log_in(login("b.example"));
            assert_eq!(service.logins.0.keys().collect::<Vec<_>>(), known, "{image}");
        }
    }
}
