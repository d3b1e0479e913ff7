//! What is below the overlays: this host's own address, the ways to the other hosts, the tunnel's handshakes. Says what is
//! wrong there, in a sentence each, and changes nothing.
//!
//! ```text
//! address, path, tunnel   what is wrong, and how it can be mended     echo  whether packets of a length arrive
//! diagnosis               what an operator hears who asks
//! ```

mod address;
mod diagnosis;
pub(crate) mod echo;
mod path;
mod tunnel;

pub use diagnosis::Finding;

use crate::{
    agent::{Command, MemberPicture, Picture, Status, TunnelPicture},
    host,
};
use diagnosis::{Facts, diagnosis};
use futures::StreamExt;
use heddle_model::net::{Mtu, Port};
use path::{Passage, Paths, Target};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
    time::{Instant, MissedTickBehavior},
};
use tunnel::Silence;

/// An address is missed for no longer.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The tunnel's counters are read in every so many looks.
const TUNNEL_EVERY: u32 = 10;
/// How often it is seen whether there is somebody new to ask.
const ASK_EVERY: Duration = Duration::from_secs(2);
const ECHO_LIMIT: Duration = Duration::from_secs(1);
/// Echoes that may be lost of those that should come.
const TRIES: u32 = 2;
/// Hosts that are asked at once, and in one round.
const AT_ONCE: usize = 4;
const ROUND: usize = 16;

/// What is wrong below the overlays, as last seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Below {
    address: Option<String>,
    paths: Vec<String>,
    tunnel: Vec<String>,
}

impl Below {
    /// The worst first.
    pub fn warnings(&self) -> Vec<String> {
        self.address.iter().chain(&self.paths).chain(&self.tunnel).cloned().collect()
    }
}

/// Looks until it is dropped.
pub struct Underlay {
    asks: mpsc::Sender<oneshot::Sender<Vec<Finding>>>,
    tasks: [AbortHandle; 2],
}

impl Drop for Underlay {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Underlay {
    pub fn start(
        picture: watch::Receiver<Picture>,
        status: watch::Sender<Status>,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        let watcher = Watcher { picture, status, commands };
        let (asks, asked) = mpsc::channel(4);
        let own = tokio::spawn(watcher.clone().own()).abort_handle();
        let paths = tokio::spawn(watcher.paths(asked)).abort_handle();
        Self { asks, tasks: [own, paths] }
    }

    /// Tries everything now. Takes seconds where something does not answer.
    pub async fn diagnose(&self) -> Vec<Finding> {
        let (answer, wait) = oneshot::channel();
        let _ = self.asks.send(answer).await;
        wait.await.unwrap_or_default()
    }
}

#[derive(Clone)]
struct Watcher {
    picture: watch::Receiver<Picture>,
    status: watch::Sender<Status>,
    commands: mpsc::Sender<Command>,
}

/// Where a member's data path leaves the host now.
struct Leg {
    link: String,
    mtu: Mtu,
}

fn leg(addr: IpAddr) -> Option<Leg> {
    let link = host::interface_of(addr)?;
    Some(Leg { mtu: host::mtu_of(addr).unwrap_or(Mtu::ETHERNET), link })
}

fn encrypts(member: &MemberPicture) -> bool {
    member.view.as_ref().is_some_and(|v| v.networks.values().any(|n| n.encrypted))
}

impl Watcher {
    fn member(&self) -> Option<MemberPicture> {
        self.picture.borrow().member.clone()
    }

    /// Says what is wrong with one part, if it is news.
    fn say<T: PartialEq>(&self, part: fn(&mut Below) -> &mut T, now: T, sentences: fn(&T) -> Vec<&String>) {
        self.status.send_if_modified(|status| {
            let before = part(&mut status.below);
            if *before == now {
                return false;
            }
            let news = sentences(&now).into_iter().filter(|s| !sentences(before).contains(s));
            news.for_each(|sentence| tracing::warn!("{sentence}"));
            *before = now;
            true
        });
    }

    /// What this host sees by itself.
    async fn own(self) {
        let mut silence = Silence::default();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for round in 0u32.. {
            look.tick().await;
            let member = self.member();
            self.say(|b| &mut b.address, member.as_ref().and_then(address), |s| s.iter().collect());
            if round.is_multiple_of(TUNNEL_EVERY) {
                let peers = match member.as_ref().is_some_and(encrypts) {
                    true => self.tunnel_peers().await,
                    false => Vec::new(),
                };
                self.say(|b| &mut b.tunnel, silence.look(&peers, Instant::now()), |s| s.iter().collect());
            }
        }
    }

    async fn tunnel_peers(&self) -> Vec<TunnelPicture> {
        let (answer, wait) = oneshot::channel();
        let _ = self.commands.send(Command::TunnelPeers(answer)).await;
        wait.await.unwrap_or_default()
    }

    /// What takes others to find out.
    async fn paths(self, mut asked: mpsc::Receiver<oneshot::Sender<Vec<Finding>>>) {
        let mut known = Paths::new();
        let mut look = tokio::time::interval(ASK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let ask = tokio::select! {
                ask = asked.recv() => match ask {
                    Some(ask) => Some(ask),
                    None => return,
                },
                _ = look.tick() => None,
            };
            let member = self.member();
            let (targets, complaints) = self.round(member.as_ref(), &mut known, ask.is_some()).await;
            self.say(|b| &mut b.paths, complaints, |s| s.iter().collect());
            if let Some(ask) = ask {
                let _ = ask.send(self.diagnose(member.as_ref(), &targets, &known).await);
            }
        }
    }

    async fn round(&self, member: Option<&MemberPicture>, known: &mut Paths, all: bool) -> (Vec<Target>, Vec<String>) {
        let there = member.and_then(|m| Some((m, m.view.as_ref()?, leg(m.data_path_addr)?)));
        let Some((member, view, leg)) = there else {
            // Nothing can be sent from an address that is gone, which is told for itself.
            known.clear();
            return (Vec::new(), Vec::new());
        };
        let targets = path::targets(view, &member.node, member.data_path_addr, leg.mtu);
        path::retain(known, &targets);
        let mut due = if all { targets.clone() } else { path::due(&targets, known, Instant::now()) };
        if !all {
            due.truncate(ROUND);
        }
        let from = member.data_path_addr;
        let tries = due.into_iter().map(|target| {
            let hint = known.get(&target.node).map(|found| found.passage);
            async move { (passage(from, &target, hint, ECHO_LIMIT).await, target) }
        });
        let mut tries = futures::stream::iter(tries.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        while let Some((passage, target)) = tries.next().await {
            let found = path::found(&target, passage, Instant::now(), rand::random());
            known.insert(target.node, found);
        }
        let mut complaints = path::complaints(&targets, known, &leg.link);
        complaints.extend(path::narrowed(view, &member.node, leg.mtu));
        (targets, complaints)
    }

    async fn diagnose(&self, member: Option<&MemberPicture>, targets: &[Target], known: &Paths) -> Vec<Finding> {
        let status = self.status.borrow().clone();
        let Some(member) = member else { return diagnosis(&Facts { errors: &status.errors, member: None }) };
        let peers = self.tunnel_peers().await;
        let leg = leg(member.data_path_addr);
        let ports = member.view.as_ref().filter(|_| !encrypts(member)).map(|view| {
            let first = view.cluster.tunnel_port;
            view.cluster.epochs.all().map(|epoch| epoch.port(first)).filter(|port| taken(*port)).collect()
        });
        let member = diagnosis::Member {
            address: address(member),
            at: leg.map(|leg| format!("{} on {}, MTU {}", member.data_path_addr, leg.link, leg.mtu.0)),
            paths: (!targets.is_empty()).then(|| path::summary(targets, known)),
            below: &status.below,
            peers: encrypts(member).then_some(&peers[..]),
            ports_taken: ports.unwrap_or_default(),
            revision: status.applied_revision,
        };
        diagnosis(&Facts { errors: &status.errors, member: Some(member) })
    }
}

fn address(member: &MemberPicture) -> Option<String> {
    let own = address::Own { node: &member.node, data_path: member.data_path_addr, manager: member.manager_addr };
    // The others count when this one is gone.
    let here = match host::interface_of(member.data_path_addr) {
        Some(link) => vec![(link, member.data_path_addr)],
        None => host::addresses(),
    };
    address::complaint(&own, &here, member.view.as_deref())
}

/// Whether somebody has this UDP port.
fn taken(port: Port) -> bool {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let in_use = |e: io::Error| e.kind() == io::ErrorKind::AddrInUse;
    any.iter().any(|addr| UdpSocket::bind((*addr, port.get())).is_err_and(in_use))
}

/// What arrives. What cannot even be tried arrives not.
async fn passage(from: IpAddr, target: &Target, hint: Option<Passage>, limit: Duration) -> Passage {
    let arrives = async |bytes: u16, limit: Duration| {
        for _ in 0..TRIES {
            match echo::echo(from, target.addr, bytes, limit).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(to = %target.addr, %error, "cannot ask for an echo");
                    return false;
                }
            }
        }
        false
    };
    if arrives(target.full, limit).await {
        return Passage::Whole;
    }
    let Some(mut least) = target.small() else { return Passage::Silent };
    let asked = Instant::now();
    if !arrives(least, limit).await {
        return Passage::Silent;
    }
    let took = asked.elapsed();
    // Nothing may have arrived just then.
    if arrives(target.full, limit).await {
        return Passage::Whole;
    }
    // How much does arrive is only advice: for that, nobody waits long.
    let limit = (took * 10).max(limit / 4).min(limit);
    let mut less = target.full;
    let guesses = match hint {
        Some(Passage::Less(before)) => vec![before, before.saturating_add(1)],
        _ => Vec::new(),
    };
    for guess in guesses {
        if (least + 1..less).contains(&guess) {
            if arrives(guess, limit).await { least = guess } else { less = guess }
        }
    }
    while less - least > 1 {
        let middle = least.midpoint(less);
        if arrives(middle, limit).await { least = middle } else { less = middle }
    }
    Passage::Less(least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_model::NodeId;
    use nix::sched::{CloneFlags, unshare};
    use std::process::{Child, Command, Stdio};

    /// A second namespace, as long as the process in it.
    struct Far(Child);

    impl Drop for Far {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn run(script: &str) {
        let output = Command::new("sh").args(["-ec", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    impl Far {
        /// At the other end of a cable from this thread's namespace: .1 here, .2 there.
        fn new() -> Self {
            let mut far = Self(
                Command::new("unshare")
                    .args(["-n", "sh", "-c", "echo there; exec cat"])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap(),
            );
            let mut word = [0; 6];
            std::io::Read::read_exact(far.0.stdout.as_mut().unwrap(), &mut word).unwrap();
            run(&format!("ip link add near type veth peer name far netns {}", far.0.id()));
            run("ip addr add 192.0.2.1/24 dev near; ip addr add fd02::1/64 dev near nodad; ip link set near up");
            far.run("ip addr add 192.0.2.2/24 dev far; ip addr add fd02::2/64 dev far nodad; ip link set far up");
            far
        }

        fn run(&self, script: &str) {
            run(&format!("nsenter -t {} -n sh -ec '{script}'", self.0.id()));
        }

        fn narrow(&self, v4: u16, v6: u16) {
            self.run(&format!(
                "nft \"table netdev t {{ chain c {{ type filter hook ingress device far priority 0; \
                 meta protocol ip ip length > {v4} drop; meta protocol ip6 ip6 length > {v6} drop; }}; }}\""
            ));
        }
    }

    #[test]
    fn what_a_path_swallows_is_found_to_the_byte() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("REQUIRE").is_none(), "REQUIRE is set and this needs root");
            println!("SKIPPED: root");
            return;
        }
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let far = Far::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let tried = |v4: bool, full, hint| {
            let [from, addr]: [IpAddr; 2] =
                if v4 { ["192.0.2.1", "192.0.2.2"] } else { ["fd02::1", "fd02::2"] }.map(|a| a.parse().unwrap());
            let target = Target { node: NodeId::from_random([1; 16]), hostname: "far".into(), addr, full };
            runtime.block_on(passage(from, &target, hint, Duration::from_millis(400)))
        };
        for v4 in [true, false] {
            assert_eq!(tried(v4, 1500, None), Passage::Whole, "IPv4 {v4}");
            // Longer than the link carries: refused here.
            assert_eq!(tried(v4, 1600, None), Passage::Less(1500), "IPv4 {v4}");
        }
        far.narrow(1400, 1400 - 40);
        for v4 in [true, false] {
            for hint in [None, Some(Passage::Less(1400)), Some(Passage::Less(1450))] {
                assert_eq!(tried(v4, 1500, hint), Passage::Less(1400), "IPv4 {v4} {hint:?}");
            }
            assert_eq!(tried(v4, 1400, None), Passage::Whole, "IPv4 {v4}");
        }
        far.run("nft delete table netdev t");
        // A link that takes in less than this one sends; the kernel leaves room for a VLAN's tag (is_skb_forwardable).
        far.run("ip link set far mtu 1300");
        for v4 in [true, false] {
            assert_eq!(tried(v4, 1500, None), Passage::Less(1304), "IPv4 {v4}");
        }
        far.run("ip link set far down");
        assert_eq!(tried(true, 1500, None), Passage::Silent);
    }
}
