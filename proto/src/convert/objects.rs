//! Nodes, networks, services, tasks.

use super::{ConvertError, Result, enums, list, mac, millis, missing, mtu, optional, port, some, text, wrong};
use crate::v1;
use heddle_model::{
    Annotations, Meta, Timestamp, Version,
    cluster::Role,
    endpoint::{Endpoint, EndpointMode, EndpointSpec, PortConfig, PublishMode, VirtualIp},
    login::Logins,
    net::{Pool, Protocol, Vni, parse_subnet},
    network::{Driver, Network, NetworkAllocation, NetworkSpec},
    node::{
        Availability, IngressLeg, ManagerStatus, Node, NodeDescription, NodeReport, NodeSpec, NodeState, NodeStatus,
        Trust,
    },
    payload::PayloadKind,
    service::{Mode, Rebalance, RestartCondition, Service, ServiceSpec, TaskSpec},
    task::TaskState,
    tunnel::Backend,
    update::Previous,
};
use std::time::Duration;

enums! {
    Role = Role, "role" { Worker = Worker, Manager = Manager }
    Availability = Availability, "availability" { Active = Active, Pause = Pause, Drain = Drain }
    NodeState = NodeState, "status.state" { Unknown = Unknown, Ready = Ready, Down = Down }
    Driver = Driver, "driver" {
        Overlay = Overlay, Bridge = Bridge, Host = Host, Null = Null, Macvlan = Macvlan, Ipvlan = Ipvlan,
    }
    Protocol = Protocol, "protocol" { Tcp = Tcp, Udp = Udp }
    PublishMode = PublishMode, "mode" { Ingress = Ingress, Host = Host }
    Backend = TunnelBackend, "tunnel.backend" { Kernel = Kernel, Userspace = Userspace }
    EndpointMode = EndpointMode, "endpoint.mode" { Vip = Vip, DnsRr = Dnsrr }
    PayloadKind = PayloadKind, "kind" { Secret = Secret, Config = Config }
    RestartCondition = RestartCondition, "restart.condition" { None = None, OnFailure = OnFailure, Any = Any }
    TaskState = TaskState, "state" {
        New = New, Pending = Pending, Assigned = Assigned, Accepted = Accepted, Preparing = Preparing, Ready = Ready,
        Starting = Starting, Running = Running, Complete = Complete, Shutdown = Shutdown, Failed = Failed,
        Rejected = Rejected, Remove = Remove, Orphaned = Orphaned,
    }
}

impl From<Meta> for v1::Meta {
    fn from(m: Meta) -> Self {
        Self { version: m.version.0, created_at_ms: m.created_at.0, updated_at_ms: m.updated_at.0 }
    }
}

impl From<v1::Meta> for Meta {
    fn from(m: v1::Meta) -> Self {
        Self {
            version: Version(m.version),
            created_at: Timestamp(m.created_at_ms),
            updated_at: Timestamp(m.updated_at_ms),
        }
    }
}

impl From<Annotations> for v1::Annotations {
    fn from(a: Annotations) -> Self {
        Self { name: a.name, labels: a.labels.into_iter().collect() }
    }
}

impl From<v1::Annotations> for Annotations {
    fn from(a: v1::Annotations) -> Self {
        Self { name: a.name, labels: a.labels.into_iter().collect() }
    }
}

// ---- node

impl From<NodeDescription> for v1::NodeDescription {
    fn from(d: NodeDescription) -> Self {
        Self {
            hostname: d.hostname,
            os: d.os,
            arch: d.arch,
            cpus: d.cpus,
            memory_bytes: d.memory_bytes,
            version: d.version,
            host_subnets: d.host_subnets.iter().map(ToString::to_string).collect(),
            data_path_mtu: d.data_path_mtu.map_or(0, |m| m.0.into()),
            executors: d.executors,
            listening: d
                .listening
                .into_iter()
                .map(|(protocol, port)| v1::ListeningPort {
                    protocol: v1::Protocol::from(protocol).into(),
                    port: port.get().into(),
                })
                .collect(),
            tunnel: d.tunnel.map(Into::into),
            signer: d.trust.signer,
            roots: d.trust.roots,
            labels: d.labels.into_iter().collect(),
            generic: d.generic.into_iter().collect(),
        }
    }
}

impl TryFrom<v1::NodeDescription> for NodeDescription {
    type Error = ConvertError;
    fn try_from(d: v1::NodeDescription) -> Result<Self> {
        Ok(Self {
            hostname: d.hostname,
            os: d.os,
            arch: d.arch,
            cpus: d.cpus,
            memory_bytes: d.memory_bytes,
            version: d.version,
            host_subnets: d.host_subnets.iter().map(|s| text("description.host_subnets", s)).collect::<Result<_>>()?,
            data_path_mtu: mtu("description.data_path_mtu", d.data_path_mtu)?,
            executors: d.executors,
            listening: d
                .listening
                .into_iter()
                .map(|l| Ok((l.protocol().try_into()?, port("description.listening", l.port)?)))
                .collect::<Result<_>>()?,
            tunnel: d.tunnel.map(TryInto::try_into).transpose()?,
            trust: Trust { signer: d.signer, roots: d.roots },
            labels: d.labels.into_iter().collect(),
            generic: d.generic.into_iter().collect(),
        })
    }
}

impl From<NodeReport> for v1::NodeReport {
    fn from(r: NodeReport) -> Self {
        Self { errors: r.errors, warnings: r.warnings }
    }
}

impl From<v1::NodeReport> for NodeReport {
    fn from(r: v1::NodeReport) -> Self {
        Self { errors: r.errors, warnings: r.warnings }
    }
}

impl From<IngressLeg> for v1::IngressLeg {
    fn from(l: IngressLeg) -> Self {
        Self { index: l.index.into(), addr: Some(l.addr.into()), mac: l.mac.to_string() }
    }
}

impl TryFrom<v1::IngressLeg> for IngressLeg {
    type Error = ConvertError;
    fn try_from(l: v1::IngressLeg) -> Result<Self> {
        Ok(Self {
            index: u16::try_from(l.index).map_err(|e| wrong("ingress.index", e))?,
            addr: some("ingress.addr", l.addr)?.try_into()?,
            mac: mac("ingress.mac", &l.mac)?,
        })
    }
}

impl From<Node> for v1::Node {
    fn from(n: Node) -> Self {
        Self {
            id: n.id.into(),
            meta: Some(n.meta.into()),
            spec: Some(v1::NodeSpec {
                annotations: Some(n.spec.annotations.into()),
                role: v1::Role::from(n.spec.role).into(),
                availability: v1::Availability::from(n.spec.availability).into(),
            }),
            role: v1::Role::from(n.role).into(),
            description: Some(n.description.into()),
            status: Some(v1::NodeStatus {
                state: v1::NodeState::from(n.status.state).into(),
                message: n.status.message,
                since_ms: n.status.since.0,
            }),
            data_path_addr: n.data_path_addr.to_string(),
            manager: n.manager.map(|m| v1::ManagerStatus {
                raft_id: m.raft_id,
                addr: m.addr.to_string(),
                leader: false,
                reachable: false,
            }),
            ingress: n.ingress.map(Into::into),
            report: None,
        }
    }
}

impl TryFrom<v1::Node> for Node {
    type Error = ConvertError;
    fn try_from(n: v1::Node) -> Result<Self> {
        let role = n.role().try_into()?;
        let spec = some("spec", n.spec)?;
        let status = some("status", n.status)?;
        Ok(Self {
            id: text("id", &n.id)?,
            meta: some("meta", n.meta)?.into(),
            spec: NodeSpec {
                role: spec.role().try_into()?,
                availability: spec.availability().try_into()?,
                annotations: some("spec.annotations", spec.annotations)?.into(),
            },
            role,
            description: some("description", n.description)?.try_into()?,
            status: NodeStatus {
                state: status.state().try_into()?,
                message: status.message,
                since: Timestamp(status.since_ms),
            },
            data_path_addr: text("data_path_addr", &n.data_path_addr)?,
            manager: n
                .manager
                .map(|m| {
                    Ok::<_, ConvertError>(ManagerStatus { raft_id: m.raft_id, addr: text("manager.addr", &m.addr)? })
                })
                .transpose()?,
            ingress: n.ingress.map(TryInto::try_into).transpose()?,
        })
    }
}

// ---- network

impl From<Pool> for v1::Pool {
    fn from(p: Pool) -> Self {
        Self {
            subnet: p.subnet.to_string(),
            gateway: p.gateway.map_or_else(String::new, |g| g.to_string()),
            range: p.range.map_or_else(String::new, |r| r.to_string()),
            aux: p.aux.into_iter().map(|(name, addr)| (name, addr.to_string())).collect(),
        }
    }
}

impl TryFrom<v1::Pool> for Pool {
    type Error = ConvertError;
    fn try_from(p: v1::Pool) -> Result<Self> {
        let subnet = |field, s: &str| parse_subnet(s).map_err(|e| wrong(field, e));
        let aux = p.aux.iter().map(|(name, addr)| Ok((name.clone(), text("aux", addr)?)));
        Ok(Self {
            subnet: subnet("subnet", &p.subnet)?,
            gateway: optional("gateway", &p.gateway)?,
            range: if p.range.is_empty() { None } else { Some(subnet("range", &p.range)?) },
            aux: aux.collect::<Result<_>>()?,
        })
    }
}

impl From<NetworkSpec> for v1::NetworkSpec {
    fn from(s: NetworkSpec) -> Self {
        Self {
            annotations: Some(s.annotations.into()),
            driver: v1::Driver::from(s.driver).into(),
            ingress: s.ingress,
            internal: s.internal,
            attachable: s.attachable,
            pools: s.pools.into_iter().map(Into::into).collect(),
            mtu: s.mtu.map_or(0, |m| m.0.into()),
            options: s.options.into_iter().collect(),
            ipv4: s.ipv4,
            ipv6: s.ipv6,
        }
    }
}

impl TryFrom<v1::NetworkSpec> for NetworkSpec {
    type Error = ConvertError;
    fn try_from(s: v1::NetworkSpec) -> Result<Self> {
        Ok(Self {
            driver: s.driver().try_into()?,
            annotations: some("annotations", s.annotations)?.into(),
            ingress: s.ingress,
            internal: s.internal,
            attachable: s.attachable,
            pools: list(s.pools)?,
            mtu: mtu("mtu", s.mtu)?,
            options: s.options.into_iter().collect(),
            ipv4: s.ipv4,
            ipv6: s.ipv6,
        })
    }
}

impl From<Network> for v1::Network {
    fn from(n: Network) -> Self {
        Self {
            id: n.id.into(),
            meta: Some(n.meta.into()),
            spec: Some(n.spec.into()),
            allocation: n.allocation.map(|a| v1::NetworkAllocation {
                vni: a.vni.get(),
                subnet: Some(a.subnet.into()),
                service_subnet: Some(a.service_subnet.into()),
            }),
        }
    }
}

impl TryFrom<v1::Network> for Network {
    type Error = ConvertError;
    fn try_from(n: v1::Network) -> Result<Self> {
        let allocation = |a: v1::NetworkAllocation| -> Result<NetworkAllocation> {
            Ok(NetworkAllocation {
                vni: Vni::try_from(a.vni).map_err(|e| wrong("allocation.vni", e))?,
                subnet: some("allocation.subnet", a.subnet)?.try_into()?,
                service_subnet: some("allocation.service_subnet", a.service_subnet)?.try_into()?,
            })
        };
        Ok(Self {
            id: text("id", &n.id)?,
            meta: some("meta", n.meta)?.into(),
            spec: some("spec", n.spec)?.try_into()?,
            allocation: n.allocation.map(allocation).transpose()?,
        })
    }
}

// ---- service

impl From<PortConfig> for v1::PortConfig {
    fn from(p: PortConfig) -> Self {
        Self {
            protocol: v1::Protocol::from(p.protocol).into(),
            target: p.target.get().into(),
            published: p.published.map_or(0, |p| p.get().into()),
            mode: v1::PublishMode::from(p.mode).into(),
        }
    }
}

impl TryFrom<v1::PortConfig> for PortConfig {
    type Error = ConvertError;
    fn try_from(p: v1::PortConfig) -> Result<Self> {
        Ok(Self {
            protocol: p.protocol().try_into()?,
            target: port("ports.target", p.target)?,
            published: if p.published == 0 { None } else { Some(port("ports.published", p.published)?) },
            mode: p.mode().try_into()?,
        })
    }
}

impl From<VirtualIp> for v1::VirtualIp {
    fn from(v: VirtualIp) -> Self {
        Self { network: v.network.into(), addr: Some(v.addr.into()) }
    }
}

impl TryFrom<v1::VirtualIp> for VirtualIp {
    type Error = ConvertError;
    fn try_from(v: v1::VirtualIp) -> Result<Self> {
        Ok(Self {
            network: text("virtual_ips.network", &v.network)?,
            addr: some("virtual_ips.addr", v.addr)?.try_into()?,
        })
    }
}

impl From<ServiceSpec> for v1::ServiceSpec {
    fn from(s: ServiceSpec) -> Self {
        use v1::service_spec::Mode as Wire;
        let mode = match s.mode {
            Mode::Replicated { replicas } => Wire::Replicated(v1::Replicated { replicas }),
            Mode::Global => Wire::Global(v1::Global {}),
            Mode::ReplicatedJob { completions, concurrent } => {
                Wire::ReplicatedJob(v1::ReplicatedJob { completions, concurrent })
            }
            Mode::GlobalJob => Wire::GlobalJob(v1::GlobalJob {}),
        };
        Self {
            annotations: Some(s.annotations.into()),
            mode: Some(mode),
            task: Some(s.task.into_inner().into()),
            endpoint: Some(v1::EndpointSpec {
                mode: v1::EndpointMode::from(s.endpoint.mode).into(),
                ports: s.endpoint.ports.into_iter().map(Into::into).collect(),
            }),
            update: Some(s.update.into()),
            rollback: Some(s.rollback.into()),
            rebalance: Some(v1::Rebalance { every_ms: millis(s.rebalance.every), most: s.rebalance.most }),
        }
    }
}

impl TryFrom<v1::ServiceSpec> for ServiceSpec {
    type Error = ConvertError;
    fn try_from(s: v1::ServiceSpec) -> Result<Self> {
        use v1::service_spec::Mode as Wire;
        let mode = match some("mode", s.mode)? {
            Wire::Replicated(m) => Mode::Replicated { replicas: m.replicas },
            Wire::Global(_) => Mode::Global,
            Wire::ReplicatedJob(m) => Mode::ReplicatedJob { completions: m.completions, concurrent: m.concurrent },
            Wire::GlobalJob(_) => Mode::GlobalJob,
        };
        let endpoint = match s.endpoint {
            Some(e) => EndpointSpec { mode: e.mode().try_into()?, ports: list(e.ports)? },
            None => EndpointSpec::default(),
        };
        Ok(Self {
            annotations: some("annotations", s.annotations)?.into(),
            mode,
            task: TaskSpec::try_from(some("task", s.task)?)?.into(),
            endpoint,
            update: s.update.map(TryInto::try_into).transpose()?.unwrap_or_default(),
            rollback: s.rollback.map(TryInto::try_into).transpose()?.unwrap_or_default(),
            rebalance: s.rebalance.map_or_else(Rebalance::default, |r| Rebalance {
                every: Duration::from_millis(r.every_ms),
                most: r.most,
            }),
        })
    }
}

impl From<Service> for v1::Service {
    fn from(s: Service) -> Self {
        Self {
            id: s.id.into(),
            meta: Some(s.meta.into()),
            spec: Some(s.spec.into()),
            spec_version: s.spec_version.0,
            endpoint: s.endpoint.map(|e| v1::Endpoint {
                ports: e.ports.into_iter().map(Into::into).collect(),
                virtual_ips: e.virtual_ips.into_iter().map(Into::into).collect(),
            }),
            update: s.update.map(Into::into),
            previous: s.previous.map(|p| (*p).into()),
            moves: s.moves,
            rebalanced_ms: s.rebalanced.0,
        }
    }
}

impl TryFrom<v1::Service> for Service {
    type Error = ConvertError;
    fn try_from(s: v1::Service) -> Result<Self> {
        let endpoint = |e: v1::Endpoint| {
            Ok::<_, ConvertError>(Endpoint { ports: list(e.ports)?, virtual_ips: list(e.virtual_ips)? })
        };
        Ok(Self {
            id: text("id", &s.id)?,
            meta: some("meta", s.meta)?.into(),
            spec: some("spec", s.spec)?.try_into()?,
            spec_version: Version(s.spec_version),
            endpoint: s.endpoint.map(endpoint).transpose()?,
            update: s.update.map(TryInto::try_into).transpose()?,
            previous: s.previous.map(|p| Previous::try_from(p).map(Box::new)).transpose()?,
            moves: s.moves,
            rebalanced: Timestamp(s.rebalanced_ms),
            // Nobody is told them again.
            logins: Logins::default(),
        })
    }
}

// ---- task
