//! The links of the host's own namespace, and which kinds its kernel can make. Asked of the kernel itself: /sys may show
//! another namespace's.

use crate::{
    dataplane::{
        mode::{IpvlanFlag, IpvlanMode},
        own,
        state::Space,
    },
    kernel::linux::{ipvlan_flag_of, ipvlan_mode_of},
    local::driver::facts::{FactKind, HostFacts, LinkFact},
};
use heddle_model::net::{IfName, Mtu};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::{
    LinkIpVlan, LinkMacVlan, LinkVlan,
    packet_route::{
        RouteNetlinkMessage,
        link::{
            InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoVlan, IpVlanMode, LinkAttribute, LinkInfo, LinkLayerType,
            LinkMessage, MacVlanMode,
        },
    },
};
use std::{
    collections::{BTreeMap, HashMap},
    io,
};

/// An index that no link has.
const NOBODY: u32 = i32::MAX as u32;

/// What the host has, for the drivers. The kernel loads a module that it lacks when asked for a link of that kind.
pub fn facts() -> io::Result<HostFacts> {
    Ok(HostFacts {
        links: read()?,
        has_macvlan: makes(LinkMacVlan::new("hdprobe", NOBODY, MacVlanMode::Bridge).build())?,
        has_ipvlan: makes(LinkIpVlan::new("hdprobe", NOBODY, IpVlanMode::L2).build())?,
        has_vlan: makes(LinkVlan::new("hdprobe", NOBODY, 1).build())?,
    })
}

/// Whether the kernel knows this kind of link. Nothing is made: the parent does not exist, but a kind that is unknown is
/// told before that.
fn makes(message: LinkMessage) -> io::Result<bool> {
    match ask(RouteNetlinkMessage::NewLink(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
        Err(e) if e.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => Ok(false),
        Err(e) if matches!(e.raw_os_error(), Some(nix::libc::ENODEV | nix::libc::EINVAL)) => Ok(true),
        Err(e) => Err(e),
        Ok(_) => Err(io::Error::other("the kernel made a link on a parent that does not exist")),
    }
}

/// The links of the namespace that this thread is in.
pub fn read() -> io::Result<BTreeMap<IfName, LinkFact>> {
    let messages = ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
    let links: Vec<LinkMessage> = messages
        .into_iter()
        .filter_map(|m| match m {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        })
        .collect();
    let names: HashMap<u32, IfName> = links.iter().filter_map(|l| Some((l.header.index, name_of(l)?))).collect();
    Ok(links.iter().filter_map(|l| Some((name_of(l)?, fact(l, &names)?))).collect())
}

fn name_of(link: &LinkMessage) -> Option<IfName> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => name.parse().ok(),
        _ => None,
    })
}

pub(crate) fn fact(link: &LinkMessage, names: &HashMap<u32, IfName>) -> Option<LinkFact> {
    let (mut mtu, mut master, mut parent, mut elsewhere, mut alias) = (Mtu(u16::MAX), None, None, false, None);
    let mut kind = FactKind::Other;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(n) => mtu = Mtu(u16::try_from(*n).unwrap_or(u16::MAX)),
            LinkAttribute::Controller(index) => master = names.get(index).cloned(),
            LinkAttribute::Link(index) => parent = names.get(index).cloned(),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::IfAlias(text) => alias = Some(text.as_str()),
            LinkAttribute::LinkInfo(infos) => kind = kind_of(infos),
            _ => {}
        }
    }
    if link.header.link_layer_type == LinkLayerType::Loopback {
        kind = FactKind::Loopback;
    }
    Some(LinkFact {
        kind,
        mtu,
        ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        master,
        parent: parent.filter(|_| !elsewhere),
        ours: own::link(&Space::Host, name_of(link)?.as_str(), alias),
    })
}

fn kind_of(infos: &[LinkInfo]) -> FactKind {
    let mut kind = FactKind::Other;
    for info in infos {
        kind = match info {
            LinkInfo::Kind(InfoKind::Bridge) => FactKind::Bridge,
            LinkInfo::Kind(InfoKind::Vrf) => FactKind::Vrf,
            LinkInfo::Data(InfoData::Vlan(data)) => vlan(data).unwrap_or(kind),
            LinkInfo::Data(InfoData::MacVlan(data)) => macvlan(data),
            LinkInfo::Kind(InfoKind::MacVtap) => FactKind::Macvlan { passthru: false },
            LinkInfo::Data(InfoData::IpVlan(data)) => ipvlan(data),
            _ => kind,
        };
    }
    kind
}

fn vlan(data: &[InfoVlan]) -> Option<FactKind> {
    data.iter().find_map(|i| match i {
        InfoVlan::Id(id) => Some(FactKind::Vlan { id: *id }),
        _ => None,
    })
}

fn macvlan(data: &[InfoMacVlan]) -> FactKind {
    FactKind::Macvlan { passthru: data.contains(&InfoMacVlan::Mode(MacVlanMode::Passthrough)) }
}

fn ipvlan(data: &[InfoIpVlan]) -> FactKind {
    let (mut mode, mut flag) = (IpvlanMode::default(), IpvlanFlag::default());
    for info in data {
        match info {
            InfoIpVlan::Mode(m) => mode = ipvlan_mode_of(*m).unwrap_or(mode),
            InfoIpVlan::Flags(f) => flag = ipvlan_flag_of(*f).unwrap_or(flag),
            _ => {}
        }
    }
    FactKind::Ipvlan { mode, flag }
}

/// One request, and all that is answered until the kernel says it is done.
fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    request.header.sequence_number = 1;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let mut answers = Vec::new();
    loop {
        let (received, _) = socket.recv_from_full()?;
        let mut at = 0;
        while at < received.len() {
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&received[at..]);
            let answer = answer.map_err(io::Error::other)?;
            at += (answer.header.length as usize).max(1).next_multiple_of(4);
            match answer.payload {
                NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                NetlinkPayload::Error(e) if e.code.is_some() => return Err(e.to_io()),
                NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                _ => {}
            }
        }
    }
}
