//! What tasks are made of, and tasks.

use super::{ConvertError, Result, list, mac, millis, missing, port, some, text, wrong};
use crate::v1;
use heddle_model::{
    Timestamp, Version,
    endpoint::Attachment,
    health::{HealthCheck, Probe},
    login::{Login, Logins, Password},
    payload::{FileMode, FilePath, PayloadFile},
    placement::{Amounts, Limits, NanoCpus, Placement, Resources},
    service::{ImageSpec, NetworkTarget, ProcessSpec, RestartPolicy, Runtime, TaskSpec},
    task::{Choice, Task, TaskStatus},
};
use std::time::Duration;

impl From<Placement> for v1::Placement {
    fn from(p: Placement) -> Self {
        Self { constraints: p.constraints, max_replicas_per_node: p.max_replicas_per_node, spread: p.spread }
    }
}

impl From<v1::Placement> for Placement {
    fn from(p: v1::Placement) -> Self {
        Self { constraints: p.constraints, max_replicas_per_node: p.max_replicas_per_node, spread: p.spread }
    }
}

impl From<Resources> for v1::Resources {
    fn from(r: Resources) -> Self {
        Self {
            reserved: Some(v1::Amounts {
                nano_cpus: r.reserved.cpu.0,
                memory_bytes: r.reserved.memory,
                generic: r.reserved.generic.into_iter().collect(),
            }),
            limit: Some(v1::Limits { nano_cpus: r.limit.cpu.0, memory_bytes: r.limit.memory, pids: r.limit.pids }),
        }
    }
}

impl From<v1::Resources> for Resources {
    fn from(r: v1::Resources) -> Self {
        let (reserved, limit) = (r.reserved.unwrap_or_default(), r.limit.unwrap_or_default());
        Self {
            reserved: Amounts {
                cpu: NanoCpus(reserved.nano_cpus),
                memory: reserved.memory_bytes,
                generic: reserved.generic.into_iter().collect(),
            },
            limit: Limits { cpu: NanoCpus(limit.nano_cpus), memory: limit.memory_bytes, pids: limit.pids },
        }
    }
}

impl From<Choice> for v1::Choice {
    fn from(c: Choice) -> Self {
        Self { failed: c.failed, alike: c.alike.into_vec(), of_service: c.of_service, all: c.all }
    }
}

impl From<v1::Choice> for Choice {
    fn from(c: v1::Choice) -> Self {
        Self { failed: c.failed, alike: c.alike.into(), of_service: c.of_service, all: c.all }
    }
}

impl From<ProcessSpec> for v1::ProcessSpec {
    fn from(p: ProcessSpec) -> Self {
        Self { command: p.command, env: p.env.into_iter().collect(), dir: p.dir, hostname: p.hostname }
    }
}

impl From<v1::ProcessSpec> for ProcessSpec {
    fn from(p: v1::ProcessSpec) -> Self {
        Self { command: p.command, env: p.env.into_iter().collect(), dir: p.dir, hostname: p.hostname }
    }
}

impl From<ImageSpec> for v1::ImageSpec {
    fn from(i: ImageSpec) -> Self {
        Self {
            image: i.image.into(),
            entrypoint: i.entrypoint.map(|words| v1::Words { words }),
            program: Some(i.program.into()),
        }
    }
}

impl TryFrom<v1::ImageSpec> for ImageSpec {
    type Error = ConvertError;
    fn try_from(i: v1::ImageSpec) -> Result<Self> {
        Ok(Self {
            image: text("task.image", &i.image)?,
            entrypoint: i.entrypoint.map(|e| e.words),
            program: i.program.unwrap_or_default().into(),
        })
    }
}

impl From<Logins> for v1::RegistryLogins {
    fn from(logins: Logins) -> Self {
        let login = |(registry, login): (String, Login)| v1::RegistryLogin {
            registry,
            username: login.username,
            password: login.password.0,
        };
        Self { logins: logins.0.into_iter().map(login).collect() }
    }
}

impl From<v1::RegistryLogin> for Login {
    fn from(login: v1::RegistryLogin) -> Self {
        Self { username: login.username, password: Password(login.password) }
    }
}

impl From<v1::RegistryLogins> for Logins {
    fn from(logins: v1::RegistryLogins) -> Self {
        Self(logins.logins.into_iter().map(|login| (login.registry.clone(), login.into())).collect())
    }
}

impl From<TaskSpec> for v1::TaskSpec {
    fn from(s: TaskSpec) -> Self {
        let runtime = match s.runtime {
            Runtime::Process(process) => v1::task_spec::Runtime::Process(process.into()),
            Runtime::Image(image) => v1::task_spec::Runtime::Image((*image).into()),
        };
        Self {
            runtime: Some(runtime),
            restart: Some(v1::RestartPolicy {
                condition: v1::RestartCondition::from(s.restart.condition).into(),
                delay_ms: millis(s.restart.delay),
                max_attempts: s.restart.max_attempts,
                window_ms: millis(s.restart.window),
            }),
            placement: Some(s.placement.into()),
            networks: s
                .networks
                .into_iter()
                .map(|n| v1::NetworkTarget { target: n.target, aliases: n.aliases })
                .collect(),
            stop_grace_ms: millis(s.stop_grace),
            linger_ms: Some(millis(s.linger)),
            force_update: s.force_update,
            files: s.files.into_iter().map(Into::into).collect(),
            health: s.health.map(Into::into),
            no_healthcheck: s.no_healthcheck,
            resources: Some(s.resources.into()),
            container: Some(s.container.into()),
        }
    }
}

impl TryFrom<v1::TaskSpec> for TaskSpec {
    type Error = ConvertError;
    fn try_from(s: v1::TaskSpec) -> Result<Self> {
        let runtime = match some("task.runtime", s.runtime)? {
            v1::task_spec::Runtime::Process(process) => Runtime::Process(process.into()),
            v1::task_spec::Runtime::Image(image) => Runtime::Image(Box::new(image.try_into()?)),
        };
        let restart = match s.restart {
            Some(r) => RestartPolicy {
                condition: r.condition().try_into()?,
                delay: Duration::from_millis(r.delay_ms),
                max_attempts: r.max_attempts,
                window: Duration::from_millis(r.window_ms),
            },
            None => RestartPolicy::default(),
        };
        Ok(Self {
            runtime,
            restart,
            placement: s.placement.unwrap_or_default().into(),
            networks: s.networks.into_iter().map(|n| NetworkTarget { target: n.target, aliases: n.aliases }).collect(),
            stop_grace: Duration::from_millis(s.stop_grace_ms),
            linger: s.linger_ms.map_or(TaskSpec::LINGER, Duration::from_millis),
            force_update: s.force_update,
            files: list(s.files)?,
            health: s.health.map(TryInto::try_into).transpose()?,
            no_healthcheck: s.no_healthcheck,
            resources: s.resources.unwrap_or_default().into(),
            container: s.container.map(TryInto::try_into).transpose()?.unwrap_or_default(),
        })
    }
}

impl From<HealthCheck> for v1::HealthCheck {
    fn from(c: HealthCheck) -> Self {
        use v1::health_check::Probe as Wire;
        Self {
            probe: Some(match c.probe {
                Probe::Command(command) => Wire::Command(command),
                Probe::Exec(args) => Wire::Exec(v1::ExecProbe { args }),
                Probe::Http { port, path } => Wire::Http(v1::HttpProbe { port: port.get().into(), path }),
                Probe::Tcp(port) => Wire::Tcp(port.get().into()),
            }),
            interval_ms: millis(c.interval),
            timeout_ms: millis(c.timeout),
            retries: c.retries,
            start_period_ms: millis(c.start_period),
            start_interval_ms: millis(c.start_interval),
        }
    }
}

impl TryFrom<v1::HealthCheck> for HealthCheck {
    type Error = ConvertError;
    fn try_from(c: v1::HealthCheck) -> Result<Self> {
        use v1::health_check::Probe as Wire;
        Ok(Self {
            probe: match some("health.probe", c.probe)? {
                Wire::Command(command) => Probe::Command(command),
                Wire::Exec(exec) => Probe::Exec(exec.args),
                Wire::Http(http) => Probe::Http { port: port("health.http.port", http.port)?, path: http.path },
                Wire::Tcp(tcp) => Probe::Tcp(port("health.tcp", tcp)?),
            },
            interval: Duration::from_millis(c.interval_ms),
            timeout: Duration::from_millis(c.timeout_ms),
            retries: c.retries,
            start_period: Duration::from_millis(c.start_period_ms),
            start_interval: Duration::from_millis(c.start_interval_ms),
        })
    }
}

impl From<PayloadFile> for v1::PayloadFile {
    fn from(f: PayloadFile) -> Self {
        Self {
            kind: v1::PayloadKind::from(f.kind).into(),
            source: f.source,
            path: f.path.into(),
            uid: f.uid,
            gid: f.gid,
            mode: f.mode.get(),
        }
    }
}

impl TryFrom<v1::PayloadFile> for PayloadFile {
    type Error = ConvertError;
    fn try_from(f: v1::PayloadFile) -> Result<Self> {
        Ok(Self {
            kind: f.kind().try_into()?,
            path: text::<FilePath>("file.path", &f.path)?,
            mode: FileMode::try_from(f.mode).map_err(|e| wrong("file.mode", e))?,
            source: f.source,
            uid: f.uid,
            gid: f.gid,
        })
    }
}

impl From<TaskStatus> for v1::TaskStatus {
    fn from(s: TaskStatus) -> Self {
        Self {
            state: v1::TaskState::from(s.state).into(),
            since_ms: s.since.0,
            message: s.message,
            error: s.error,
            pid: s.pid,
            exit_code: s.exit_code,
            unhealthy: s.unhealthy,
        }
    }
}

impl TryFrom<v1::TaskStatus> for TaskStatus {
    type Error = ConvertError;
    fn try_from(s: v1::TaskStatus) -> Result<Self> {
        Ok(Self {
            state: s.state().try_into()?,
            since: Timestamp(s.since_ms),
            message: s.message,
            error: s.error,
            pid: s.pid,
            exit_code: s.exit_code,
            unhealthy: s.unhealthy,
        })
    }
}

impl From<Attachment> for v1::Attachment {
    fn from(a: Attachment) -> Self {
        Self { network: a.network.into(), addr: Some(a.addr.into()), mac: a.mac.to_string(), aliases: a.aliases }
    }
}

impl TryFrom<v1::Attachment> for Attachment {
    type Error = ConvertError;
    fn try_from(a: v1::Attachment) -> Result<Self> {
        Ok(Self {
            network: text("attachments.network", &a.network)?,
            addr: some("attachments.addr", a.addr)?.try_into()?,
            mac: mac("attachments.mac", &a.mac)?,
            aliases: a.aliases,
        })
    }
}

impl From<Task> for v1::Task {
    fn from(t: Task) -> Self {
        Self {
            id: t.id.into(),
            meta: Some(t.meta.into()),
            service: t.service.into(),
            service_name: t.service_name,
            slot: t.slot,
            spec: Some(t.spec.into_inner().into()),
            spec_version: t.spec_version.0,
            node: t.node.map(Into::into),
            bound: t.bound.map(Into::into),
            choice: t.choice.map(Into::into),
            attachments: t.attachments.into_iter().map(Into::into).collect(),
            host_ports: t.host_ports.into_iter().map(Into::into).collect(),
            desired: v1::TaskState::from(t.desired).into(),
            not_before_ms: t.not_before.0,
            status: Some(t.status.into()),
            stop: t.stop,
            started_ms: t.started.map(|at| at.0),
        }
    }
}

impl TryFrom<v1::Task> for Task {
    type Error = ConvertError;
    fn try_from(t: v1::Task) -> Result<Self> {
        let desired = t.desired().try_into()?;
        Ok(Self {
            id: text("id", &t.id)?,
            meta: t.meta.ok_or_else(|| missing("meta"))?.into(),
            service: text("service", &t.service)?,
            service_name: t.service_name,
            slot: t.slot,
            spec: TaskSpec::try_from(some("spec", t.spec)?)?.into(),
            spec_version: Version(t.spec_version),
            node: t.node.map(|n| text("node", &n)).transpose()?,
            bound: t.bound.map(|n| text("bound", &n)).transpose()?,
            choice: t.choice.map(Into::into),
            attachments: list(t.attachments)?,
            host_ports: list(t.host_ports)?,
            desired,
            not_before: Timestamp(t.not_before_ms),
            status: some("status", t.status)?.try_into()?,
            stop: t.stop,
            started: t.started_ms.map(Timestamp),
        })
    }
}
