//! Options of the bridge driver.

use super::{MTU, OptionError, boolean, mtu, one_of, parsed};
use heddle_model::{
    net::{IfName, Mtu},
    network::Driver,
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

const NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const MODE_V4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const MODE_V6: &str = "com.docker.network.bridge.gateway_mode_ipv6";
const SOURCE_V4: &str = "com.docker.network.host_ipv4";
const SOURCE_V6: &str = "com.docker.network.host_ipv6";
const KNOWN: &[&str] = &[NAME, ICC, MASQUERADE, BINDING, MODE_V4, MODE_V6, SOURCE_V4, SOURCE_V6, MTU];

/// How a network's members are reached from outside (docker's gateway modes).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GatewayMode {
    /// Published ports are translated; what leaves has the host's address.
    #[default]
    Nat,
    /// As `Nat`, and every port is open to who has a route.
    NatUnprotected,
    /// No translation: published ports are open at the members' own addresses.
    Routed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The link's; derived from the network's id when absent.
    pub name: Option<IfName>,
    /// Members reach each other.
    pub icc: bool,
    pub masquerade: bool,
    /// Where ports are published that name no address.
    pub binding: Option<Ipv4Addr>,
    pub mode_v4: GatewayMode,
    pub mode_v6: GatewayMode,
    /// What leaves has this source instead of the outgoing link's address.
    pub source_v4: Option<Ipv4Addr>,
    pub source_v6: Option<Ipv6Addr>,
    pub mtu: Option<Mtu>,
}

impl GatewayMode {
    const ALL: [GatewayMode; 3] = [GatewayMode::Nat, GatewayMode::NatUnprotected, GatewayMode::Routed];

    const fn as_str(self) -> &'static str {
        match self {
            GatewayMode::Nat => "nat",
            GatewayMode::NatUnprotected => "nat-unprotected",
            GatewayMode::Routed => "routed",
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: None,
            icc: true,
            masquerade: true,
            binding: None,
            mode_v4: GatewayMode::Nat,
            mode_v6: GatewayMode::Nat,
            source_v4: None,
            source_v6: None,
            mtu: None,
        }
    }
}

/// What nft and sysctl read as this name alone: no patterns, no quotes, none of the names that mean every link.
fn link_name(value: &str) -> Result<IfName, OptionError> {
    let wanted = "an interface name of 1 to 15 of a-z, A-Z, 0-9, '_', '.' and '-', but not all or default";
    let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if !plain || ["all", "default"].contains(&value) {
        return Err(OptionError::Value { option: NAME, value: value.to_owned(), allowed: vec![wanted] });
    }
    parsed(NAME, value, wanted)
}

impl Options {
    pub fn parse(options: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        const V4: &str = "an IPv4 address";
        let mut out = Self::default();
        for (option, value) in options {
            let mode = |name| one_of(name, value, GatewayMode::ALL, GatewayMode::as_str);
            match option.as_str() {
                NAME => out.name = Some(link_name(value)?),
                ICC => out.icc = boolean(ICC, value)?,
                MASQUERADE => out.masquerade = boolean(MASQUERADE, value)?,
                BINDING => {
                    let addr: Ipv4Addr = parsed(BINDING, value, V4)?;
                    out.binding = Some(addr).filter(|a| !a.is_unspecified());
                }
                MODE_V4 => out.mode_v4 = mode(MODE_V4)?,
                MODE_V6 => out.mode_v6 = mode(MODE_V6)?,
                SOURCE_V4 => out.source_v4 = Some(parsed(SOURCE_V4, value, V4)?),
                SOURCE_V6 => out.source_v6 = Some(parsed(SOURCE_V6, value, "an IPv6 address")?),
                MTU => out.mtu = Some(mtu(value)?),
                _ => {
                    return Err(OptionError::Unknown { driver: Driver::Bridge, option: option.clone(), known: KNOWN });
                }
            }
        }
        Ok(out)
    }

    pub fn mode(&self, v4: bool) -> GatewayMode {
        if v4 { self.mode_v4 } else { self.mode_v6 }
    }

    pub fn source(&self, v4: bool) -> Option<IpAddr> {
        if v4 { self.source_v4.map(IpAddr::V4) } else { self.source_v6.map(IpAddr::V6) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Options, OptionError> {
        Options::parse(&pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    #[test]
    fn dockers_names_and_defaults() {
        let plain = parse(&[]).unwrap();
        assert!(plain.icc && plain.masquerade && plain.name.is_none() && plain.mode_v4 == GatewayMode::Nat);
        let set = parse(&[(NAME, "br9"), (ICC, "false"), (MODE_V6, "routed"), (BINDING, "127.0.0.1")]).unwrap();
        assert_eq!(set.name.as_ref().map(IfName::as_str), Some("br9"));
        assert!(!set.icc && set.mode_v6 == GatewayMode::Routed && set.binding == Some(Ipv4Addr::LOCALHOST));
        assert_eq!(parse(&[(BINDING, "0.0.0.0")]).unwrap().binding, None);
    }

    #[test]
    fn what_is_wrong_names_what_would_be_right() {
        for (name, value, part) in [
            ("com.docker.network.bridge.nome", "x", "com.docker.network.bridge.name"),
            (ICC, "maybe", "true, false"),
            (NAME, "a-name-that-is-too-long", "1 to 15"),
            (NAME, "e*", "1 to 15"),
            (NAME, "a\"b", "1 to 15"),
            (NAME, "all", "not all or default"),
            (MODE_V4, "bridged", "nat-unprotected"),
            (BINDING, "::1", "an IPv4 address"),
        ] {
            let said = parse(&[(name, value)]).unwrap_err().to_string();
            assert!(said.contains(part) && said.contains(name), "{said}");
        }
    }
}
