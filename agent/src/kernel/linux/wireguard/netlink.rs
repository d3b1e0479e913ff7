//! The kernel's WireGuard by generic netlink (linux/wireguard.h).

use super::Fault;
use crate::{
    dataplane::{
        state::Space,
        wireguard::{Traffic, Tunnel, TunnelChange, TunnelPeer},
    },
    kernel::linux::genl::Socket,
};
use heddle_model::{
    net::{IfName, Port},
    tunnel::PublicKey,
};
use ipnet::IpNet;
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr as Allowed, WireguardAttribute as Attribute,
    WireguardCmd, WireguardDeviceFlags, WireguardMessage, WireguardPeer, WireguardPeerAttribute as PeerAttribute,
    WireguardPeerFlags,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use x25519_dalek::StaticSecret;

/// A list of peers is one attribute, whose length has 16 bits.
const PEERS_AT_ONCE: usize = 200;

type Wireguard = Socket<WireguardMessage>;

pub async fn is_there() -> io::Result<bool> {
    Ok(Wireguard::open(&Space::Host).await?.is_some())
}

async fn open(space: &Space) -> io::Result<Wireguard> {
    let missing = || io::Error::new(io::ErrorKind::Unsupported, Fault::Unsupported);
    Wireguard::open(space).await?.ok_or_else(missing)
}

async fn dump(space: &Space, name: &IfName) -> io::Result<Vec<Attribute>> {
    let attributes = vec![Attribute::IfName(name.to_string())];
    let answers = open(space).await?.dump(WireguardMessage { cmd: WireguardCmd::GetDevice, attributes }).await?;
    Ok(answers.into_iter().flat_map(|a| a.attributes).collect())
}

/// None: the link knows no key of its own yet.
pub async fn observe(space: &Space, name: &IfName) -> io::Result<Option<Tunnel>> {
    Ok(read(dump(space, name).await?.iter()))
}

pub async fn traffic(space: &Space, name: &IfName) -> io::Result<BTreeMap<PublicKey, Traffic>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(traffic_of(&dump(space, name).await?, now))
}

/// `now` is of the clock that the kernel notes handshakes by (ktime_get_real).
pub(crate) fn traffic_of(attributes: &[Attribute], now: Duration) -> BTreeMap<PublicKey, Traffic> {
    let peers = attributes.iter().filter_map(|a| match a {
        Attribute::Peers(list) => Some(list),
        _ => None,
    });
    let mut found = BTreeMap::new();
    for peer in peers.flatten() {
        let (mut key, mut traffic) = (None, Traffic::default());
        for attribute in &peer.0 {
            match attribute {
                PeerAttribute::PublicKey(bytes) => key = Some(PublicKey(*bytes)),
                PeerAttribute::Endpoint(at) => traffic.endpoint = Some(SocketAddr::new(at.ip(), at.port())),
                PeerAttribute::LastHandshake(at) if at.seconds > 0 => {
                    traffic.last_handshake = Some(now.saturating_sub(Duration::from_secs(at.seconds.unsigned_abs())));
                }
                PeerAttribute::TxBytes(bytes) => traffic.sent = *bytes,
                PeerAttribute::RxBytes(bytes) => traffic.received = *bytes,
                _ => {}
            }
        }
        if let Some(key) = key {
            // A peer that goes on in another message has its counters in the first.
            found.entry(key).or_insert(traffic);
        }
    }
    found
}

pub async fn change(
    space: &Space,
    name: &IfName,
    change: &TunnelChange,
    secret: Option<&StaticSecret>,
) -> io::Result<()> {
    let mut socket = open(space).await?;
    for attributes in requests(name, change, secret) {
        socket.send(WireguardMessage { cmd: WireguardCmd::SetDevice, attributes }).await?;
    }
    Ok(())
}

/// Peers that go come first, so that their addresses are free for those that come.
fn requests(name: &IfName, change: &TunnelChange, secret: Option<&StaticSecret>) -> Vec<Vec<Attribute>> {
    let mut first = vec![Attribute::IfName(name.to_string())];
    first.extend(secret.map(|s| Attribute::PrivateKey(s.to_bytes())));
    first.extend(change.port.map(|port| Attribute::ListenPort(port.get())));
    if change.anew {
        first.push(Attribute::Flags(WireguardDeviceFlags::ReplacePeers));
    }
    let gone = change.remove.iter().map(|key| {
        WireguardPeer(vec![PeerAttribute::PublicKey(key.0), PeerAttribute::Flags(WireguardPeerFlags::RemoveMe)])
    });
    let peers: Vec<_> = gone.chain(change.set.iter().map(|(key, peer)| set(key, peer))).collect();
    let mut requests = vec![first];
    for (n, some) in peers.chunks(PEERS_AT_ONCE).enumerate() {
        if n > 0 {
            requests.push(vec![Attribute::IfName(name.to_string())]);
        }
        requests.last_mut().into_iter().for_each(|r| r.push(Attribute::Peers(some.to_vec())));
    }
    requests
}

fn set(key: &PublicKey, peer: &TunnelPeer) -> WireguardPeer {
    let mut attributes =
        vec![PeerAttribute::PublicKey(key.0), PeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps)];
    attributes.extend(peer.endpoint.map(PeerAttribute::Endpoint));
    let allowed = |net: &IpNet| {
        let family = match net {
            IpNet::V4(_) => WireguardAddressFamily::Ipv4,
            IpNet::V6(_) => WireguardAddressFamily::Ipv6,
        };
        WireguardAllowedIp(vec![Allowed::Family(family), Allowed::IpAddr(net.addr()), Allowed::Cidr(net.prefix_len())])
    };
    attributes.push(PeerAttribute::AllowedIps(peer.allowed.iter().map(allowed).collect()));
    WireguardPeer(attributes)
}

/// From all parts of a dump: a peer whose addresses fill one message goes on in the next.
pub(crate) fn read<'a>(attributes: impl Iterator<Item = &'a Attribute>) -> Option<Tunnel> {
    let (mut public_key, mut port) = (None, None);
    let mut peers: BTreeMap<PublicKey, TunnelPeer> = BTreeMap::new();
    for attribute in attributes {
        match attribute {
            Attribute::PublicKey(key) => public_key = Some(PublicKey(*key)),
            Attribute::ListenPort(n) => port = Port::try_from(*n).ok(),
            Attribute::Peers(list) => {
                for (key, part) in list.iter().filter_map(peer) {
                    let known = peers.entry(key).or_insert(TunnelPeer { endpoint: None, allowed: BTreeSet::new() });
                    known.endpoint = known.endpoint.or(part.endpoint);
                    known.allowed.extend(part.allowed);
                }
            }
            _ => {}
        }
    }
    Some(Tunnel { public_key: public_key?, port: port?, peers })
}

fn peer(peer: &WireguardPeer) -> Option<(PublicKey, TunnelPeer)> {
    let (mut key, mut endpoint, mut allowed) = (None, None, BTreeSet::new());
    for attribute in &peer.0 {
        match attribute {
            PeerAttribute::PublicKey(bytes) => key = Some(PublicKey(*bytes)),
            // Without the flow label and the scope, which differ from what was set.
            PeerAttribute::Endpoint(at) => endpoint = Some(SocketAddr::new(at.ip(), at.port())),
            PeerAttribute::AllowedIps(list) => allowed.extend(list.iter().filter_map(net)),
            _ => {}
        }
    }
    Some((key?, TunnelPeer { endpoint, allowed }))
}

fn net(allowed: &WireguardAllowedIp) -> Option<IpNet> {
    let (mut addr, mut len) = (None::<IpAddr>, None);
    for attribute in &allowed.0 {
        match attribute {
            Allowed::IpAddr(a) => addr = Some(*a),
            Allowed::Cidr(n) => len = Some(*n),
            _ => {}
        }
    }
    IpNet::new(addr?, len?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_wireguard::WireguardTimeSpec;

    fn peer_at(n: u8) -> (PublicKey, TunnelPeer) {
        let net = IpNet::from(IpAddr::from([10, 0, 0, n]));
        let endpoint = Some(SocketAddr::new(net.addr(), 51820));
        (PublicKey([n; 32]), TunnelPeer { endpoint, allowed: [net].into() })
    }

    #[test]
    fn what_is_asked_for_reads_as_it_was_meant() {
        let peers: BTreeMap<_, _> = (1..=250).map(peer_at).collect();
        let (public_key, port) = (PublicKey([9; 32]), Port::try_from(51821).unwrap());
        let tunnel = Tunnel { public_key, port, peers };
        let name: IfName = "wg1".parse().unwrap();
        let secret = StaticSecret::from([7; 32]);
        let requests = requests(&name, &tunnel.change(None), Some(&secret));
        assert_eq!(requests.len(), 2);
        assert!(requests.iter().all(|r| r[0] == Attribute::IfName("wg1".into())));
        assert_eq!(requests[0][1], Attribute::PrivateKey(secret.to_bytes()));
        assert!(requests[0].contains(&Attribute::Flags(WireguardDeviceFlags::ReplacePeers)));
        let answered = [Attribute::PublicKey([9; 32])];
        assert_eq!(read(requests.iter().flatten().chain(&answered)), Some(tunnel));
    }

    #[test]
    fn a_handshake_that_never_was_is_none() {
        let peer = |n, seconds| {
            WireguardPeer(vec![
                PeerAttribute::PublicKey([n; 32]),
                PeerAttribute::LastHandshake(WireguardTimeSpec { seconds, nano_seconds: 0 }),
                PeerAttribute::TxBytes(148),
                PeerAttribute::RxBytes(92),
            ])
        };
        let more = WireguardPeer(vec![PeerAttribute::PublicKey([1; 32])]);
        let dumped = [Attribute::Peers(vec![peer(1, 1000), peer(2, 0)]), Attribute::Peers(vec![more])];
        let found = traffic_of(&dumped, Duration::from_secs(1003));
        let told = |ago| Traffic { last_handshake: ago, sent: 148, received: 92, endpoint: None };
        assert_eq!(found[&PublicKey([1; 32])], told(Some(Duration::from_secs(3))));
        assert_eq!(found[&PublicKey([2; 32])], told(None));
    }

    #[test]
    fn a_peer_that_goes_makes_room_for_the_one_that_comes() {
        let (gone, come) = (peer_at(1), peer_at(2));
        let change = TunnelChange { set: [come].into(), remove: [gone.0].into(), ..TunnelChange::default() };
        let requests = requests(&"wg0".parse().unwrap(), &change, None);
        let [Attribute::IfName(_), Attribute::Peers(peers)] = &requests[0][..] else { panic!("{requests:?}") };
        assert_eq!(peers[0].0[1], PeerAttribute::Flags(WireguardPeerFlags::RemoveMe));
        assert_eq!(peers[1].0[0], PeerAttribute::PublicKey([2; 32]));
    }
}
