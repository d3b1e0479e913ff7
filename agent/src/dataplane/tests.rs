//! Properties of `desired` and `diff` over random clusters.

use super::{
    desired::{Balancer, Leg, LocalHost, Member, Sandbox, Wanted, addresses, desired, ipvlan, macvlan, sandbox},
    diff::diff,
    names, own,
    state::{KernelState, Link, LinkKind, PortFlags, Space, Vxlan},
    step::Step,
    wireguard::TunnelPeer,
};
use crate::local::network::HostNetwork;
use heddle_model::{
    Annotations, ClusterId, Meta, NetworkId, NodeId, ServiceId, TaskId, Timestamp, Version,
    assignment::{ClusterView, EndpointView, NetworkView, NodeView, PeerView, ServiceView},
    endpoint::{Attachment, EndpointMode, PortConfig, PublishMode, VirtualIp},
    net::{DualAddr, DualSubnet, IfName, Mac, Mtu, Pool, Port, Protocol, Vni},
    network::{Driver, NetworkSpec},
    node::IngressLeg,
    service::TaskSpec,
    task::{Task, TaskState, TaskStatus},
    tunnel::{Backend, Epoch, Epochs, PublicKey, TunnelEnd},
    workload::HostPort,
};
use proptest::prelude::*;
use std::{collections::BTreeMap, net::IpAddr};

fn addr(net: u8, n: u8) -> DualAddr {
    DualAddr { v4: [10, net, 0, n].into(), v6: [0xfd00, net.into(), 0, 0, 0, 0, 0, n.into()].into() }
}

fn subnet(net: u8) -> DualSubnet {
    DualSubnet { v4: format!("10.{net}.0.0/24").parse().unwrap(), v6: format!("fd00:{net:x}::/64").parse().unwrap() }
}

fn network(n: u8) -> NetworkView {
    NetworkView {
        id: NetworkId::from_random([n; 16]),
        name: format!("net{n}"),
        vni: Vni::try_from(4096 + u32::from(n)).unwrap(),
        subnet: subnet(n),
        service_subnet: subnet(100 + n),
        mtu: Mtu(1450),
        ingress: n == 0,
        internal: false,
        encrypted: false,
    }
}

fn node(n: u8) -> NodeId {
    NodeId::from_random([n; 16])
}

fn peer(n: u8) -> PeerView {
    PeerView {
        node: node(n),
        hostname: format!("node{n}"),
        data_path_addr: IpAddr::from([192, 0, 2, n]),
        data_path_mtu: None,
        ingress: Some(IngressLeg { index: n.into(), addr: addr(100, n), mac: Mac::from_random([2, n, n, n, n, n]) }),
        keys: BTreeMap::new(),
    }
}

/// Task `n` is replica of the service on network `n % 3` and runs on node `1 + n % nodes`.
fn attachment(n: u8, net: u8) -> Attachment {
    Attachment {
        network: network(net).id,
        addr: addr(net, n + 2),
        mac: Mac::from_random([1, n, net, 1, 1, 1]),
        aliases: vec![],
    }
}

fn task(n: u8, nets: &[u8], on: u8, running: bool) -> Task {
    Task {
        id: TaskId::from_random([n; 16]),
        meta: Meta::default(),
        service: ServiceId::from_random([7; 16]),
        service_name: "web".into(),
        slot: n.into(),
        spec: TaskSpec { stop_grace: std::time::Duration::ZERO, ..TaskSpec::default() }.into(),
        spec_version: Version(1),
        node: Some(node(on)),
        bound: None,
        choice: None,
        attachments: nets.iter().map(|net| attachment(n, *net)).collect(),
        host_ports: vec![],
        desired: TaskState::Running,
        stop: false,
        started: None,
        not_before: Timestamp(0),
        status: TaskStatus {
            state: if running { TaskState::Running } else { TaskState::Ready },
            ..TaskStatus::default()
        },
    }
}

fn local(balancer: Balancer) -> LocalHost {
    LocalHost {
        node: node(1),
        data_path_addr: IpAddr::from([192, 0, 2, 1]),
        data_path_mtu: Mtu(1500),
        tunnel: None,
        gateway: DualSubnet { v4: "172.18.0.0/16".parse().unwrap(), v6: "fd00:18::/64".parse().unwrap() },
        gateway_mtu: Mtu(1500),
        balancer,
    }
}

/// A bridge network of this host.
pub(crate) fn bridge_network(n: u8, options: &[(&str, &str)], internal: bool) -> HostNetwork {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let annotations = Annotations { name: format!("bridge{n}"), labels: BTreeMap::new() };
    HostNetwork {
        id: NetworkId::from_random([120 + n; 16]),
        created_at: Timestamp(0),
        spec: NetworkSpec { annotations, driver: Driver::Bridge, options, internal, ..NetworkSpec::default() },
        pools: subnet(220 + n).nets().map(Pool::new).to_vec(),
        owns_parent: false,
    }
}

fn bridge_leg(workload: u8, net: u8, dev: usize) -> Leg {
    Leg {
        network: bridge_network(net, &[], false).id,
        dev: names::task_link(dev),
        addrs: addr(220 + net, workload + 2).addrs().to_vec(),
        mac: Mac::from_random([4, workload, net, 1, 1, 1]),
        aliases: vec![],
        gateway_priority: 0,
    }
}

/// A standalone workload on bridge networks, its port 80 published: on every address, or on the host's own alone.
pub(crate) fn member(n: u8, nets: &[u8]) -> Sandbox {
    let host_ip = n.is_multiple_of(2).then_some(IpAddr::from([127, 0, 0, 1]));
    let (host, target) = (Port::try_from(9000 + u16::from(n)).unwrap(), Port::try_from(80).unwrap());
    Sandbox {
        id: TaskId::from_random([50 + n; 16]),
        name: format!("w{n}"),
        legs: nets.iter().enumerate().map(|(dev, net)| bridge_leg(n, *net, dev)).collect(),
        gateway: None,
        ports: vec![HostPort { host_ip, host, target, protocol: Protocol::Tcp }],
    }
}

/// Which networks are encrypted, with the keys of which epochs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Encrypted {
    pub networks: Vec<u8>,
    pub epochs: Epochs,
    pub end: Option<TunnelEnd>,
    /// Nodes that have no keys yet.
    pub keyless: Vec<u8>,
}

/// The public key of a node that made it from these bytes.
fn key(node: u8, epoch: Epoch) -> PublicKey {
    PublicKey([[node, epoch.0 as u8].as_slice(), &[0; 30]].concat().try_into().unwrap())
}

pub(crate) fn encrypted(networks: &[u8], epochs: Epochs, by: Backend) -> Encrypted {
    let keys = epochs.all().map(|epoch| (epoch, key(1, epoch))).collect();
    let end = Some(TunnelEnd { backend: by, keys });
    Encrypted { networks: networks.to_vec(), epochs, end, keyless: vec![] }
}

/// What a host has by itself: its networks, its workloads, and the network that every task of its is connected to.
#[derive(Debug, Clone, Default)]
struct Own {
    networks: Vec<HostNetwork>,
    workloads: Vec<Sandbox>,
    connected: Option<u8>,
}

pub(crate) fn wanted(nodes: u8, tasks: &[(Vec<u8>, u8, bool)], port: u16) -> KernelState {
    wanted_by(Balancer::Nftables, nodes, tasks, port, &Own::default(), &Encrypted::default())
}

/// With two nodes, everything else as `wanted`.
pub(crate) fn wanted_with(balancer: Balancer, tasks: &[(&[u8], u8, bool)]) -> KernelState {
    let tasks: Vec<_> = tasks.iter().map(|(nets, on, running)| (nets.to_vec(), *on, *running)).collect();
    wanted_by(balancer, 2, &tasks, 8080, &Own::default(), &Encrypted::default())
}

pub(crate) fn wanted_by_ipvs(tasks: &[(&[u8], u8, bool)]) -> KernelState {
    wanted_with(Balancer::Ipvs, tasks)
}

fn wanted_by(
    balancer: Balancer,
    nodes: u8,
    tasks: &[(Vec<u8>, u8, bool)],
    port: u16,
    own: &Own,
    encrypted: &Encrypted,
) -> KernelState {
    let local = LocalHost { tunnel: encrypted.end.clone(), ..local(balancer) };
    let network = |n: u8| NetworkView { encrypted: encrypted.networks.contains(&n), ..network(n) };
    let peer = |n: u8| {
        let epochs = encrypted.epochs.all().filter(|_| !encrypted.keyless.contains(&n));
        PeerView { keys: epochs.map(|epoch| (epoch, key(n, epoch))).collect(), ..peer(n) }
    };
    let mut view = NodeView::empty(ClusterView {
        id: ClusterId::from_random([1; 16]),
        ingress_seed: 1,
        data_path_port: Port::try_from(4789).unwrap(),
        tunnel_port: Port::try_from(51820).unwrap(),
        epochs: encrypted.epochs,
    });
    view.peers = (1..=nodes).map(|n| (node(n), peer(n))).collect();
    view.networks.insert(network(0).id, network(0));
    let service = ServiceView {
        id: ServiceId::from_random([7; 16]),
        name: "web".into(),
        mode: EndpointMode::Vip,
        virtual_ips: [1, 2].map(|n| VirtualIp { network: network(n).id, addr: addr(100 + n, 2) }).to_vec(),
        ports: vec![PortConfig {
            protocol: Protocol::Tcp,
            target: Port::try_from(80).unwrap(),
            published: Port::try_from(port).ok(),
            mode: PublishMode::Ingress,
        }],
    };
    view.services.insert(service.id.clone(), service);
    let tasks: Vec<Task> = tasks
        .iter()
        .enumerate()
        .map(|(i, (nets, on, running))| task(i as u8, nets, 1 + on % nodes, *running))
        .collect();
    for task in tasks.iter().filter(|t| t.node == Some(node(1))) {
        view.tasks.insert(task.id.clone(), task.clone());
        for a in &task.attachments {
            let n = (0..3).map(&network).find(|n| n.id == a.network).unwrap();
            view.networks.insert(n.id.clone(), n);
        }
    }
    for task in &tasks {
        for a in task.attachments.iter().filter(|a| view.networks.contains_key(&a.network)) {
            let endpoint = EndpointView {
                network: a.network.clone(),
                task: task.id.clone(),
                task_name: task.name(),
                service: Some(task.service.clone()),
                slot: task.slot,
                node: task.node.clone().unwrap(),
                addr: a.addr,
                mac: a.mac,
                aliases: vec![],
                in_service: task.in_service(),
            };
            view.endpoints.insert((a.network.clone(), task.id.clone()), endpoint);
        }
    }
    let ids = view.tasks.keys().cloned().collect();
    let given = addresses::assign(&local.gateway, &ids, &BTreeMap::new());
    let sandbox = |t: &Task| {
        let mut sandbox = Sandbox::of_task(t, given.get(&t.id).copied(), &[]);
        sandbox.legs.extend(own.connected.map(|net| bridge_leg(100 + t.slot as u8, net, 9)));
        (t.id.clone(), sandbox)
    };
    let workloads = own.workloads.iter().map(|s| (s.id.clone(), s.clone()));
    let sandboxes = view.tasks.values().map(sandbox).chain(workloads).collect();
    let networks = own.networks.iter().map(|n| (n.id.clone(), n.clone())).collect();
    let member = Some(Member { view: &view, local: &local });
    desired(&Wanted { member, networks: &networks, parents: &BTreeMap::new(), sandboxes: &sandboxes })
}

/// Links of the host's space whose names an operator chose.
const CHOSEN: [&str; 3] = ["up9.10", "office.lan", "br.chosen"];

/// A network on a parent: its number, driver, options, whether the sub-interface is its own, and who is in it.
pub(crate) type OnParent = (u8, Driver, Vec<(&'static str, &'static str)>, bool, Vec<u8>);

/// Adds what such networks need, on a host whose own links are these.
pub(crate) fn add_on_parents(state: &mut KernelState, networks: &[OnParent], present: &[&str]) {
    let present: BTreeMap<IfName, Mtu> = present.iter().map(|p| (p.parse().unwrap(), Mtu(1500))).collect();
    for (n, driver, options, owns_parent, members) in networks {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let network = HostNetwork {
            id: NetworkId::from_random([100 + n; 16]),
            created_at: Timestamp(0),
            spec: NetworkSpec { driver: *driver, options, ..NetworkSpec::default() },
            pools: subnet(200 + n).nets().map(Pool::new).to_vec(),
            owns_parent: *owns_parent,
        };
        let sandbox = |m: &u8| {
            let id = TaskId::from_random([*m; 16]);
            let leg = sandbox::Leg {
                network: network.id.clone(),
                dev: format!("par{n}").parse().unwrap(),
                addrs: addr(200 + n, m + 2).addrs().to_vec(),
                mac: Mac::from_random([3, *m, *n, 1, 1, 1]),
                aliases: vec![],
                gateway_priority: 0,
            };
            let name = format!("w{m}");
            (id.clone(), sandbox::Sandbox { id, name, legs: vec![leg], gateway: None, ports: vec![] })
        };
        let sandboxes = members.iter().map(sandbox).collect();
        let add = if *driver == Driver::Macvlan { macvlan::add } else { ipvlan::add };
        add(state, &network, &sandboxes, &present);
    }
}

/// A bridge that an operator named.
pub(crate) fn add_chosen_bridge(state: &mut KernelState, name: &str) {
    let kind = LinkKind::Bridge;
    let link = Link { kind, mac: None, mtu: Mtu(1400), up: true, master: None, port: PortFlags::default() };
    let host = state.spaces.entry(Space::Host).or_default();
    host.links.insert(name.parse().unwrap(), link);
    host.addresses.insert((name.parse().unwrap(), "10.250.0.1/24".parse().unwrap()));
}

fn on_parents() -> impl Strategy<Value = Vec<OnParent>> {
    let members = || prop::sample::subsequence(vec![0u8, 1, 2, 3], 0..=3);
    let macvlan = (prop::sample::select(vec!["bridge", "vepa", "passthru", "private"]), any::<bool>(), members());
    let ipvlan = (prop::sample::select(vec!["l2", "l3", "l3s"]), any::<bool>(), members());
    (macvlan, members(), ipvlan, members()).prop_map(|((mode, vlan, m), dead, (ip, flag, i), none)| {
        let parent = if vlan { "up9.10" } else { "up9" };
        let flag = if flag { "private" } else { "bridge" };
        [
            (1, Driver::Macvlan, vec![("parent", parent), ("macvlan_mode", mode)], vlan, m),
            (2, Driver::Macvlan, vec![("macvlan_mode", mode)], false, dead),
            (3, Driver::Ipvlan, vec![("parent", "up8"), ("ipvlan_mode", ip), ("ipvlan_flag", flag)], false, i),
            // Its parent is not there.
            (4, Driver::Ipvlan, vec![("parent", "up7")], false, none),
        ]
        .to_vec()
    })
}

fn states() -> impl Strategy<Value = KernelState> {
    (cluster_states(), on_parents(), 0..5usize, any::<bool>()).prop_map(|(mut state, networks, some, chosen)| {
        add_on_parents(&mut state, &networks[..some.min(networks.len())], &["up8", "up9"]);
        if chosen {
            add_chosen_bridge(&mut state, CHOSEN[1]);
        }
        state
    })
}

fn cluster_states() -> impl Strategy<Value = KernelState> {
    let task = (prop::sample::subsequence(vec![0u8, 1, 2], 0..=3), 0..4u8, any::<bool>());
    let balancer = prop_oneof![3 => Just(Balancer::Nftables), 1 => Just(Balancer::Ipvs)];
    (balancer, 1..4u8, prop::collection::vec(task, 0..6), 8080..8082u16, owns(), encryptions())
        .prop_map(|(by, n, tasks, port, own, encrypted)| wanted_by(by, n, &tasks, port, &own, &encrypted))
}

fn encryptions() -> impl Strategy<Value = Encrypted> {
    let epochs = (1..4u32, 0..3u8).prop_map(|(current, more)| Epochs {
        current: Epoch(current),
        next: (more == 1).then_some(Epoch(current + 1)),
        retiring: (more == 2).then_some(Epoch(current - 1)),
        since: Timestamp(0),
    });
    let by = prop::sample::select(vec![Backend::Kernel, Backend::Userspace]);
    let nodes = prop::sample::subsequence(vec![2u8, 3], 0..=2);
    let networks = prop::sample::subsequence(vec![0u8, 1, 2], 0..=3);
    (networks, epochs, by, nodes, any::<bool>()).prop_map(|(networks, epochs, by, keyless, able)| {
        let all = encrypted(&networks, epochs, by);
        Encrypted { keyless, end: all.end.clone().filter(|_| able), ..all }
    })
}

/// Up to three bridge networks, their options and internality chosen at random, and workloads on some of them.
fn owns() -> impl Strategy<Value = Own> {
    let modes = prop::sample::select(vec!["nat", "nat-unprotected", "routed"]);
    let network = (any::<bool>(), any::<bool>(), modes, any::<bool>(), any::<bool>());
    let members = prop::collection::vec(prop::sample::subsequence(vec![0u8, 1, 2], 0..=3), 0..4);
    (prop::collection::vec(network, 0..=3), members, prop::option::of(0..3u8)).prop_map(|(made, members, connected)| {
        let network = |(n, (icc, masquerade, mode, internal, named)): (usize, &(bool, bool, &str, bool, bool))| {
            let truth = |yes: &bool| if *yes { "true" } else { "false" };
            let mut options = vec![
                ("com.docker.network.bridge.enable_icc", truth(icc)),
                ("com.docker.network.bridge.enable_ip_masquerade", truth(masquerade)),
                ("com.docker.network.bridge.gateway_mode_ipv6", mode),
            ];
            if *named && n == 0 {
                options.push(("com.docker.network.bridge.name", CHOSEN[2]));
            }
            bridge_network(n as u8, &options, *internal)
        };
        let there = |net: &u8| usize::from(*net) < made.len();
        let workload =
            |(n, nets): (usize, &Vec<u8>)| member(n as u8, &nets.iter().copied().filter(there).collect::<Vec<_>>());
        Own {
            networks: made.iter().enumerate().map(network).collect(),
            workloads: members.iter().enumerate().map(workload).collect(),
            connected: connected.filter(there),
        }
    })
}

pub(crate) fn blank() -> KernelState {
    KernelState { spaces: BTreeMap::from([(Space::Host, Default::default())]) }
}

/// What the kernel would say: MACs that nobody chose are the kernel's own.
fn same(a: &KernelState, b: &KernelState) -> Result<(), TestCaseError> {
    prop_assert_eq!(diff(a, b), vec![]);
    let strip = |s: &KernelState| {
        let mut s = s.clone();
        for space in s.spaces.values_mut() {
            space.links.values_mut().for_each(|l| l.mac = None);
            space.sysctls.clear();
        }
        s
    };
    prop_assert_eq!(strip(a), strip(b));
    Ok(())
}

proptest! {
    #[test]
    fn steps_lead_from_any_state_to_any_other(from in states(), to in states()) {
        let mut kernel = blank();
        for step in diff(&from, &kernel.clone()) {
            prop_assert_eq!(kernel.step(&step), Ok(()), "{:?}", step);
        }
        same(&from, &kernel)?;
        for step in diff(&to, &kernel.clone()) {
            prop_assert_eq!(kernel.step(&step), Ok(()), "{:?}", step);
        }
        same(&to, &kernel)?;
    }

    #[test]
    fn stopping_anywhere_does_no_lasting_harm(from in states(), to in states(), stop in 0..400usize) {
        let mut kernel = blank();
        for step in diff(&from, &kernel.clone()) {
            prop_assert_eq!(kernel.step(&step), Ok(()));
        }
        for step in diff(&to, &kernel.clone()).iter().take(stop) {
            prop_assert_eq!(kernel.step(step), Ok(()));
        }
        for step in diff(&to, &kernel.clone()) {
            prop_assert_eq!(kernel.step(&step), Ok(()), "{:?}", step);
        }
        same(&to, &kernel)?;
    }

    #[test]
    fn everything_wanted_is_recognised_as_ours(state in states()) {
        for (space, objects) in &state.spaces {
            if let Space::Named(name) = space {
                prop_assert!(own::space(name));
            }
            // What a foreign name carries is marked when it is made.
            let chosen = |l: &IfName| CHOSEN.contains(&l.as_str()).then_some(names::ALIAS);
            prop_assert!(objects.links.keys().all(|l| own::link(space, l.as_str(), chosen(l))));
            prop_assert!(objects.tables.keys().all(|t| own::table(&t.name)));
            let known = own::sysctls(space, objects.links.keys());
            prop_assert!(objects.sysctls.keys().all(|k| known.contains(k)));
        }
    }

    #[test]
    fn parents_are_made_before_what_lies_on_them(from in states(), to in states()) {
        let mut kernel = blank();
        let steps: Vec<_> = diff(&from, &kernel.clone());
        for step in &steps {
            prop_assert_eq!(kernel.step(step), Ok(()));
        }
        for step in diff(&to, &kernel.clone()) {
            if let Step::AddLink { link, .. } = &step && let Some(parent) = link.kind.parent() {
                let wanted = to.spaces[&Space::Host].links.get(parent).map(|l| &l.kind);
                let there = kernel.spaces[&Space::Host].links.get(parent).map(|l| &l.kind);
                prop_assert_eq!(wanted, there, "{:?}", step);
            }
            prop_assert_eq!(kernel.step(&step), Ok(()));
        }
    }

    #[test]
    fn a_parent_takes_its_children_with_it(state in states(), which in 0..3usize) {
        let mut kernel = state.clone();
        let parents: Vec<_> = state.spaces[&Space::Host].links.iter().filter(|(n, l)| {
            matches!(l.kind, LinkKind::Vlan { .. }) || n.as_str().starts_with("hdp-")
        }).map(|(n, _)| n.clone()).collect();
        let Some(parent) = parents.get(which) else { return Ok(()) };
        prop_assert_eq!(kernel.step(&Step::RemoveLink { space: Space::Host, name: parent.clone() }), Ok(()));
        for objects in kernel.spaces.values() {
            prop_assert!(objects.links.values().all(|l| l.kind.parent() != Some(parent)));
            prop_assert!(objects.addresses.iter().all(|(dev, _)| objects.links.contains_key(dev)));
        }
        for step in diff(&state, &kernel.clone()) {
            prop_assert_eq!(kernel.step(&step), Ok(()), "{:?}", step);
        }
        same(&state, &kernel)?;
    }

    #[test]
    fn both_ends_of_every_veth_are_wanted(state in states()) {
        for (space, objects) in &state.spaces {
            for (name, link) in &objects.links {
                if let LinkKind::Veth { peer: (peer_space, peer) } = &link.kind {
                    let other = state.spaces.get(peer_space).and_then(|s| s.links.get(peer));
                    let back = LinkKind::Veth { peer: (space.clone(), name.clone()) };
                    prop_assert_eq!(other.map(|l| &l.kind), Some(&back));
                }
            }
        }
    }

    /// What an encrypted network sends has no way but the tunnel, and there is nothing in the tunnel's space but that.
    #[test]
    fn encrypted_networks_have_no_way_out_but_the_tunnel(state in states()) {
        let tunnel = names::tunnel_space();
        for (space, objects) in &state.spaces {
            for link in objects.links.values() {
                let leads_in = matches!(&link.kind, LinkKind::Veth { peer: (to, _) } if *to == tunnel);
                let wireguard = matches!(link.kind, LinkKind::Wireguard { .. });
                prop_assert!(!leads_in && wireguard == (*space == tunnel), "{:?}", link);
            }
        }
        let inside = state.spaces.get(&tunnel);
        prop_assert!(inside.is_none_or(|s| s.sysctls["net.ipv4.ip_forward"] == "0" && s.routes.len() <= 1));
        let sockets = state.spaces.values().flat_map(|s| s.links.values()).filter_map(|l| match &l.kind {
            LinkKind::Vxlan(Vxlan { socket, .. }) => socket.as_ref(),
            _ => None,
        });
        prop_assert_eq!(sockets.filter(|s| **s == tunnel).count() > 0, inside.is_some());
    }
}

/// A host with a workload on network 1, which is encrypted.
pub(crate) fn wanted_encrypted(nodes: u8, encrypted: &Encrypted) -> KernelState {
    wanted_by(Balancer::Nftables, nodes, &[(vec![1], 0, true), (vec![2], 0, true)], 8080, &Own::default(), encrypted)
}

fn of_tunnel(encrypted: &Encrypted) -> super::state::SpaceState {
    let state = wanted_by(Balancer::Nftables, 3, &[(vec![1], 0, true)], 8080, &Own::default(), encrypted);
    state.spaces.get(&names::tunnel_space()).cloned().unwrap_or_default()
}

#[test]
fn the_tunnel_has_a_device_for_each_epoch_and_sends_by_the_current_one() {
    let epochs = Epochs { current: Epoch(4), next: Some(Epoch(5)), ..Epochs::default() };
    let space = of_tunnel(&encrypted(&[1], epochs, Backend::Kernel));
    assert_eq!(space.links.keys().map(IfName::as_str).collect::<Vec<_>>(), ["wg0", "wg1"]);
    assert!(space.links.values().all(|l| l.mtu == Mtu(1440)));
    assert_eq!(space.routes.iter().map(|r| r.dev.as_str()).collect::<Vec<_>>(), ["wg0"]);
    for (name, epoch, port) in [("wg0", Epoch(4), 51820), ("wg1", Epoch(5), 51821)] {
        let tunnel = &space.tunnels[&name.parse().unwrap()];
        assert_eq!((tunnel.public_key, tunnel.port.get()), (key(1, epoch), port));
        let peer = |n: u8| {
            let addr = IpAddr::from([192, 0, 2, n]);
            let endpoint = Some((addr, port).into());
            (key(n, epoch), TunnelPeer { endpoint, allowed: [addr.into()].into() })
        };
        assert_eq!(tunnel.peers, [peer(2), peer(3)].into());
    }
}

#[test]
fn a_switch_of_epochs_replaces_one_route_and_touches_no_session() {
    let of = |current, next: Option<u32>, retiring: Option<u32>| {
        let epochs = Epochs {
            current: Epoch(current),
            next: next.map(Epoch),
            retiring: retiring.map(Epoch),
            since: Timestamp(0),
        };
        let encrypted = encrypted(&[1], epochs, Backend::Kernel);
        wanted_by(Balancer::Nftables, 3, &[(vec![1], 0, true)], 8080, &Own::default(), &encrypted)
    };
    let (before, after) = (of(4, Some(5), None), of(5, None, Some(4)));
    let route = after.spaces[&names::tunnel_space()].routes.first().cloned().unwrap();
    assert_eq!(diff(&after, &before), [Step::AddRoute { space: names::tunnel_space(), route }]);
    let ended = Step::RemoveLink { space: names::tunnel_space(), name: "wg0".parse().unwrap() };
    assert_eq!(diff(&of(5, None, None), &after), [ended]);
}

#[test]
fn only_peers_that_changed_are_named() {
    let all = encrypted(&[1], Epochs::default(), Backend::Kernel);
    let of = |keyless: &[u8]| {
        let encrypted = Encrypted { keyless: keyless.to_vec(), ..all.clone() };
        wanted_by(Balancer::Nftables, 3, &[(vec![1], 0, true)], 8080, &Own::default(), &encrypted)
    };
    let change = |want: &KernelState, have: &KernelState| match &diff(want, have)[..] {
        [Step::SetTunnel { change, .. }] => change.clone(),
        other => panic!("{other:?}"),
    };
    let gone = change(&of(&[3]), &of(&[]));
    assert_eq!((gone.remove, gone.set.len(), gone.anew), ([key(3, Epoch::FIRST)].into(), 0, false));
    let came = change(&of(&[]), &of(&[3]));
    assert_eq!(came.set.keys().collect::<Vec<_>>(), [&key(3, Epoch::FIRST)]);
    assert_eq!((came.public_key, came.port, came.remove.len()), (None, None, 0));
}

#[test]
fn without_keys_the_tunnel_is_a_dead_end() {
    let space = of_tunnel(&Encrypted { end: None, ..encrypted(&[1], Epochs::default(), Backend::Kernel) });
    assert!(space.links.is_empty() && space.routes.is_empty() && !space.sysctls.is_empty());
    assert!(of_tunnel(&encrypted(&[2], Epochs::default(), Backend::Kernel)).sysctls.is_empty());
}
