//! No address, MAC, VNI, virtual address or published port is given twice.

use heddle_manager::store::Snapshot;
use heddle_model::{endpoint::PublishMode, net::DualAddr};
use std::{collections::BTreeMap, fmt::Debug, net::IpAddr};

struct Given<T>(BTreeMap<T, String>);

impl<T: Ord + Clone + Debug> Given<T> {
    fn add(&mut self, what: T, to: &str) -> Result<(), String> {
        match self.0.insert(what.clone(), to.to_owned()) {
            Some(other) => Err(format!("{what:?} is given to {other} and to {to}")),
            None => Ok(()),
        }
    }
}

pub fn given_twice(state: &Snapshot) -> Result<(), String> {
    let mut addrs = Given(BTreeMap::new());
    let mut macs = Given(BTreeMap::new());
    let mut vnis = Given(BTreeMap::new());
    let mut ports = Given(BTreeMap::new());
    for network in state.networks.values() {
        if let Some(allocation) = &network.allocation {
            vnis.add(allocation.vni, network.id.as_str())?;
        }
    }
    let mut place = |network: &str, addr: &DualAddr, to: &str| {
        let mut both = addr.addrs().into_iter();
        both.try_for_each(|addr: IpAddr| addrs.add((network.to_owned(), addr), to))
    };
    for task in state.tasks.values() {
        for attachment in &task.attachments {
            place(attachment.network.as_str(), &attachment.addr, task.id.as_str())?;
            macs.add((attachment.network.clone(), attachment.mac), task.id.as_str())?;
        }
    }
    for service in state.services.values() {
        for vip in service.endpoint.iter().flat_map(|e| &e.virtual_ips) {
            place(vip.network.as_str(), &vip.addr, service.id.as_str())?;
        }
        let published = service.endpoint.iter().flat_map(|e| &e.ports);
        for port in published.filter(|p| p.mode == PublishMode::Ingress) {
            if let Some(number) = port.published {
                ports.add((port.protocol, number), service.id.as_str())?;
            }
        }
    }
    let ingress = state.ingress_network().map(|n| n.id.to_string()).unwrap_or_default();
    for node in state.nodes.values() {
        if let Some(leg) = &node.ingress {
            place(&ingress, &leg.addr, node.id.as_str())?;
        }
    }
    Ok(())
}
