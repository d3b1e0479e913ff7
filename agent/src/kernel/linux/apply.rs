//! Steps as requests.

use super::{
    LinuxKernel, firewall,
    ipvs::{self, Ipvs},
    netlink::io_error,
    nft, space,
};
use crate::dataplane::{
    names,
    state::{FdbKey, FdbOn, FdbTarget, PolicyRule, PortFlags, Route, Space},
    step::Step,
};
use heddle_model::net::{IfName, Mac};
use ipnet::IpNet;
use rtnetlink::{
    LinkBridgePort, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{RouteMessage, RouteProtocol, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
};

pub(super) fn unless(result: io::Result<()>, errno: &[i32]) -> io::Result<()> {
    match result {
        Err(e) if e.raw_os_error().is_some_and(|n| errno.contains(&n)) => Ok(()),
        other => other,
    }
}

pub(super) const EXISTS: &[i32] = &[nix::libc::EEXIST];
const GONE: &[i32] =
    &[nix::libc::ENOENT, nix::libc::ENODEV, nix::libc::ESRCH, nix::libc::EADDRNOTAVAIL, nix::libc::EINVAL];

/// What an error names: operation, object, space.
pub fn describe(step: &Step) -> (&'static str, String, Space) {
    match step {
        Step::AddSpace(name) => ("add namespace", name.clone(), Space::Host),
        Step::RemoveSpace(name) => ("remove namespace", name.clone(), Space::Host),
        Step::AddLink { space, name, .. } => ("add link", name.to_string(), space.clone()),
        Step::RemoveLink { space, name } => ("remove link", name.to_string(), space.clone()),
        Step::SetMac { space, name, .. } => ("set MAC of", name.to_string(), space.clone()),
        Step::SetMtu { space, name, mtu } => ("set MTU of", format!("{name} to {mtu}"), space.clone()),
        Step::SetUp { space, name, .. } => ("set up", name.to_string(), space.clone()),
        Step::SetMaster { space, name, .. } => ("set master of", name.to_string(), space.clone()),
        Step::SetPort { space, name, .. } => ("set port flags of", name.to_string(), space.clone()),
        Step::SetTunnel { space, name, .. } => ("set tunnel", name.to_string(), space.clone()),
        Step::AddAddress { space, dev, addr } => ("add address", format!("{addr} on {dev}"), space.clone()),
        Step::RemoveAddress { space, dev, addr } => ("remove address", format!("{addr} on {dev}"), space.clone()),
        Step::AddRoute { space, route } => ("add route", format!("{} dev {}", route.dst, route.dev), space.clone()),
        Step::RemoveRoute { space, route } => ("remove route", route.dst.to_string(), space.clone()),
        Step::AddRule { space, rule } => ("add rule", format!("{rule:?}"), space.clone()),
        Step::RemoveRule { space, rule } => ("remove rule", format!("{rule:?}"), space.clone()),
        Step::SetNeighbour { space, dev, addr, .. } => ("set neighbour", format!("{addr} on {dev}"), space.clone()),
        Step::RemoveNeighbour { space, dev, addr } => ("remove neighbour", format!("{addr} on {dev}"), space.clone()),
        Step::SetFdb { space, key, .. } => {
            ("set forwarding entry", format!("{} on {}", key.mac, key.dev), space.clone())
        }
        Step::RemoveFdb { space, key } => {
            ("remove forwarding entry", format!("{} on {}", key.mac, key.dev), space.clone())
        }
        Step::SetTable { space, id, .. } => ("set table", id.name.clone(), space.clone()),
        Step::RemoveTable { space, id } => ("remove table", id.name.clone(), space.clone()),
        Step::SetIpvsService { space, key, .. } => ("set IPVS service", key.to_string(), space.clone()),
        Step::RemoveIpvsService { space, key } => ("remove IPVS service", key.to_string(), space.clone()),
        Step::SetIpvsDestination { space, key, at, .. } => {
            ("set IPVS destination", format!("{} of {key}", SocketAddr::from(*at)), space.clone())
        }
        Step::RemoveIpvsDestination { space, key, at } => {
            ("remove IPVS destination", format!("{} of {key}", SocketAddr::from(*at)), space.clone())
        }
        Step::SetIpvsTimeouts { space, .. } => ("set", "IPVS timeouts".into(), space.clone()),
        Step::AddPass { space, place, .. } => ("put our rule into", place.to_string(), space.clone()),
        Step::RemovePass { space, place } => ("take our rule out of", place.to_string(), space.clone()),
        Step::SetSysctl { space, key, value } => ("set sysctl", format!("{key}={value}"), space.clone()),
    }
}

impl LinuxKernel {
    pub(super) async fn step(&self, step: &Step) -> io::Result<()> {
        match step {
            Step::AddSpace(name) => self.add_space(name).await,
            Step::RemoveSpace(name) => {
                let space = Space::Named(name.clone());
                self.tidy_userspace(|at, _| *at != space).await;
                self.forget(&space).await;
                space::remove(name).await
            }
            Step::AddLink { space, name, link } => self.add_link(space, name, link).await,
            Step::RemoveLink { space, name } => unless(self.remove_link(space, name).await, GONE),
            Step::SetMac { space, name, mac } => self.set(space, name, |b| b.address(mac.0.to_vec())).await,
            Step::SetMtu { space, name, mtu } => self.set(space, name, |b| b.mtu(mtu.0.into())).await,
            Step::SetUp { space, name, up } => self.set_up(space, name, *up).await,
            Step::SetMaster { space, name, master } => {
                let index = match master {
                    Some(master) => self.socket(space).await?.index(master).await?,
                    None => 0,
                };
                self.set(space, name, |b| b.controller(index)).await
            }
            Step::SetPort { space, name, port } => self.set_port(space, name, port).await,
            Step::SetTunnel { space, name, change } => self.set_tunnel(space, name, change).await,
            Step::AddAddress { space, dev, addr } => unless(self.add_address(space, dev, addr).await, EXISTS),
            Step::RemoveAddress { space, dev, addr } => unless(self.remove_address(space, dev, addr).await, GONE),
            Step::AddRoute { space, route } => {
                let socket = self.socket(space).await?;
                let message = route_message(route, socket.index(&route.dev).await?);
                socket.handle.route().add(message).replace().execute().await.map_err(io_error)
            }
            Step::RemoveRoute { space, route } => {
                let socket = self.socket(space).await?;
                let Ok(index) = socket.index(&route.dev).await else { return Ok(()) };
                let deleted = socket.handle.route().del(route_message(route, index)).execute().await;
                unless(deleted.map_err(io_error), GONE)
            }
            Step::AddRule { space, rule } => unless(self.add_rule(space, rule).await, EXISTS),
            Step::RemoveRule { space, rule } => {
                let socket = self.socket(space).await?;
                unless(socket.handle.rule().del(rule_message(rule)).execute().await.map_err(io_error), GONE)
            }
            Step::SetNeighbour { space, dev, addr, mac } => {
                let socket = self.socket(space).await?;
                let add = socket.handle.neighbours().add(socket.index(dev).await?, *addr);
                let add = add.link_layer_address(&mac.0).state(NeighbourState::Permanent).replace();
                add.execute().await.map_err(io_error)
            }
            Step::RemoveNeighbour { space, dev, addr } => unless(self.remove_neighbour(space, dev, addr).await, GONE),
            Step::SetFdb { space, key, target } => self.set_fdb(space, key, target).await,
            Step::RemoveFdb { space, key } => unless(self.remove_fdb(space, key).await, GONE),
            Step::SetTable { space, script, .. } => nft::run(space, script.clone()).await,
            Step::RemoveTable { space, id } => nft::remove(space, id).await,
            Step::SetIpvsService { space, .. }
            | Step::RemoveIpvsService { space, .. }
            | Step::SetIpvsDestination { space, .. }
            | Step::RemoveIpvsDestination { space, .. }
            | Step::SetIpvsTimeouts { space, .. } => self.ipvs(space, step).await,
            Step::AddPass { space, place, at } => firewall::add(space, place, *at).await,
            Step::RemovePass { space, place } => firewall::remove(space, place).await,
            Step::SetSysctl { space, key, value } => {
                let one = vec![(key.clone(), value.clone())];
                set_sysctls(space, one).await.map_err(|(_, error)| error)
            }
        }
    }

    /// One request. It is no failure that something is there already, or not any more: it is changed, or made.
    async fn ipvs(&self, space: &Space, step: &Step) -> io::Result<()> {
        let Some(request) = ipvs::request(step) else { return Ok(()) };
        let socket = self.socket(space).await?;
        let mut slot = socket.ipvs.lock().await;
        if slot.is_none() {
            *slot = Ipvs::open(space).await?;
        }
        let missing = || io::Error::new(io::ErrorKind::Unsupported, "this kernel has no IPVS");
        let ipvs = slot.as_mut().ok_or_else(missing)?;
        match ipvs.send(request).await {
            Err(e) if e.raw_os_error().is_some_and(|n| ipvs::KNOWN.contains(&n)) => match ipvs::instead(step) {
                Some(request) => ipvs.send(request).await,
                None => Ok(()),
            },
            result => result,
        }
    }

    async fn add_space(&self, name: &str) -> io::Result<()> {
        space::create(name).await?;
        let space = Space::Named(name.to_owned());
        self.forget(&space).await;
        let lo: IfName = "lo".parse().map_err(io::Error::other)?;
        self.set(&space, &lo, |b| b.up()).await
    }

    pub(super) async fn set(
        &self,
        space: &Space,
        name: &IfName,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> io::Result<()> {
        let socket = self.socket(space).await?;
        let builder = LinkMessageBuilder::<LinkUnspec>::new().index(socket.index(name).await?);
        socket.handle.link().set(change(builder).build()).execute().await.map_err(io_error)
    }

    pub(super) async fn set_port(&self, space: &Space, name: &IfName, port: &PortFlags) -> io::Result<()> {
        let socket = self.socket(space).await?;
        let message = LinkBridgePort::new(socket.index(name).await?)
            .isolated(port.isolated)
            .locked(port.locked)
            .learning(port.learning)
            .hairpin(port.hairpin)
            .build();
        socket.handle.link().set_port(message).execute().await.map_err(io_error)
    }

    async fn add_address(&self, space: &Space, dev: &IfName, addr: &IpNet) -> io::Result<()> {
        let socket = self.socket(space).await?;
        let index = socket.index(dev).await?;
        let mut add = socket.handle.address().add(index, addr.addr(), addr.prefix_len());
        if addr.addr().is_ipv6() {
            add.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        add.execute().await.map_err(io_error)
    }

    async fn remove_address(&self, space: &Space, dev: &IfName, addr: &IpNet) -> io::Result<()> {
        let socket = self.socket(space).await?;
        let mut message = AddressMessage::default();
        message.header.index = socket.index(dev).await?;
        message.header.prefix_len = addr.prefix_len();
        message.header.family = family(addr.addr());
        message.attributes.push(AddressAttribute::Local(addr.addr()));
        socket.handle.address().del(message).execute().await.map_err(io_error)
    }

    async fn add_rule(&self, space: &Space, rule: &PolicyRule) -> io::Result<()> {
        let socket = self.socket(space).await?;
        let mut add = socket.handle.rule().add();
        *add.message_mut() = rule_message(rule);
        add.execute().await.map_err(io_error)
    }

    async fn remove_neighbour(&self, space: &Space, dev: &IfName, addr: &IpAddr) -> io::Result<()> {
        let socket = self.socket(space).await?;
        let mut message = NeighbourMessage::default();
        message.header.ifindex = socket.index(dev).await?;
        message.header.family = family(*addr);
        message.attributes.push(NeighbourAttribute::Destination(neighbour_address(*addr)));
        socket.handle.neighbours().del(message).execute().await.map_err(io_error)
    }

    async fn set_fdb(&self, space: &Space, key: &FdbKey, target: &FdbTarget) -> io::Result<()> {
        let socket = self.socket(space).await?;
        let mut add = socket.handle.neighbours().add_bridge(socket.index(&key.dev).await?, &key.mac.0).replace();
        add = match key.on {
            FdbOn::Device => add.flags(NeighbourFlags::Own).state(NeighbourState::Permanent),
            // Not permanent: that would make it an address of the bridge itself.
            FdbOn::Bridge => add.flags(NeighbourFlags::Controller).state(NeighbourState::Noarp),
        };
        if let Some(dst) = target.dst {
            add = add.destination(dst);
        }
        add.execute().await.map_err(io_error)
    }

    async fn remove_fdb(&self, space: &Space, key: &FdbKey) -> io::Result<()> {
        let socket = self.socket(space).await?;
        let mut message = NeighbourMessage::default();
        message.header.ifindex = socket.index(&key.dev).await?;
        message.header.family = AddressFamily::Bridge;
        message.header.flags = match key.on {
            FdbOn::Device => NeighbourFlags::Own,
            FdbOn::Bridge => NeighbourFlags::Controller,
        };
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(key.mac.0.to_vec()));
        socket.handle.neighbours().del(message).execute().await.map_err(io_error)
    }
}

fn family(addr: IpAddr) -> AddressFamily {
    if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn neighbour_address(addr: IpAddr) -> NeighbourAddress {
    match addr {
        IpAddr::V4(a) => NeighbourAddress::Inet(a),
        IpAddr::V6(a) => NeighbourAddress::Inet6(a),
    }
}

fn route_message(route: &Route, index: u32) -> RouteMessage {
    let protocol = RouteProtocol::Other(names::ROUTE_PROTOCOL);
    let local = route.dev == names::loopback();
    let kind = if local { RouteType::Local } else { RouteType::Unicast };
    match route.dst {
        IpNet::V4(dst) => {
            let mut b = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(dst.network(), dst.prefix_len())
                .output_interface(index)
                .table_id(route.table)
                .kind(kind)
                .protocol(protocol);
            if let Some(IpAddr::V4(via)) = route.via {
                b = b.gateway(via);
            } else {
                b = b.scope(if local { RouteScope::Host } else { RouteScope::Link });
            }
            if let Some(IpAddr::V4(src)) = route.src {
                b = b.pref_source(src);
            }
            b.build()
        }
        IpNet::V6(dst) => {
            let mut b = RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(dst.network(), dst.prefix_len())
                .output_interface(index)
                .table_id(route.table)
                .kind(kind)
                .protocol(protocol);
            if let Some(IpAddr::V6(via)) = route.via {
                b = b.gateway(via);
            }
            if let Some(IpAddr::V6(src)) = route.src {
                b = b.pref_source(src);
            }
            b.build()
        }
    }
}

fn rule_message(rule: &PolicyRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(rule.pref),
        RuleAttribute::FwMark(rule.mark),
        RuleAttribute::FwMask(rule.mask),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::Other(names::ROUTE_PROTOCOL)),
    ];
    message.attributes.extend(rule.out.as_ref().map(|link| RuleAttribute::Oifname(link.to_string())));
    message
}

/// The separator is a dot, and a slash stands for a dot in a link's name, as in sysctl(8).
fn sysctl_path(key: &str) -> String {
    let swapped = key.chars().map(|c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    });
    format!("/proc/sys/{}", swapped.collect::<String>())
}

/// In turn. An error: so many were set before it.
pub(super) async fn set_sysctls(space: &Space, values: Vec<(String, String)>) -> Result<(), (usize, io::Error)> {
    let all = move || {
        let mut each = values.iter().enumerate();
        Ok(each.try_for_each(|(done, (key, value))| set_sysctl(key, value).map_err(|e| (done, e))))
    };
    space::inside(space, all).await.map_err(|e| (0, e))?
}

/// In the namespace of the calling thread.
fn set_sysctl(key: &str, value: &str) -> io::Result<()> {
    match std::fs::write(sysctl_path(key), value) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => match crate::dataplane::own::absent_sysctl(key) {
            Some(same) if same == value => Ok(()),
            _ => Err(e),
        },
        other => other,
    }
}

/// The values of these sysctls; one that does not exist counts as what its absence amounts to.
pub async fn read_sysctls(space: &Space, keys: Vec<String>) -> io::Result<Vec<(String, String)>> {
    space::inside(space, move || {
        let mut out = Vec::new();
        for key in keys {
            match std::fs::read_to_string(sysctl_path(&key)) {
                Ok(value) => out.push((key, value.trim().to_owned())),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    out.extend(crate::dataplane::own::absent_sysctl(&key).map(|v| (key, v.to_owned())));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(out)
    })
    .await
}

/// A MAC from a netlink attribute.
pub fn mac(bytes: &[u8]) -> Option<Mac> {
    Some(Mac(bytes.try_into().ok()?))
}
