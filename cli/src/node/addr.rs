//! Which addresses this host uses, from what the operator says and what the host has.

use heddle_agent::host;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub const CONTROL_PORT: u16 = 2377;

#[derive(Debug, thiserror::Error)]
pub enum AddrError {
    #[error("--{flag} {value:?} is not an address or an interface of this host, with or without :PORT")]
    Unknown { flag: &'static str, value: String },
    #[error("--{flag} {value:?}: this host does not have that address")]
    NotHere { flag: &'static str, value: String },
    #[error("this host has no address but the loopback's: give it one before it joins others")]
    None,
    #[error("this host has addresses on {0}: say which to use with --advertise-addr")]
    Many(String),
}

/// `ip`, `ip:port`, `[ip6]:port`, `interface` or `interface:port`. Nobody is reached at port 0.
fn parse(text: &str, port: u16) -> Option<SocketAddr> {
    anywhere(text, port).filter(|addr| addr.port() != 0)
}

fn anywhere(text: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Some(addr);
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, port));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port_text)) => (name, port_text.parse().ok()?),
        None => (text, port),
    };
    host::addresses_of(name).first().map(|ip| SocketAddr::new(*ip, port))
}

fn own(flag: &'static str, value: &str) -> Result<SocketAddr, AddrError> {
    let addr = parse(value, CONTROL_PORT).ok_or_else(|| AddrError::Unknown { flag, value: value.to_owned() })?;
    match host::interface_of(addr.ip()) {
        Some(_) => Ok(addr),
        None => Err(AddrError::NotHere { flag, value: value.to_owned() }),
    }
}

/// Where others reach this host's manager.
pub fn advertise(value: &str) -> Result<SocketAddr, AddrError> {
    if !value.is_empty() {
        return own("advertise-addr", value);
    }
    let names: Vec<_> = host::outward().into_iter().collect();
    match names.as_slice() {
        [] => Err(AddrError::None),
        [name] => parse(name, CONTROL_PORT).ok_or(AddrError::None),
        many => Err(AddrError::Many(many.join(", "))),
    }
}

/// Where this host's tunnels end.
pub fn data_path(value: &str, advertise: SocketAddr) -> Result<IpAddr, AddrError> {
    if value.is_empty() { Ok(advertise.ip()) } else { own("data-path-addr", value).map(|a| a.ip()) }
}

/// Where to listen: everywhere, in both families where the host has both.
pub fn listen(value: &str, advertise: SocketAddr) -> Result<Vec<SocketAddr>, AddrError> {
    if value.is_empty() {
        let port = advertise.port();
        return Ok(vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]);
    }
    let unknown = || AddrError::Unknown { flag: "listen-addr", value: value.to_owned() };
    parse(value, advertise.port()).map(|a| vec![a]).ok_or_else(unknown)
}

/// Managers to join at; port 2377 when none is given.
pub fn remote(value: &str) -> Option<SocketAddr> {
    let ip = value.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, CONTROL_PORT));
    value.parse().ok().or(ip).filter(|addr| addr.port() != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_port() {
        for (text, want) in [
            ("127.0.0.1", "127.0.0.1:2377"),
            ("127.0.0.1:99", "127.0.0.1:99"),
            ("::1", "[::1]:2377"),
            ("[::1]:99", "[::1]:99"),
        ] {
            assert_eq!(parse(text, CONTROL_PORT), want.parse().ok(), "{text}");
        }
        for text in ["127.0.0.1:0", "[::1]:0", "lo:0"] {
            assert_eq!((parse(text, CONTROL_PORT), remote(text)), (None, None), "{text}");
        }
        assert_eq!(parse("lo", 7), "127.0.0.1:7".parse().ok());
        assert!(matches!(own("advertise-addr", "nonsense"), Err(AddrError::Unknown { .. })));
        assert!(matches!(own("advertise-addr", "192.0.2.1"), Err(AddrError::NotHere { .. })));
    }
}
