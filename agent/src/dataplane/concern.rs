//! Who misses something when a step fails: the namespace it is for, and those that the link leads to. A workload's port on a
//! bridge of the host's is the workload's business, and the bridge is that of all its ports.

use super::{
    names,
    state::{KernelState, Link, LinkKind, Space},
    step::Step,
};
use heddle_model::net::IfName;
use std::collections::BTreeSet;

/// The namespaces that miss something if the step to this state fails.
pub fn concerned(step: &Step, desired: &KernelState) -> BTreeSet<Space> {
    let (space, link) = subject(step);
    let mut out = BTreeSet::from([space.clone()]);
    if let Some(name) = link {
        let kind = desired.spaces.get(&space).and_then(|s| s.links.get(name)).map(|l| &l.kind);
        out.extend(kind.and_then(peer));
        out.extend(behind(desired, &space, name));
    }
    out
}

fn peer(kind: &LinkKind) -> Option<Space> {
    match kind {
        LinkKind::Veth { peer: (space, _) } => Some(space.clone()),
        _ => None,
    }
}

/// The namespaces that the ports of a bridge lead to, and those with links that lie on a parent.
fn behind(desired: &KernelState, space: &Space, name: &IfName) -> BTreeSet<Space> {
    let port = |l: &&Link| l.master.as_ref() == Some(name);
    let ports = desired.spaces.get(space).into_iter().flat_map(|s| s.links.values()).filter(port);
    let child = |l: &Link| *space == Space::Host && l.kind.parent() == Some(name);
    let children = desired.spaces.iter().filter(|(_, s)| s.links.values().any(child)).map(|(s, _)| s.clone());
    ports.filter_map(|l| peer(&l.kind)).chain(children).collect()
}

/// What a step changes: something of a namespace, and there a link that must carry packets for it.
fn subject(step: &Step) -> (Space, Option<&IfName>) {
    match step {
        Step::AddSpace(name) | Step::RemoveSpace(name) => (Space::Named(name.clone()), None),
        Step::AddLink { space, name, .. }
        | Step::SetMac { space, name, .. }
        | Step::SetMtu { space, name, .. }
        | Step::SetUp { space, name, .. }
        | Step::SetMaster { space, name, .. }
        | Step::SetPort { space, name, .. }
        | Step::SetTunnel { space, name, .. } => (space.clone(), Some(name)),
        Step::AddAddress { space, dev, .. } => (space.clone(), Some(dev)),
        Step::RemoveLink { space, .. }
        | Step::RemoveAddress { space, .. }
        | Step::AddRoute { space, .. }
        | Step::RemoveRoute { space, .. }
        | Step::AddRule { space, .. }
        | Step::RemoveRule { space, .. }
        | Step::SetNeighbour { space, .. }
        | Step::RemoveNeighbour { space, .. }
        | Step::SetFdb { space, .. }
        | Step::RemoveFdb { space, .. }
        | Step::SetTable { space, .. }
        | Step::RemoveTable { space, .. }
        | Step::SetIpvsService { space, .. }
        | Step::RemoveIpvsService { space, .. }
        | Step::SetIpvsDestination { space, .. }
        | Step::RemoveIpvsDestination { space, .. }
        | Step::SetIpvsTimeouts { space, .. }
        | Step::AddPass { space, .. }
        | Step::RemovePass { space, .. }
        | Step::SetSysctl { space, .. } => (space.clone(), None),
    }
}

/// The link that a step is about, whether it makes it or needs it.
pub fn link(step: &Step) -> Option<(Space, IfName)> {
    let (space, name) = match step {
        Step::AddLink { space, name, .. }
        | Step::RemoveLink { space, name }
        | Step::SetMac { space, name, .. }
        | Step::SetMtu { space, name, .. }
        | Step::SetUp { space, name, .. }
        | Step::SetMaster { space, name, .. }
        | Step::SetPort { space, name, .. }
        | Step::SetTunnel { space, name, .. } => (space, name.clone()),
        Step::AddAddress { space, dev, .. }
        | Step::RemoveAddress { space, dev, .. }
        | Step::SetNeighbour { space, dev, .. }
        | Step::RemoveNeighbour { space, dev, .. } => (space, dev.clone()),
        Step::AddRoute { space, route } | Step::RemoveRoute { space, route } => (space, route.dev.clone()),
        Step::SetFdb { space, key, .. } | Step::RemoveFdb { space, key } => (space, key.dev.clone()),
        Step::SetSysctl { space, key, .. } => (space, names::link_of_sysctl(key)?),
        Step::AddSpace(_)
        | Step::RemoveSpace(_)
        | Step::AddRule { .. }
        | Step::RemoveRule { .. }
        | Step::SetTable { .. }
        | Step::RemoveTable { .. }
        | Step::SetIpvsService { .. }
        | Step::RemoveIpvsService { .. }
        | Step::SetIpvsDestination { .. }
        | Step::RemoveIpvsDestination { .. }
        | Step::SetIpvsTimeouts { .. }
        | Step::AddPass { .. }
        | Step::RemovePass { .. } => return None,
    };
    Some((space.clone(), name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{
        desired::{Wanted, desired},
        names,
        tests::{bridge_network, member},
    };
    use heddle_model::net::Mtu;
    use std::collections::BTreeMap;

    #[test]
    fn a_port_is_its_workloads_and_a_bridge_everybodys_on_it() {
        let networks: BTreeMap<_, _> = [1, 2].map(|n| bridge_network(n, &[], false)).map(|n| (n.id.clone(), n)).into();
        let sandboxes: BTreeMap<_, _> =
            [(1, 1), (2, 1), (3, 2)].map(|(id, n)| member(id, &[n])).map(|s| (s.id.clone(), s)).into();
        let state =
            desired(&Wanted { member: None, networks: &networks, parents: &BTreeMap::new(), sandboxes: &sandboxes });
        let of = |n: u8| names::task_space(&member(n, &[]).id);
        let network = bridge_network(1, &[], false).id;
        let port = names::task_port(&member(1, &[]).id, &network);
        let master = Step::SetMaster { space: Space::Host, name: port, master: None };
        assert_eq!(concerned(&master, &state), [Space::Host, of(1)].into());
        let mtu = Step::SetMtu { space: Space::Host, name: names::host_bridge(&network), mtu: Mtu(1400) };
        assert_eq!(concerned(&mtu, &state), [Space::Host, of(1), of(2)].into());
        let inside = Step::SetUp { space: of(3), name: names::task_link(0), up: true };
        assert_eq!(concerned(&inside, &state), [Space::Host, of(3)].into());
    }
}
