//! Which ports of the host lead to a workload.

use heddle_model::{
    net::{Port, Protocol},
    workload::{HostPort, PublishWish},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
};

/// Where ports come from that nobody named: the kernel's own default for ephemeral ports, as docker does.
const RANDOM: RangeInclusive<u16> = 32768..=60999;

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("ports {first} to {last}: {hosts} of the host for {targets} of the workload: use as many, or one")]
    Lengths { first: Port, last: Port, hosts: usize, targets: usize },
    #[error("port {port}/{protocol} of this host is in use: publish another")]
    Busy { port: Port, protocol: Protocol },
    #[error("port {port}/{protocol} is published by service {service:?}: publish another")]
    Service { port: Port, protocol: Protocol, service: String },
    #[error("address {0} is not one of this host's: publish on an address that it has")]
    NotHere(IpAddr),
    #[error("no port of this host is free in {first} to {last}: give a larger range")]
    NoneFree { first: u16, last: u16 },
    #[error("cannot hold port {port}/{protocol}")]
    Hold {
        port: Port,
        protocol: Protocol,
        #[source]
        source: io::Error,
    },
}

fn ports(range: &RangeInclusive<Port>) -> Vec<Port> {
    (range.start().get()..=range.end().get()).filter_map(|n| Port::try_from(n).ok()).collect()
}

/// What holding one port came to.
pub enum Held {
    Yes,
    /// Somebody else has it.
    Busy,
}

/// Chooses a port of the host for every port that is asked for. `hold` tries to take one, and keeps what it took.
pub fn choose(
    wishes: &[PublishWish],
    binding: Option<Ipv4Addr>,
    mut hold: impl FnMut(&HostPort) -> Result<Held, PublishError>,
) -> Result<Vec<HostPort>, PublishError> {
    let mut out = Vec::new();
    for wish in wishes {
        let (protocol, targets) = (wish.protocol, ports(&wish.target));
        let host_ip = wish.host_ip.filter(|a| !a.is_unspecified()).or(binding.map(IpAddr::V4));
        let at = |host, target| HostPort { host_ip, host, target, protocol };
        let named = wish.host.as_ref().map(ports);
        if let Some(hosts) = named.as_ref().filter(|hosts| hosts.len() == targets.len()) {
            for (host, target) in hosts.iter().zip(targets) {
                let port = at(*host, target);
                match hold(&port)? {
                    Held::Yes => out.push(port),
                    Held::Busy => return Err(PublishError::Busy { port: *host, protocol }),
                }
            }
            continue;
        }
        let candidates = match (&named, &wish.host) {
            (Some(hosts), Some(range)) if targets.len() > 1 => {
                let (first, last) = (*range.start(), *range.end());
                let (hosts, targets) = (hosts.len(), targets.len());
                return Err(PublishError::Lengths { first, last, hosts, targets });
            }
            (Some(hosts), _) => hosts.clone(),
            (None, _) => RANDOM.filter_map(|n| Port::try_from(n).ok()).collect(),
        };
        let (first, last) = (candidates.first().map_or(0, |p| p.get()), candidates.last().map_or(0, |p| p.get()));
        let mut candidates = candidates.into_iter();
        for target in targets {
            loop {
                let host = candidates.next().ok_or(PublishError::NoneFree { first, last })?;
                let port = at(host, target);
                if let Held::Yes = hold(&port)? {
                    out.push(port);
                    break;
                }
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(n: u16) -> Port {
        Port::try_from(n).unwrap()
    }

    fn wish(host: Option<(u16, u16)>, target: (u16, u16)) -> PublishWish {
        PublishWish {
            host_ip: None,
            host: host.map(|(a, b)| port(a)..=port(b)),
            target: port(target.0)..=port(target.1),
            protocol: Protocol::Tcp,
        }
    }

    fn chosen(wish: PublishWish, busy: &[u16]) -> Result<Vec<(u16, u16)>, String> {
        let hold = |p: &HostPort| Ok(if busy.contains(&p.host.get()) { Held::Busy } else { Held::Yes });
        let ports = choose(&[wish], None, hold).map_err(|e| e.to_string())?;
        Ok(ports.iter().map(|p| (p.host.get(), p.target.get())).collect())
    }

    #[test]
    fn ranges_pair_up_or_give_the_first_that_is_free() {
        assert_eq!(chosen(wish(Some((8080, 8080)), (80, 80)), &[]), Ok(vec![(8080, 80)]));
        assert_eq!(chosen(wish(Some((8000, 8002)), (80, 82)), &[]), Ok(vec![(8000, 80), (8001, 81), (8002, 82)]));
        assert_eq!(chosen(wish(Some((8000, 8010)), (80, 80)), &[8000, 8001]), Ok(vec![(8002, 80)]));
        assert_eq!(chosen(wish(None, (80, 81)), &[32768]), Ok(vec![(32769, 80), (32770, 81)]));
    }

    #[test]
    fn what_cannot_be_is_said() {
        let said = |wish, busy: &[u16]| chosen(wish, busy).unwrap_err();
        assert!(said(wish(Some((8080, 8080)), (80, 80)), &[8080]).contains("8080/tcp of this host is in use"));
        assert!(said(wish(Some((8000, 8002)), (80, 81)), &[]).contains("use as many, or one"));
        assert!(said(wish(Some((8000, 8001)), (80, 80)), &[8000, 8001]).contains("8000 to 8001"));
    }
}
