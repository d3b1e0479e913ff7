//! Why the tunnel could not be set.

use heddle_model::{net::Port, tunnel::PublicKey};
use std::io;

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("this kernel has no wireguard: load the module wireguard, or start the daemon with --wireguard userspace")]
    Unsupported,
    #[error("UDP port {port} of this host is in use: end what uses it, since encrypted networks wait for it")]
    PortTaken { port: Port, source: io::Error },
    #[error("the private key of {key} is not here")]
    NoKey { key: PublicKey },
    #[error("there is no /dev/net/tun: load the module tun")]
    NoTun { source: io::Error },
    #[error("the library that encrypts")]
    Library(#[source] gotatun::device::Error),
}

/// An error of setting the tunnel to this port, with what it means where that is known.
pub fn explained(source: io::Error, port: Option<Port>) -> io::Error {
    match (source.kind(), port) {
        (kind @ io::ErrorKind::AddrInUse, Some(port)) => io::Error::new(kind, Fault::PortTaken { port, source }),
        _ => source,
    }
}
