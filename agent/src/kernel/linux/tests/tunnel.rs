//! The tunnel between hosts, by each means of encryption that this machine has.

use super::{isolate, run, skip};
use crate::{
    dataplane::{
        names,
        state::{KernelState, LinkKind, Space},
        step::Step,
        tests::{Encrypted, blank, encrypted, wanted_encrypted},
        wireguard::Traffic,
    },
    kernel::linux::{LinuxKernel, wireguard::Available},
    keyring::Keyring,
    reconciler::Reconciler,
};
use heddle_model::tunnel::{Backend, Epoch, Epochs};
use std::{net::UdpSocket, sync::Arc};

/// The means that there are. A failure where `REQUIRE` lists one that is missing.
async fn means() -> Vec<Backend> {
    let there = Available::find().await.unwrap();
    let all = [(Backend::Kernel, "wireguard", there.kernel), (Backend::Userspace, "tun", there.userspace)];
    all.into_iter().filter(|(_, feature, has)| !skip(feature, *has)).map(|(by, ..)| by).collect()
}

struct Host {
    keys: Arc<Keyring>,
    _dir: tempfile::TempDir,
    by: Backend,
}

impl Host {
    fn new(by: Backend) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = Arc::new(Keyring::new(Some(by)));
        keys.open(dir.path()).unwrap();
        Self { keys, _dir: dir, by }
    }

    fn wants(&self, nodes: u8, epochs: Epochs) -> KernelState {
        self.keys.hold(epochs.all()).unwrap();
        wanted_encrypted(nodes, &Encrypted { end: self.keys.end(), ..encrypted(&[1], epochs, self.by) })
    }

    fn reconciler(&self) -> Reconciler<LinuxKernel> {
        Reconciler::new(LinuxKernel::with_keys(self.keys.clone()))
    }
}

async fn reached(reconciler: &mut Reconciler<LinuxKernel>, goal: &KernelState) {
    let outcome = reconciler.reconcile(goal).await.unwrap();
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    reconciler.distrust();
    let drift = reconciler.drift(goal).await.unwrap();
    assert_eq!(drift, vec![]);
}

const NEXT: Epochs =
    Epochs { current: Epoch(1), next: Some(Epoch(2)), retiring: None, since: heddle_model::Timestamp(0) };

#[tokio::test(flavor = "multi_thread")]
async fn the_tunnel_becomes_what_is_wanted_and_goes() {
    if isolate("kernel::linux::tests::tunnel::the_tunnel_becomes_what_is_wanted_and_goes") {
        return;
    }
    for by in means().await {
        let host = Host::new(by);
        let mut reconciler = host.reconciler();
        let switched = Epochs { current: Epoch(2), next: None, retiring: Some(Epoch(1)), ..NEXT };
        let last = Epochs { retiring: None, ..switched };
        for (nodes, epochs) in [(3, Epochs::default()), (2, NEXT), (3, switched), (3, last)] {
            let goal = host.wants(nodes, epochs);
            reached(&mut reconciler, &goal).await;
            for (name, tunnel) in &goal.spaces[&names::tunnel_space()].tunnels {
                let traffic = reconciler.kernel().traffic(&names::tunnel_space(), name).await.unwrap();
                assert!(traffic.keys().eq(tunnel.peers.keys()), "{by} {name}: {traffic:?}");
                let alike =
                    |(key, t): (_, &Traffic)| tunnel.peers[key].endpoint == t.endpoint && t.last_handshake.is_none();
                assert!(traffic.iter().all(alike), "{by} {name}: {traffic:?}");
            }
        }
        reached(&mut reconciler, &blank()).await;
        assert_eq!(run("ip netns list").trim(), "");
    }
}

/// The sockets are in the host's namespace, and no packet that is not encrypted has a way.
#[tokio::test(flavor = "multi_thread")]
async fn sockets_are_where_they_belong() {
    if isolate("kernel::linux::tests::tunnel::sockets_are_where_they_belong") {
        return;
    }
    for by in means().await {
        let host = Host::new(by);
        let mut reconciler = host.reconciler();
        // Nobody else has keys yet, as when an epoch begins.
        host.keys.hold(NEXT.all()).unwrap();
        let alone = Encrypted { keyless: vec![2, 3], end: host.keys.end(), ..encrypted(&[1], NEXT, by) };
        reached(&mut reconciler, &wanted_encrypted(3, &alone)).await;
        let ports = |space: &str| {
            let command = format!("{space} ss -Hlunp | awk '{{print $4}}' | sed 's/.*://' | sort -u | tr '\\n' ' '");
            run(&command).trim().to_owned()
        };
        // The plain network's VXLAN is the host's, the encrypted one's is the tunnel's.
        assert_eq!(ports(""), "4789 51820 51821", "{by}");
        assert_eq!(ports("ip netns exec hd-tunnel"), "4789", "{by}");
        assert_eq!(run("ip -n hd-tunnel -o link | wc -l").trim(), "3", "lo and a link for each epoch");
        reached(&mut reconciler, &host.wants(3, NEXT)).await;
        assert_eq!(ports(""), "4789 51820 51821", "{by}");
        reached(&mut reconciler, &blank()).await;
        assert_eq!(ports(""), "", "{by}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_to_the_tunnel_is_mended() {
    if isolate("kernel::linux::tests::tunnel::what_others_do_to_the_tunnel_is_mended") {
        return;
    }
    for by in means().await {
        let host = Host::new(by);
        let goal = host.wants(3, NEXT);
        let mut reconciler = host.reconciler();
        reached(&mut reconciler, &goal).await;
        let mut damages = vec![
            "ip -n hd-tunnel link del wg0",
            "ip -n hd-tunnel link set wg1 down",
            "ip -n hd-tunnel route flush table main",
            "ip netns exec hd-tunnel sysctl -qw net.ipv4.ip_forward=1",
            "ip -n hd-tunnel link add name br7 type bridge",
            "ip netns del hd-tunnel",
        ];
        if by == Backend::Kernel && super::has("wg --version") {
            damages.extend([
                "ip netns exec hd-tunnel wg set wg1 listen-port 7",
                "ip netns exec hd-tunnel wg set wg1 peer $(ip netns exec hd-tunnel wg show wg1 peers | head -n1) remove",
                "ip netns exec hd-tunnel sh -c 'wg genkey | wg set wg0 private-key /dev/stdin'",
            ]);
        }
        for damage in damages {
            println!("{by}: {damage}");
            run(damage);
            reconciler.distrust();
            // The kernel takes a namespace apart in its own time.
            let mut passes = 0;
            while !reconciler.drift(&goal).await.is_ok_and(|d| d.is_empty()) {
                drop(reconciler.reconcile(&goal).await);
                reconciler.distrust();
                passes += 1;
                assert!(passes < 20, "{by}: {damage}");
            }
        }
        // The VXLAN of an encrypted network that somebody made in the host's namespace is not taken for ours.
        let space = goal.spaces.iter().find(|(_, s)| {
            s.links.values().any(|l| matches!(&l.kind, LinkKind::Vxlan(v) if v.socket == Some(names::tunnel_space())))
        });
        let Some((Space::Named(space), _)) = space else { panic!("no encrypted network") };
        let vni = run(&format!("ip -n {space} -d link show vxlan0 | grep -o 'vxlan id [0-9]*' | cut -d' ' -f3"));
        run(&format!("ip -n {space} link del vxlan0"));
        let made = format!(
            "ip link add vxlan0 type vxlan id {} local 192.0.2.1 dstport 4789 nolearning proxy df set && ip link set vxlan0 netns {space}",
            vni.trim()
        );
        run(&made);
        reconciler.distrust();
        let drift = reconciler.drift(&goal).await.unwrap();
        assert!(matches!(&drift[0], Step::RemoveLink { name, .. } if name.as_str() == "vxlan0"), "{drift:?}");
        reached(&mut reconciler, &goal).await;
        reached(&mut reconciler, &blank()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_told_and_tried_again() {
    if isolate("kernel::linux::tests::tunnel::a_port_that_is_taken_is_told_and_tried_again") {
        return;
    }
    for by in means().await {
        let host = Host::new(by);
        let goal = host.wants(3, Epochs::default());
        let taken = UdpSocket::bind("[::]:51821").unwrap();
        let mut reconciler = host.reconciler();
        let outcome = reconciler.reconcile(&goal).await.unwrap();
        let errors: Vec<_> = outcome.failures.iter().map(|f| crate::agent::chain(&f.error)).collect();
        let said = "set tunnel wg1 in hd-tunnel: UDP port 51821 of this host is in use";
        assert!(errors.iter().any(|e| e.starts_with(said)), "{by}: {errors:?}");
        drop(taken);
        reached(&mut reconciler, &goal).await;
        reached(&mut reconciler, &blank()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_daemon_takes_over_what_is_there() {
    if isolate("kernel::linux::tests::tunnel::another_daemon_takes_over_what_is_there") {
        return;
    }
    for by in means().await {
        let host = Host::new(by);
        let goal = host.wants(3, NEXT);
        let mut first = host.reconciler();
        reached(&mut first, &goal).await;
        drop(first);
        let mut second = host.reconciler();
        match by {
            // Sessions go on.
            Backend::Kernel => assert_eq!(second.reconcile(&goal).await.unwrap().steps, 0),
            Backend::Userspace => reached(&mut second, &goal).await,
        }
        let third = host.reconciler().drift(&goal).await.unwrap();
        assert_eq!(by == Backend::Kernel, third.is_empty(), "TUN links are their daemon's alone: {third:?}");
        reached(&mut second, &blank()).await;
    }
}
