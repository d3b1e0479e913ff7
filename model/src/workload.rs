//! A standalone workload: one program that an operator runs on one host.

use crate::{
    Annotations, NetworkId, TaskId, Timestamp,
    container::Mount,
    net::{Mac, Port, Protocol},
    service::{ImageSpec, ProcessSpec},
    task::TaskStatus,
};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    time::Duration,
};

/// A network that a workload should join.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkWish {
    /// A name, an id or the unique beginning of one.
    pub network: String,
    pub aliases: Vec<String>,
    pub ip: Option<Ipv4Addr>,
    pub ip6: Option<Ipv6Addr>,
    pub mac: Option<Mac>,
    /// The network with the highest gives the default route.
    #[serde(default)]
    pub gateway_priority: i32,
}

/// `-p [IP:][HOST:]TARGET[/PROTOCOL]`: HOST and TARGET may be ranges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishWish {
    /// None: every address of the host.
    pub host_ip: Option<IpAddr>,
    /// None: any free one. As long as `target`, or any length if `target` is one port: then the first free one of it.
    pub host: Option<RangeInclusive<Port>>,
    pub target: RangeInclusive<Port>,
    pub protocol: Protocol,
}

/// A port of the host that leads to a port of a workload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// None: every address of the host.
    pub host_ip: Option<IpAddr>,
    pub host: Port,
    pub target: Port,
    pub protocol: Protocol,
}

/// What is written into the workload's /etc/resolv.conf beside the resolver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// Asked instead of the host's servers.
    pub servers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadSpec {
    /// The name is empty in a request that leaves it open.
    pub annotations: Annotations,
    /// Of the host, where there is no image.
    pub process: ProcessSpec,
    #[serde(default)]
    pub image: Option<Box<ImageSpec>>,
    /// Empty: the default network.
    pub networks: Vec<NetworkWish>,
    pub ports: Vec<PublishWish>,
    pub dns: DnsConfig,
    /// NAME:ADDRESS lines of /etc/hosts.
    pub extra_hosts: Vec<(String, IpAddr)>,
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Is removed when it has ended.
    pub auto_remove: bool,
    /// Time between the stop signal and SIGKILL.
    pub stop_grace: Duration,
}

impl WorkloadSpec {
    /// What it runs, of the host or of its image.
    pub fn program(&self) -> &ProcessSpec {
        self.image.as_ref().map_or(&self.process, |image| &image.program)
    }
}

/// A workload's, or a task's, place on one network that was made on its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEndpoint {
    pub network: NetworkId,
    /// N of `ethN` in the workload; stays for as long as the place does.
    pub index: u8,
    /// At most one of each family. Those on an overlay are the managers' choice.
    pub addrs: Vec<IpAddr>,
    pub mac: Mac,
    pub aliases: Vec<String>,
    pub gateway_priority: i32,
}

/// What of a workload is kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    pub id: TaskId,
    pub created_at: Timestamp,
    /// With a name.
    pub spec: WorkloadSpec,
    pub ports: Vec<HostPort>,
    /// An operator wants it to run.
    pub wanted: bool,
    /// How often it was started.
    pub runs: u64,
    /// As the last `stop` asked for, instead of the spec's.
    #[serde(default)]
    pub stop_grace: Option<Duration>,
    /// As last seen.
    pub status: TaskStatus,
}
