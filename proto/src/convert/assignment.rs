//! What a node is told, as the dispatcher sends it.

use super::{ConvertError, Result, keys_of, keys_to, list, mac, mtu, optional, port, some, text, wrong};
use crate::v1::{self, assigned, assigned_key};
use heddle_model::{
    assignment::{Changes, ClusterView, EndpointView, Item, Key, NetworkView, NodeView, PeerView, ServiceView},
    net::{Mtu, Vni},
    payload::Content,
};

impl v1::Assignments {
    /// Replaces all that the node knew.
    pub fn complete(revision: u64, view: NodeView) -> Self {
        Self::all(revision, view.into_changes())
    }

    /// The same without what no disk may hold.
    pub fn without_secrets(revision: u64, view: NodeView) -> Self {
        let mut changes = view.into_changes();
        changes.update.retain(|item| !item.is_secret());
        Self::all(revision, changes)
    }

    fn all(revision: u64, changes: Changes) -> Self {
        Self { r#type: v1::assignments::Type::Complete.into(), ..Self::incremental(0, revision, changes) }
    }

    /// Turns what the node knew at `from` into what it should know at `to`.
    pub fn incremental(from: u64, to: u64, changes: Changes) -> Self {
        Self {
            r#type: v1::assignments::Type::Incremental.into(),
            applies_to: from,
            results_in: to,
            update: changes.update.into_iter().map(Into::into).collect(),
            remove: changes.remove.into_iter().map(Into::into).collect(),
            cluster: Some(v1::AssignedCluster {
                id: changes.cluster.id.into(),
                ingress_seed: changes.cluster.ingress_seed,
                data_path_port: changes.cluster.data_path_port.get().into(),
                tunnel_port: changes.cluster.tunnel_port.get().into(),
                epochs: Some(changes.cluster.epochs.into()),
            }),
        }
    }

    pub fn into_changes(self) -> Result<Changes> {
        let cluster = some("cluster", self.cluster)?;
        Ok(Changes {
            cluster: ClusterView {
                id: text("cluster.id", &cluster.id)?,
                ingress_seed: cluster.ingress_seed,
                data_path_port: port("cluster.data_path_port", cluster.data_path_port)?,
                tunnel_port: port("cluster.tunnel_port", cluster.tunnel_port)?,
                epochs: some("cluster.epochs", cluster.epochs)?.into(),
            },
            update: list(self.update)?,
            remove: list(self.remove)?,
        })
    }
}

impl From<Item> for v1::Assigned {
    fn from(item: Item) -> Self {
        let item = match item {
            Item::Task(t) => assigned::Item::Task((*t).into()),
            Item::Network(n) => assigned::Item::Network(v1::AssignedNetwork {
                id: n.id.into(),
                name: n.name,
                vni: n.vni.get(),
                subnet: Some(n.subnet.into()),
                service_subnet: Some(n.service_subnet.into()),
                mtu: n.mtu.0.into(),
                ingress: n.ingress,
                internal: n.internal,
                encrypted: n.encrypted,
            }),
            Item::Peer(p) => assigned::Item::Peer(v1::AssignedPeer {
                node: p.node.into(),
                hostname: p.hostname,
                data_path_addr: p.data_path_addr.to_string(),
                ingress: p.ingress.map(Into::into),
                keys: keys_to(p.keys),
                data_path_mtu: p.data_path_mtu.map_or(0, |m| m.0.into()),
            }),
            Item::Service(s) => assigned::Item::Service(v1::AssignedService {
                id: s.id.into(),
                name: s.name,
                mode: v1::EndpointMode::from(s.mode).into(),
                virtual_ips: s.virtual_ips.into_iter().map(Into::into).collect(),
                ports: s.ports.into_iter().map(Into::into).collect(),
            }),
            Item::Endpoint(e) => assigned::Item::Endpoint(v1::AssignedEndpoint {
                network: e.network.into(),
                task: e.task.into(),
                task_name: e.task_name,
                service: e.service.map_or_else(String::new, Into::into),
                slot: e.slot,
                node: e.node.into(),
                addr: Some(e.addr.into()),
                mac: e.mac.to_string(),
                aliases: e.aliases,
                in_service: e.in_service,
            }),
            Item::Payload(id, content) => {
                assigned::Item::Payload(v1::AssignedPayload { id: id.into(), content: content.0.to_vec() })
            }
            Item::Logins(service, logins) => {
                assigned::Item::Logins(v1::AssignedLogins { service: service.into(), logins: Some(logins.into()) })
            }
        };
        Self { item: Some(item) }
    }
}

impl TryFrom<v1::Assigned> for Item {
    type Error = ConvertError;
    fn try_from(assigned: v1::Assigned) -> Result<Self> {
        Ok(match some("item", assigned.item)? {
            assigned::Item::Task(t) => Item::Task(Box::new(t.try_into()?)),
            assigned::Item::Network(n) => Item::Network(NetworkView {
                id: text("network.id", &n.id)?,
                name: n.name,
                vni: Vni::try_from(n.vni).map_err(|e| wrong("network.vni", e))?,
                subnet: some("network.subnet", n.subnet)?.try_into()?,
                service_subnet: some("network.service_subnet", n.service_subnet)?.try_into()?,
                mtu: Mtu(u16::try_from(n.mtu).map_err(|e| wrong("network.mtu", e))?),
                ingress: n.ingress,
                internal: n.internal,
                encrypted: n.encrypted,
            }),
            assigned::Item::Peer(p) => Item::Peer(PeerView {
                node: text("peer.node", &p.node)?,
                hostname: p.hostname,
                data_path_addr: text("peer.data_path_addr", &p.data_path_addr)?,
                ingress: p.ingress.map(TryInto::try_into).transpose()?,
                keys: keys_of("peer.keys", p.keys)?,
                data_path_mtu: mtu("peer.data_path_mtu", p.data_path_mtu)?,
            }),
            assigned::Item::Service(s) => Item::Service(ServiceView {
                mode: s.mode().try_into()?,
                id: text("service.id", &s.id)?,
                name: s.name,
                virtual_ips: list(s.virtual_ips)?,
                ports: list(s.ports)?,
            }),
            assigned::Item::Endpoint(e) => Item::Endpoint(EndpointView {
                network: text("endpoint.network", &e.network)?,
                task: text("endpoint.task", &e.task)?,
                task_name: e.task_name,
                service: optional("endpoint.service", &e.service)?,
                slot: e.slot,
                node: text("endpoint.node", &e.node)?,
                addr: some("endpoint.addr", e.addr)?.try_into()?,
                mac: mac("endpoint.mac", &e.mac)?,
                aliases: e.aliases,
                in_service: e.in_service,
            }),
            assigned::Item::Payload(p) => Item::Payload(text("payload.id", &p.id)?, Content(p.content.into())),
            assigned::Item::Logins(l) => {
                Item::Logins(text("logins.service", &l.service)?, some("logins.logins", l.logins)?.into())
            }
        })
    }
}

impl From<Key> for v1::AssignedKey {
    fn from(key: Key) -> Self {
        let key = match key {
            Key::Task(t) => assigned_key::Key::Task(t.into()),
            Key::Network(n) => assigned_key::Key::Network(n.into()),
            Key::Peer(p) => assigned_key::Key::Peer(p.into()),
            Key::Service(s) => assigned_key::Key::Service(s.into()),
            Key::Endpoint(n, t) => assigned_key::Key::Endpoint(v1::EndpointKey { network: n.into(), task: t.into() }),
            Key::Payload(p) => assigned_key::Key::Payload(p.into()),
            Key::Logins(s) => assigned_key::Key::Logins(s.into()),
        };
        Self { key: Some(key) }
    }
}

impl TryFrom<v1::AssignedKey> for Key {
    type Error = ConvertError;
    fn try_from(key: v1::AssignedKey) -> Result<Self> {
        Ok(match some("key", key.key)? {
            assigned_key::Key::Task(t) => Key::Task(text("key.task", &t)?),
            assigned_key::Key::Network(n) => Key::Network(text("key.network", &n)?),
            assigned_key::Key::Peer(p) => Key::Peer(text("key.peer", &p)?),
            assigned_key::Key::Service(s) => Key::Service(text("key.service", &s)?),
            assigned_key::Key::Endpoint(e) => {
                Key::Endpoint(text("key.endpoint.network", &e.network)?, text("key.endpoint.task", &e.task)?)
            }
            assigned_key::Key::Payload(p) => Key::Payload(text("key.payload", &p)?),
            assigned_key::Key::Logins(s) => Key::Logins(text("key.logins", &s)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_model::{
        ClusterId, Meta, NetworkId, NodeId, PayloadId, ServiceId, TaskId, Timestamp, Version,
        container::{Container, LogLimits, Ulimit, host_line},
        endpoint::{Attachment, EndpointMode, PortConfig, PublishMode},
        health::{HealthCheck, Probe},
        login::{Login, Logins, Password},
        net::{DualAddr, DualSubnet, Mac, Port, Protocol},
        node::IngressLeg,
        payload::{FileMode, FilePath, PayloadFile, PayloadKind},
        placement::{Amounts, Limits, NanoCpus, Placement, Resources},
        service::{NetworkTarget, ProcessSpec, RestartPolicy, Runtime, TaskSpec},
        task::{Choice, Task, TaskState, TaskStatus},
        tunnel::{Epoch, Epochs, PublicKey},
        workload::DnsConfig,
    };
    use std::time::Duration;

    fn container() -> Container {
        let mounts = [
            "type=bind,source=/srv,target=/data,readonly",
            "type=tmpfs,target=/tmp,tmpfs-size=64k",
            "type=volume,source=data-{{.Task.Slot}},target=/var/data",
            "type=volume,target=/var/cache",
        ];
        Container {
            user: Some("web:1000".parse().unwrap()),
            groups: vec!["audio".into()],
            read_only: true,
            mounts: mounts.map(|m| m.parse().unwrap()).to_vec(),
            cap_add: ["NET_ADMIN".parse().unwrap()].into(),
            cap_drop: ["ALL".parse().unwrap()].into(),
            ulimits: [Ulimit::parse("nofile=1:2").unwrap()].into(),
            stop_signal: Some("QUIT".parse().unwrap()),
            dns: DnsConfig {
                servers: vec![[192, 0, 2, 5].into()],
                search: vec!["example.org".into()],
                options: vec!["ndots:2".into()],
            },
            hosts: vec![host_line("db:fd00::5").unwrap()],
            labels: [("a".to_owned(), "b".to_owned())].into(),
            log: LogLimits { max_size: 5000, max_files: 3 },
        }
    }

    fn view() -> NodeView {
        let addr = DualAddr { v4: [10, 0, 1, 3].into(), v6: "fd00::3".parse().unwrap() };
        let subnet = DualSubnet { v4: "10.0.1.0/24".parse().unwrap(), v6: "fd00::/64".parse().unwrap() };
        let (network, node) = (NetworkId::from_random([1; 16]), NodeId::from_random([2; 16]));
        let (service, task) = (ServiceId::from_random([3; 16]), TaskId::from_random([4; 16]));
        let port = |n| Port::try_from(n).unwrap();
        let mut view = NodeView::empty(ClusterView {
            id: ClusterId::from_random([9; 16]),
            ingress_seed: 7,
            data_path_port: port(4789),
            tunnel_port: port(51820),
            epochs: Epochs { next: Some(Epoch(2)), ..Epochs::default() },
        });
        let ports = vec![PortConfig {
            protocol: Protocol::Udp,
            target: port(53),
            published: Some(port(5353)),
            mode: PublishMode::Host,
        }];
        let login = Login { username: "me".into(), password: Password("hunter2".into()) };
        let items = [
            Item::Task(Box::new(Task {
                id: task.clone(),
                meta: Meta { version: Version(5), created_at: Timestamp(6), updated_at: Timestamp(7) },
                service: service.clone(),
                service_name: "web".into(),
                slot: 2,
                spec: TaskSpec {
                    runtime: Runtime::Process(ProcessSpec {
                        command: vec!["heddle".into(), "whoami".into()],
                        env: [("A".to_owned(), "b".to_owned())].into(),
                        dir: Some("/".into()),
                        hostname: None,
                    }),
                    restart: RestartPolicy::default(),
                    placement: Placement {
                        constraints: vec!["node.role==worker".into()],
                        spread: vec!["node.labels.zone".into()],
                        max_replicas_per_node: 1,
                    },
                    networks: vec![NetworkTarget { target: network.to_string(), aliases: vec!["w".into()] }],
                    stop_grace: Duration::from_secs(10),
                    linger: Duration::from_millis(7),
                    force_update: 2,
                    resources: Resources {
                        reserved: Amounts { cpu: NanoCpus(5), memory: 6, generic: [("gpu".to_owned(), 7)].into() },
                        limit: Limits { cpu: NanoCpus(8), memory: 9, pids: 10 },
                    },
                    container: container(),
                    health: Some(HealthCheck { retries: 5, ..HealthCheck::new(Probe::Tcp(port(80))) }),
                    no_healthcheck: true,
                    files: vec![PayloadFile {
                        kind: PayloadKind::Secret,
                        source: PayloadId::from_random([8; 16]).to_string(),
                        path: FilePath::of(PayloadKind::Secret, "key").unwrap(),
                        uid: 1000,
                        gid: 100,
                        mode: FileMode::READABLE,
                    }],
                }
                .into(),
                spec_version: Version(4),
                node: Some(node.clone()),
                bound: Some(node.clone()),
                choice: Some(Choice { failed: 1, alike: [2, 3].into(), of_service: 4, all: 5 }),
                attachments: vec![Attachment {
                    network: network.clone(),
                    addr,
                    mac: Mac::from_random([5; 6]),
                    aliases: vec!["w".into()],
                }],
                host_ports: ports.clone(),
                desired: TaskState::Running,
                stop: true,
                started: Some(Timestamp(3)),
                not_before: Timestamp(1),
                status: TaskStatus {
                    state: TaskState::Failed,
                    since: Timestamp(2),
                    message: "m".into(),
                    error: "e".into(),
                    pid: Some(3),
                    exit_code: Some(-4),
                    unhealthy: true,
                },
            })),
            Item::Network(NetworkView {
                id: network.clone(),
                name: "net".into(),
                vni: Vni::FIRST,
                subnet,
                service_subnet: subnet,
                mtu: Mtu(1450),
                ingress: true,
                internal: true,
                encrypted: true,
            }),
            Item::Peer(PeerView {
                node: node.clone(),
                hostname: "h".into(),
                data_path_addr: "fd77::1".parse().unwrap(),
                ingress: Some(IngressLeg { index: 3, addr, mac: Mac::from_random([6; 6]) }),
                keys: [(Epoch(1), PublicKey([7; 32]))].into(),
                data_path_mtu: Some(Mtu(9000)),
            }),
            Item::Service(ServiceView {
                id: service.clone(),
                name: "web".into(),
                mode: EndpointMode::DnsRr,
                virtual_ips: vec![heddle_model::endpoint::VirtualIp { network: network.clone(), addr }],
                ports,
            }),
            Item::Endpoint(EndpointView {
                network,
                task,
                task_name: "web.2.x".into(),
                service: Some(service),
                slot: 2,
                node,
                addr,
                mac: Mac::from_random([5; 6]),
                aliases: vec!["w".into()],
                in_service: true,
            }),
            Item::Payload(PayloadId::from_random([8; 16]), Content(b"hunter2"[..].into())),
            Item::Logins(ServiceId::from_random([2; 16]), Logins([("r.example:5000".to_owned(), login)].into())),
        ];
        view.apply(Changes { cluster: view.cluster.clone(), update: items.into(), remove: vec![] });
        view
    }

    #[test]
    fn a_view_survives_the_wire_both_ways() {
        let view = view();
        let message = v1::Assignments::complete(12, view.clone());
        assert_eq!(message.results_in, 12);
        let mut got = NodeView::empty(view.cluster.clone());
        got.apply(message.into_changes().unwrap());
        assert_eq!(got, view);
        let gone = v1::Assignments::incremental(12, 13, view.diff(&NodeView::empty(view.cluster.clone())));
        assert_eq!((gone.applies_to, gone.results_in), (12, 13));
        got.apply(gone.into_changes().unwrap());
        assert_eq!(got, NodeView::empty(view.cluster));
    }

    #[test]
    fn a_bad_field_is_named() {
        let mut message = v1::Assignments::complete(1, view());
        message.cluster.as_mut().unwrap().data_path_port = 70000;
        let error = message.into_changes().unwrap_err();
        assert_eq!(error.to_string(), "field cluster.data_path_port: 70000 is not a port: use 1 to 65535");
    }
}
