//! The way out of a workload: which of its legs has the default route.

use super::{Sandbox, Wanted, addresses, bridge, ipvlan, macvlan};
use crate::{
    dataplane::state::{Route, SpaceState},
    local::network::HostNetwork,
};
use heddle_model::{
    net::{DualAddr, IfName},
    network::Driver,
};
use ipnet::IpNet;
use std::net::IpAddr;

/// How a network leads outside, in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Everything, in that family.
    pub dst: IpNet,
    /// None: the device itself leads there.
    pub via: Option<IpAddr>,
}

impl Way {
    pub fn by(gateway: IpAddr) -> Self {
        Self { dst: everything(gateway), via: Some(gateway) }
    }

    /// `like` is any address of the family.
    pub fn on_link(like: IpAddr) -> Self {
        Self { dst: everything(like), via: None }
    }
}

fn everything(like: IpAddr) -> IpNet {
    match like {
        IpAddr::V4(_) => IpNet::V4(Default::default()),
        IpAddr::V6(_) => IpNet::V6(Default::default()),
    }
}

/// What a network of this host offers its members.
pub fn offered(network: &HostNetwork) -> Vec<Way> {
    match network.spec.driver {
        Driver::Bridge => bridge::way_out(network),
        Driver::Macvlan => macvlan::way_out(network),
        Driver::Ipvlan => ipvlan::way_out(network),
        Driver::Overlay | Driver::Host | Driver::Null => Vec::new(),
    }
}

/// Gives the workload its default routes: each family by the leg with the highest priority that leads out in it. Of equals
/// the gateway bridge wins, then the leg that came first, so that joining a network does not move what works.
pub fn add(space: &mut SpaceState, sandbox: &Sandbox, wanted: &Wanted<'_>, prefer: Option<DualAddr>) {
    for v4 in [true, false] {
        let dst = if v4 { IpNet::V4(Default::default()) } else { IpNet::V6(Default::default()) };
        let gateway = sandbox.gateway.as_ref().zip(wanted.member).map(|((dev, _), member)| {
            let via = addresses::bridge_addr(&member.local.gateway).addrs().into_iter().find(|a| a.is_ipv4() == v4);
            (0, dev, via)
        });
        let legs = sandbox.legs.iter().filter_map(|leg| {
            let network = wanted.networks.get(&leg.network)?;
            let has = leg.addrs.iter().any(|a| a.is_ipv4() == v4);
            let way = offered(network).into_iter().find(|w| w.dst == dst && has)?;
            Some((leg.gateway_priority, &leg.dev, way.via))
        });
        let mut best: Option<(i32, &IfName, Option<IpAddr>)> = None;
        for candidate in gateway.into_iter().chain(legs) {
            if best.is_none_or(|b| candidate.0 > b.0) {
                best = Some(candidate);
            }
        }
        let Some((_, dev, via)) = best else { continue };
        let by_gateway = sandbox.gateway.as_ref().is_some_and(|(g, _)| g == dev);
        let src = prefer.filter(|_| by_gateway).and_then(|a| a.addrs().into_iter().find(|a| a.is_ipv4() == v4));
        space.routes.insert(Route { dst, via, dev: dev.clone(), table: 254, src });
    }
}
