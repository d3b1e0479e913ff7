//! Encrypted overlays: what leaves a host is WireGuard's, and nothing comes in any other way. With the kernel's WireGuard in
//! a machine with Debian's kernel, with the daemon's own here; both in that machine, too.
#![allow(clippy::unwrap_used)]

mod rogue;

use heddle_cluster_tests::{
    LIMIT, Lab,
    encryption::encrypts_by,
    skipped, vm, wait,
    wire::{Capture, Forgery, Leg, Seen, headers, receive, within},
};
use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    sync::mpsc,
    time::{Duration, Instant},
};

const WORDS: &[u8] = b"what nobody between the hosts may read";
const BULK: usize = 1 << 20;
/// How long an answer may take that is to come.
const SOON: Duration = Duration::from_secs(3);
/// How long is waited for what must not come.
const NEVER: Duration = Duration::from_millis(500);

/// A workload on an overlay.
#[derive(Clone)]
struct Member {
    host: &'static str,
    name: String,
    space: PathBuf,
    addrs: [IpAddr; 2],
}

impl Member {
    fn start(lab: &Lab, host: &'static str, network: &str) -> Self {
        let name = format!("{network}-{host}");
        let id = lab.run_web(host, &name, &["--network", network]);
        let addr = |v4| lab.address(host, &name, network, v4).parse().unwrap();
        let space = lab.workload_netns(host, &id);
        Self { host, space, addrs: [addr(true), addr(false)], name }
    }

    /// The word after this one, of what `ip` says of its link.
    fn link(&self, lab: &Lab, word: &str) -> String {
        let line = lab.inside(self.host, &self.name, "ip -o link show eth0");
        let found = line.split_whitespace().skip_while(|w| *w != word).nth(1).map(str::to_owned);
        found.unwrap_or_else(|| panic!("no {word}: {line}"))
    }

    fn leg(&self, lab: &Lab) -> Leg {
        let mac = self.link(lab, "link/ether");
        let bytes: Vec<u8> = mac.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
        let IpAddr::V4(v4) = self.addrs[0] else { panic!("IPv4 comes first") };
        Leg { mac: bytes.try_into().unwrap(), v4 }
    }

    fn mtu(&self, lab: &Lab) -> usize {
        self.link(lab, "mtu").parse().unwrap()
    }
}

/// One datagram of so many bytes. None: it did not arrive.
fn datagram(from: &Member, to: &Member, v4: bool, length: usize, limit: Duration) -> Option<Vec<u8>> {
    let addr = to.addrs[usize::from(!v4)];
    let (bound, port) = mpsc::channel();
    let receiver = within(&to.space, move || {
        let socket = UdpSocket::bind(SocketAddr::new(addr, 0)).unwrap();
        socket.set_read_timeout(Some(limit)).unwrap();
        bound.send(socket.local_addr().unwrap().port()).unwrap();
        let mut buffer = vec![0; 65536];
        let n = receive(&socket, &mut buffer).ok()?;
        buffer.truncate(n);
        Some(buffer)
    });
    let port = port.recv().unwrap();
    let send = move || {
        let any: IpAddr = if v4 { [0; 4].into() } else { [0; 16].into() };
        let payload: Vec<u8> = WORDS.iter().copied().cycle().take(length).collect();
        // The kernel may refuse it: then it does not arrive.
        UdpSocket::bind((any, 0)).unwrap().send_to(&payload, (addr, port)).map(|_| ())
    };
    drop(within(&from.space, send).join().unwrap());
    receiver.join().unwrap()
}

/// A mebibyte by TCP, and how long it took.
fn stream(from: &Member, to: &Member, v4: bool) -> Result<Duration, String> {
    let addr = to.addrs[usize::from(!v4)];
    let (bound, port) = mpsc::channel();
    let receiver = within(&to.space, move || {
        let listener = TcpListener::bind((addr, 0)).unwrap();
        bound.send(listener.local_addr().unwrap().port()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).map(|_| all.len()).map_err(|e| e.to_string())
    });
    let port = port.recv().unwrap();
    let start = Instant::now();
    let payload: Vec<u8> = WORDS.iter().copied().cycle().take(BULK).collect();
    let send = move || TcpStream::connect_timeout(&(addr, port).into(), LIMIT).and_then(|mut s| s.write_all(&payload));
    within(&from.space, send).join().unwrap().map_err(|e| e.to_string())?;
    let received = receiver.join().unwrap()?;
    assert_eq!(received, BULK);
    Ok(start.elapsed())
}

/// Whether they hear each other, both ways, by both families.
fn meet(a: &Member, b: &Member) -> Result<(), String> {
    for (from, to) in [(a, b), (b, a)] {
        for v4 in [true, false] {
            if datagram(from, to, v4, WORDS.len(), SOON).is_none() {
                return Err(format!("{} does not hear {} (IPv4 {v4})", to.name, from.name));
            }
        }
    }
    Ok(())
}

/// A host's own on the underlay.
fn address(host: &str) -> Ipv4Addr {
    host.replace("node", "10.77.0.").parse().unwrap()
}

/// What somebody beside the hosts, who knows all numbers, sends a member by VXLAN.
struct Injection {
    vni: u32,
    from: Leg,
    to: Leg,
    member: Member,
}

impl Injection {
    fn new(lab: &Lab, network: &str, from: Leg, to: &Member) -> Self {
        let vni = lab.overlay("node1", network).vni() as u32;
        Self { vni, from, to: to.leg(lab), member: to.clone() }
    }

    /// Whether the member hears it if it comes in the name of `source`.
    fn heard(&self, lab: &Lab, source: [u8; 4]) -> bool {
        let port = 5555;
        let (bound, listens) = mpsc::channel();
        let (addr, client) = (self.member.addrs[0], lab.netns("client"));
        let listener = within(&self.member.space, move || {
            let socket = UdpSocket::bind((addr, port)).unwrap();
            socket.set_read_timeout(Some(NEVER)).unwrap();
            bound.send(()).unwrap();
            receive(&socket, &mut [0; 1500]).is_ok()
        });
        listens.recv().unwrap();
        let (from, to, host) = (self.from.clone(), self.to.clone(), address(self.member.host));
        Forgery { vni: self.vni, from, to, port, host }.send(&client, source.into());
        listener.join().unwrap()
    }
}

/// Whether a member hears it at once.
fn heard(lab: &Lab, network: &str, from: Leg, to: &Member, source: [u8; 4]) -> bool {
    Injection::new(lab, network, from, to).heard(lab, source)
}

fn overlay(lab: &Lab, name: &str, more: &[&str]) {
    lab.heddle("node1", &[&["network", "create", "-d", "overlay", "--attachable"], more, &[name]].concat());
}

/// Two hosts with a workload each on an encrypted overlay, and on a plain one.
struct Pair {
    lab: Lab,
    sealed: [Member; 2],
    plain: [Member; 2],
}

impl Pair {
    /// What the daemons of both use.
    fn new(name: &str, means: [&str; 2]) -> Self {
        let lab = Lab::up(name, 2, 1);
        for (host, means) in ["node1", "node2"].into_iter().zip(means).filter(|(_, means)| *means != "auto") {
            encrypts_by(&lab, host, means);
        }
        overlay(&lab, "sealed", &["-o", "encrypted"]);
        overlay(&lab, "plain", &[]);
        let members = |network| ["node1", "node2"].map(|host| Member::start(&lab, host, network));
        let (sealed, plain) = (members("sealed"), members("plain"));
        let pair = Self { sealed, plain, lab };
        for [a, b] in [&pair.sealed, &pair.plain] {
            wait("they meet", || meet(a, b));
        }
        pair
    }

    fn captured(&self, f: impl FnOnce()) -> Seen {
        let capture = Capture::start(&self.lab.netns("node1"), WORDS);
        f();
        capture.end()
    }

    fn nothing_is_read(&self) {
        let bulk = |[a, b]: &[Member; 2], what: &str| {
            for (from, to) in [(a, b), (b, a)] {
                for v4 in [true, false] {
                    assert!(datagram(from, to, v4, WORDS.len(), SOON).is_some());
                    let took = stream(from, to, v4).unwrap();
                    println!("{what}: 1 MiB from {} by IPv4 {v4} in {took:.1?}", from.host);
                }
            }
        };
        let open = self.captured(|| bulk(&self.plain, "plain"));
        assert!(open.words > 20 && open.vxlan > 50 && open.tunnel == 0, "the capture sees what is open: {open:?}");
        let sealed = self.captured(|| bulk(&self.sealed, "sealed"));
        assert!(sealed.tunnel > 100, "{sealed:?}");
        assert_eq!((sealed.words, sealed.vxlan, sealed.fragments), (0, 0, 0), "{sealed:?}");
    }

    fn a_whole_packet_fits(&self) {
        let [a, b] = &self.sealed;
        assert_eq!((a.mtu(&self.lab), b.mtu(&self.lab)), (1500 - 60 - 50, 1500 - 60 - 50));
        let seen = self.captured(|| {
            for v4 in [true, false] {
                // The kernel sets DF on what fits its link.
                let whole = 1390 - headers(b.addrs[usize::from(!v4)]);
                let arrived = datagram(a, b, v4, whole, SOON).map(|d| d.len());
                assert_eq!(arrived, Some(whole), "IPv4 {v4}");
            }
        });
        assert_eq!(seen.fragments, 0, "{seen:?}");
    }

    /// Somebody on the underlay who knows VNI, MACs and addresses, in its own name and in a peer's.
    fn nothing_is_heard(&self) {
        let attack =
            |network: &str, [a, b]: &[Member; 2], source| heard(&self.lab, network, a.leg(&self.lab), b, source);
        let (peer, own) = ([10, 77, 0, 1], [10, 77, 0, 250]);
        assert!(attack("plain", &self.plain, peer), "in the name of a peer it is heard on a plain network");
        assert!(!attack("plain", &self.plain, own), "who is no peer is not heard on a plain network");
        for source in [peer, own] {
            assert!(!attack("sealed", &self.sealed, source), "{source:?} is heard on an encrypted network");
        }
        // Nor does the true way stop for it.
        meet(&self.sealed[0], &self.sealed[1]).unwrap();
    }

    /// The daemon of one host is gone and so is its end of the tunnel: nobody hears, nobody reads.
    fn it_fails_closed(&self) {
        let [a, b] = &self.sealed;
        self.lab.do_lab(&["kill", "node1", "--daemon"]);
        self.lab.sh("node1", "ip -n hd-tunnel link del wg1 2>/dev/null || true");
        let seen = self.captured(|| {
            for (from, to) in [(a, b), (b, a)] {
                for v4 in [true, false] {
                    assert_eq!(datagram(from, to, v4, WORDS.len(), NEVER), None);
                }
            }
        });
        assert_eq!((seen.words, seen.vxlan), (0, 0), "{seen:?}");
        // Plain networks go on without a daemon.
        meet(&self.plain[0], &self.plain[1]).unwrap();
        self.lab.do_lab(&["start", "node1"]);
        wait("the tunnel is mended", || meet(a, b));
    }
}

fn in_machine(test: &str) -> bool {
    let modules = [&vm::DATA_PLANE[..], &["wireguard", "tun"]].concat();
    vm::ran_in(test, |vm| vm.modules(&modules).tools(&vm::TOOLS).timeout(Duration::from_secs(400)))
}

fn whole(name: &str, means: [&str; 2]) {
    let start = Instant::now();
    let pair = Pair::new(name, means);
    println!("{means:?}: up after {:.1?}", start.elapsed());
    pair.nothing_is_read();
    pair.a_whole_packet_fits();
    pair.nothing_is_heard();
    pair.it_fails_closed();
    println!("{means:?}: done after {:.1?}", start.elapsed());
}

#[test]
fn by_the_daemon_nothing_is_read_forged_or_leaked() {
    if skipped() {
        return;
    }
    whole("t-enc-user", ["userspace", "userspace"]);
}

#[test]
fn a_port_that_is_taken_is_told_and_nothing_leaks() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-enc-port", 2, 1);
    let (bound, ready) = mpsc::channel();
    let (end, wait_for_end) = mpsc::channel::<()>();
    let squatter = within(&lab.netns("node1"), move || {
        let taken = UdpSocket::bind("[::]:51821").unwrap();
        bound.send(()).unwrap();
        wait_for_end.recv().unwrap();
        drop(taken);
    });
    ready.recv().unwrap();
    overlay(&lab, "sealed", &["-o", "encrypted"]);
    let [a, b] = ["node1", "node2"].map(|host| Member::start(&lab, host, "sealed"));
    wait("it is told", || {
        let errors = lab.info("node1")["dataPlaneErrors"].to_string();
        if errors.contains("UDP port 51821 of this host is in use") { Ok(()) } else { Err(errors) }
    });
    let capture = Capture::start(&lab.netns("node1"), WORDS);
    assert_eq!(datagram(&a, &b, true, WORDS.len(), NEVER), None);
    assert_eq!(capture.end().words, 0);
    end.send(()).unwrap();
    squatter.join().unwrap();
    wait("the port is free again", || meet(&a, &b));
}

#[test]
fn new_keys_lose_no_datagram() {
    if skipped() {
        return;
    }
    let pair = Pair::new("t-enc-rotate", ["auto", "auto"]);
    let [a, b] = pair.sealed.clone();
    let addr = b.addrs[0];
    let (bound, port) = mpsc::channel();
    let receiver = within(&b.space, move || {
        let socket = UdpSocket::bind((addr, 0)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        bound.send(socket.local_addr().unwrap().port()).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        let mut number = [0; 8];
        while receive(&socket, &mut number).is_ok() {
            seen.insert(u64::from_be_bytes(number));
        }
        seen.len() as u64
    });
    let port = port.recv().unwrap();
    let (end, ended) = mpsc::channel::<()>();
    let sender = within(&a.space, move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for number in 0u64.. {
            socket.send_to(&number.to_be_bytes(), (addr, port)).unwrap();
            if ended.recv_timeout(Duration::from_millis(2)) != Err(mpsc::RecvTimeoutError::Timeout) {
                return number + 1;
            }
        }
        unreachable!()
    });
    let before = pair.lab.json("node1", &["tunnel", "ls", "--format", "json"]);
    for _ in 0..3 {
        pair.lab.heddle("node1", &["tunnel", "rotate"]);
    }
    let after = pair.lab.json("node1", &["tunnel", "ls", "--format", "json"]);
    end.send(()).unwrap();
    let (sent, arrived) = (sender.join().unwrap(), receiver.join().unwrap());
    println!("{arrived} of {sent} arrived through three changes of keys");
    assert_ne!(before[0]["publicKey"], after[0]["publicKey"]);
    assert_eq!(arrived, sent);
}

#[test]
fn an_underlay_of_ipv6_carries_it_too() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-enc-v6", 2);
    lab.heddle("node1", &["init", "--advertise-addr", "fd77::1"]);
    let token = lab.heddle("node1", &["join-token", "worker", "-q"]);
    lab.heddle("node2", &["join", "--token", token.trim(), "--advertise-addr", "fd77::2", "fd77::1"]);
    overlay(&lab, "sealed", &["-o", "encrypted"]);
    let [a, b] = ["node1", "node2"].map(|host| Member::start(&lab, host, "sealed"));
    wait("they meet", || meet(&a, &b));
    assert_eq!(a.mtu(&lab), 1500 - 80 - 70);
    let capture = Capture::start(&lab.netns("node1"), WORDS);
    for v4 in [true, false] {
        let whole = 1350 - headers(b.addrs[usize::from(!v4)]);
        assert_eq!(datagram(&a, &b, v4, whole, SOON).map(|d| d.len()), Some(whole), "IPv4 {v4}");
        stream(&a, &b, v4).unwrap();
    }
    assert_eq!(capture.end().words, 0);
}

/// A kernel that has none and is to be used: that is said at once, with the way out.
#[test]
fn what_the_kernel_lacks_is_told_at_once() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-enc-none", 1);
    lab.do_lab(&["kill", "node1", "--daemon"]);
    let has = lab.sh("node1", "ip link add w type wireguard 2>/dev/null && ip link del w && echo yes || echo no");
    if has.trim() == "yes" {
        println!("SKIPPED: a kernel without wireguard");
        return;
    }
    let said = lab.refused("node1", &["daemon", "--wireguard", "kernel", "--state-dir", "/tmp/none"]);
    assert!(said.contains("no wireguard: load the module wireguard, or use --wireguard userspace"), "{said}");
}

mod emulated {
    use super::*;

    #[test]
    fn by_the_kernel_nothing_is_read_forged_or_leaked() {
        if vm::skipped() || in_machine("by_the_kernel_nothing_is_read_forged_or_leaked") {
            return;
        }
        whole("t-enc-kernel", ["kernel", "kernel"]);
    }

    #[test]
    #[ignore = "takes a minute, and acceptance.rs has the same on three machines"]
    fn a_host_of_each_kind_understand_each_other() {
        if vm::skipped() || in_machine("a_host_of_each_kind_understand_each_other") {
            return;
        }
        let pair = Pair::new("t-enc-both", ["kernel", "userspace"]);
        pair.nothing_is_read();
        pair.nothing_is_heard();
    }
}
