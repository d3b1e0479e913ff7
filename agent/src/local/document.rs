//! Networks and workloads in the shape of docker's API, so that who reads docker's documents reads ours.

use super::{network::HostNetwork, state::HostState};
use crate::{
    agent::{JobPicture, MemberPicture, Picture, on_host},
    dataplane::{
        desired::{Sandbox, addresses, link_of},
        names,
    },
    worker::{Job, NOT_STARTED},
};
use heddle_model::{
    TaskId, Timestamp,
    assignment::NetworkView,
    container::{Mount, MountSource},
    network::{self, Driver},
    task::TaskState,
    volume::{VolumeName, VolumeRecord},
    workload::HostPort,
};
use jiff::Timestamp as Moment;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, net::IpAddr, path::Path};

/// As Go writes a time that is not known: only managers know when a network of the cluster was made.
const NEVER: &str = "0001-01-01T00:00:00Z";

pub(super) fn moment(at: Timestamp) -> String {
    Moment::from_millisecond(at.0 as i64).unwrap_or_default().to_string()
}

fn with_prefix(addr: Option<&IpAddr>, len: impl Fn(IpAddr) -> Option<u8>) -> String {
    addr.and_then(|a| Some(format!("{a}/{}", len(*a)?))).unwrap_or_default()
}

fn container(name: &str, addrs: &[IpAddr], mac: &str, len: impl Fn(IpAddr) -> Option<u8>) -> Value {
    json!({
        "Name": name,
        "EndpointID": "",
        "MacAddress": mac,
        "IPv4Address": with_prefix(addrs.iter().find(|a| a.is_ipv4()), &len),
        "IPv6Address": with_prefix(addrs.iter().find(|a| a.is_ipv6()), &len),
    })
}

/// What every network's document has.
fn base(id: &str, name: &str, created: &str, scope: &str, driver: Driver) -> Map<String, Value> {
    let value = json!({
        "Name": name,
        "Id": id,
        "Created": created,
        "Scope": scope,
        "Driver": driver.as_str(),
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": {}, "Config": [] },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": {},
        "Options": {},
        "Labels": {},
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// A network of this host.
pub fn host_network(network: &HostNetwork, picture: &Picture) -> Value {
    let spec = &network.spec;
    let mut out = base(network.id.as_str(), network.name(), &moment(network.created_at), "local", spec.driver);
    out.insert("EnableIPv4".into(), network.pool(true).is_some().into());
    out.insert("EnableIPv6".into(), network.pool(false).is_some().into());
    let config = network.pools.iter().map(|p| {
        let mut config = json!({ "Subnet": p.subnet, "Gateway": p.gateway() });
        if let Some(range) = p.range {
            config["IPRange"] = json!(range);
        }
        if !p.aux.is_empty() {
            config["AuxiliaryAddresses"] = json!(p.aux);
        }
        config
    });
    out.insert("IPAM".into(), json!({ "Driver": "default", "Options": {}, "Config": config.collect::<Vec<_>>() }));
    out.insert("Internal".into(), spec.internal.into());
    let mut options = spec.options.clone();
    if let Some(name) = link_of(network) {
        options.entry("com.docker.network.bridge.name".into()).or_insert_with(|| name.to_string());
    }
    if let Some(mtu) = spec.mtu {
        options.entry(super::driver::MTU.into()).or_insert_with(|| mtu.to_string());
    }
    out.insert("Options".into(), json!(options));
    out.insert("Labels".into(), json!(spec.annotations.labels));
    let mut containers = Map::new();
    for sandbox in picture.sandboxes.values() {
        if let Some(leg) = sandbox.leg(&network.id) {
            let len = |a| network.pool_of(a).map(|p| p.subnet.prefix_len());
            let value = container(&sandbox.name, &leg.addrs, &leg.mac.to_string(), len);
            containers.insert(sandbox.id.to_string(), value);
        }
    }
    if spec.driver == Driver::Host {
        let here = picture.jobs.values().filter(|p| p.job.task().is_some_and(on_host) && runs(p));
        containers.extend(here.map(|p| (p.job.id().to_string(), container(&p.job.name(), &[], "", |_| None))));
    }
    out.insert("Containers".into(), containers.into());
    Value::Object(out)
}

/// Workloads on the networks that are no link: the host's own, and none.
pub fn add_unlinked(document: &mut Value, network: &HostNetwork, state: &HostState, picture: &Picture) {
    for (id, _) in state.on_network(&network.id) {
        let Some(seen) = picture.jobs.get(id).filter(|p| runs(p)) else { continue };
        if document["Containers"].get(id.as_str()).is_none() {
            document["Containers"][id.as_str()] = container(&seen.job.name(), &[], "", |_| None);
        }
    }
}

fn runs(picture: &JobPicture) -> bool {
    !picture.status.state.is_terminal()
}

/// The bridge by which members of overlays reach the world; docker's `docker_gwbridge`.
pub fn gateway(member: &MemberPicture, picture: &Picture) -> Value {
    let subnets = member.gateway.nets();
    let id = names::gateway_network(&member.node);
    let mut out = base(id.as_str(), network::GATEWAY, NEVER, "local", Driver::Bridge);
    out.insert("EnableIPv6".into(), true.into());
    let gateways = addresses::bridge_addr(&member.gateway).addrs();
    let config: Vec<Value> =
        subnets.iter().zip(gateways).map(|(net, gateway)| json!({ "Subnet": net, "Gateway": gateway })).collect();
    out.insert("IPAM".into(), json!({ "Driver": "default", "Options": {}, "Config": config }));
    out.insert(
        "Options".into(),
        json!({
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.bridge.enable_ip_masquerade": "true",
            "com.docker.network.bridge.name": names::gateway_bridge().as_str(),
        }),
    );
    let len = |a: IpAddr| subnets.iter().find(|n| n.contains(&a)).map(|n| n.prefix_len());
    let mut containers = Map::new();
    for sandbox in picture.sandboxes.values() {
        if let Some((_, addr)) = &sandbox.gateway {
            containers.insert(sandbox.id.to_string(), container(&sandbox.name, &addr.addrs(), "", len));
        }
    }
    let ingress = addresses::ingress_addr(&member.gateway).addrs();
    containers.insert("ingress-sbox".into(), container("gateway_ingress-sbox", &ingress, "", len));
    out.insert("Containers".into(), containers.into());
    Value::Object(out)
}

/// An overlay, as far as this host takes part in it.
pub fn overlay(network: &NetworkView, member: &MemberPicture, picture: &Picture) -> Value {
    let mut out = base(network.id.as_str(), &network.name, NEVER, "swarm", Driver::Overlay);
    out.insert("EnableIPv6".into(), true.into());
    let config: Vec<Value> = network.subnet.nets().iter().map(|net| json!({ "Subnet": net })).collect();
    out.insert("IPAM".into(), json!({ "Driver": "default", "Options": {}, "Config": config }));
    out.insert("Internal".into(), network.internal.into());
    out.insert("Ingress".into(), network.ingress.into());
    let vni = network.vni.to_string();
    out.insert("Options".into(), json!({ "com.docker.network.driver.overlay.vxlanid_list": vni }));
    let len = |a: IpAddr| network.subnet.nets().into_iter().find(|n| n.contains(&a)).map(|n| n.prefix_len());
    let mut containers = Map::new();
    for sandbox in picture.sandboxes.values() {
        if let Some(leg) = sandbox.leg(&network.id) {
            let value = container(&sandbox.name, &leg.addrs, &leg.mac.to_string(), len);
            containers.insert(sandbox.id.to_string(), value);
        }
    }
    let view = member.view.as_deref();
    if network.ingress {
        let leg = view.and_then(|v| v.peers.get(&member.node)?.ingress.as_ref());
        if let Some(leg) = leg {
            let value = container("ingress-endpoint", &leg.addr.addrs(), &leg.mac.to_string(), |a| {
                network.service_subnet.nets().into_iter().find(|n| n.contains(&a)).map(|n| n.prefix_len())
            });
            containers.insert("ingress-sbox".into(), value);
        }
    }
    out.insert("Containers".into(), containers.into());
    let peers = view.into_iter().flat_map(|v| v.peers.values());
    let peers: Vec<Value> = peers.map(|p| json!({ "Name": p.hostname, "IP": p.data_path_addr })).collect();
    out.insert("Peers".into(), peers.into());
    Value::Object(out)
}

/// A volume of this host. docker says nothing of who uses it.
pub fn volume(name: &VolumeName, record: &VolumeRecord, data: &Path, users: &[String]) -> Value {
    json!({
        "Name": name,
        "Driver": "local",
        "Scope": "local",
        "Mountpoint": data,
        "CreatedAt": moment(record.created_at),
        "Labels": record.labels,
        "Options": {},
        "UsedBy": users,
    })
}

/// docker's word for a state.
fn state(status: &heddle_model::task::TaskStatus) -> &'static str {
    match status.state {
        TaskState::Running => "running",
        state if state.is_terminal() => "exited",
        _ => "created",
    }
}

fn span(from: Timestamp, now: Timestamp) -> String {
    let seconds = now.since(from).as_secs();
    let (n, unit) = match seconds {
        0 => return "Less than a second".into(),
        1..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86400 => (seconds / 3600, "hour"),
        _ => (seconds / 86400, "day"),
    };
    format!("{n} {unit}{}", if n == 1 { "" } else { "s" })
}

fn status_line(status: &heddle_model::task::TaskStatus, now: Timestamp) -> String {
    let span = span(status.since, now);
    match state(status) {
        "running" if status.unhealthy => format!("Up {span} (unhealthy)"),
        "running" => format!("Up {span}"),
        "exited" => format!("Exited ({}) {span} ago", status.exit_code.unwrap_or_default()),
        _ => "Created".into(),
    }
}

fn created(job: &Job) -> Timestamp {
    match job {
        Job::Task(task) => task.meta.created_at,
        Job::Workload(workload) => workload.created_at,
    }
}

fn labels(job: &Job) -> BTreeMap<String, String> {
    match job {
        Job::Task(task) => BTreeMap::from([
            ("com.docker.swarm.service.id".to_owned(), task.service.to_string()),
            ("com.docker.swarm.service.name".into(), task.service_name.clone()),
            ("com.docker.swarm.task.id".into(), task.id.to_string()),
            ("com.docker.swarm.task.name".into(), task.name()),
        ]),
        Job::Workload(workload) => workload.spec.annotations.labels.clone(),
    }
}

/// The host's addresses that a port is published on.
fn host_ips(port: &HostPort) -> Vec<IpAddr> {
    let everywhere = [IpAddr::from([0; 4]), IpAddr::from([0u16; 8])];
    port.host_ip.map_or_else(|| everywhere.to_vec(), |a| vec![a])
}

fn ports(seen: &JobPicture, sandbox: Option<&Sandbox>) -> Vec<HostPort> {
    match &seen.job {
        Job::Workload(workload) if runs(seen) => workload.ports.clone(),
        Job::Workload(_) => Vec::new(),
        Job::Task(_) => sandbox.map_or_else(Vec::new, |s| s.ports.clone()),
    }
}

/// The network of an id: name, prefix length and gateway of an address.
fn networks(id: &TaskId, state: &HostState, picture: &Picture) -> Value {
    let mut out = Map::new();
    let member = picture.member.as_ref();
    if let Some(sandbox) = picture.sandboxes.get(id) {
        for leg in &sandbox.legs {
            let here = state.networks.get(&leg.network);
            let overlay = member.and_then(|m| m.view.as_ref()?.networks.get(&leg.network));
            let name = here.map(|n| n.name().to_owned()).or_else(|| overlay.map(|n| n.name.clone()));
            let len = |a: IpAddr| {
                let overlay = || overlay?.subnet.nets().into_iter().find(|n| n.contains(&a));
                here.and_then(|n| Some(n.pool_of(a)?.subnet)).or_else(overlay).map(|n| n.prefix_len())
            };
            let addr = |v4: bool| leg.addrs.iter().find(|a| a.is_ipv4() == v4);
            let text = |v4: bool| addr(v4).map_or_else(String::new, ToString::to_string);
            let prefix = |v4: bool| addr(v4).and_then(|a| len(*a)).unwrap_or_default();
            let gateway = |v4: bool| {
                here.filter(|n| !n.spec.internal)
                    .and_then(|n| n.pool(v4))
                    .map_or_else(String::new, |p| p.gateway().to_string())
            };
            out.insert(
                name.unwrap_or_else(|| leg.network.to_string()),
                json!({
                    "NetworkID": leg.network,
                    "EndpointID": "",
                    "Aliases": leg.aliases,
                    "MacAddress": leg.mac.to_string(),
                    "Interface": leg.dev,
                    "GwPriority": leg.gateway_priority,
                    "Gateway": gateway(true),
                    "IPAddress": text(true),
                    "IPPrefixLen": prefix(true),
                    "IPv6Gateway": gateway(false),
                    "GlobalIPv6Address": text(false),
                    "GlobalIPv6PrefixLen": prefix(false),
                    "DNSNames": [sandbox.name, id.short()],
                }),
            );
        }
    }
    for endpoint in state.endpoints_of(id) {
        let Some(network) = state.networks.get(&endpoint.network) else { continue };
        let unlinked = || json!({ "NetworkID": network.id, "EndpointID": "", "Aliases": endpoint.aliases });
        out.entry(network.name().to_owned()).or_insert_with(unlinked);
    }
    Value::Object(out)
}

fn command(job: &Job) -> String {
    match job.image() {
        None => job.process().command.join(" "),
        Some(image) => {
            let words = image.entrypoint.iter().flatten().chain(&image.program.command);
            words.map(String::as_str).collect::<Vec<_>>().join(" ")
        }
    }
}

/// As it was asked for: what of it is a template is not filled in.
fn mount(mount: &Mount) -> Value {
    let (kind, name, source) = match &mount.source {
        MountSource::Bind(path) => ("bind", None, path.as_str()),
        MountSource::Tmpfs { .. } => ("tmpfs", None, ""),
        MountSource::Volume(name) => ("volume", name.as_deref(), ""),
    };
    json!({
        "Type": kind,
        "Name": name.unwrap_or_default(),
        "Source": source,
        "Destination": mount.target,
        "RW": !mount.read_only,
    })
}

/// A row of `ps`.
pub fn summary(seen: &JobPicture, state_of: &HostState, picture: &Picture, now: Timestamp) -> Value {
    let (job, status) = (&seen.job, &seen.status);
    let sandbox = picture.sandboxes.get(job.id());
    let row = |port: &HostPort, ip: IpAddr| {
        let (private, public, kind) = (port.target.get(), port.host.get(), port.protocol.as_str());
        json!({ "IP": ip, "PrivatePort": private, "PublicPort": public, "Type": kind })
    };
    let ports = ports(seen, sandbox);
    let ports: Vec<Value> = ports.iter().flat_map(|p| host_ips(p).into_iter().map(move |ip| row(p, ip))).collect();
    json!({
        "Id": job.id(),
        "Names": [format!("/{}", job.name())],
        "Image": job.image().map(|image| &image.image),
        "Command": command(job),
        "Created": created(job).0 / 1000,
        "State": state(status),
        "Status": status_line(status, now),
        "Ports": ports,
        "Labels": labels(job),
        "NetworkSettings": { "Networks": networks(job.id(), state_of, picture) },
    })
}

/// All of a workload or task.
pub fn whole(seen: &JobPicture, state_of: &HostState, picture: &Picture) -> Value {
    let (job, status) = (&seen.job, &seen.status);
    let sandbox = picture.sandboxes.get(job.id());
    let process = job.process();
    let env: Vec<String> = process.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let mut ports = Map::new();
    for port in self::ports(seen, sandbox) {
        let key = format!("{}/{}", port.target, port.protocol);
        let bindings = host_ips(&port).into_iter().map(|ip| json!({ "HostIp": ip, "HostPort": port.host.to_string() }));
        let list = ports.entry(key).or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.extend(bindings);
        }
    }
    let space = names::task_space(job.id());
    let sandbox_key = sandbox.map_or_else(String::new, |_| format!("/run/netns/{space}"));
    let (spec_dns, restart, auto_remove) = match job {
        Job::Workload(workload) => {
            (Some(&workload.spec.dns), workload.runs.saturating_sub(1), workload.spec.auto_remove)
        }
        Job::Task(_) => (None, 0, false),
    };
    json!({
        "Id": job.id(),
        "Name": format!("/{}", job.name()),
        "Created": moment(created(job)),
        "Path": process.command.first(),
        "Args": process.command.get(1..).unwrap_or_default(),
        "RestartCount": restart,
        "State": {
            "Status": state(status),
            "Running": status.state == TaskState::Running,
            "Pid": status.pid.filter(|_| status.state == TaskState::Running).unwrap_or_default(),
            "ExitCode": status.exit_code.unwrap_or_default(),
            "Error": if status.message == NOT_STARTED { status.error.as_str() } else { "" },
            "Since": moment(status.since),
        },
        "Config": {
            "Image": job.image().map(|image| &image.image),
            "Entrypoint": job.image().and_then(|image| image.entrypoint.as_ref()),
            "Hostname": process.hostname,
            "Env": env,
            "Cmd": process.command,
            "WorkingDir": process.dir.as_deref().unwrap_or("/"),
            "Labels": labels(job),
        },
        "Mounts": job.mounts().iter().map(mount).collect::<Vec<_>>(),
        "HostConfig": {
            "AutoRemove": auto_remove,
            "Dns": spec_dns.map(|d| &d.servers),
            "DnsSearch": spec_dns.map(|d| &d.search),
            "DnsOptions": spec_dns.map(|d| &d.options),
        },
        "NetworkSettings": {
            "SandboxKey": sandbox_key,
            "Ports": ports,
            "Gateway": sandbox.and_then(|s| s.gateway.as_ref()).map(|(dev, addr)| json!({ "Interface": dev, "Addresses": addr.addrs() })),
            "Networks": networks(job.id(), state_of, picture),
        },
    })
}
