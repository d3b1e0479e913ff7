//! The kernel as values: all of our objects, and only those.

use super::{
    LinuxKernel, apply, firewall,
    ipvs::{self, Ipvs},
    links,
    netlink::{Socket, alias_of, io_error, name_of},
    nft,
};
use crate::dataplane::{
    mode::{IpvlanFlag, IpvlanMode, MacvlanMode},
    names, own,
    state::{FdbKey, FdbOn, FdbTarget, Link, LinkKind, PolicyRule, PortFlags, Route, Space, SpaceState, Vxlan},
    uplink::{self, HostLink, Role},
};
use futures::TryStreamExt;
use heddle_model::{
    net::{IfName, Mac, Mtu, Port, Vni},
    tunnel::Backend,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::{
    IpVersion, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::AddressAttribute,
        link::{
            InfoBridgePort, InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoPortData, InfoVlan, InfoVxlan,
            LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
        },
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType},
        rule::RuleAttribute,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
};

impl LinuxKernel {
    pub(super) async fn observe_space(&self, space: &Space, host: &Socket) -> io::Result<SpaceState> {
        let socket = self.socket(space).await?;
        let messages = socket.links().await?;
        let indices: HashMap<u32, IfName> =
            messages.iter().filter_map(|m| Some((m.header.index, name_of(m)?.parse().ok()?))).collect();
        let mut state = SpaceState::default();
        for message in &messages {
            let ours = |n: &&IfName| own::link(space, n.as_str(), alias_of(message));
            let Some(name) = indices.get(&message.header.index).filter(ours) else { continue };
            let parent = parent(space, message, &indices, host).await?;
            let known = self.of_tunnel(space, name, message).await;
            if let Some(mut link) = link(message, &indices, &parent, known) {
                if let LinkKind::Vxlan(vxlan) = &mut link.kind {
                    vxlan.socket = self.birthplace(space, message).await?;
                }
                state.links.insert(name.clone(), link);
            }
        }
        let ours: HashMap<u32, IfName> = indices
            .iter()
            .filter(|(_, name)| state.links.contains_key(*name))
            .map(|(index, name)| (*index, name.clone()))
            .collect();
        addresses(&socket, &ours, &mut state).await?;
        let defaults = routes(&socket, &ours, &mut state).await?;
        rules(&socket, space, &mut state).await?;
        if *space != Space::Host {
            neighbours(&socket, &ours, &mut state).await?;
        }
        fdb(&socket, &ours, &mut state).await?;
        let keys = own::sysctls(space, state.links.keys());
        state.sysctls = apply::read_sysctls(space, keys).await?.into_iter().collect();
        state.tables = nft::observe(space).await?;
        self.tunnels(space, &mut state).await?;
        if *space == Space::Host {
            let foreign = super::space::inside(space, firewall::look).await?;
            (state.cuts, state.passes) = (foreign.cuts, foreign.passes);
            state.uplinks = uplink::uplinks(&host_links(&messages, &indices), &named(&defaults, &indices));
        }
        if *space != Space::Host && ipvs::is_loaded() {
            let mut slot = socket.ipvs.lock().await;
            if slot.is_none() {
                *slot = Ipvs::open(space).await?;
            }
            if let Some(ipvs) = slot.as_mut() {
                (state.ipvs, state.ipvs_idle) = ipvs.observe().await?;
                state.ipvs_timeouts = ipvs.timeouts().await?;
            }
        }
        Ok(state)
    }
}

impl LinuxKernel {
    /// What a link in the tunnel's space is; elsewhere such links are the workloads' own.
    async fn of_tunnel(&self, space: &Space, name: &IfName, message: &LinkMessage) -> Option<LinkKind> {
        if *space != names::tunnel_space() {
            return None;
        }
        let kind = infos(message).find_map(|i| match i {
            LinkInfo::Kind(kind) => Some(kind),
            _ => None,
        });
        match kind? {
            InfoKind::Wireguard => Some(LinkKind::Wireguard { by: Backend::Kernel }),
            InfoKind::Tun if self.userspace.has(space, name).await => {
                Some(LinkKind::Wireguard { by: Backend::Userspace })
            }
            InfoKind::Tun => Some(LinkKind::Tun),
            _ => None,
        }
    }

    /// The space that a VXLAN was made in: there is its socket.
    async fn birthplace(&self, space: &Space, message: &LinkMessage) -> io::Result<Option<Space>> {
        let elsewhere = message.attributes.iter().find_map(|a| match a {
            LinkAttribute::LinkNetNsId(id) => Some(*id),
            _ => None,
        });
        let Some(id) = elsewhere else { return Ok(Some(space.clone())) };
        let socket = self.socket(space).await?;
        for birth in [Space::Host, names::tunnel_space()] {
            if socket.id_of(&birth).await? == Some(id) {
                return Ok(Some(birth));
            }
        }
        Ok(None)
    }
}

fn infos(message: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    message.attributes.iter().flat_map(|a| match a {
        LinkAttribute::LinkInfo(infos) => infos.as_slice(),
        _ => &[],
    })
}

/// The parent of a link, if it is one of the host's: those that we make have no other.
async fn parent(
    space: &Space,
    message: &LinkMessage,
    indices: &HashMap<u32, IfName>,
    host: &Socket,
) -> io::Result<Option<IfName>> {
    let (mut index, mut elsewhere) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Link(n) => index = Some(*n),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            _ => {}
        }
    }
    let on_parent =
        infos(message).any(|i| matches!(i, LinkInfo::Kind(InfoKind::MacVlan | InfoKind::IpVlan | InfoKind::Vlan)));
    match (index.filter(|_| on_parent), space) {
        (Some(index), Space::Host) if !elsewhere => Ok(indices.get(&index).cloned()),
        (Some(index), Space::Named(_)) if elsewhere => host.name(index).await,
        _ => Ok(None),
    }
}

fn link(
    message: &LinkMessage,
    indices: &HashMap<u32, IfName>,
    parent: &Option<IfName>,
    known: Option<LinkKind>,
) -> Option<Link> {
    let (mut mac, mut mtu, mut master) = (None, Mtu(0), None);
    let alias = alias_of(message).unwrap_or_default();
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => mac = apply::mac(bytes),
            LinkAttribute::Mtu(n) => mtu = Mtu(u16::try_from(*n).unwrap_or(u16::MAX)),
            LinkAttribute::Controller(index) => master = indices.get(index).cloned(),
            _ => {}
        }
    }
    let (mut kind, mut port) = (known, PortFlags::default());
    for info in infos(message) {
        match info {
            LinkInfo::Kind(InfoKind::Bridge) => kind = Some(LinkKind::Bridge),
            LinkInfo::Kind(InfoKind::Veth) => {
                // Without a word about its other end it is one that was not made to the end: made anew.
                let peer = links::peer_of(alias).or_else(|| Some((Space::Host, unknown()?)))?;
                kind = Some(LinkKind::Veth { peer });
            }
            LinkInfo::Data(InfoData::Vxlan(data)) => kind = vxlan(data).map(LinkKind::Vxlan),
            LinkInfo::Data(data @ (InfoData::MacVlan(_) | InfoData::IpVlan(_) | InfoData::Vlan(_))) => {
                kind = child(data, parent.clone().or_else(unknown)?);
            }
            LinkInfo::PortData(InfoPortData::BridgePort(flags)) => port = port_flags(flags),
            _ => {}
        }
    }
    let up = message.header.flags.contains(LinkFlags::Up);
    Some(Link { kind: kind?, mac, mtu, up, master, port })
}

/// A name that no link has that we want: what is said to lie on it is made anew.
fn unknown() -> Option<IfName> {
    "?".parse().ok()
}

/// One in a mode that we never make is as good as one on another parent.
fn child(data: &InfoData, parent: IfName) -> Option<LinkKind> {
    match data {
        InfoData::MacVlan(infos) => {
            let mode = infos.iter().find_map(|i| match i {
                InfoMacVlan::Mode(mode) => Some(*mode),
                _ => None,
            });
            Some(match mode.and_then(links::macvlan_mode_of) {
                Some(mode) => LinkKind::Macvlan { parent, mode },
                None => LinkKind::Macvlan { parent: unknown()?, mode: MacvlanMode::default() },
            })
        }
        InfoData::IpVlan(infos) => {
            let (mut mode, mut flag) = (None, None);
            for info in infos {
                match info {
                    InfoIpVlan::Mode(m) => mode = links::ipvlan_mode_of(*m),
                    InfoIpVlan::Flags(f) => flag = links::ipvlan_flag_of(*f),
                    _ => {}
                }
            }
            Some(match (mode, flag) {
                (Some(mode), Some(flag)) => LinkKind::Ipvlan { parent, mode, flag },
                _ => LinkKind::Ipvlan { parent: unknown()?, mode: IpvlanMode::default(), flag: IpvlanFlag::default() },
            })
        }
        InfoData::Vlan(infos) => infos.iter().find_map(|i| match i {
            InfoVlan::Id(id) => Some(LinkKind::Vlan { parent: parent.clone(), id: *id }),
            _ => None,
        }),
        _ => None,
    }
}

fn vxlan(data: &[InfoVxlan]) -> Option<Vxlan> {
    let (mut vni, mut local, mut port) = (None, None, None);
    for info in data {
        match info {
            InfoVxlan::Id(n) => vni = Vni::try_from(*n).ok(),
            InfoVxlan::Local(a) => local = Some(IpAddr::V4(*a)),
            InfoVxlan::Local6(a) => local = Some(IpAddr::V6(*a)),
            InfoVxlan::Port(n) => port = Port::try_from(*n).ok(),
            _ => {}
        }
    }
    Some(Vxlan { vni: vni?, local: local?, port: port?, socket: None })
}

fn port_flags(infos: &[InfoBridgePort]) -> PortFlags {
    let mut flags = PortFlags::default();
    for info in infos {
        match info {
            InfoBridgePort::Isolated(on) => flags.isolated = *on,
            InfoBridgePort::Locked(on) => flags.locked = *on,
            InfoBridgePort::Learning(on) => flags.learning = *on,
            InfoBridgePort::HairpinMode(on) => flags.hairpin = *on,
            _ => {}
        }
    }
    flags
}

fn is_link_local(addr: &IpAddr) -> bool {
    matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local())
}

async fn addresses(socket: &Socket, ours: &HashMap<u32, IfName>, state: &mut SpaceState) -> io::Result<()> {
    let all: Vec<_> = socket.handle.address().get().execute().try_collect().await.map_err(io_error)?;
    for message in all {
        let Some(dev) = ours.get(&message.header.index) else { continue };
        let (mut local, mut address) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(a) => local = Some(*a),
                AddressAttribute::Address(a) => address = Some(*a),
                _ => {}
            }
        }
        let Some(addr) = local.or(address).filter(|a| !is_link_local(a)) else { continue };
        if let Ok(net) = IpNet::new(addr, message.header.prefix_len) {
            state.addresses.insert((dev.clone(), net));
        }
    }
    Ok(())
}

fn route_addr(addr: &RouteAddress) -> Option<IpAddr> {
    match addr {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

/// The links that default routes, whoever made them, go by.
async fn routes(socket: &Socket, ours: &HashMap<u32, IfName>, state: &mut SpaceState) -> io::Result<BTreeSet<u32>> {
    let mut defaults = BTreeSet::new();
    let lo = names::loopback();
    for v6 in [false, true] {
        let filter = if v6 {
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build()
        } else {
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build()
        };
        let all: Vec<_> = socket.handle.route().get(filter).execute().try_collect().await.map_err(io_error)?;
        for message in all {
            if message.header.destination_prefix_length == 0 {
                defaults.extend(leads_by(&message));
            }
            let RouteProtocol::Other(protocol) = message.header.protocol else { continue };
            if !own::route(protocol) {
                continue;
            }
            let (mut dst, mut via, mut dev, mut src, mut table) =
                (None, None, None, None, u32::from(message.header.table));
            for attribute in &message.attributes {
                match attribute {
                    RouteAttribute::Destination(a) => dst = route_addr(a),
                    RouteAttribute::Gateway(a) => via = route_addr(a),
                    RouteAttribute::PrefSource(a) => src = route_addr(a),
                    RouteAttribute::Oif(_) if message.header.kind == RouteType::Local => dev = Some(&lo),
                    RouteAttribute::Oif(index) => dev = ours.get(index),
                    RouteAttribute::Table(n) => table = *n,
                    _ => {}
                }
            }
            let any = if v6 { IpNet::V6(Ipv6Net::default()) } else { IpNet::V4(Ipv4Net::default()) };
            let dst = dst.and_then(|a| IpNet::new(a, message.header.destination_prefix_length).ok()).unwrap_or(any);
            if let Some(dev) = dev.cloned() {
                state.routes.insert(Route { dst, via, dev, table, src });
            }
        }
    }
    Ok(defaults)
}

/// The links of a route to which packets go.
fn leads_by(message: &RouteMessage) -> Vec<u32> {
    if message.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let links = message.attributes.iter().flat_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    });
    links.collect()
}

fn named(links: &BTreeSet<u32>, indices: &HashMap<u32, IfName>) -> BTreeSet<IfName> {
    links.iter().filter_map(|index| indices.get(index).cloned()).collect()
}

/// All links, as far as they have to do with bridges.
fn host_links(messages: &[LinkMessage], indices: &HashMap<u32, IfName>) -> Vec<HostLink> {
    let link = |message: &LinkMessage| {
        let kind = infos(message).find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind.clone()),
            _ => None,
        });
        let master = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Controller(index) => indices.get(index).cloned(),
            _ => None,
        });
        Some(HostLink { name: indices.get(&message.header.index)?.clone(), role: role(kind.as_ref()), master })
    };
    messages.iter().filter_map(link).collect()
}

/// Hardware has no kind, save the ports of a switch chip.
fn role(kind: Option<&InfoKind>) -> Role {
    match kind {
        Some(InfoKind::Bridge) => Role::Bridge,
        None | Some(InfoKind::Bond | InfoKind::Team | InfoKind::Vlan | InfoKind::Dsa) => Role::Outward,
        Some(_) => Role::Inward,
    }
}

async fn rules(socket: &Socket, space: &Space, state: &mut SpaceState) -> io::Result<()> {
    for (v6, version) in [(false, IpVersion::V4), (true, IpVersion::V6)] {
        let all: Vec<_> = socket.handle.rule().get(version).execute().try_collect().await.map_err(io_error)?;
        for message in all {
            let (mut pref, mut mark, mut mask, mut table) = (0, 0, 0, u32::from(message.header.table));
            let (mut out, mut made_by_us) = (None, false);
            for attribute in &message.attributes {
                match attribute {
                    RuleAttribute::Priority(n) => pref = *n,
                    RuleAttribute::FwMark(n) => mark = *n,
                    RuleAttribute::FwMask(n) => mask = *n,
                    RuleAttribute::Table(n) => table = *n,
                    RuleAttribute::Oifname(name) => out = name.parse().ok(),
                    RuleAttribute::Protocol(RouteProtocol::Other(n)) => made_by_us = own::route(*n),
                    _ => {}
                }
            }
            // Of a namespace of ours, all but what the kernel starts every one with.
            let ours = match space {
                Space::Host => made_by_us,
                Space::Named(_) => !matches!(pref, 0 | 32766 | 32767),
            };
            if ours {
                state.rules.insert(PolicyRule { v6, pref, mark, mask, out, table });
            }
        }
    }
    Ok(())
}

async fn neighbours(socket: &Socket, ours: &HashMap<u32, IfName>, state: &mut SpaceState) -> io::Result<()> {
    let all: Vec<_> = socket.handle.neighbours().get().execute().try_collect().await.map_err(io_error)?;
    for message in all.into_iter().filter(|m| m.header.state == NeighbourState::Permanent) {
        let (mut addr, mut lladdr) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => addr = Some(IpAddr::V4(*a)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => addr = Some(IpAddr::V6(*a)),
                NeighbourAttribute::LinkLayerAddress(bytes) => lladdr = apply::mac(bytes),
                _ => {}
            }
        }
        if let (Some(dev), Some(addr), Some(mac)) = (ours.get(&message.header.ifindex), addr, lladdr) {
            state.neighbours.insert((dev.clone(), addr), mac);
        }
    }
    Ok(())
}

async fn fdb(socket: &Socket, ours: &HashMap<u32, IfName>, state: &mut SpaceState) -> io::Result<()> {
    let get = socket.handle.neighbours().get().set_address_family(AddressFamily::Bridge);
    let all: Vec<_> = get.execute().try_collect().await.map_err(io_error)?;
    let mut found: BTreeMap<FdbKey, FdbTarget> = BTreeMap::new();
    for message in all {
        let Some(dev) = ours.get(&message.header.ifindex) else { continue };
        let (mut lladdr, mut dst) = (None::<Mac>, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => lladdr = apply::mac(bytes),
                NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => dst = Some(IpAddr::V4(*a)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => dst = Some(IpAddr::V6(*a)),
                NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => dst = addr(bytes),
                _ => {}
            }
        }
        let Some(mac) = lladdr.filter(|m| m.0[0] & 1 == 0) else { continue };
        let device = message.header.flags.contains(NeighbourFlags::Own);
        // Entries of the bridge that are permanent are its ports' own addresses.
        let on = match message.header.state {
            NeighbourState::Permanent if device && dst.is_some() => FdbOn::Device,
            NeighbourState::Noarp if !device => FdbOn::Bridge,
            _ => continue,
        };
        let key = FdbKey { dev: dev.clone(), mac, on };
        found.insert(key, FdbTarget { dst: dst.filter(|_| device) });
    }
    state.fdb = found;
    Ok(())
}

fn addr(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}
