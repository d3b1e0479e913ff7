//! What macvlan and ipvlan networks have in common: the link of the host's that they lie on, and workloads' legs.

use super::{
    addresses,
    sandbox::{Leg, Sandbox, link_sysctls},
};
use crate::{
    dataplane::{
        names,
        state::{KernelState, Link, LinkKind, PolicyRule, PortFlags, Route, Space, SpaceState},
    },
    local::{driver::parent::Parent, network::HostNetwork},
};
use heddle_model::{
    TaskId,
    net::{IfName, Mac, Mtu},
};
use ipnet::{IpNet, Ipv6Net};
use std::collections::BTreeMap;

/// The parent and the MTU of what lies on it. Made here if it is the network's own. None: it is not there now.
pub fn place(
    host: &mut SpaceState,
    network: &HostNetwork,
    parent: Option<&Parent>,
    mtu: Option<Mtu>,
    present: &BTreeMap<IfName, Mtu>,
) -> Option<(IfName, Mtu)> {
    let mtu = mtu.or(network.spec.mtu);
    let within = |limit: &Mtu| mtu.map_or(*limit, |m| m.min(*limit));
    let Some(parent) = parent else {
        let (name, mtu) = (names::dead_end(&network.id), mtu.unwrap_or(Mtu::ETHERNET));
        // A bridge that is given a MAC looks for ports that carry something and finds none: its children would be dead.
        host.links.insert(name.clone(), link(LinkKind::Bridge, None, mtu));
        return Some((name, mtu));
    };
    match parent.vlan.as_ref().filter(|_| network.owns_parent) {
        Some(vlan) => {
            // As the parent has it: another network may lie on the same one and want less.
            let whole = *present.get(&vlan.base)?;
            let kind = LinkKind::Vlan { parent: vlan.base.clone(), id: vlan.id };
            host.links.insert(parent.name.clone(), link(kind, None, whole));
            Some((parent.name.clone(), within(&whole)))
        }
        None => Some((parent.name.clone(), within(present.get(&parent.name)?))),
    }
}

fn is_ours(network: &HostNetwork, parent: &IfName) -> bool {
    network.owns_parent || *parent == names::dead_end(&network.id)
}

/// The host takes no part in what lies on a link of ours: no address of its own, nothing learned from routers there.
pub fn keep_out(host: &mut SpaceState, network: &HostNetwork, parent: &IfName) {
    if is_ours(network, parent) {
        host.sysctls.insert(format!("net.ipv6.conf.{}.disable_ipv6", names::in_sysctl(parent)), "1".into());
    }
}

/// The host routes what workloads send by a link of ours, where it has no address and so no route. With IPv4 the kernel takes
/// everybody to be on the link then (`ip_route_output_key_hash_rcu`). With IPv6 it would find nobody, or, since ipvlan asks
/// for any way (`ipvlan_process_v6_outbound`), send to another link that the host has a route by.
pub fn keep_on(host: &mut SpaceState, network: &HostNetwork, parent: &IfName) {
    if !is_ours(network, parent) || network.pools.iter().all(|p| p.subnet.addr().is_ipv4()) {
        return;
    }
    for (setting, value) in [("disable_ipv6", "0"), ("accept_ra", "0")] {
        host.sysctls.insert(format!("net.ipv6.conf.{}.{setting}", names::in_sysctl(parent)), value.into());
    }
    let (dst, table) = (IpNet::V6(Ipv6Net::default()), names::parent_table(&network.id));
    host.routes.insert(Route { dst, via: None, dev: parent.clone(), table, src: None });
    let (pref, out) = (names::PARENT_PREF, Some(parent.clone()));
    host.rules.insert(PolicyRule { v6: true, pref, mark: 0, mask: 0, out, table });
}

pub fn link(kind: LinkKind, mac: Option<Mac>, mtu: Mtu) -> Link {
    Link { kind, mac, mtu, up: true, master: None, port: PortFlags::default() }
}

/// Every place of a workload on the network: its link and addresses.
pub fn legs(
    state: &mut KernelState,
    network: &HostNetwork,
    sandboxes: &BTreeMap<TaskId, Sandbox>,
    link: impl Fn(&Leg) -> Link,
) {
    for sandbox in sandboxes.values() {
        for leg in sandbox.legs.iter().filter(|l| l.network == network.id) {
            let space: &mut SpaceState = state.spaces.entry(names::task_space(&sandbox.id)).or_default();
            space.links.insert(leg.dev.clone(), link(leg));
            link_sysctls(space, &leg.dev);
            for addr in &leg.addrs {
                let pool = network.pools.iter().find(|p| p.subnet.contains(addr));
                space.addresses.extend(pool.map(|p| (leg.dev.clone(), addresses::with_prefix(*addr, p.subnet))));
            }
        }
    }
}

/// The host's own part of what is wanted.
pub fn host(state: &mut KernelState) -> &mut SpaceState {
    state.spaces.entry(Space::Host).or_default()
}

#[cfg(test)]
mod tests;
