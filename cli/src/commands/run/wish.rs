//! `--network NAME` and `--network name=NAME,alias=A,...`, with the flags that belong to the first network.

use heddle_model::{net::Mac, network, workload::NetworkWish};
use std::net::{Ipv4Addr, Ipv6Addr};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    #[error("{0:?}: use name=NETWORK, alias=NAME, ip=ADDRESS, ip6=ADDRESS, mac-address=MAC, gw-priority=NUMBER")]
    Field(String),
    #[error("name=NETWORK is missing")]
    NoName,
    #[error("driver-opt: networks take options, places on them do not")]
    DriverOpt,
    #[error("--{flag} is given, and {field} of network {network:?} too: use one of them")]
    Twice { flag: &'static str, field: &'static str, network: String },
}

pub fn parse(text: &str) -> Result<NetworkWish, WishError> {
    if !text.contains('=') {
        return Ok(NetworkWish { network: text.to_owned(), ..NetworkWish::default() });
    }
    let mut wish = NetworkWish::default();
    for field in text.split(',') {
        let bad = || WishError::Field(field.to_owned());
        let (key, value) = field.split_once('=').ok_or_else(bad)?;
        match key.trim() {
            "name" => wish.network = value.to_owned(),
            "alias" => wish.aliases.push(value.to_owned()),
            "ip" => wish.ip = Some(value.parse().map_err(|_| bad())?),
            "ip6" => wish.ip6 = Some(value.parse().map_err(|_| bad())?),
            "mac-address" => wish.mac = Some(value.parse().map_err(|_| bad())?),
            "gw-priority" => wish.gateway_priority = value.parse().map_err(|_| bad())?,
            "driver-opt" => return Err(WishError::DriverOpt),
            _ => return Err(bad()),
        }
    }
    if wish.network.is_empty() { Err(WishError::NoName) } else { Ok(wish) }
}

/// What stands outside of `--network`.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub aliases: Vec<String>,
    pub ip: Option<Ipv4Addr>,
    pub ip6: Option<Ipv6Addr>,
    pub mac: Option<Mac>,
}

fn one<T>(
    flag: &'static str,
    field: &'static str,
    network: &str,
    given: Option<T>,
    own: &mut Option<T>,
) -> Result<(), WishError> {
    if given.is_some() && own.is_some() {
        return Err(WishError::Twice { flag, field, network: network.to_owned() });
    }
    *own = given.or(own.take());
    Ok(())
}

/// Gives the flags to the first network, or to the default one if none is named.
pub fn join(mut wishes: Vec<NetworkWish>, flags: Flags) -> Result<Vec<NetworkWish>, WishError> {
    if wishes.is_empty() {
        wishes.push(NetworkWish { network: network::DEFAULT.to_owned(), ..NetworkWish::default() });
    }
    if let Some(first) = wishes.first_mut() {
        let name = first.network.clone();
        if !flags.aliases.is_empty() && !first.aliases.is_empty() {
            return Err(WishError::Twice { flag: "network-alias", field: "alias", network: name });
        }
        first.aliases.extend(flags.aliases);
        one("ip", "ip", &name, flags.ip, &mut first.ip)?;
        one("ip6", "ip6", &name, flags.ip6, &mut first.ip6)?;
        one("mac-address", "mac-address", &name, flags.mac, &mut first.mac)?;
    }
    Ok(wishes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_fields() {
        assert_eq!(parse("back").unwrap(), NetworkWish { network: "back".into(), ..NetworkWish::default() });
        let wish =
            parse("name=back,alias=a,alias=b,ip=10.1.0.9,ip6=fd00::9,mac-address=02:42:00:00:00:09,gw-priority=-3");
        let want = NetworkWish {
            network: "back".into(),
            aliases: vec!["a".into(), "b".into()],
            ip: Some(Ipv4Addr::new(10, 1, 0, 9)),
            ip6: Some("fd00::9".parse().unwrap()),
            mac: Some("02:42:00:00:00:09".parse().unwrap()),
            gateway_priority: -3,
        };
        assert_eq!(wish.unwrap(), want);
        for bad in ["alias=a", "name=a,ip=fd00::1", "name=a,colour=red", "name=a,x", "name=a,driver-opt=k=v"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_go_to_the_first_network() {
        let flags = || Flags { aliases: vec!["www".into()], ip: Some(Ipv4Addr::new(10, 1, 0, 9)), ..Flags::default() };
        let joined = join(vec![parse("a").unwrap(), parse("b").unwrap()], flags()).unwrap();
        assert_eq!((joined[0].aliases.len(), joined[0].ip.is_some(), joined[1].aliases.len()), (1, true, 0));
        assert_eq!(join(Vec::new(), flags()).unwrap()[0].network, "bridge");
        let twice = join(vec![parse("name=a,ip=10.1.0.8").unwrap()], flags()).unwrap_err();
        assert_eq!(twice.to_string(), "--ip is given, and ip of network \"a\" too: use one of them");
    }
}
