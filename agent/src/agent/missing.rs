//! What a pass left undone: who misses it, and why. Decides only.

use super::actor::chain;
use crate::{
    dataplane::{
        desired::{Sandbox, links_of},
        names,
        state::Space,
    },
    local::network::HostNetwork,
    reconciler::Outcome,
};
use heddle_model::{
    NetworkId, TaskId,
    net::{IfName, Mtu},
};
use std::collections::{BTreeMap, BTreeSet};

/// What was wanted on this host.
#[derive(Clone, Copy)]
pub struct Aim<'a> {
    pub networks: &'a BTreeMap<NetworkId, HostNetwork>,
    pub parents: &'a BTreeMap<IfName, Mtu>,
    pub sandboxes: &'a BTreeMap<TaskId, Sandbox>,
}

/// Which workloads and tasks miss something, and what.
pub fn workloads(outcome: &Outcome, aim: &Aim<'_>) -> BTreeMap<TaskId, String> {
    let incomplete = outcome.incomplete();
    let mut out = BTreeMap::new();
    for id in aim.sandboxes.keys() {
        let space = names::task_space(id);
        if !incomplete.contains(&space) {
            continue;
        }
        let first = outcome.failures.iter().find(|f| f.concerns.contains(&space));
        out.insert(id.clone(), first.map_or_else(String::new, |f| chain(&f.error)));
    }
    out
}

/// Which networks of this host are not whole, and why.
pub fn networks(outcome: &Outcome, aim: &Aim<'_>) -> BTreeMap<NetworkId, String> {
    if outcome.failures.is_empty() {
        return BTreeMap::new();
    }
    let reason = |network: &HostNetwork| {
        let links = links_of(network, aim.parents);
        let is = |link: &Option<(Space, IfName)>| matches!(link, Some((Space::Host, name)) if links.contains(name));
        let first = outcome.failures.iter().find(|f| is(&f.link))?;
        Some((network.id.clone(), chain(&first.error)))
    };
    aim.networks.values().filter_map(reason).collect()
}

/// Whether something is missing that the managers wait for. Networks of this host are not their business, nor is it that one
/// of their tasks was connected to such a network beside.
pub fn hurts_cluster(outcome: &Outcome, aim: &Aim<'_>, is_task: impl Fn(&TaskId) -> bool) -> bool {
    if outcome.failures.is_empty() {
        return false;
    }
    let workloads: BTreeSet<Space> = aim.sandboxes.keys().filter(|id| !is_task(id)).map(names::task_space).collect();
    let of_cluster = |space: &Space| *space != Space::Host && !workloads.contains(space);
    let own = own_links(aim);
    let failures = outcome.failures.iter().filter(|f| f.link.as_ref().is_none_or(|link| !own.contains(link)));
    failures.flat_map(|f| &f.concerns).any(of_cluster)
}

/// The links of this host's own networks, and the legs of all that is on them.
fn own_links(aim: &Aim<'_>) -> BTreeSet<(Space, IfName)> {
    let of_networks = aim.networks.values().flat_map(|network| links_of(network, aim.parents));
    let mut links: BTreeSet<_> = of_networks.map(|name| (Space::Host, name)).collect();
    for (id, sandbox) in aim.sandboxes {
        for leg in sandbox.legs.iter().filter(|leg| aim.networks.contains_key(&leg.network)) {
            links.insert((names::task_space(id), leg.dev.clone()));
            links.insert((Space::Host, names::task_port(id, &leg.network)));
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataplane::{
            concern::{concerned, link},
            desired::{Wanted, desired},
            diff::diff,
            state::KernelState,
            step::Step,
            tests::{blank, bridge_network, member},
        },
        kernel::KernelError,
        reconciler::Failure,
    };
    use std::io;

    /// What it comes to when the kernel refuses these steps.
    fn refused(goal: &KernelState, which: impl Fn(&Step) -> bool) -> Outcome {
        let failure = |step: &Step| Failure {
            concerns: concerned(step, goal),
            link: link(step),
            error: KernelError {
                operation: "add link",
                object: format!("{:?}", link(step).map(|(_, name)| name)),
                space: Space::Host,
                source: io::Error::from_raw_os_error(nix::libc::EINVAL),
            },
        };
        let steps = diff(goal, &blank());
        Outcome { steps: steps.len(), failures: steps.iter().filter(|s| which(s)).map(failure).collect() }
    }

    #[test]
    fn a_bridge_that_is_refused_is_its_networks_and_its_members_loss_alone() {
        let networks: BTreeMap<_, _> = [1, 2].map(|n| bridge_network(n, &[], false)).map(|n| (n.id.clone(), n)).into();
        let sandboxes: BTreeMap<_, _> =
            [(1, 1), (2, 2)].map(|(id, n)| member(id, &[n])).map(|s| (s.id.clone(), s)).into();
        let parents = BTreeMap::new();
        let aim = Aim { networks: &networks, parents: &parents, sandboxes: &sandboxes };
        let goal = desired(&Wanted { member: None, networks: &networks, parents: &parents, sandboxes: &sandboxes });
        let (broken, loser) = (bridge_network(1, &[], false).id, member(1, &[]).id);
        let bridge = names::host_bridge(&broken);
        let of_bridge = |s: &Step| link(s) == Some((Space::Host, bridge.clone()));
        // The link, its address, its switches.
        assert!(diff(&goal, &blank()).iter().filter(|s| of_bridge(s)).count() >= 4);
        for refused in
            [refused(&goal, of_bridge), refused(&goal, |s| of_bridge(s) && matches!(s, Step::SetSysctl { .. }))]
        {
            assert_eq!(super::networks(&refused, &aim).keys().collect::<Vec<_>>(), [&broken]);
        }
        let outcome = refused(&goal, of_bridge);
        assert_eq!(workloads(&outcome, &aim).keys().collect::<Vec<_>>(), [&loser]);
        // Although the loser is a task that was connected to it.
        assert!(!hurts_cluster(&outcome, &aim, |id| *id == loser));
        let leg = names::task_link(0);
        let of_leg = |s: &Step| link(s) == Some((names::task_space(&loser), leg.clone()));
        assert!(!hurts_cluster(&refused(&goal, of_leg), &aim, |id| *id == loser));
        // Its namespace is the cluster's.
        let space =
            |s: &Step| matches!(s, Step::AddSpace(name) if Space::Named(name.clone()) == names::task_space(&loser));
        assert!(hurts_cluster(&refused(&goal, space), &aim, |id| *id == loser));
        assert!(!hurts_cluster(&refused(&goal, space), &aim, |_| false));
    }
}
