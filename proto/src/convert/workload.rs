//! Standalone workloads and what they ask of networks.

use super::{
    ConvertError, Result,
    container::{of_line, to_line},
    list, millis, optional, port, some, text, wrong,
};
use crate::v1;
use heddle_model::{
    connection::Connection,
    net::Port,
    workload::{NetworkWish, PublishWish, WorkloadSpec},
};
use std::{ops::RangeInclusive, time::Duration};

impl From<NetworkWish> for v1::NetworkWish {
    fn from(w: NetworkWish) -> Self {
        Self {
            network: w.network,
            aliases: w.aliases,
            ip: w.ip.map_or_else(String::new, |a| a.to_string()),
            ip6: w.ip6.map_or_else(String::new, |a| a.to_string()),
            mac: w.mac.map_or_else(String::new, |m| m.to_string()),
            gateway_priority: w.gateway_priority,
        }
    }
}

impl TryFrom<v1::NetworkWish> for NetworkWish {
    type Error = ConvertError;
    fn try_from(w: v1::NetworkWish) -> Result<Self> {
        Ok(Self {
            network: w.network,
            aliases: w.aliases,
            ip: optional("ip", &w.ip)?,
            ip6: optional("ip6", &w.ip6)?,
            mac: optional("mac", &w.mac)?,
            gateway_priority: w.gateway_priority,
        })
    }
}

impl From<PublishWish> for v1::PublishWish {
    fn from(p: PublishWish) -> Self {
        let number = |p: &Port| u32::from(p.get());
        let (host_first, host_last) = p.host.as_ref().map_or((0, 0), |h| (number(h.start()), number(h.end())));
        Self {
            host_ip: p.host_ip.map_or_else(String::new, |a| a.to_string()),
            host_first,
            host_last,
            target_first: number(p.target.start()),
            target_last: number(p.target.end()),
            protocol: v1::Protocol::from(p.protocol).into(),
        }
    }
}

fn range(field: &'static str, first: u32, last: u32) -> Result<RangeInclusive<Port>> {
    match port(field, first)?..=port(field, last)? {
        range if range.is_empty() => Err(wrong(field, format_args!("{first}-{last} ends before it begins"))),
        range => Ok(range),
    }
}

impl TryFrom<v1::PublishWish> for PublishWish {
    type Error = ConvertError;
    fn try_from(p: v1::PublishWish) -> Result<Self> {
        Ok(Self {
            host_ip: optional("host_ip", &p.host_ip)?,
            host: if p.host_first == 0 { None } else { Some(range("host", p.host_first, p.host_last)?) },
            target: range("target", p.target_first, p.target_last)?,
            protocol: p.protocol().try_into()?,
        })
    }
}

impl From<WorkloadSpec> for v1::WorkloadSpec {
    fn from(s: WorkloadSpec) -> Self {
        Self {
            annotations: Some(s.annotations.into()),
            process: Some(s.process.into()),
            image: s.image.map(|image| (*image).into()),
            networks: s.networks.into_iter().map(Into::into).collect(),
            ports: s.ports.into_iter().map(Into::into).collect(),
            dns: Some(s.dns.into()),
            extra_hosts: s.extra_hosts.into_iter().map(to_line).collect(),
            mounts: s.mounts.into_iter().map(Into::into).collect(),
            auto_remove: s.auto_remove,
            stop_grace_ms: millis(s.stop_grace),
        }
    }
}

impl TryFrom<v1::WorkloadSpec> for WorkloadSpec {
    type Error = ConvertError;
    fn try_from(s: v1::WorkloadSpec) -> Result<Self> {
        Ok(Self {
            annotations: some("annotations", s.annotations)?.into(),
            process: some("process", s.process)?.into(),
            image: s.image.map(|image| image.try_into().map(Box::new)).transpose()?,
            networks: list(s.networks)?,
            ports: list(s.ports)?,
            dns: s.dns.unwrap_or_default().try_into()?,
            extra_hosts: s.extra_hosts.into_iter().map(of_line).collect::<Result<_>>()?,
            mounts: list(s.mounts)?,
            auto_remove: s.auto_remove,
            stop_grace: Duration::from_millis(s.stop_grace_ms),
        })
    }
}

impl From<Connection> for v1::Connection {
    fn from(c: Connection) -> Self {
        Self {
            id: c.id.into(),
            meta: Some(c.meta.into()),
            node: c.node.into(),
            workload: c.workload.into(),
            name: c.name,
            attachment: Some(c.attachment.into()),
            released: c.released,
        }
    }
}

impl TryFrom<v1::Connection> for Connection {
    type Error = ConvertError;
    fn try_from(c: v1::Connection) -> Result<Self> {
        Ok(Self {
            id: text("id", &c.id)?,
            meta: some("meta", c.meta)?.into(),
            node: text("node", &c.node)?,
            workload: text("workload", &c.workload)?,
            name: c.name,
            attachment: some("attachment", c.attachment)?.try_into()?,
            released: c.released,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_model::{
        ConnectionId, Meta, NetworkId, NodeId, TaskId,
        endpoint::Attachment,
        net::{DualAddr, Mac},
    };

    #[test]
    fn a_connection_survives_the_wire_both_ways() {
        let attachment = Attachment {
            network: NetworkId::from_random([1; 16]),
            addr: DualAddr { v4: [10, 1, 0, 5].into(), v6: "fd00::5".parse().unwrap() },
            mac: Mac::from_random([5; 6]),
            aliases: vec!["db".into()],
        };
        for released in [false, true] {
            let connection = Connection {
                id: ConnectionId::from_random([2; 16]),
                meta: Meta::default(),
                node: NodeId::from_random([3; 16]),
                workload: TaskId::from_random([4; 16]),
                name: "w".into(),
                attachment: attachment.clone(),
                released,
            };
            assert_eq!(Connection::try_from(v1::Connection::from(connection.clone())), Ok(connection));
        }
    }

    #[test]
    fn a_wish_without_an_address_leaves_it_open_and_a_bad_one_is_named() {
        let wish = v1::NetworkWish { network: "n".into(), ..v1::NetworkWish::default() };
        let read = NetworkWish::try_from(wish.clone()).unwrap();
        assert_eq!((read.ip, read.ip6, read.mac), (None, None, None));
        let bad = NetworkWish::try_from(v1::NetworkWish { ip: "10.1.0".into(), ..wish }).unwrap_err();
        assert_eq!(bad.field, "ip");
    }
}
