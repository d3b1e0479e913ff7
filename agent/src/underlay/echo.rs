//! Asks a host for an echo of so many bytes that nobody may cut into pieces (RFC 792, RFC 4443).

use nix::libc;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with,
    sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover},
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::net::UdpSocket;

/// ICMP's header, in both families.
const HEADER: usize = 8;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;

/// The number of the request, and of what answers it.
const fn kinds(v4: bool) -> (u8, u8) {
    if v4 { (8, 0) } else { (128, 129) }
}

/// Whether a packet of so many bytes, IP header and all, comes back within the limit. What the kernel refuses to send does
/// not come back.
pub async fn echo(from: IpAddr, to: IpAddr, bytes: u16, limit: Duration) -> io::Result<bool> {
    let socket = socket(from, to)?;
    let id: [u8; 4] = rand::random();
    match socket.send(&request(to.is_ipv4(), id, bytes)).await {
        Ok(_) => {}
        Err(error) if is_lost(&error) => {
            tracing::trace!(%to, bytes, %error, "no echo asked for");
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    match tokio::time::timeout(limit, answered(&socket, to.is_ipv4(), id)).await {
        Ok(answered) => answered.map(|()| true),
        Err(_) => Ok(false),
    }
}

/// A raw socket, which is used like one of UDP. Connected, so that it hears of this host alone. It sends whole what its link
/// carries, whatever the kernel has learned of the way (IP_PMTUDISC_PROBE, ip(7)).
fn socket(from: IpAddr, to: IpAddr) -> io::Result<UdpSocket> {
    let (family, protocol) =
        if to.is_ipv4() { (AddressFamily::INET, ipproto::ICMP) } else { (AddressFamily::INET6, ipproto::ICMPV6) };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::RAW, flags, Some(protocol))?;
    if to.is_ipv4() {
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
    } else {
        set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?;
    }
    bind(&socket, &SocketAddr::new(from, 0))?;
    connect(&socket, &SocketAddr::new(to, 0))?;
    UdpSocket::from_std(socket.into())
}

/// Too long for a link, no way there, forbidden by a firewall here.
fn is_lost(error: &io::Error) -> bool {
    let lost = [libc::EMSGSIZE, libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ECONNREFUSED, libc::EPERM];
    error.raw_os_error().is_some_and(|errno| lost.contains(&errno))
}

async fn answered(socket: &UdpSocket, v4: bool, id: [u8; 4]) -> io::Result<()> {
    // The beginning is enough.
    let mut buffer = [0; 128];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(read) if answers(&buffer[..read], v4, id) => return Ok(()),
            Ok(_) => {}
            // What was said of an earlier packet.
            Err(error) if is_lost(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

fn request(v4: bool, id: [u8; 4], bytes: u16) -> Vec<u8> {
    let ip = if v4 { V4_HEADER } else { V6_HEADER };
    let mut packet = vec![0; usize::from(bytes).saturating_sub(ip).max(HEADER)];
    packet[0] = kinds(v4).0;
    // Identifier and sequence number.
    packet[4..HEADER].copy_from_slice(&id);
    if v4 {
        // ICMPv6's is the kernel's to make.
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
    let words = packet.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What is read of IPv4 begins with the IP header.
pub(crate) fn answers(read: &[u8], v4: bool, id: [u8; 4]) -> bool {
    let icmp = match read.first() {
        Some(first) if v4 => read.get(usize::from(first & 0xf) * 4..),
        _ => Some(read),
    };
    icmp.is_some_and(|icmp| icmp.first() == Some(&kinds(v4).1) && icmp.get(4..HEADER) == Some(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_long_as_it_should_be_and_its_sum_right() {
        let v4 = request(true, [1, 2, 3, 4], 1499);
        assert_eq!((v4.len(), v4[0], &v4[4..8]), (1479, 8, &[1, 2, 3, 4][..]));
        // Over what has its sum in it, the sum is nothing.
        assert_eq!(checksum(&v4), 0);
        let v6 = request(false, [1, 2, 3, 4], 1280);
        assert_eq!((v6.len(), v6[0], &v6[2..4]), (1240, 128, &[0, 0][..]));
    }

    #[test]
    fn an_answer_is_to_ones_own_question() {
        let mut v6 = request(false, [1, 2, 3, 4], 100);
        assert!(!answers(&v6, false, [1, 2, 3, 4]), "a request is none");
        v6[0] = 129;
        assert!(answers(&v6, false, [1, 2, 3, 4]) && !answers(&v6, false, [1, 2, 3, 5]));
        let mut v4 = vec![0x46; 24];
        v4.extend([0, 0, 0, 0, 9, 9, 9, 9]);
        assert!(answers(&v4, true, [9; 4]));
        for end in 0..v4.len() {
            assert!(!answers(&v4[..end], true, [9; 4]));
        }
    }

    #[tokio::test]
    async fn loopback_answers_by_both_families() {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: root");
            return;
        }
        for addr in ["127.0.0.1", "::1"] {
            let addr: IpAddr = addr.parse().unwrap();
            assert!(echo(addr, addr, 1500, Duration::from_secs(5)).await.unwrap(), "{addr}");
        }
        let [from, nobody]: [IpAddr; 2] = ["127.0.0.1", "127.0.0.2"].map(|a| a.parse().unwrap());
        assert!(echo(nobody, from, 1500, Duration::from_secs(5)).await.unwrap());
    }
}
