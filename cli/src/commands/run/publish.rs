//! `-p [IP:][HOST:]TARGET[/PROTOCOL]`, docker's short form.

use heddle_model::{
    net::{Port, Protocol},
    workload::PublishWish,
};
use std::{net::IpAddr, ops::RangeInclusive};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    #[error("port {0:?}: use a number from 1 to 65535, or a range such as 8000-8010")]
    Port(String),
    #[error("protocol {0:?}: use tcp or udp")]
    Protocol(String),
    #[error("address {0:?}: use an IPv4 address, or an IPv6 address in brackets such as [::1]")]
    Addr(String),
    #[error("host ports {host} and target ports {target}: use ranges of one length, or one target port")]
    Lengths { host: String, target: String },
}

fn range(text: &str) -> Result<RangeInclusive<Port>, PublishError> {
    let bad = || PublishError::Port(text.to_owned());
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |s: &str| s.parse::<Port>().map_err(|_| bad());
    match number(first)?..=number(last)? {
        range if range.is_empty() => Err(bad()),
        range => Ok(range),
    }
}

fn length(range: &RangeInclusive<Port>) -> u16 {
    range.end().get() - range.start().get()
}

fn host_ip(text: &str) -> Result<IpAddr, PublishError> {
    let bad = || PublishError::Addr(text.to_owned());
    match text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        Some(v6) => v6.parse().map(IpAddr::V6).map_err(|_| bad()),
        None => text.parse().map(IpAddr::V4).map_err(|_| bad()),
    }
}

pub fn parse(text: &str) -> Result<PublishWish, PublishError> {
    let (ports, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some((_, other)) => return Err(PublishError::Protocol(other.to_owned())),
    };
    let (before, target) = match ports.rsplit_once(':') {
        Some((before, target)) => (Some(before), target),
        None => (None, ports),
    };
    let (ip, host) = match before {
        None => (None, ""),
        Some(before) => match before.rsplit_once(':') {
            Some((ip, host)) => (Some(host_ip(ip)?), host),
            None => (None, before),
        },
    };
    let target_range = range(target)?;
    let host_range = if host.is_empty() || host == "0" { None } else { Some(range(host)?) };
    if let Some(given) = &host_range
        && length(&target_range) > 0
        && length(given) != length(&target_range)
    {
        return Err(PublishError::Lengths { host: host.to_owned(), target: target.to_owned() });
    }
    Ok(PublishWish { host_ip: ip, host: host_range, target: target_range, protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let range = |r: RangeInclusive<Port>| format!("{}-{}", r.start(), r.end());
        match parse(text) {
            Ok(p) => {
                let ip = p.host_ip.map_or("any".to_owned(), |ip| ip.to_string());
                format!("{ip} {} {} {}", p.host.map_or("any".to_owned(), range), range(p.target), p.protocol)
            }
            Err(e) => format!("error: {e}"),
        }
    }

    #[test]
    fn every_form_that_docker_takes() {
        for (text, want) in [
            ("80", "any any 80-80 tcp"),
            ("80/udp", "any any 80-80 udp"),
            ("8080:80", "any 8080-8080 80-80 tcp"),
            (":80", "any any 80-80 tcp"),
            ("0:80", "any any 80-80 tcp"),
            ("80-82", "any any 80-82 tcp"),
            ("8000-8010:80", "any 8000-8010 80-80 tcp"),
            ("8000-8002:80-82/udp", "any 8000-8002 80-82 udp"),
            ("127.0.0.1:8080:80", "127.0.0.1 8080-8080 80-80 tcp"),
            ("127.0.0.1::80", "127.0.0.1 any 80-80 tcp"),
            ("[::1]:8080:80", "::1 8080-8080 80-80 tcp"),
            ("[::1]::80/udp", "::1 any 80-80 udp"),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("", "port \"\""),
            ("0", "port \"0\""),
            ("80:", "port \"\""),
            ("99999:80", "port \"99999\""),
            ("82-80", "port \"82-80\""),
            ("80/sctp", "protocol \"sctp\""),
            ("127.0.0.1:80", "port \"127.0.0.1\""),
            ("::1:8080:80", "address \"::1\""),
            ("example:8080:80", "address \"example\""),
            ("8000-8005:80-81", "host ports 8000-8005 and target ports 80-81"),
            ("8000:80-81", "host ports 8000 and target ports 80-81"),
        ] {
            assert!(shown(text).starts_with(&format!("error: {part}")), "{text}: {}", shown(text));
        }
    }
}
