//! New connections a second through a virtual address, with 1 to 1,000 services on the network, against the same two
//! workloads' direct path. In namespaces that end with the run; needs root. `cargo bench -p heddle-agent`.
#![allow(clippy::unwrap_used)]

use heddle_agent::{
    dataplane::{
        desired::{Balancer, LocalHost, Member, Sandbox, Wanted, desired},
        names,
        state::{KernelState, Space},
    },
    kernel::linux::{LinuxKernel, space},
    reconciler::Reconciler,
};
use heddle_model::{
    ClusterId, Meta, NetworkId, NodeId, ServiceId, TaskId, Timestamp, Version,
    assignment::{ClusterView, EndpointView, NetworkView, NodeView, PeerView, ServiceView},
    endpoint::{Attachment, EndpointMode, VirtualIp},
    net::{DualAddr, DualSubnet, Mac, Mtu, Port, Vni},
    service::{Placement, ProcessSpec, RestartPolicy, Runtime, TaskSpec},
    task::{Task, TaskState, TaskStatus},
};
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Instant,
};

const INSIDE: &str = "HEDDLE_BENCH_INSIDE";
const SERVICES: [u32; 4] = [1, 10, 100, 1000];
const ROUNDS: usize = 12;
const CONNECTIONS: u32 = 3000;
const PORT: u16 = 80;

fn id(kind: u8, n: u32) -> [u8; 16] {
    let mut bytes = [kind; 16];
    // What names are made of is the beginning of an id, so it has to differ there.
    bytes[..4].copy_from_slice(&(n.wrapping_mul(0x9e37_79b9)).to_be_bytes());
    bytes
}

fn addr(net: u8, n: u32) -> DualAddr {
    let low = n.to_be_bytes();
    let mut v6 = [0u8; 16];
    v6[..2].copy_from_slice(&[0xfd, net]);
    v6[12..].copy_from_slice(&low);
    DualAddr { v4: [10, net, low[2], low[3]].into(), v6: v6.into() }
}

fn subnet(net: u8) -> DualSubnet {
    DualSubnet { v4: format!("10.{net}.0.0/16").parse().unwrap(), v6: format!("fd{net:02x}::/64").parse().unwrap() }
}

fn task(n: u32, network: &NetworkId) -> Task {
    let mac = Mac::from_random([1, 2, 3, 4, 5, n as u8]);
    Task {
        id: TaskId::from_random(id(9, n)),
        meta: Meta::default(),
        service: ServiceId::from_random(id(7, n)),
        service_name: format!("s{n}"),
        slot: 1,
        spec: TaskSpec {
            runtime: Runtime::Process(ProcessSpec::default()),
            restart: RestartPolicy::default(),
            placement: Placement::default(),
            networks: vec![],
            stop_grace: std::time::Duration::ZERO,
        },
        spec_version: Version(1),
        node: Some(NodeId::from_random([1; 16])),
        attachments: vec![Attachment { network: network.clone(), addr: addr(1, n + 2), mac, aliases: vec![] }],
        host_ports: vec![],
        desired: TaskState::Running,
        not_before: Timestamp(0),
        status: TaskStatus { state: TaskState::Running, ..TaskStatus::default() },
    }
}

/// Task 0 serves, task 1 asks; so many services, each with an endpoint, of which the first is task 0's.
fn view(services: u32) -> (NodeView, BTreeMap<TaskId, Sandbox>, LocalHost) {
    let network = NetworkId::from_random([3; 16]);
    let node = NodeId::from_random([1; 16]);
    let mut view = NodeView::empty(ClusterView {
        id: ClusterId::from_random([2; 16]),
        ingress_seed: 1,
        data_path_port: Port::try_from(4789).unwrap(),
        tunnel_port: Port::try_from(51820).unwrap(),
        epochs: Default::default(),
    });
    let here = PeerView {
        node: node.clone(),
        hostname: "a".into(),
        data_path_addr: [192, 0, 2, 1].into(),
        data_path_mtu: None,
        ingress: None,
        keys: BTreeMap::new(),
    };
    view.peers.insert(node.clone(), here);
    let net = NetworkView {
        id: network.clone(),
        name: "front".into(),
        vni: Vni::FIRST,
        subnet: subnet(1),
        service_subnet: subnet(2),
        mtu: Mtu(1450),
        ingress: false,
        internal: true,
        encrypted: false,
    };
    view.networks.insert(network.clone(), net);
    for n in 0..services.max(2) {
        let task = task(n, &network);
        if n < services {
            let service = ServiceView {
                id: task.service.clone(),
                name: task.service_name.clone(),
                mode: EndpointMode::Vip,
                virtual_ips: vec![VirtualIp { network: network.clone(), addr: addr(2, n + 2) }],
                ports: vec![],
            };
            view.services.insert(service.id.clone(), service);
        }
        let endpoint = EndpointView {
            network: network.clone(),
            task: task.id.clone(),
            task_name: task.name(),
            service: Some(task.service.clone()),
            slot: 1,
            node: node.clone(),
            addr: task.attachments[0].addr,
            mac: task.attachments[0].mac,
            aliases: vec![],
            in_service: true,
        };
        view.endpoints.insert((network.clone(), task.id.clone()), endpoint);
        if n < 2 {
            view.tasks.insert(task.id.clone(), task);
        }
    }
    let sandbox = |t: &Task| (t.id.clone(), Sandbox::of_task(t, None, &[]));
    let sandboxes = view.tasks.values().map(sandbox).collect();
    let local = LocalHost {
        node,
        data_path_addr: IpAddr::from([192, 0, 2, 1]),
        data_path_mtu: Mtu(1500),
        tunnel: None,
        gateway: DualSubnet { v4: "172.18.0.0/16".parse().unwrap(), v6: "fd00:18::/64".parse().unwrap() },
        gateway_mtu: Mtu(1500),
        balancer: Balancer::Nftables,
    };
    (view, sandboxes, local)
}

fn wanted(view: &NodeView, sandboxes: &BTreeMap<TaskId, Sandbox>, local: &LocalHost) -> KernelState {
    let member = Some(Member { view, local });
    desired(&Wanted { member, networks: &BTreeMap::new(), parents: &BTreeMap::new(), sandboxes })
}

async fn rate(from: &Space, to: SocketAddr) -> f64 {
    let connect = move || {
        let start = Instant::now();
        // Reset instead of closed: ports in TIME_WAIT would run out and measure the search for a free one.
        let reset = libc::linger { l_onoff: 1, l_linger: 0 };
        for _ in 0..CONNECTIONS {
            setsockopt(&TcpStream::connect(to)?, sockopt::Linger, &reset)?;
        }
        Ok(f64::from(CONNECTIONS) / start.elapsed().as_secs_f64())
    };
    space::inside(from, connect).await.unwrap()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    if std::env::args().any(|a| a == "--test") || !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: run as root by `cargo bench`");
        return;
    }
    if std::env::var_os(INSIDE).is_none() {
        let inside = Command::new("unshare")
            .args(["-mn", "--propagation", "private"])
            .arg(std::env::current_exe().unwrap())
            .env(INSIDE, "1")
            .status();
        assert!(inside.unwrap().success());
        return;
    }
    let mounted = Command::new("mount").args(["-t", "tmpfs", "none", "/run"]).status();
    assert!(mounted.unwrap().success());
    tokio::runtime::Runtime::new().unwrap().block_on(run());
}

async fn run() {
    let mut reconciler = Reconciler::new(LinuxKernel::new());
    let (first, sandboxes, local) = view(1);
    reconciler.reconcile(&wanted(&first, &sandboxes, &local)).await.unwrap();
    let network = NetworkId::from_random([3; 16]);
    let (server, client) = (task(0, &network), task(1, &network));
    let listener =
        space::inside(&names::task_space(&server.id), || TcpListener::bind(("0.0.0.0", PORT))).await.unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let from = names::task_space(&client.id);
    let direct = SocketAddr::new(server.attachments[0].addr.v4.into(), PORT);
    let vip = SocketAddr::new(addr(2, 2).v4.into(), PORT);
    let mut ratios = vec![Vec::new(); SERVICES.len()];
    for round in 0..ROUNDS {
        for turn in 0..SERVICES.len() {
            // Nobody always goes first: neither a number of services nor one of the two paths.
            let at = (round + turn) % SERVICES.len();
            let (view, sandboxes, local) = view(SERVICES[at]);
            reconciler.reconcile(&wanted(&view, &sandboxes, &local)).await.unwrap();
            let (first, second) = if (round + turn) % 2 == 0 { (direct, vip) } else { (vip, direct) };
            let (a, b) = (rate(&from, first).await, rate(&from, second).await);
            ratios[at].push(if first == vip { a / b } else { b / a });
        }
    }
    for (services, ratios) in SERVICES.iter().zip(&mut ratios) {
        let what = format!("connections a second: virtual address / direct, {services} services");
        println!("{what:<72} {:.3}", median(ratios));
    }
}
