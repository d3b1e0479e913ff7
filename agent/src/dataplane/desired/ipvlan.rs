//! Workloads on an ipvlan network: a link each on the parent, under the parent's MAC.

use super::{
    parent::{host, keep_on, keep_out, legs, link, place},
    sandbox::Sandbox,
    way::Way,
};
use crate::{
    dataplane::{
        mode::IpvlanMode,
        state::{KernelState, LinkKind},
    },
    local::{driver::ipvlan::Options, network::HostNetwork},
};
use heddle_model::{
    TaskId,
    net::{IfName, Mtu},
};
use std::collections::BTreeMap;

/// Nothing where the options are not a driver's (they were checked when the network was made) or the parent is gone.
/// `present`: the host's links that can be parents, as `HostFacts::parents` says.
pub fn add(
    state: &mut KernelState,
    network: &HostNetwork,
    sandboxes: &BTreeMap<TaskId, Sandbox>,
    present: &BTreeMap<IfName, Mtu>,
) {
    let Ok(options) = Options::parse(&network.spec.options) else { return };
    let Some((parent, mtu)) = place(host(state), network, options.parent.as_ref(), options.mtu, present) else {
        return;
    };
    match options.mode {
        IpvlanMode::L2 => keep_out(host(state), network, &parent),
        IpvlanMode::L3 | IpvlanMode::L3s => keep_on(host(state), network, &parent),
    }
    legs(state, network, sandboxes, |_| {
        let kind = LinkKind::Ipvlan { parent: parent.clone(), mode: options.mode, flag: options.flag };
        link(kind, None, mtu)
    });
}

/// By the gateway of each family in mode l2; by the link itself in l3 and l3s, where the host's stack is the next hop. None
/// for a network that is internal or has no parent.
pub fn way_out(network: &HostNetwork) -> Vec<Way> {
    let Ok(options) = Options::parse(&network.spec.options) else { return Vec::new() };
    let pools = network.pools.iter().filter(|_| options.parent.is_some() && !network.spec.internal);
    let way = |p: &heddle_model::net::Pool| match options.mode {
        IpvlanMode::L2 => Way::by(p.gateway()),
        IpvlanMode::L3 | IpvlanMode::L3s => Way::on_link(p.subnet.addr()),
    };
    pools.map(way).collect()
}
