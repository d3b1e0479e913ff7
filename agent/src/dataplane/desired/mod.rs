//! The kernel as it should be, from what the managers say and the workloads that exist here.
//!
//! ```text
//! host         underlay (who may send VXLAN), gateway (bridge to the world, published ports come in)
//! hd-ingress   overlay + ingress (published port -> backend)
//! hd-n-...     overlay (bridge, tunnel, forwarding entries)
//! hd-t-...     workload (legs, resolver, replies) + vip (virtual address -> backend)
//! passage      completes what is wanted of the host by what other firewalls there drop
//! ```

pub mod addresses;
mod gateway;
mod ingress;
mod overlay;
pub mod passage;
pub mod sandbox;
mod underlay;
mod vip;
mod workload;

use super::state::KernelState;
use heddle_model::{
    NodeId, TaskId,
    assignment::NodeView,
    net::{DualAddr, DualSubnet, Mtu},
    task::Task,
};
use std::{collections::BTreeMap, net::IpAddr};

/// A workload's namespace that should exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    pub task: Task,
    /// On the gateway bridge, as `addresses::assign` decided; None: no way out.
    pub gateway_addr: Option<DualAddr>,
}

/// What turns a virtual address into a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Balancer {
    #[default]
    Nftables,
    Ipvs,
}

/// What only this host knows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalHost {
    pub node: NodeId,
    /// This host's tunnel end point.
    pub data_path_addr: IpAddr,
    /// Subnet of the gateway bridge; the same on every host, routed on none.
    pub gateway: DualSubnet,
    /// MTU of the link that leads to the world.
    pub gateway_mtu: Mtu,
    pub balancer: Balancer,
}

/// Everything of ours that this host's kernel should have.
pub fn desired(view: &NodeView, sandboxes: &BTreeMap<TaskId, Sandbox>, local: &LocalHost) -> KernelState {
    let mut state = KernelState::default();
    underlay::add(&mut state, view, local);
    gateway::add(&mut state, view, sandboxes, local);
    for network in view.networks.values() {
        overlay::add(&mut state, network, view, sandboxes, local);
        if network.ingress {
            ingress::add(&mut state, network, view, local);
        }
    }
    for sandbox in sandboxes.values() {
        workload::add(&mut state, sandbox, view, local);
    }
    state
}
