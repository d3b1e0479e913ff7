//! How programs of tasks are set up on their hosts.

use super::{ConvertError, Result, list, missing, optional, text};
use crate::v1;
use heddle_model::{
    container::{Bound, Container, LogLimits, Mount, MountSource, Rlimit, Ulimit},
    workload::DnsConfig,
};
use std::net::IpAddr;

impl From<Mount> for v1::Mount {
    fn from(m: Mount) -> Self {
        use v1::mount::Source as Wire;
        let source = match m.source {
            MountSource::Bind(path) => Wire::Bind(path),
            MountSource::Tmpfs { size, mode } => Wire::Tmpfs(v1::Tmpfs { size_bytes: size, mode }),
            MountSource::Volume(name) => Wire::Volume(name.unwrap_or_default()),
        };
        Self { source: Some(source), target: m.target, read_only: m.read_only }
    }
}

impl TryFrom<v1::Mount> for Mount {
    type Error = ConvertError;
    fn try_from(m: v1::Mount) -> Result<Self> {
        use v1::mount::Source as Wire;
        let source = match m.source.ok_or_else(|| missing("mounts.source"))? {
            Wire::Bind(path) => MountSource::Bind(path),
            Wire::Tmpfs(t) => MountSource::Tmpfs { size: t.size_bytes, mode: t.mode },
            Wire::Volume(name) => MountSource::Volume(Some(name).filter(|name| !name.is_empty())),
        };
        Ok(Self { source, target: m.target, read_only: m.read_only })
    }
}

fn ulimit(u: v1::Ulimit) -> Result<(Rlimit, Ulimit)> {
    Ok((text("ulimits.name", &u.name)?, Ulimit { soft: Bound(u.soft), hard: Bound(u.hard) }))
}

impl From<DnsConfig> for v1::DnsConfig {
    fn from(d: DnsConfig) -> Self {
        let servers = d.servers.iter().map(ToString::to_string).collect();
        Self { servers, search: d.search, options: d.options }
    }
}

impl TryFrom<v1::DnsConfig> for DnsConfig {
    type Error = ConvertError;
    fn try_from(d: v1::DnsConfig) -> Result<Self> {
        let servers = d.servers.iter().map(|a| text("dns.servers", a)).collect::<Result<_>>()?;
        Ok(Self { servers, search: d.search, options: d.options })
    }
}

/// A line of /etc/hosts.
pub(super) fn to_line((name, addr): (String, IpAddr)) -> v1::ExtraHost {
    v1::ExtraHost { name, addr: addr.to_string() }
}

pub(super) fn of_line(line: v1::ExtraHost) -> Result<(String, IpAddr)> {
    Ok((line.name, text("extra_hosts.addr", &line.addr)?))
}

impl From<Container> for v1::Container {
    fn from(c: Container) -> Self {
        let limit = |(name, l): (Rlimit, Ulimit)| v1::Ulimit { name: name.to_string(), soft: l.soft.0, hard: l.hard.0 };
        Self {
            user: c.user.map(Into::into).unwrap_or_default(),
            groups: c.groups,
            read_only: c.read_only,
            mounts: c.mounts.into_iter().map(Into::into).collect(),
            cap_add: c.cap_add.into_iter().map(Into::into).collect(),
            cap_drop: c.cap_drop.into_iter().map(Into::into).collect(),
            ulimits: c.ulimits.into_iter().map(limit).collect(),
            stop_signal: c.stop_signal.map(Into::into).unwrap_or_default(),
            dns: Some(c.dns.into()),
            hosts: c.hosts.into_iter().map(to_line).collect(),
            labels: c.labels.into_iter().collect(),
            log: Some(v1::LogLimits { max_size_bytes: c.log.max_size, max_files: c.log.max_files }),
        }
    }
}

impl TryFrom<v1::Container> for Container {
    type Error = ConvertError;
    fn try_from(c: v1::Container) -> Result<Self> {
        Ok(Self {
            user: optional("user", &c.user)?,
            groups: c.groups,
            read_only: c.read_only,
            mounts: list(c.mounts)?,
            cap_add: c.cap_add.iter().map(|name| text("cap_add", name)).collect::<Result<_>>()?,
            cap_drop: c.cap_drop.iter().map(|name| text("cap_drop", name)).collect::<Result<_>>()?,
            ulimits: c.ulimits.into_iter().map(ulimit).collect::<Result<_>>()?,
            stop_signal: optional("stop_signal", &c.stop_signal)?,
            dns: c.dns.unwrap_or_default().try_into()?,
            hosts: c.hosts.into_iter().map(of_line).collect::<Result<_>>()?,
            labels: c.labels.into_iter().collect(),
            log: c
                .log
                .map_or_else(LogLimits::default, |l| LogLimits { max_size: l.max_size_bytes, max_files: l.max_files }),
        })
    }
}
