//! Every mode and flag of macvlan and ipvlan, on links, 802.1Q sub-interfaces and nothing: what the data plane's own layer
//! makes of them, without a daemon. Packets that must pass and those that must not, IPv4 and IPv6. On Debian's kernel: many
//! others lack some of it.
#![allow(clippy::unwrap_used)]

use heddle_agent::{
    dataplane::{
        desired::{
            ipvlan, macvlan,
            sandbox::{Leg, Sandbox},
        },
        names,
        state::{KernelState, Route, Space},
    },
    host,
    kernel::{
        Kernel,
        linux::{LinuxKernel, space::inside},
    },
    local::{
        driver::{facts::HostFacts, ipvlan as ipvlan_driver, macvlan as macvlan_driver},
        network::HostNetwork,
    },
    reconciler::Reconciler,
};
use heddle_cluster_tests::vm;
use heddle_model::{
    NetworkId, TaskId, Timestamp,
    net::{IfName, Mac, Mtu, Pool},
    network::{Driver, NetworkSpec},
};
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

const TEST: &str = "packets_pass_where_they_should_and_nowhere_else";
const PORT: u16 = 7000;
/// For a packet that should pass.
const DEADLINE: Duration = Duration::from_secs(10);
/// For one that should not: what passes here does so within a millisecond.
const NEVER: Duration = Duration::from_millis(400);

/// What is tried: the addresses of both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Neighbour,
    Outside,
    FromOutside,
    Host,
}
const ALL: [To; 4] = [To::Neighbour, To::Outside, To::FromOutside, To::Host];

struct Case {
    driver: Driver,
    options: &'static [(&'static str, &'static str)],
    members: u8,
    /// For each of `ALL`; None: there is nothing of that kind.
    passes: [Option<bool>; 4],
}

const YES: Option<bool> = Some(true);
const NO: Option<bool> = Some(false);
/// Neighbours hear one another, or do not; the outside is reached both ways; the host is not.
const OPEN: [Option<bool>; 4] = [YES, YES, YES, NO];
const APART: [Option<bool>; 4] = [NO, YES, YES, NO];
const ALONE: [Option<bool>; 4] = [None, YES, YES, NO];
const DEAD_END: [Option<bool>; 4] = [YES, NO, NO, NO];
const DEAD_APART: [Option<bool>; 4] = [NO, NO, NO, NO];

const fn case(
    driver: Driver,
    options: &'static [(&'static str, &'static str)],
    members: u8,
    passes: [Option<bool>; 4],
) -> Case {
    Case { driver, options, members, passes }
}

const UP: (&str, &str) = ("parent", "up9");
const TAGGED: (&str, &str) = ("parent", "up9.10");
const MACVLAN: &[Case] = &[
    case(Driver::Macvlan, &[UP], 2, OPEN),
    case(Driver::Macvlan, &[UP, ("macvlan_mode", "bridge")], 2, OPEN),
    case(Driver::Macvlan, &[UP, ("macvlan_mode", "private")], 2, APART),
    // The switch would have to send it back.
    case(Driver::Macvlan, &[UP, ("macvlan_mode", "vepa")], 2, APART),
    case(Driver::Macvlan, &[UP, ("macvlan_mode", "passthru")], 1, ALONE),
    case(Driver::Macvlan, &[], 2, DEAD_END),
    case(Driver::Macvlan, &[("macvlan_mode", "private")], 2, DEAD_APART),
];
const IPVLAN: &[Case] = &[
    case(Driver::Ipvlan, &[UP], 2, OPEN),
    case(Driver::Ipvlan, &[UP, ("ipvlan_mode", "l2"), ("ipvlan_flag", "private")], 2, APART),
    case(Driver::Ipvlan, &[UP, ("ipvlan_mode", "l2"), ("ipvlan_flag", "vepa")], 2, APART),
    case(Driver::Ipvlan, &[UP, ("ipvlan_mode", "l3")], 2, OPEN),
    case(Driver::Ipvlan, &[UP, ("ipvlan_mode", "l3"), ("ipvlan_flag", "private")], 2, APART),
    case(Driver::Ipvlan, &[UP, ("ipvlan_mode", "l3"), ("ipvlan_flag", "vepa")], 2, APART),
    case(Driver::Ipvlan, &[UP, ("ipvlan_mode", "l3s")], 2, OPEN),
    case(Driver::Ipvlan, &[UP, ("ipvlan_mode", "l3s"), ("ipvlan_flag", "private")], 2, APART),
    case(Driver::Ipvlan, &[UP, ("ipvlan_mode", "l3s"), ("ipvlan_flag", "vepa")], 2, APART),
    case(Driver::Ipvlan, &[], 2, DEAD_END),
    case(Driver::Ipvlan, &[("ipvlan_mode", "l3")], 2, DEAD_END),
];
const MACVLAN_TAGGED: &[Case] = &[
    case(Driver::Macvlan, &[TAGGED], 2, OPEN),
    case(Driver::Macvlan, &[TAGGED, ("macvlan_mode", "private")], 2, APART),
    case(Driver::Macvlan, &[TAGGED, ("macvlan_mode", "passthru")], 1, ALONE),
];
const IPVLAN_TAGGED: &[Case] = &[
    case(Driver::Ipvlan, &[TAGGED], 2, OPEN),
    case(Driver::Ipvlan, &[TAGGED, ("ipvlan_flag", "private")], 2, APART),
    case(Driver::Ipvlan, &[TAGGED, ("ipvlan_mode", "l3")], 2, OPEN),
    case(Driver::Ipvlan, &[TAGGED, ("ipvlan_mode", "l3s")], 2, OPEN),
];

fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn pools() -> Vec<Pool> {
    ["10.210.0.0/24", "fd21::/64"].map(|s| Pool::new(s.parse().unwrap())).to_vec()
}

fn workload(n: u8) -> (TaskId, [IpAddr; 2]) {
    let addrs = [format!("10.210.0.{}", 10 + n), format!("fd21::1{n}")];
    (TaskId::from_random([n; 16]), addrs.map(|a| a.parse().unwrap()))
}

/// The network of a case after the driver has said yes to it.
fn network(case: &Case, facts: &HostFacts) -> HostNetwork {
    let options: BTreeMap<_, _> = case.options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let plan = if case.driver == Driver::Macvlan {
        macvlan_driver::check(&macvlan_driver::Options::parse(&options).unwrap(), facts, &[])
    } else {
        ipvlan_driver::check(&ipvlan_driver::Options::parse(&options).unwrap(), facts, &[])
    };
    HostNetwork {
        id: NetworkId::from_random([9; 16]),
        created_at: Timestamp(0),
        spec: NetworkSpec { driver: case.driver, options, ..NetworkSpec::default() },
        pools: pools(),
        owns_parent: plan.unwrap().owns_parent(),
    }
}

/// What the network and its workloads need, with the default routes that it offers.
fn wanted(case: &Case, network: &HostNetwork, present: &BTreeMap<IfName, Mtu>) -> KernelState {
    let dev: IfName = "eth0".parse().unwrap();
    let sandbox = |n: u8| {
        let (id, addrs) = workload(n);
        let mac = Mac([2, 0, 0, 0, 1, n]);
        let (network, addrs) = (network.id.clone(), addrs.to_vec());
        let legs = vec![Leg { network, dev: dev.clone(), addrs, mac, aliases: vec![], gateway_priority: 0 }];
        (id.clone(), Sandbox { id, name: format!("w{n}"), legs, gateway: None, ports: vec![] })
    };
    let sandboxes: BTreeMap<_, _> = (1..=case.members).map(sandbox).collect();
    let mut state = KernelState { spaces: BTreeMap::from([(Space::Host, Default::default())]) };
    let ways = if case.driver == Driver::Macvlan {
        macvlan::add(&mut state, network, &sandboxes, present);
        macvlan::way_out(network)
    } else {
        ipvlan::add(&mut state, network, &sandboxes, present);
        ipvlan::way_out(network)
    };
    for (space, objects) in state.spaces.iter_mut().filter(|(s, _)| **s != Space::Host) {
        assert!(objects.links.contains_key(&dev), "{space}");
        for way in &ways {
            let (dst, via, dev) = (way.dst, way.via, dev.clone());
            objects.routes.insert(Route { dst, via, dev, table: 254, src: None });
        }
    }
    state
}

/// Answers every connection in a namespace with the address that it came from.
async fn serve(space: &Space) {
    let listener = inside(space, || TcpListener::bind(("::", PORT))).await.unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            let from = stream.peer_addr().map(|a| a.ip().to_canonical().to_string());
            // Who asks may be gone again.
            drop(from.map(|f| stream.write_all(f.as_bytes())));
        }
    });
}

/// Who the other side says that it was asked by.
async fn ask(from: &Space, to: IpAddr, limit: Duration) -> std::io::Result<String> {
    inside(from, move || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to, PORT), limit)?;
        stream.set_read_timeout(Some(limit))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
    .await
}

/// Whether packets pass: as often as it takes where they should, once where they should not.
async fn passes(from: &Space, to: IpAddr, expected: bool) -> Result<String, String> {
    let until = Instant::now() + DEADLINE;
    loop {
        match ask(from, to, if expected { DEADLINE / 10 } else { NEVER }).await {
            Ok(answer) => return Ok(answer),
            Err(e) if !expected || Instant::now() > until => return Err(e.to_string()),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// The outside and the host's address beside it, as the case's network has them. True in the second place: routed.
fn surroundings(case: &Case) -> (&'static str, bool) {
    let has = |v: &str| case.options.iter().any(|(_, value)| *value == v);
    let link = if has("up9.10") { "up9.10" } else { "up9" };
    (link, has("l3") || has("l3s"))
}

/// Prepares what is not ours for a case, and says how to take it away again.
fn prepare(case: &Case) -> String {
    let (link, routed) = surroundings(case);
    let mut after = String::new();
    if link == "up9.10" {
        run("ip -n outside link add link up9 name up9.10 type vlan id 10 && ip -n outside link set up9.10 up");
        after.push_str("ip -n outside link del up9.10;");
    }
    if routed && link == "up9.10" {
        // The host has no address there: the outside is told the parent's MAC.
        run("ip -n outside addr add 10.230.0.1/24 dev up9.10; ip -n outside addr add fd23::1/64 dev up9.10 nodad");
        for (via, subnet) in [("10.230.0.2", "10.210.0.0/24"), ("fd23::2", "fd21::/64")] {
            let mac = "$(cat /sys/class/net/up9/address)";
            run(&format!("ip -n outside neigh add {via} lladdr {mac} dev up9.10"));
            run(&format!("ip -n outside route add {subnet} via {via}"));
        }
    } else if routed {
        // Whatever is behind the host is known by routes.
        run("ip -n outside route add 10.210.0.0/24 via 10.220.0.2; ip -n outside route add fd21::/64 via fd20::2");
        after.push_str("ip -n outside route del 10.210.0.0/24; ip -n outside route del fd21::/64;");
    } else {
        run(&format!("ip -n outside addr add 10.210.0.1/24 dev {link}"));
        run(&format!("ip -n outside addr add fd21::1/64 dev {link} nodad"));
        after.push_str(&format!("ip -n outside addr del 10.210.0.1/24 dev {link} 2>/dev/null;"));
        after.push_str(&format!("ip -n outside addr del fd21::1/64 dev {link} 2>/dev/null;"));
        // The host in the very subnet: even so it is not reached.
        run("ip addr add 10.210.0.3/24 dev up9; ip addr add fd21::3/64 dev up9 nodad");
        after.push_str("ip addr del 10.210.0.3/24 dev up9; ip addr del fd21::3/64 dev up9;");
    }
    after + "true"
}

async fn check(case: &Case, facts: &HostFacts) -> Vec<String> {
    let title = case.options.iter().map(|(_, v)| *v).collect::<Vec<_>>().join(" ");
    let (link, routed) = surroundings(case);
    let after = prepare(case);
    let network = network(case, facts);
    let goal = wanted(case, &network, &facts.parents());
    let mac = run("ip -o link show up9 | grep -o 'ether [^ ]*'");
    let mut reconciler = Reconciler::new(LinuxKernel::new());
    reconciler.reconcile(&goal).await.unwrap();
    reconciler.distrust();
    assert_eq!(reconciler.reconcile(&goal).await.unwrap().steps, 0, "{title}: not as wanted after the first pass");

    let outside = Space::Named("outside".into());
    let (first, own) = workload(1);
    let a = names::task_space(&first);
    for n in 1..=case.members {
        serve(&names::task_space(&workload(n).0)).await;
    }
    let addrs = |v4: &str, v6: &str| [v4.parse::<IpAddr>().unwrap(), v6.parse().unwrap()];
    let beyond = match (routed, link) {
        (true, "up9.10") => addrs("10.230.0.1", "fd23::1"),
        (true, _) => addrs("10.220.0.1", "fd20::1"),
        (false, _) => addrs("10.210.0.1", "fd21::1"),
    };
    let here = if routed { addrs("10.220.0.2", "fd20::2") } else { addrs("10.210.0.3", "fd21::3") };
    let (mut wrong, mut row) = (Vec::new(), format!("{:<8} {title:<16}", case.driver));
    for (to, expected) in ALL.into_iter().zip(case.passes) {
        let Some(expected) = expected else {
            row.push_str("  -/-  ");
            continue;
        };
        let (from, targets) = match to {
            To::Neighbour => (&a, workload(2).1),
            To::Outside => (&a, beyond),
            To::FromOutside => (&outside, own),
            To::Host => (&a, here),
        };
        let mut cells = Vec::new();
        for (target, source) in targets.into_iter().zip(own) {
            let found = passes(from, target, expected).await;
            cells.push(if found.is_ok() { "yes" } else { "no" });
            // Nobody translates: the other side sees the workload's own address.
            let seen = to == To::FromOutside || found.as_ref().is_ok_and(|f| *f == source.to_string());
            if found.is_ok() != expected || (expected && !seen) {
                wrong.push(format!("{} {title}: {to:?} {target}: {found:?}", case.driver));
            }
        }
        row.push_str(&format!(" {:>3}/{:<3}", cells[0], cells[1]));
    }
    if routed && link == "up9.10" {
        // The host itself reaches it by the other link. With IPv4 the outside answers for it on every link.
        let past = "fd20::1".parse().unwrap();
        assert!(passes(&Space::Host, past, true).await.is_ok(), "{title}");
        if let Ok(answer) = passes(&a, past, false).await {
            wrong.push(format!("{} {title}: past the sub-interface: {answer}", case.driver));
        }
    }
    println!("{row}");

    Reconciler::new(LinuxKernel::new())
        .reconcile(&KernelState { spaces: BTreeMap::from([(Space::Host, Default::default())]) })
        .await
        .unwrap();
    let left = LinuxKernel::new().observe().await.unwrap();
    let host = &left.spaces[&Space::Host];
    let clean = host.links.is_empty() && host.routes.is_empty() && host.rules.is_empty();
    assert!(left.spaces.len() == 1 && clean, "{title} leaves {left:?}");
    assert_eq!(run("ip -o link show up9 | grep -o 'ether [^ ]*'"), mac, "{title}: the parent's MAC");
    run(&after);
    wrong
}

mod emulated {
    use super::*;

    #[tokio::test]
    async fn packets_pass_where_they_should_and_nowhere_else() {
        let modules = [&vm::DATA_PLANE[..], &["macvlan", "ipvlan", "8021q"]].concat();
        if vm::skipped() || vm::ran_inside(TEST, &modules, &vm::TOOLS) {
            return;
        }
        run("ip netns add outside && ip -n outside link set lo up");
        run(
            "ip link add up9 type veth peer name up9 netns outside && ip -n outside link set up9 up && ip link set up9 up",
        );
        run("ip addr add 10.220.0.2/24 dev up9; ip addr add fd20::2/64 dev up9 nodad");
        run("ip -n outside addr add 10.220.0.1/24 dev up9; ip -n outside addr add fd20::1/64 dev up9 nodad");
        serve(&Space::Host).await;
        serve(&Space::Named("outside".into())).await;
        let facts = host::links::facts().unwrap();
        assert!(facts.has_macvlan && facts.has_ipvlan && facts.has_vlan, "{facts:?}");
        println!("\nIPv4/IPv6                neighbour outside  from it  host");
        let mut wrong = Vec::new();
        for case in [MACVLAN, IPVLAN, MACVLAN_TAGGED, IPVLAN_TAGGED].into_iter().flatten() {
            wrong.extend(check(case, &facts).await);
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
