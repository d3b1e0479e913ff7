//! Holds the ports of the host that lead to workloads, so that nobody else takes them and what is taken is found.

use super::publish::{Held, PublishError};
use heddle_model::{
    TaskId,
    net::{Port, Protocol},
    workload::HostPort,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

/// Bound and not listening: what comes is translated before it reaches them.
#[derive(Default)]
pub struct Ports {
    by: Mutex<BTreeMap<TaskId, Vec<Holding>>>,
}

/// One port, with a socket for each address.
type Holding = (HostPort, Vec<OwnedFd>);

fn hold_one(addr: SocketAddr, protocol: Protocol) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = match protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if addr.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    if protocol == Protocol::Udp {
        // Nobody reads what finds no translation.
        setsockopt(&fd, sockopt::RcvBuf, &0)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(addr))?;
    Ok(fd)
}

impl Ports {
    /// Takes a port for a workload, on one address or on all.
    pub fn hold(&self, workload: &TaskId, port: &HostPort) -> Result<Held, PublishError> {
        let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let addrs = port.host_ip.map_or_else(|| everywhere.to_vec(), |a| vec![a]);
        let mut sockets = Vec::new();
        for addr in addrs {
            match hold_one(SocketAddr::new(addr, port.host.get()), port.protocol) {
                Ok(fd) => sockets.push(fd),
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Ok(Held::Busy),
                Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => return Err(PublishError::NotHere(addr)),
                // A host without IPv6 has no such sockets.
                Err(e) if e.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) && addr.is_ipv6() => {}
                Err(source) => return Err(PublishError::Hold { port: port.host, protocol: port.protocol, source }),
            }
        }
        let mut by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        by.entry(workload.clone()).or_default().push((port.clone(), sockets));
        Ok(Held::Yes)
    }

    pub fn release(&self, workload: &TaskId) {
        self.by.lock().unwrap_or_else(PoisonError::into_inner).remove(workload);
    }

    /// Whether anything is held for a workload.
    pub fn holds(&self, workload: &TaskId) -> bool {
        self.by.lock().unwrap_or_else(PoisonError::into_inner).contains_key(workload)
    }

    /// Whether this port is held for a workload.
    pub fn holds_port(&self, workload: &TaskId, port: &HostPort) -> bool {
        let by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        by.get(workload).is_some_and(|all| all.iter().any(|(held, _)| held == port))
    }

    /// Everything held, for the managers to know.
    pub fn held(&self) -> BTreeSet<(Protocol, Port)> {
        let by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        by.values().flatten().map(|(p, _)| (p.protocol, p.host)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn what_is_held_is_nobody_elses_until_it_is_given_back() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = taken.local_addr().unwrap().port();
        let port = HostPort {
            host_ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host: Port::try_from(number).unwrap(),
            target: Port::try_from(80).unwrap(),
            protocol: Protocol::Tcp,
        };
        let (ports, id) = (Ports::default(), TaskId::from_random([1; 16]));
        assert!(matches!(ports.hold(&id, &port), Ok(Held::Busy)));
        drop(taken);
        assert!(matches!(ports.hold(&id, &port), Ok(Held::Yes)));
        assert!(TcpListener::bind(("127.0.0.1", number)).is_err() && ports.held().len() == 1);
        assert!(ports.holds_port(&id, &port) && !ports.holds_port(&TaskId::from_random([2; 16]), &port));
        ports.release(&id);
        assert!(TcpListener::bind(("127.0.0.1", number)).is_ok());
        let far = HostPort { host_ip: Some([192, 0, 2, 1].into()), ..port };
        assert!(matches!(ports.hold(&id, &far), Err(PublishError::NotHere(_))));
    }
}
