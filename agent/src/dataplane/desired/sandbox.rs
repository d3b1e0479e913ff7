//! A workload's namespace that should exist, and its places on networks.

use super::super::names;
use crate::dataplane::state::SpaceState;
use heddle_model::{
    NetworkId, TaskId,
    net::{DualAddr, IfName, Mac},
    task::Task,
    workload::{HostEndpoint, HostPort},
};
use std::net::IpAddr;

/// A place on one network, of this host or the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    pub network: NetworkId,
    /// `ethN`, in the workload.
    pub dev: IfName,
    /// At most one of each family.
    pub addrs: Vec<IpAddr>,
    pub mac: Mac,
    /// Names beside the workload's own that it has on this network.
    pub aliases: Vec<String>,
    /// Of the legs that lead outside, the one with the highest has the default route.
    pub gateway_priority: i32,
}

/// Of a task or a standalone workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    pub id: TaskId,
    /// That an operator knows it by.
    pub name: String,
    pub legs: Vec<Leg>,
    /// On the gateway bridge; None: no way out by it.
    pub gateway: Option<(IfName, DualAddr)>,
    /// Ports of this host that lead here.
    pub ports: Vec<HostPort>,
}

impl Leg {
    pub fn of_endpoint(endpoint: &HostEndpoint) -> Self {
        Leg {
            network: endpoint.network.clone(),
            dev: names::task_link(endpoint.index.into()),
            addrs: endpoint.addrs.clone(),
            mac: endpoint.mac,
            aliases: endpoint.aliases.clone(),
            gateway_priority: endpoint.gateway_priority,
        }
    }
}

impl Sandbox {
    /// A task's: `eth0` and on in its networks, then the gateway, then `more` that it was connected to while running.
    pub fn of_task(task: &Task, gateway: Option<DualAddr>, more: &[HostEndpoint]) -> Self {
        let leg = |(index, a): (usize, &heddle_model::endpoint::Attachment)| Leg {
            network: a.network.clone(),
            dev: names::task_link(index),
            addrs: a.addr.addrs().to_vec(),
            mac: a.mac,
            aliases: a.aliases.clone(),
            gateway_priority: 0,
        };
        let host_port = |p: &heddle_model::endpoint::PortConfig| HostPort {
            host_ip: None,
            host: p.published.unwrap_or(p.target),
            target: p.target,
            protocol: p.protocol,
        };
        let legs = task.attachments.iter().enumerate().map(leg).chain(more.iter().map(Leg::of_endpoint)).collect();
        let gateway = gateway.map(|addr| (names::task_link(task.attachments.len()), addr));
        let ports = task.host_ports.iter().filter(|_| task.in_service()).map(host_port).collect();
        Sandbox { id: task.id.clone(), name: task.name(), legs, gateway, ports }
    }

    pub fn leg(&self, network: &NetworkId) -> Option<&Leg> {
        self.legs.iter().find(|l| l.network == *network)
    }
}

/// A packet may come in by another leg than its answer leaves by, and routers of the network are not the workload's.
pub fn link_sysctls(space: &mut SpaceState, dev: &IfName) {
    space.sysctls.insert(format!("net.ipv4.conf.{dev}.rp_filter"), "0".into());
    space.sysctls.insert(format!("net.ipv6.conf.{dev}.accept_ra"), "0".into());
}
