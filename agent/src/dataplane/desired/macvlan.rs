//! Workloads on a macvlan network: a link each on the parent, with the leg's MAC.

use super::{
    parent::{host, keep_out, legs, link, place},
    sandbox::Sandbox,
    way::Way,
};
use crate::{
    dataplane::{
        mode::MacvlanMode,
        state::{KernelState, LinkKind},
    },
    local::{driver::macvlan::Options, network::HostNetwork},
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
    keep_out(host(state), network, &parent);
    legs(state, network, sandboxes, |leg| {
        // Passthru has the parent's MAC, and a MAC that is set would be the parent's from then on.
        let mac = (options.mode != MacvlanMode::Passthru).then_some(leg.mac);
        link(LinkKind::Macvlan { parent: parent.clone(), mode: options.mode }, mac, mtu)
    });
}

/// By the gateway of each family; none for a network that is internal or has no parent.
pub fn way_out(network: &HostNetwork) -> Vec<Way> {
    let parent = Options::parse(&network.spec.options).is_ok_and(|o| o.parent.is_some());
    let pools = network.pools.iter().filter(|_| parent && !network.spec.internal);
    pools.map(|p| Way::by(p.gateway())).collect()
}
