//! Connections by IPVS whose service is no longer wanted, or balanced by nftables now. IPVS cuts a connection whose
//! destination is taken away, so that stays, with weight 0, for as long as its endpoint exists and was not seen to have no
//! connection left. (What nftables has translated needs nothing of the kind: connection tracking remembers it.)

use crate::dataplane::{
    ipvs::{IpvsDestination, IpvsService, IpvsTimeouts, Scheduler},
    state::{KernelState, Space},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Adds to what is wanted the destinations that still drain.
pub fn complete(desired: &mut KernelState, actual: &KernelState) {
    let mut draining = Vec::new();
    for (space, have) in &actual.spaces {
        let Some(want) = desired.spaces.get(space) else { continue };
        for (key, service) in have.ipvs.iter().filter(|(_, s)| s.scheduler != Scheduler::Other) {
            let wanted = |at: &(IpAddr, u16)| want.ipvs.get(key).is_some_and(|w| w.destinations.contains_key(at));
            let drains = |at: &&(IpAddr, u16)| !wanted(at) && !have.ipvs_idle.contains(&(key.clone(), **at));
            let list = service.destinations.keys().filter(drains);
            draining.extend(list.map(|at| (space.clone(), key.clone(), service.scheduler, *at)));
        }
    }
    if draining.is_empty() {
        return;
    }
    let there = endpoints(desired);
    for (space, key, scheduler, at) in draining.into_iter().filter(|(.., at)| there.contains(&at.0)) {
        let Some(want) = desired.spaces.get_mut(&space) else { continue };
        let service = IpvsService { scheduler, destinations: BTreeMap::new() };
        want.ipvs.entry(key).or_insert(service).destinations.insert(at, IpvsDestination::Weight(0));
        want.ipvs_timeouts.get_or_insert(IpvsTimeouts::CONNTRACK);
    }
}

/// Every address that anybody has, here or behind a tunnel.
fn endpoints(desired: &KernelState) -> BTreeSet<IpAddr> {
    let named = desired.spaces.iter().filter(|(space, _)| **space != Space::Host).map(|(_, s)| s);
    named.flat_map(|s| s.neighbours.keys().map(|(_, a)| *a).chain(s.addresses.iter().map(|(_, n)| n.addr()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{
        desired::Balancer,
        diff::diff,
        ipvs::IpvsKey,
        step::Step,
        tests::{blank, wanted_by_ipvs, wanted_with},
    };

    const TASKS: [(&[u8], u8, bool); 3] = [(&[0, 1], 0, true), (&[0, 1], 1, true), (&[0, 1], 1, true)];

    fn made(state: &KernelState) -> KernelState {
        let mut kernel = blank();
        diff(state, &kernel.clone()).iter().for_each(|s| kernel.step(s).unwrap());
        kernel
    }

    fn about_ipvs(steps: &[Step]) -> Vec<&Step> {
        let is = |s: &&Step| crate::kernel::linux::ipvs::request(s).is_some();
        steps.iter().filter(is).collect()
    }

    /// One pass of the reconciler.
    fn pass(want: &KernelState, kernel: &mut KernelState) -> Vec<Step> {
        let mut want = want.clone();
        complete(&mut want, kernel);
        let steps = diff(&want, kernel);
        steps.iter().for_each(|s| kernel.step(s).unwrap());
        steps
    }

    fn weights(kernel: &KernelState) -> BTreeSet<IpvsDestination> {
        let services = kernel.spaces.values().flat_map(|s| s.ipvs.values());
        services.flat_map(|s| s.destinations.values().copied()).collect()
    }

    #[test]
    fn after_a_switch_to_nftables_connections_end_before_their_destinations_do() {
        let (ipvs, nft) = (wanted_by_ipvs(&TASKS), wanted_with(Balancer::Nftables, &TASKS));
        let mut kernel = made(&ipvs);
        assert_eq!(weights(&kernel), [IpvsDestination::Weight(1)].into());
        pass(&nft, &mut kernel);
        assert_eq!(weights(&kernel), [IpvsDestination::Weight(0)].into());
        assert!(pass(&nft, &mut kernel).is_empty(), "it waits");
        // A look finds that nobody is connected any more.
        for space in kernel.spaces.values_mut() {
            let all = space.ipvs.iter().flat_map(|(k, s)| s.destinations.keys().map(|at| (k.clone(), *at)));
            space.ipvs_idle = all.collect();
        }
        pass(&nft, &mut kernel);
        assert!(kernel.spaces.values().all(|s| s.ipvs.is_empty() && s.ipvs_timeouts.is_none()));
        assert!(pass(&nft, &mut kernel).is_empty());
    }

    #[test]
    fn who_is_gone_is_not_waited_for() {
        let all = wanted_by_ipvs(&TASKS);
        let mut kernel = made(&all);
        let fewer = wanted_by_ipvs(&TASKS[..2]);
        let steps = pass(&fewer, &mut kernel);
        assert!(about_ipvs(&steps).iter().all(|s| matches!(s, Step::RemoveIpvsDestination { .. })), "{steps:?}");
        assert_eq!(weights(&kernel), [IpvsDestination::Weight(1)].into());
    }

    #[test]
    fn one_backend_of_hundreds_is_one_request_for_each_address_of_its() {
        let tasks = |last: bool| -> Vec<(&[u8], u8, bool)> {
            (0..200).map(|n| (&[0u8][..], u8::from(n > 0), n < 199 || last)).collect()
        };
        let mut kernel = made(&wanted_by_ipvs(&tasks(true)));
        let steps = pass(&wanted_by_ipvs(&tasks(false)), &mut kernel);
        // The ingress namespace's service of each family.
        assert_eq!(about_ipvs(&steps).len(), 2, "{steps:?}");
        assert_eq!(steps.len(), 2, "no table changes: {steps:?}");
        assert!(steps.iter().all(|s| {
            matches!(s, Step::SetIpvsDestination { to: IpvsDestination::Weight(0), key: IpvsKey::Mark { .. }, .. })
        }));
    }
}
