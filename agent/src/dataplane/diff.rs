//! What turns the kernel as it is into the kernel as it should be: ordered steps.
//!
//! First what is in the way goes (links of workloads that ended, before their namespaces, so that a VNI can be used again).
//! Then tables of the host (the underlay's filter stands before any tunnel), namespaces, links, and what lies on links. What
//! is merely too much goes last. Stopping anywhere and starting anew ends in the same state.

use super::{
    ipvs::{IpvsKey, IpvsService},
    names, nft,
    state::{Family, FdbKey, KernelState, Link, LinkKind, Route, Space, SpaceState, Table, TableId},
    step::Step,
};
use heddle_model::net::IfName;
use std::collections::{BTreeMap, BTreeSet};

/// The steps from `actual` to `desired`.
pub fn diff(desired: &KernelState, actual: &KernelState) -> Vec<Step> {
    let mut actual = actual.clone();
    let mut steps = Vec::new();
    clear(desired, &mut actual, &mut steps);
    for space in desired.spaces.keys().filter(|s| !actual.spaces.contains_key(s)) {
        if let Space::Named(name) = space {
            steps.push(Step::AddSpace(name.clone()));
        }
    }
    let empty = SpaceState::default();
    let host = |s: &KernelState| s.spaces.get(&Space::Host).cloned().unwrap_or_default();
    tables(&Space::Host, &host(desired), &host(&actual), &mut steps);
    links(desired, &actual, &mut steps);
    for (space, want) in &desired.spaces {
        on_links(space, want, actual.spaces.get(space).unwrap_or(&empty), &mut steps);
    }
    for (space, have) in &actual.spaces {
        surplus(space, desired.spaces.get(space).unwrap_or(&empty), have, &mut steps);
    }
    steps
}

/// Whether the link is made anew. The kernel changes some modes in place, but not to or from passthru, and an ipvlan's for
/// all that share the parent: nothing is gained by telling them apart.
fn must_be_remade(want: &Link, have: &Link) -> bool {
    want.kind != have.kind
}

/// Takes away links and namespaces that are not wanted, or not as they are, and forgets in `actual` what went with them.
fn clear(desired: &KernelState, actual: &mut KernelState, steps: &mut Vec<Step>) {
    let wanted = |space: &Space, name: &IfName, have: &Link| {
        let want = desired.spaces.get(space).and_then(|s| s.links.get(name));
        want.is_some_and(|want| !must_be_remade(want, have))
    };
    let mut gone: Vec<(Space, IfName)> = Vec::new();
    for (space, have) in &actual.spaces {
        gone.extend(have.links.iter().filter(|(n, l)| !wanted(space, n, l)).map(|(n, _)| (space.clone(), n.clone())));
    }
    for (space, name) in gone {
        if forget_link(actual, &space, &name) {
            steps.push(Step::RemoveLink { space, name });
        }
    }
    let spaces: Vec<Space> = actual.spaces.keys().filter(|s| !desired.spaces.contains_key(s)).cloned().collect();
    for space in spaces {
        if let Space::Named(name) = &space {
            steps.push(Step::RemoveSpace(name.clone()));
            actual.spaces.remove(&space);
        }
    }
}

/// What the kernel does when a link goes: its other end and the links that it is the parent of go too, in whichever space,
/// and all that lies on any of them. False: it was gone.
pub fn forget_link(state: &mut KernelState, space: &Space, name: &IfName) -> bool {
    let Some(link) = state.spaces.get_mut(space).and_then(|s| s.links.remove(name)) else { return false };
    if let Some(in_space) = state.spaces.get_mut(space) {
        forget_on(in_space, name);
    }
    if let LinkKind::Veth { peer: (peer_space, peer) } = link.kind
        && let Some(other) = state.spaces.get_mut(&peer_space)
    {
        other.links.remove(&peer);
        forget_on(other, &peer);
    }
    if *space == Space::Host {
        let on_it = |l: &Link| l.kind.parent() == Some(name);
        let children: Vec<_> = state
            .spaces
            .iter()
            .flat_map(|(s, o)| o.links.iter().filter(|(_, l)| on_it(l)).map(|(n, _)| (s.clone(), n.clone())))
            .collect();
        for (space, child) in children {
            forget_link(state, &space, &child);
        }
    }
    true
}

/// What must be made earlier comes first: a bridge before its ports, a parent before its children. A VLAN's parent is
/// never a link of ours.
const fn rank(kind: &LinkKind) -> u8 {
    match kind {
        LinkKind::Bridge => 0,
        LinkKind::Vlan { .. } => 1,
        LinkKind::Vxlan(_) | LinkKind::Veth { .. } | LinkKind::Wireguard { .. } | LinkKind::Tun => 2,
        LinkKind::Macvlan { .. } | LinkKind::Ipvlan { .. } => 3,
    }
}
const RANKS: std::ops::RangeInclusive<u8> = 0..=3;

fn forget_on(space: &mut SpaceState, dev: &IfName) {
    space.addresses.retain(|(d, _)| d != dev);
    space.routes.retain(|r| r.dev != *dev);
    space.neighbours.retain(|(d, _), _| d != dev);
    space.fdb.retain(|k, _| k.dev != *dev);
    space.tunnels.remove(dev);
    // The table stays, but its chain was bound to the link.
    let bound = space.tables.iter_mut().filter(|(id, _)| id.family == Family::Netdev);
    bound.for_each(|(_, table)| *table = Table { digest: String::new(), body: None });
    let part = format!(".{}.", names::in_sysctl(dev));
    space.sysctls.retain(|k, _| !k.contains(&part));
    for link in space.links.values_mut().filter(|l| l.master.as_ref() == Some(dev)) {
        link.master = None;
        link.port = Default::default();
    }
}

fn links(desired: &KernelState, actual: &KernelState, steps: &mut Vec<Step>) {
    let have = |space: &Space, name: &IfName| actual.spaces.get(space).and_then(|s| s.links.get(name));
    let mut made: BTreeSet<(Space, IfName)> = BTreeSet::new();
    for at in RANKS {
        for (space, want) in &desired.spaces {
            for (name, link) in want.links.iter().filter(|(_, l)| rank(&l.kind) == at) {
                let key = (space.clone(), name.clone());
                match have(space, name) {
                    Some(have) => set_link(space, name, link, have, steps),
                    // The other end was made first; this one is as the kernel made it.
                    None if made.contains(&key) => {
                        let kind = link.kind.clone();
                        let plain = Link {
                            kind,
                            mac: None,
                            mtu: heddle_model::net::Mtu(0),
                            up: false,
                            master: None,
                            port: Default::default(),
                        };
                        set_link(space, name, link, &plain, steps);
                    }
                    None => {
                        steps.push(Step::AddLink { space: space.clone(), name: name.clone(), link: link.clone() });
                        if let LinkKind::Veth { peer } = &link.kind {
                            made.insert(peer.clone());
                        }
                    }
                }
            }
        }
    }
}

/// Changes a link in place. What the link needs while it is down or without a master comes first.
fn set_link(space: &Space, name: &IfName, want: &Link, have: &Link, steps: &mut Vec<Step>) {
    let (space, name) = (space.clone(), name.clone());
    let own_mac = !matches!(want.kind, LinkKind::Ipvlan { .. });
    if let Some(mac) = want.mac.filter(|_| own_mac && want.mac != have.mac) {
        steps.push(Step::SetMac { space: space.clone(), name: name.clone(), mac });
    }
    if want.mtu != have.mtu {
        steps.push(Step::SetMtu { space: space.clone(), name: name.clone(), mtu: want.mtu });
    }
    if want.master != have.master {
        steps.push(Step::SetMaster { space: space.clone(), name: name.clone(), master: want.master.clone() });
    }
    let moved = want.master != have.master && want.port != Default::default();
    if want.master.is_some() && (want.port != have.port || moved) {
        steps.push(Step::SetPort { space: space.clone(), name: name.clone(), port: want.port });
    }
    if want.up != have.up {
        steps.push(Step::SetUp { space, name, up: want.up });
    }
}

fn tables(space: &Space, want: &SpaceState, have: &SpaceState, steps: &mut Vec<Step>) {
    for (id, table) in want.tables.iter().filter(|(id, t)| have.tables.get(id) != Some(t)) {
        let script = nft::script(id, table);
        steps.push(Step::SetTable { space: space.clone(), id: id.clone(), table: table.clone(), script });
    }
}

fn on_links(space: &Space, want: &SpaceState, have: &SpaceState, steps: &mut Vec<Step>) {
    let at = || space.clone();
    for (key, value) in want.sysctls.iter().filter(|(k, v)| have.sysctls.get(*k) != Some(v)) {
        steps.push(Step::SetSysctl { space: at(), key: key.clone(), value: value.clone() });
    }
    for (name, tunnel) in want.tunnels.iter().filter(|(n, t)| have.tunnels.get(*n) != Some(t)) {
        let change = tunnel.change(have.tunnels.get(name));
        steps.push(Step::SetTunnel { space: at(), name: name.clone(), change });
    }
    for (dev, addr) in want.addresses.difference(&have.addresses) {
        steps.push(Step::AddAddress { space: at(), dev: dev.clone(), addr: *addr });
    }
    for ((dev, addr), mac) in want.neighbours.iter().filter(|(k, v)| have.neighbours.get(k) != Some(v)) {
        steps.push(Step::SetNeighbour { space: at(), dev: dev.clone(), addr: *addr, mac: *mac });
    }
    for (key, target) in want.fdb.iter().filter(|(k, v)| have.fdb.get(k) != Some(v)) {
        steps.push(Step::SetFdb { space: at(), key: key.clone(), target: *target });
    }
    for route in want.routes.difference(&have.routes) {
        steps.push(Step::AddRoute { space: at(), route: route.clone() });
    }
    for rule in want.rules.difference(&have.rules) {
        steps.push(Step::AddRule { space: at(), rule: rule.clone() });
    }
    if want.ipvs_timeouts != have.ipvs_timeouts {
        steps.push(Step::SetIpvsTimeouts { space: at(), timeouts: want.ipvs_timeouts });
    }
    for (key, service) in &want.ipvs {
        balance(space, key, service, have.ipvs.get(key), steps);
    }
    for place in want.passes.difference(&have.passes) {
        let at = have.cuts.get(place).map_or(1, |cut| cut.at);
        steps.push(Step::AddPass { space: space.clone(), place: place.clone(), at });
    }
    if *space != Space::Host {
        tables(space, want, have, steps);
    }
}

/// Only what differs: one step for one backend of thousands. A destination that has gone is taken away here, not with what is
/// merely too much, so that it comes with its service.
fn balance(space: &Space, key: &IpvsKey, want: &IpvsService, have: Option<&IpvsService>, steps: &mut Vec<Step>) {
    let (at, key) = (|| space.clone(), || key.clone());
    if have.is_none_or(|h| h.scheduler != want.scheduler) {
        let new = have.is_none();
        steps.push(Step::SetIpvsService { space: at(), key: key(), scheduler: want.scheduler, new });
    }
    let none = BTreeMap::new();
    let old = have.map_or(&none, |h| &h.destinations);
    let mut changed: Vec<_> = want.destinations.iter().filter(|(a, to)| old.get(*a) != Some(to)).collect();
    if have.is_none() && !changed.is_empty() {
        // The first connection goes to what was made last: not the same for every workload of a host. The ingress
        // namespace has the same name, and order, everywhere.
        let start = names::hash(&[space.to_string().as_bytes()])[0];
        let middle = usize::from(start) % changed.len();
        changed.rotate_left(middle);
    }
    for (addr, to) in changed {
        let new = !old.contains_key(addr);
        steps.push(Step::SetIpvsDestination { space: at(), key: key(), at: *addr, to: *to, new });
    }
    for addr in extra(old, &want.destinations) {
        steps.push(Step::RemoveIpvsDestination { space: at(), key: key(), at: *addr });
    }
}

fn extra<'a, K: Ord, V>(have: &'a BTreeMap<K, V>, want: &'a BTreeMap<K, V>) -> impl Iterator<Item = &'a K> {
    have.keys().filter(|k| !want.contains_key(k))
}

/// Takes away what nobody wants. A route that was replaced (same destination, same table) is gone already.
fn surplus(space: &Space, want: &SpaceState, have: &SpaceState, steps: &mut Vec<Step>) {
    let at = || space.clone();
    let key = |r: &Route| (r.dst, r.table);
    let replaced: BTreeSet<_> = want.routes.iter().map(key).collect();
    for route in have.routes.difference(&want.routes).filter(|r| !replaced.contains(&key(r))) {
        steps.push(Step::RemoveRoute { space: at(), route: route.clone() });
    }
    for rule in have.rules.difference(&want.rules) {
        steps.push(Step::RemoveRule { space: at(), rule: rule.clone() });
    }
    for (dev, addr) in extra(&have.neighbours, &want.neighbours) {
        steps.push(Step::RemoveNeighbour { space: at(), dev: dev.clone(), addr: *addr });
    }
    for key in extra::<FdbKey, _>(&have.fdb, &want.fdb) {
        steps.push(Step::RemoveFdb { space: at(), key: key.clone() });
    }
    for (dev, addr) in have.addresses.difference(&want.addresses) {
        steps.push(Step::RemoveAddress { space: at(), dev: dev.clone(), addr: *addr });
    }
    for id in extra::<TableId, _>(&have.tables, &want.tables) {
        steps.push(Step::RemoveTable { space: at(), id: id.clone() });
    }
    for place in have.passes.difference(&want.passes) {
        steps.push(Step::RemovePass { space: at(), place: place.clone() });
    }
    for key in extra::<IpvsKey, _>(&have.ipvs, &want.ipvs) {
        steps.push(Step::RemoveIpvsService { space: at(), key: key.clone() });
    }
}
