//! Which namespaces should exist for what runs here, with which legs and which way out. Decides only.

use crate::{
    dataplane::{
        desired::{Leg, Sandbox, addresses, ways_out},
        names,
    },
    local::state::HostState,
    worker::Job,
};
use heddle_model::{
    NetworkId, TaskId,
    assignment::{NetworkView, NodeView},
    endpoint::Attachment,
    net::{DualAddr, DualSubnet},
    task::Task,
    workload::{HostEndpoint, Workload},
};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of the networks.
pub struct Known<'a> {
    pub host: &'a HostState,
    /// None: this host is in no cluster, or does not know yet what it should have.
    pub view: Option<&'a NodeView>,
    /// The gateway bridge's; None: there is no such bridge.
    pub gateway: Option<&'a DualSubnet>,
}

/// The namespaces that should exist.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sandboxes {
    pub all: BTreeMap<TaskId, Sandbox>,
    /// Those of them that wait for a network to be known.
    pub waiting: BTreeSet<TaskId>,
    /// Who has which address around the gateway bridge.
    pub gateways: BTreeMap<TaskId, DualAddr>,
}

/// One for each of these jobs. `given`: gateway addresses as they were, which stay.
pub fn sandboxes(jobs: &[Job], known: &Known<'_>, given: &BTreeMap<TaskId, DualAddr>) -> Sandboxes {
    let outward = jobs.iter().filter(|job| known.is_outward(job)).map(|job| job.id().clone()).collect();
    let gateways = known.gateway.map(|subnet| addresses::assign(subnet, &outward, given)).unwrap_or_default();
    let mut out = Sandboxes { gateways, ..Sandboxes::default() };
    for job in jobs {
        let gateway = out.gateways.get(job.id()).copied();
        let sandbox = known.sandbox(job, gateway);
        if !sandbox.legs.iter().all(|leg| known.has(&leg.network)) {
            out.waiting.insert(job.id().clone());
        }
        out.all.insert(job.id().clone(), sandbox);
    }
    out
}

impl Known<'_> {
    fn overlay(&self, id: &NetworkId) -> Option<&NetworkView> {
        self.view?.networks.get(id)
    }

    fn has(&self, network: &NetworkId) -> bool {
        self.overlay(network).is_some() || self.host.networks.contains_key(network)
    }

    /// Whether it leads outside by the gateway bridge.
    fn is_outward(&self, job: &Job) -> bool {
        match job {
            Job::Task(task) => self.task_is_outward(task),
            Job::Workload(workload) => self.workload_is_outward(workload),
        }
    }

    /// Unless every network it is in is internal.
    fn task_is_outward(&self, task: &Task) -> bool {
        let internal = |a: &Attachment| self.overlay(&a.network).is_some_and(|n| n.internal);
        task.attachments.is_empty() || !task.attachments.iter().all(internal)
    }

    /// When it is on an overlay that leads out, and nothing else leads out of it.
    fn workload_is_outward(&self, workload: &Workload) -> bool {
        let endpoints = self.host.endpoints_of(&workload.id);
        let leads = |e: &HostEndpoint| self.host.networks.get(&e.network).is_some_and(|n| !ways_out(n).is_empty());
        let outside = |e: &HostEndpoint| self.overlay(&e.network).is_some_and(|n| !n.internal);
        endpoints.iter().any(outside) && !endpoints.iter().any(leads)
    }

    fn sandbox(&self, job: &Job, gateway: Option<DualAddr>) -> Sandbox {
        let more = self.host.endpoints_of(job.id());
        match job {
            Job::Task(task) => Sandbox::of_task(task, gateway, more),
            Job::Workload(workload) => Sandbox {
                id: workload.id.clone(),
                name: job.name(),
                legs: more.iter().filter(|e| self.host.is_joined(e)).map(Leg::of_endpoint).collect(),
                gateway: gateway.map(|addr| (names::workload_gateway(), addr)),
                ports: workload.ports.clone(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::tests::bridge_network;
    use heddle_model::{
        ClusterId, Timestamp,
        assignment::ClusterView,
        net::{Mac, Mtu, Port, Vni},
        task::TaskStatus,
        workload::WorkloadSpec,
    };

    fn id() -> TaskId {
        TaskId::from_random([1; 16])
    }

    fn overlay_id() -> NetworkId {
        NetworkId::from_random([9; 16])
    }

    fn job() -> Job {
        Job::Workload(Box::new(Workload {
            id: id(),
            created_at: Timestamp(0),
            spec: WorkloadSpec::default(),
            ports: vec![],
            wanted: true,
            runs: 1,
            stop_grace: None,
            status: TaskStatus::default(),
        }))
    }

    /// The workload is on these networks; bridge network 1 leads out, 2 is internal.
    fn host(on: &[NetworkId]) -> HostState {
        let endpoint = |(index, network): (usize, &NetworkId)| HostEndpoint {
            network: network.clone(),
            index: index as u8,
            addrs: vec![],
            mac: Mac::from_random([index as u8; 6]),
            aliases: vec![],
            gateway_priority: 0,
        };
        let networks = [bridge_network(1, &[], false), bridge_network(2, &[], true)];
        HostState {
            revision: 0,
            ula: "fd00::/48".parse().unwrap(),
            networks: networks.map(|n| (n.id.clone(), n)).into(),
            workloads: BTreeMap::new(),
            endpoints: BTreeMap::from([(id(), on.iter().enumerate().map(endpoint).collect())]),
        }
    }

    fn view(internal: bool) -> NodeView {
        let mut view = NodeView::empty(ClusterView {
            id: ClusterId::from_random([1; 16]),
            ingress_seed: 1,
            data_path_port: Port::try_from(4789).unwrap(),
            tunnel_port: Port::try_from(51820).unwrap(),
            epochs: Default::default(),
        });
        let network = NetworkView {
            id: overlay_id(),
            name: "front".into(),
            vni: Vni::FIRST,
            subnet: subnet(),
            service_subnet: subnet(),
            mtu: Mtu(1450),
            ingress: false,
            internal,
            encrypted: false,
        };
        view.networks.insert(network.id.clone(), network);
        view
    }

    fn subnet() -> DualSubnet {
        DualSubnet { v4: "172.18.0.0/24".parse().unwrap(), v6: "fd00:18::/64".parse().unwrap() }
    }

    #[test]
    fn the_gateway_is_for_who_has_no_other_way_out() {
        let (open, internal) = (bridge_network(1, &[], false).id, bridge_network(2, &[], true).id);
        for (on, closed, want) in [
            (vec![overlay_id()], false, true),
            (vec![overlay_id()], true, false),
            (vec![overlay_id(), internal.clone()], false, true),
            (vec![overlay_id(), open.clone()], false, false),
            (vec![internal], false, false),
        ] {
            let (host, view) = (host(&on), view(closed));
            let known = Known { host: &host, view: Some(&view), gateway: Some(&subnet()) };
            let found = sandboxes(&[job()], &known, &BTreeMap::new());
            assert_eq!(found.all[&id()].gateway.is_some(), want, "{on:?} {closed}");
            assert!(found.waiting.is_empty() && found.gateways.contains_key(&id()) == want);
        }
    }

    #[test]
    fn who_is_on_a_network_that_is_not_known_waits() {
        let host = host(&[overlay_id(), bridge_network(1, &[], false).id]);
        let known = Known { host: &host, view: None, gateway: None };
        let found = sandboxes(&[job()], &known, &BTreeMap::new());
        assert_eq!((found.waiting, found.all[&id()].legs.len()), ([id()].into(), 2));
    }
}
