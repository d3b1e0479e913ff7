//! What a balancer has to do, whichever it is: the same tests for each.

use crate::{
    Lab, spread, wait,
    wire::{self, receive},
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::net::TcpSocket;

/// Three hosts' addresses of both families, and the client's that they see.
pub const TARGETS: [(&str, &str); 6] = [
    ("10.77.0.1", "10.77.0.250"),
    ("10.77.0.2", "10.77.0.250"),
    ("10.77.0.3", "10.77.0.250"),
    ("[fd77::1]", "fd77::fa"),
    ("[fd77::2]", "fd77::fa"),
    ("[fd77::3]", "fd77::fa"),
];
/// Refusals are told, not waited for.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A set of one.
pub fn one(text: &str) -> BTreeSet<String> {
    BTreeSet::from([text.to_owned()])
}

/// As a task calls itself.
fn name(task: &Value) -> String {
    task["name"].as_str().unwrap_or_default().to_owned()
}

/// Runs on a thread of its own in a network namespace.
pub fn within<T: Send + 'static>(netns: PathBuf, f: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    wire::within(&netns, f).join().map_err(|_| io::Error::other("the thread ended early"))?
}

/// Three hosts, three replicas behind port 8080: every host answers, and each backend sees the client's own address.
pub fn every_host_answers_with_the_clients_own_address(lab: &Lab) {
    lab.create_web("web", 3, &["-p", "8080:80", "-p", "8080:80/udp"]);
    for (target, client) in TARGETS {
        for udp in [false, true] {
            let answers = spread(3, |count| lab.ask("client", &format!("{target}:8080"), count, udp));
            assert_eq!(answers.nodes.len(), 3, "{target}: backends on every host");
            assert_eq!(answers.clients, one(client), "{target} udp={udp}");
        }
    }
    // From a host to itself, by its address and by 127.0.0.1, and to another host.
    let own = spread(3, |count| lab.ask("node1", "10.77.0.1:8080", count, false));
    assert_eq!(own.clients, one("10.77.0.1"));
    let other = spread(3, |count| lab.ask("node1", "10.77.0.2:8080", count, false));
    assert_eq!(other.clients, one("10.77.0.1"));
    spread(3, |count| lab.ask("node1", "127.0.0.1:8080", count, false));

    // From a workload by way of its own host's published port.
    let task = &lab.running("node1", "web").expect("web runs")[0];
    let host = task["hostname"].as_str().unwrap_or_default().replace("node", "10.77.0.");
    spread(3, |count| lab.ask_from_task(task, &format!("{host}:8080"), count, false));
}

/// How many backends a host's balancer has for a published TCP port, by IPv4.
pub fn backends(lab: &Lab, host: &str, port: u16) -> usize {
    let in_ingress = |command: &str| lab.sh(host, &format!("ip netns exec hd-ingress {command} 2>/dev/null || true"));
    if lab.info(host)["loadBalancer"] == "ipvs" {
        let mark = 0x1000_0000 | 6 << 16 | u32::from(port);
        let services = in_ingress("ipvsadm -Sn");
        return services.lines().filter(|l| l.starts_with(&format!("-a -f {mark} -r "))).count();
    }
    in_ingress(&format!("nft list chain inet heddle v4_tcp_{port}")).matches(" . 80").count()
}

/// With that service: what one host sends to the others.
pub fn tunnels_carry_the_networks_vni_and_nothing_crosses_plain(lab: &Lab) {
    let vni = lab.overlay("node1", "ingress").vni();
    // Counts on the wire itself: frames of this VNI (bytes 12 to 14 after the start of the UDP header), and requests outside
    // of VXLAN that go on from the host that took them.
    let table = format!(
        "table inet count {{\n\
         counter vxlan {{ }}\n counter other {{ }}\n counter plain {{ }}\n\
         chain out {{\n type filter hook output priority 0;\n\
         udp dport 4789 @th,96,24 {vni} counter name vxlan\n udp dport 4789 @th,96,24 != {vni} counter name other\n\
         tcp dport 80 counter name plain\n}}\n}}"
    );
    lab.sh("node1", &format!("nft '{table}'"));
    let answers = spread(3, |count| lab.ask("client", "10.77.0.1:8080", count, false));
    assert_eq!(answers.nodes.len(), 3);
    let count = |name: &str| {
        let text = lab.sh("node1", &format!("nft list counter inet count {name}"));
        let packets = text.split("packets ").nth(1).and_then(|t| t.split_whitespace().next());
        packets.and_then(|n| n.parse::<u64>().ok()).expect("a count")
    };
    assert!(count("vxlan") > 10, "{}", count("vxlan"));
    assert_eq!((count("other"), count("plain")), (0, 0));
    lab.sh("node1", "nft delete table inet count");
}

/// Virtual addresses of two services, by TCP and UDP and both families, from another service's task and from their own.
pub fn virtual_addresses_spread_and_lead_back_to_oneself(lab: &Lab) {
    lab.heddle("node1", &["network", "create", "-d", "overlay", "front"]);
    lab.create_web("inner", 3, &["--network", "front"]);
    lab.create_web("caller", 1, &["--network", "front"]);
    let network = lab.overlay("node1", "front");
    let vip = network.vips("inner");
    let caller = lab.running("node1", "caller").expect("caller runs").remove(0);
    let own = network.endpoints("caller").remove(0);
    for (target, family, udp) in [
        ("inner:80".to_owned(), None, false),
        (format!("{}:80", vip[0]), Some(0), false),
        (format!("[{}]:80", vip[1]), Some(1), false),
        (format!("{}:80", vip[0]), Some(0), true),
        (format!("[{}]:80", vip[1]), Some(1), true),
    ] {
        let answers = spread(3, |count| lab.ask_from_task(&caller, &target, count, udp));
        if let Some(family) = family {
            assert_eq!(answers.clients, one(&own[family]), "{target} udp={udp}");
        }
    }
    // A workload reaches itself by its own service's address: as the only one, and as one of three.
    for (service, count, target) in [("caller", 1, "caller:80".to_owned()), ("inner", 3, format!("[{}]:80", vip[1]))] {
        let task = lab.running("node1", service).expect("it runs").remove(0);
        for udp in [false, true] {
            let answers = spread(count, |count| lab.ask_from_task(&task, &target, count, udp));
            assert!(answers.tasks.contains_key(&name(&task)), "{target} udp={udp}: {answers:?}");
        }
    }
}

/// A connection that stays, to a `whoami`.
pub struct Held {
    stream: TcpStream,
    pub task: String,
}

impl Held {
    pub fn open(netns: PathBuf, to: SocketAddr) -> io::Result<Self> {
        let stream = within(netns, move || TcpStream::connect_timeout(&to, Duration::from_secs(5)))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut held = Held { stream, task: String::new() };
        held.task = held.ask()?;
        Ok(held)
    }

    /// The task at the other end.
    pub fn ask(&mut self) -> io::Result<String> {
        self.stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut said = Vec::new();
        let mut part = [0; 4096];
        loop {
            let count = match self.stream.read(&mut part) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            said.extend_from_slice(&part[..count]);
            let text = String::from_utf8_lossy(&said);
            if let Some(at) = text.find("\r\n\r\n").filter(|_| text.ends_with("}\n")) {
                let answer: Value = serde_json::from_str(&text[at..])?;
                return Ok(answer["task"].as_str().unwrap_or_default().to_owned());
            }
        }
    }
}

/// Some connections by each way: a virtual address of each family, published ports of two hosts.
pub fn hold(lab: &Lab, caller: &Value, count: usize) -> Vec<Held> {
    let vips = lab.overlay("node1", "front").vips("web");
    let vips = vips.iter().filter_map(|a| a.parse::<IpAddr>().ok());
    let mut ways: Vec<(PathBuf, SocketAddr)> = vips.map(|a| (lab.task_netns(caller), SocketAddr::new(a, 80))).collect();
    for host in ["10.77.0.1:8080", "[fd77::2]:8080"] {
        ways.push((lab.netns("client"), host.parse().expect("an address")));
    }
    let each = ways.iter().flat_map(|way| std::iter::repeat_n(way, count));
    each.map(|(netns, to)| Held::open(netns.clone(), *to).unwrap_or_else(|e| panic!("{to}: {e}"))).collect()
}

/// Established connections go on while somebody else goes, and while their own backend ends; who ends gets nothing new.
pub fn what_ends_drains(lab: &Lab, grace: Duration) {
    lab.heddle("node1", &["network", "create", "-d", "overlay", "front"]);
    // Asked to stop, it stays until it is killed.
    let program = crate::program().display().to_string();
    let script = format!("trap '' TERM; {program} whoami --port 80 & wait; wait");
    let period = format!("{}s", grace.as_secs());
    let head = ["service", "create", "--process", "--name", "web", "--replicas", "3", "--network", "front"];
    let tail = [
        "--constraint",
        "node.hostname!=node1",
        "-p",
        "8080:80",
        "--stop-grace-period",
        &period,
        "--",
        "sh",
        "-c",
        &script,
    ];
    lab.heddle("node1", &[&head[..], &tail].concat());
    lab.create_web("caller", 1, &["--network", "front", "--constraint", "node.hostname==node1"]);
    let caller = lab.running("node1", "caller").expect("caller runs").remove(0);
    let targets = || {
        let vips = lab.overlay("node1", "front").vips("web");
        [format!("{}:80", vips[0]), format!("[{}]:80", vips[1])]
    };
    wait("all replicas answer", || {
        let answers = lab.ask_from_task(&caller, &targets()[0], 12, false);
        if answers.tasks.len() == 3 { Ok(()) } else { Err(format!("{answers:?}")) }
    });
    let mut held = hold(lab, &caller, 6);
    let all: BTreeSet<_> = held.iter().map(|h| h.task.clone()).collect();
    assert_eq!(all.len(), 3, "connections to each");

    lab.heddle("node1", &["service", "scale", "web=2", "--detach"]);
    let ending = |count: usize| {
        wait("some end", || {
            let tasks = lab.try_json("node1", &["service", "ps", "web", "--format", "json"])?;
            let ends = |t: &&Value| t["state"] == "running" && t["desiredState"] != "running";
            let ends: Vec<_> = tasks.as_array().into_iter().flatten().filter(ends).cloned().collect();
            if ends.len() == count { Ok(ends) } else { Err(tasks.to_string()) }
        })
    };
    let last = name(&ending(1).remove(0));
    let ways = || {
        let [v4, v6] = targets();
        [(Some(&caller), v4), (Some(&caller), v6), (None, "10.77.0.1:8080".into()), (None, "[fd77::2]:8080".into())]
    };
    let ask = |from: Option<&Value>, target: &str, count: u32| match from {
        Some(task) => lab.ask_from_task(task, target, count, false),
        None => lab.ask("client", target, count, false),
    };
    // The hosts learn of it one after the other, but none of them forgets it again.
    for (from, target) in ways() {
        wait("it gets nothing new", || match ask(from, &target, 3) {
            new if new.failed.is_empty() && !new.tasks.contains_key(&last) => Ok(()),
            new => Err(format!("{target}: {new:?}")),
        });
        let new = ask(from, &target, 12);
        assert_eq!(new.failed, "", "{target}");
        assert!(!new.tasks.contains_key(&last), "{target}: who ends gets new connections");
    }
    for held in &mut held {
        assert_eq!(held.ask().map_err(|e| e.to_string()), Ok(held.task.clone()), "cut while {last} ends");
    }
    wait("it has ended", || match lab.try_json("node1", &["service", "ps", "web", "--format", "json"])? {
        tasks if tasks.as_array().into_iter().flatten().any(|t| name(t) == last && t["state"] == "running") => {
            Err(tasks.to_string())
        }
        _ => Ok(()),
    });
    held.retain(|h| h.task != last);
    for held in &mut held {
        assert_eq!(held.ask().map_err(|e| e.to_string()), Ok(held.task.clone()), "cut by the end of {last}");
    }

    // A service of which no task ever runs.
    let none = ["service", "create", "--process", "--name", "none", "--network", "front", "-p", "8081:80", "--detach"];
    lab.heddle("node1", &[&none[..], &["--", "false"]].concat());
    let vips = wait("it has addresses", || match lab.overlay("node1", "front").vips("none") {
        vips if vips.len() == 2 => Ok(vips),
        vips => Err(format!("{vips:?}")),
    });
    let refused = |from: Option<&Value>, target: &str| {
        wait("refused", || {
            // A host that has not heard of it yet knows no way.
            let start = Instant::now();
            let answers = ask(from, target, 1);
            let told = answers.failed.contains("refused") && start.elapsed() < AT_ONCE;
            if told { Ok(()) } else { Err(format!("{target}: {answers:?} after {:?}", start.elapsed())) }
        });
    };
    for (from, target) in [
        (Some(&caller), format!("{}:80", vips[0])),
        (Some(&caller), format!("[{}]:80", vips[1])),
        (None, "10.77.0.2:8081".into()),
        (None, "[fd77::1]:8081".into()),
    ] {
        refused(from, &target);
    }

    // The service goes, and its tasks end: no new connection is taken, those that there are go on.
    lab.heddle("node1", &["service", "rm", "--detach", "web"]);
    for target in ["10.77.0.1:8080", "[fd77::2]:8080"] {
        refused(None, target);
    }
    for held in &mut held {
        assert_eq!(held.ask().map_err(|e| e.to_string()), Ok(held.task.clone()), "cut while all end");
    }
}

/// Whichever host a flow enters by, its backend is the same: another host can take it over in its middle.
pub fn a_flow_may_enter_by_another_host(lab: &Lab) {
    lab.create_web("web", 3, &["-p", "8080:80", "-p", "8080:80/udp"]);
    assert_eq!(alike(lab, 24), 24, "source ports that lead to the same task by two hosts");
    // An address that moves from one host to another.
    let moving: SocketAddr = "10.77.0.99:8080".parse().expect("an address");
    let give = |host: &str| lab.sh(host, "ip address add 10.77.0.99/16 dev eth0");
    let take = |host: &str| lab.sh(host, "ip address del 10.77.0.99/16 dev eth0");
    give("node1");
    let open = || Held::open(lab.netns("client"), moving);
    let mut held: Vec<_> = (0..16).map(|_| open().unwrap_or_else(|e| panic!("{moving}: {e}"))).collect();
    assert!(held.iter().map(|h| &h.task).collect::<BTreeSet<_>>().len() > 1, "all have one backend");
    for (from, to) in [("node1", "node2"), ("node2", "node3")] {
        take(from);
        give(to);
        lab.sh("client", "ip neigh flush to 10.77.0.99");
        for held in &mut held {
            assert_eq!(held.ask().map_err(|e| e.to_string()), Ok(held.task.clone()), "cut on the way to {to}");
        }
    }
}

/// Who answers datagrams that come from this port of the client's to a host's published port.
fn answers_port(lab: &Lab, from: u16, to: &str) -> String {
    let to: SocketAddr = to.parse().expect("an address");
    let asked = within(lab.netns("client"), move || {
        let socket = UdpSocket::bind((if to.is_ipv4() { "0.0.0.0" } else { "::" }, from))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect(to)?;
        socket.send(b"?")?;
        let mut said = [0; 4096];
        let count = receive(&socket, &mut said)?;
        Ok(serde_json::from_slice::<Value>(&said[..count])?)
    });
    let answer = asked.unwrap_or_else(|e| panic!("{from} to {to}: {e}"));
    answer["task"].as_str().unwrap_or_default().to_owned()
}

/// Of so many source ports, how many lead to the same task by the first two hosts. Port 8080 is published for UDP.
pub fn alike(lab: &Lab, count: u16) -> u16 {
    let by = |host: &str, n: u16| answers_port(lab, 30_000 + n, &format!("{host}:8080"));
    let same = |n: &u16| {
        if n.is_multiple_of(2) {
            by("10.77.0.1", *n) == by("10.77.0.2", *n)
        } else {
            by("[fd77::1]", *n) == by("[fd77::2]", *n)
        }
    };
    (0..count).filter(same).count() as u16
}

/// A port of a client's may lead to a replica by its own address, then by the service's, and on by turns: so many.
pub fn a_port_may_lead_to_a_replica_and_its_service(lab: &Lab, turns: usize) {
    lab.heddle("node1", &["network", "create", "-d", "overlay", "front"]);
    for (name, host) in [("web", "node2"), ("caller", "node1")] {
        let constraint = format!("node.hostname=={host}");
        lab.create_web(name, 1, &["--network", "front", "--constraint", &constraint]);
    }
    let caller = lab.running("node1", "caller").expect("caller runs").remove(0);
    let front = lab.overlay("node1", "front");
    for (family, any) in ["0.0.0.0", "::"].into_iter().enumerate() {
        let to = |addr: &str| SocketAddr::new(addr.parse().expect("an address"), 80);
        let ways = [to(&front.endpoints("web")[0][family]), to(&front.vips("web")[family])];
        let from = SocketAddr::new(any.parse().expect("an address"), 30_000);
        for to in ways.into_iter().cycle().take(turns) {
            connects(lab.task_netns(&caller), from, to).unwrap_or_else(|e| panic!("{from} to {to}: {e}"));
        }
    }
}

/// Less than a second: then a lost SYN is sent again.
const BEFORE_AGAIN: Duration = Duration::from_millis(900);

/// Whether a connection from this port is made at once, and ends in order.
fn connects(netns: PathBuf, from: SocketAddr, to: SocketAddr) -> io::Result<()> {
    within(netns, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            socket.bind(from)?;
            tokio::time::timeout(BEFORE_AGAIN, socket.connect(to)).await??;
            Ok(())
        })
    })
}
