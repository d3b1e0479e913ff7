//! The ways of one service beside others: 1, 100, 1,000 in all, each with a virtual address, a published port and an endpoint.
//!
//! A thousand tasks, each with the virtual addresses of all, would not go into an emulated machine. So there is a host for each
//! number, in namespaces that end with it, whose kernel state the agent's own code chooses and makes (`desired`, `Reconciler`)
//! from what managers would tell it; two of the tasks are there, on this host: one serves, one asks.

use crate::{
    meter::{self, Effort, Round, Way},
    report,
};
use heddle_agent::{
    dataplane::{
        desired::{Balancer, LocalHost, Member, Sandbox, Wanted, addresses, desired},
        names,
        state::Space,
    },
    kernel::linux::{LinuxKernel, space},
    reconciler::Reconciler,
};
use heddle_cluster_tests::program;
use heddle_model::{
    ClusterId, Meta, NetworkId, NodeId, ServiceId, TaskId, Timestamp, Version,
    assignment::{ClusterView, EndpointView, NetworkView, NodeView, PeerView, ServiceView},
    endpoint::{Attachment, EndpointMode, PortConfig, PublishMode, VirtualIp},
    net::{DualAddr, DualSubnet, Mac, Mtu, Port, Protocol, Vni},
    node::IngressLeg,
    service::TaskSpec,
    task::{Task, TaskState, TaskStatus},
};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    net::IpAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// The argument by which this program is such a host; the number of services and the balancer follow.
pub const HOST: &str = "--host";
const SERVICES: [u32; 3] = [1, 100, 1000];
const AIM: f64 = 0.95;
/// The first octet of what is in them follows `10.` and `fd`.
const FRONT: u8 = 1;
const FRONT_SERVICES: u8 = 2;
const INGRESS: u8 = 3;
const INGRESS_HOSTS: u8 = 4;
/// Where the client is, beside the host.
const CLIENT: &str = "client";
const HOST_ADDR: [u8; 4] = [192, 0, 2, 1];
/// Published ports of the first service: of iperf3 and of `heddle whoami`.
const BULK: u16 = 5201;
const WEB: u16 = 80;
const PUBLISHED: u16 = 20_000;

pub fn measure(balancer: Balancer, effort: Effort) {
    let hosts: Vec<Host> = SERVICES.iter().map(|n| Host::start(*n, balancer)).collect();
    let ways: Vec<Way> = hosts.iter().flat_map(Host::ways).collect();
    let rounds = meter::rounds(&ways, effort);
    report::part(&format!("ways of one of many services, {} balances", balancer.as_str()));
    meter::show(&ways, &rounds);
    let per_host = ways.len() / hosts.len();
    for (at, services) in SERVICES.iter().enumerate().skip(1) {
        for way in 0..per_host {
            let show = |kind: &str, of: fn(&Round) -> &Vec<f64>| {
                let ratios: Vec<f64> = rounds.iter().map(|r| of(r)[at * per_host + way] / of(r)[way]).collect();
                let what = format!("{kind}: {} / with 1", ways[at * per_host + way].name);
                report::ratio(&what, &ratios, (*services == 1000).then_some(AIM));
            };
            show("bulk", |r| &r.bulk);
            show("connections", |r| &r.connections);
        }
    }
}

/// A process with namespaces of its own, which end with the value.
struct Host {
    services: u32,
    process: Child,
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

impl Host {
    fn start(services: u32, balancer: Balancer) -> Self {
        let mut process = Command::new("unshare")
            .args(["-mn", "--propagation", "private"])
            .arg(std::env::current_exe().unwrap())
            .args([HOST, &services.to_string(), balancer.as_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the host of {services} services");
        Self { services, process }
    }

    fn ways(&self) -> [Way; 2] {
        let of = |name: &str| PathBuf::from(format!("/proc/{}/root/run/netns/{name}", self.process.id()));
        let Space::Named(caller) = names::task_space(&task_id(1)) else { panic!("a task has a namespace") };
        let with = if self.services == 1 { "service".to_owned() } else { "services".to_owned() };
        let with = format!("with {} {with}", self.services);
        let vip = IpAddr::from(addr(FRONT_SERVICES, 2).v4);
        [
            Way { name: format!("virtual address {with}"), from: of(&caller), to: vip, bulk: BULK, web: WEB },
            Way {
                name: format!("published port {with}"),
                from: of(CLIENT),
                to: HOST_ADDR.into(),
                bulk: PUBLISHED,
                web: PUBLISHED + 1,
            },
        ]
    }
}

/// This program's part as such a host.
pub fn host(args: &[String]) {
    let services: u32 = args[0].parse().unwrap();
    let balancer = if args[1] == Balancer::Ipvs.as_str() { Balancer::Ipvs } else { Balancer::Nftables };
    let program = program().display().to_string();
    shell(
        "set -e; mount -t tmpfs none /run; mkdir /run/netns; ip link set lo up
         ip netns add client && ip link add eth0 type veth peer name eth0 netns client
         ip addr add 192.0.2.1/24 dev eth0 && ip link set eth0 up
         ip -n client addr add 192.0.2.250/24 dev eth0 && ip -n client link set eth0 up",
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let servers = runtime.block_on(async {
        let (view, sandboxes, local) = told(services, balancer);
        let member = Some(Member { view: &view, local: &local });
        let (networks, parents) = (BTreeMap::new(), BTreeMap::new());
        let wanted = Wanted { member, networks: &networks, parents: &parents, sandboxes: &sandboxes };
        let outcome = Reconciler::new(LinuxKernel::new()).reconcile(&desired(&wanted)).await.unwrap();
        assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        let serve = move || {
            let start = |program: &str, args: &[&str]| Command::new(program).args(args).stdout(Stdio::null()).spawn();
            Ok([start("iperf3", &["-s"])?, start(&program, &["whoami", "--port", &WEB.to_string()])?])
        };
        space::inside(&names::task_space(&task_id(0)), serve).await.unwrap()
    });
    println!("ready");
    // Whoever started it lets go, or ends.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    for mut server in servers {
        let _ = server.kill();
        let _ = server.wait();
    }
}

fn shell(script: &str) {
    assert!(Command::new("sh").args(["-c", script]).status().unwrap().success(), "{script}");
}

fn id(kind: u8, n: u32) -> [u8; 16] {
    let mut bytes = [kind; 16];
    // What names are made of is the beginning of an id, so it has to differ there.
    bytes[..4].copy_from_slice(&(n.wrapping_mul(0x9e37_79b9)).to_be_bytes());
    bytes
}

fn task_id(n: u32) -> TaskId {
    TaskId::from_random(id(9, n))
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

fn mac(net: u8, n: u32) -> Mac {
    let low = n.to_be_bytes();
    Mac::from_random([1, 2, 3, net, low[2], low[3]])
}

fn network(net: u8, services: u8) -> NetworkView {
    NetworkView {
        id: NetworkId::from_random(id(3, net.into())),
        name: format!("net{net}"),
        vni: Vni::try_from(4096 + u32::from(net)).unwrap(),
        subnet: subnet(net),
        service_subnet: subnet(services),
        mtu: Mtu(1450),
        ingress: net == INGRESS,
        internal: false,
        encrypted: false,
    }
}

/// Its places, ingress first.
fn attachments(n: u32, networks: &[NetworkView; 2]) -> Vec<Attachment> {
    let at = |(network, net): (&NetworkView, u8)| Attachment {
        network: network.id.clone(),
        addr: addr(net, n + 2),
        mac: mac(net, n),
        aliases: vec![],
    };
    networks.iter().zip([INGRESS, FRONT]).map(at).collect()
}

fn task(n: u32, networks: &[NetworkView; 2], node: &NodeId) -> Task {
    Task {
        id: task_id(n),
        meta: Meta::default(),
        service: ServiceId::from_random(id(7, n)),
        service_name: format!("s{n}"),
        slot: 1,
        spec: TaskSpec { stop_grace: Duration::ZERO, ..TaskSpec::default() }.into(),
        spec_version: Version(1),
        node: Some(node.clone()),
        bound: None,
        choice: None,
        attachments: attachments(n, networks),
        host_ports: vec![],
        desired: TaskState::Running,
        stop: false,
        started: None,
        not_before: Timestamp(0),
        status: TaskStatus { state: TaskState::Running, ..TaskStatus::default() },
    }
}

fn service(task: &Task, n: u32, front: &NetworkView) -> ServiceView {
    let port = |target: u16, published: u32| PortConfig {
        protocol: Protocol::Tcp,
        target: target.try_into().unwrap(),
        published: Some(u16::try_from(u32::from(PUBLISHED) + published).unwrap().try_into().unwrap()),
        mode: PublishMode::Ingress,
    };
    ServiceView {
        id: task.service.clone(),
        name: task.service_name.clone(),
        mode: EndpointMode::Vip,
        virtual_ips: vec![VirtualIp { network: front.id.clone(), addr: addr(FRONT_SERVICES, n + 2) }],
        ports: vec![port(BULK, 2 * n), port(WEB, 2 * n + 1)],
    }
}

/// What managers tell a host whose task 0 serves and task 1 asks, with so many services of one task each, of which the first is
/// task 0's; the tasks' namespaces; and what the host knows of itself.
fn told(services: u32, balancer: Balancer) -> (NodeView, BTreeMap<TaskId, Sandbox>, LocalHost) {
    let networks = [network(INGRESS, INGRESS_HOSTS), network(FRONT, FRONT_SERVICES)];
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
        data_path_addr: HOST_ADDR.into(),
        data_path_mtu: None,
        ingress: Some(IngressLeg { index: 1, addr: addr(INGRESS_HOSTS, 2), mac: mac(INGRESS_HOSTS, 2) }),
        keys: BTreeMap::new(),
    };
    view.peers.insert(node.clone(), here);
    view.networks.extend(networks.iter().map(|n| (n.id.clone(), n.clone())));
    for n in 0..services.max(2) {
        let task = task(n, &networks, &node);
        if n < services {
            let service = service(&task, n, &networks[1]);
            view.services.insert(service.id.clone(), service);
        }
        for at in &task.attachments {
            let endpoint = EndpointView {
                network: at.network.clone(),
                task: task.id.clone(),
                task_name: task.name(),
                service: Some(task.service.clone()),
                slot: 1,
                node: node.clone(),
                addr: at.addr,
                mac: at.mac,
                aliases: vec![],
                in_service: true,
            };
            view.endpoints.insert((at.network.clone(), task.id.clone()), endpoint);
        }
        if n < 2 {
            view.tasks.insert(task.id.clone(), task);
        }
    }
    let local = LocalHost {
        node,
        data_path_addr: HOST_ADDR.into(),
        data_path_mtu: Mtu(1500),
        tunnel: None,
        gateway: DualSubnet { v4: "172.18.0.0/16".parse().unwrap(), v6: "fd00:18::/64".parse().unwrap() },
        gateway_mtu: Mtu(1500),
        balancer,
    };
    let outside = addresses::assign(&local.gateway, &view.tasks.keys().cloned().collect(), &BTreeMap::new());
    let sandbox = |t: &Task| (t.id.clone(), Sandbox::of_task(t, outside.get(&t.id).copied(), &[]));
    let sandboxes = view.tasks.values().map(sandbox).collect();
    (view, sandboxes, local)
}
