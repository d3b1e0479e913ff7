//! Beside real rules of others, in namespaces that end with the test. Needs root. That packets pass is shown by the tests of
//! whole clusters.

use super::look;
use crate::{
    dataplane::{
        desired::passage,
        firewall::{Obstacle, Owner, Place, Reason, Tool},
        state::{Family, KernelState, Space},
        tests::{blank, wanted},
    },
    kernel::{
        Kernel,
        linux::{
            LinuxKernel,
            tests::{isolate, run},
            watch::{Change, Watch},
        },
    },
    reconciler::Reconciler,
};
use std::{process::Stdio, time::Duration};

const LIMIT: Duration = Duration::from_secs(10);

fn goal() -> KernelState {
    wanted(2, &[(vec![0], 0, true)], 8080)
}

fn load(kind: &str) {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../cluster-tests/rulesets");
    match kind {
        "firewalld" => run(&format!("nft -f {dir}/firewalld.nft")),
        "legacy" => {
            run(&format!("iptables-legacy-restore < {dir}/docker.v4 && ip6tables-legacy-restore < {dir}/docker.v6"))
        }
        kind => run(&format!("iptables-nft-restore < {dir}/{kind}.v4 && ip6tables-nft-restore < {dir}/{kind}.v6")),
    };
}

/// Everything that is not ours, without counters.
fn foreign() -> String {
    let tables = run("nft list tables | grep -v heddle || true");
    let mut all = String::new();
    for table in tables.lines() {
        all += &run(&format!("nft -s list {table}"));
    }
    // Asking would load what is not there.
    for (names, program) in [("ip_tables_names", "iptables-legacy"), ("ip6_tables_names", "ip6tables-legacy")] {
        if run(&format!("cat /proc/net/{names} 2>/dev/null || true")).contains("filter") {
            all += &run(&format!("{program} -S; {program} -t nat -S"));
        }
    }
    all
}

/// Lines that are in `now` and not in `before`, with all others in their old order.
fn added(before: &str, now: &str) -> Vec<String> {
    let mut old = before.lines().peekable();
    let new = now.lines().filter(|line| old.next_if_eq(line).is_none()).map(|l| l.trim().to_owned()).collect();
    assert_eq!(old.next(), None, "a foreign line is gone or moved");
    new
}

fn iptables(v6: bool, legacy: bool, chain: &str) -> Place {
    Place { tool: Tool::Iptables { v6, legacy }, chain: chain.into() }
}

async fn beside(kind: &str, owner: Owner, places: &[Place], lines: &[&str]) {
    load(kind);
    let before = foreign();
    let found = look().unwrap();
    assert_eq!(found.cuts.keys().collect::<Vec<_>>(), places.iter().collect::<Vec<_>>());
    assert!(found.cuts.values().all(|c| c.owner == owner && c.obstacle.is_none()), "{found:?}");
    assert!(found.passes.is_empty());
    assert_eq!(foreign(), before, "looking changes nothing");

    let mut reconciler = Reconciler::new(LinuxKernel::new());
    reconciler.reconcile(&goal()).await.unwrap();
    assert_eq!(added(&before, &foreign()), lines);
    // What was done is seen, and done once.
    reconciler.distrust();
    assert_eq!(reconciler.reconcile(&goal()).await.unwrap().steps, 0);
    assert_eq!(look().unwrap().passes.iter().collect::<Vec<_>>(), places.iter().collect::<Vec<_>>());

    reconciler.distrust();
    reconciler.reconcile(&blank()).await.unwrap();
    assert_eq!(foreign(), before, "{kind} is as before");
}

const NFT: &str = "meta mark & 0x20000000 == 0x20000000";

#[tokio::test]
async fn docker_has_one_rule_more_and_then_none() {
    if isolate("kernel::linux::firewall::tests::docker_has_one_rule_more_and_then_none") {
        return;
    }
    let places = [iptables(false, false, "DOCKER-USER"), iptables(true, false, "DOCKER-USER")];
    let line = format!("{NFT}  counter accept");
    beside("docker", Owner::Docker, &places, &[&line, &line]).await;
}

#[tokio::test]
async fn ufw_has_one_rule_more_and_then_none() {
    if isolate("kernel::linux::firewall::tests::ufw_has_one_rule_more_and_then_none") {
        return;
    }
    let places = [iptables(false, false, "FORWARD"), iptables(true, false, "FORWARD")];
    let line = format!("{NFT}  counter accept");
    beside("ufw", Owner::Ufw, &places, &[&line, &line]).await;
}

#[tokio::test]
async fn firewalld_has_one_rule_more_and_then_none() {
    if isolate("kernel::linux::firewall::tests::firewalld_has_one_rule_more_and_then_none") {
        return;
    }
    let tool = Tool::Nft { family: Family::Inet, table: "firewalld".into() };
    let places = [Place { tool, chain: "filter_FORWARD".into() }];
    beside("firewalld", Owner::Firewalld, &places, &[&format!("{NFT} accept comment \"heddle\"")]).await;
}

#[tokio::test]
async fn legacy_rules_are_found_though_nft_is_blind_to_them() {
    if isolate("kernel::linux::firewall::tests::legacy_rules_are_found_though_nft_is_blind_to_them") {
        return;
    }
    if !crate::kernel::linux::tests::has("iptables-legacy -L -n") {
        return;
    }
    let places = [iptables(false, true, "DOCKER-USER"), iptables(true, true, "DOCKER-USER")];
    let line = "-A DOCKER-USER -m mark --mark 0x20000000/0x20000000 -m comment --comment heddle -j ACCEPT";
    beside("legacy", Owner::Docker, &places, &[line, line]).await;
}

#[tokio::test]
async fn the_rule_follows_the_foreign_chains() {
    if isolate("kernel::linux::firewall::tests::the_rule_follows_the_foreign_chains") {
        return;
    }
    let mut reconciler = Reconciler::new(LinuxKernel::new());
    let passes = || look().unwrap().passes.into_iter().collect::<Vec<_>>();
    // A chain that nobody gave a name known to us.
    run("nft 'table ip mine { chain f { type filter hook forward priority 0; policy drop; }; }'");
    let before = foreign();
    reconciler.reconcile(&goal()).await.unwrap();
    let mine = Place { tool: Tool::Nft { family: Family::Ip, table: "mine".into() }, chain: "f".into() };
    assert_eq!(passes(), std::slice::from_ref(&mine));
    // It drops no more.
    run("nft 'chain ip mine f { policy accept; }'");
    reconciler.distrust();
    reconciler.reconcile(&goal()).await.unwrap();
    assert_eq!(passes(), []);
    assert_eq!(foreign(), before.replace("policy drop", "policy accept"));
    // ufw first, then docker, which brings a better place; then docker goes.
    run("iptables-nft -P FORWARD DROP");
    reconciler.distrust();
    reconciler.reconcile(&goal()).await.unwrap();
    assert_eq!(passes(), [iptables(false, false, "FORWARD")]);
    run(
        "iptables-nft -N DOCKER-USER; iptables-nft -A DOCKER-USER -i eth9 -j DROP; iptables-nft -A DOCKER-USER -j RETURN",
    );
    run("iptables-nft -I FORWARD -j DOCKER-USER");
    reconciler.distrust();
    reconciler.reconcile(&goal()).await.unwrap();
    assert_eq!(passes(), [iptables(false, false, "DOCKER-USER")]);
    let rules = run("iptables-nft -S DOCKER-USER");
    let rules: Vec<_> = rules.lines().skip(1).map(|l| l.split(' ').next_back().unwrap()).collect();
    assert_eq!(rules, ["DROP", "ACCEPT", "RETURN"]);
    run("iptables-nft -D FORWARD -j DOCKER-USER && iptables-nft -F DOCKER-USER && iptables-nft -X DOCKER-USER");
    reconciler.distrust();
    reconciler.reconcile(&goal()).await.unwrap();
    assert_eq!(passes(), [iptables(false, false, "FORWARD")]);
    assert_eq!(look().unwrap().cuts.values().map(|c| c.reason).collect::<Vec<_>>(), [Reason::Policy]);
}

#[tokio::test]
async fn a_bridge_of_others_is_trusted_while_the_default_route_goes_by_it() {
    if isolate("kernel::linux::firewall::tests::a_bridge_of_others_is_trusted_while_the_default_route_goes_by_it") {
        return;
    }
    for (bridge, net) in [("docker0", 1), ("br-lan", 2)] {
        run(&format!("ip link add {bridge} type bridge && ip link set {bridge} up"));
        run(&format!("ip addr add 192.0.{net}.1/24 dev {bridge}"));
    }
    run("ip route add 198.51.100.0/24 via 192.0.1.9 && ip route add default via 192.0.2.9");
    let mut reconciler = Reconciler::new(LinuxKernel::new());
    let trusted = || run("nft -j list set inet heddle_gateway trusted");
    reconciler.reconcile(&goal()).await.unwrap();
    let seen = trusted();
    assert!(seen.contains("\"br-lan\"") && seen.contains("\"heddle_gw\"") && !seen.contains("docker0"), "{seen}");
    reconciler.distrust();
    assert_eq!(reconciler.reconcile(&goal()).await.unwrap().steps, 0);
    run("ip route del default && ip route add default nexthop via 192.0.1.9");
    reconciler.distrust();
    reconciler.reconcile(&goal()).await.unwrap();
    let seen = trusted();
    assert!(seen.contains("\"docker0\"") && !seen.contains("br-lan"), "{seen}");
}

#[tokio::test]
async fn a_table_with_an_owner_is_told_of_and_left_alone() {
    if isolate("kernel::linux::firewall::tests::a_table_with_an_owner_is_told_of_and_left_alone") {
        return;
    }
    let mut owner = std::process::Command::new("nft").arg("-i").stdin(Stdio::piped()).spawn().unwrap();
    let table =
        "add table inet firewalld { flags owner; chain f { type filter hook forward priority 10; policy drop; }; }\n";
    std::io::Write::write_all(owner.stdin.as_mut().unwrap(), table.as_bytes()).unwrap();
    let until = std::time::Instant::now() + LIMIT;
    while !run("nft list tables").contains("firewalld") {
        assert!(std::time::Instant::now() < until, "the owner made no table");
    }
    let mut reconciler = Reconciler::new(LinuxKernel::new());
    reconciler.reconcile(&goal()).await.unwrap();
    let found = look().unwrap();
    assert_eq!(found.cuts.values().map(|c| c.obstacle).collect::<Vec<_>>(), [Some(Obstacle::Owned)]);
    assert_eq!(found.passes.len(), 0);
    let told: Vec<_> = reconciler.closed().iter().collect();
    assert!(told.len() == 1 && told[0].contains("--add-interface=heddle_gw"), "{told:?}");
    // Nothing is tried again and again.
    assert_eq!(reconciler.reconcile(&goal()).await.unwrap().steps, 0);
    owner.kill().unwrap();
    owner.wait().unwrap();
}

async fn next(watch: &mut Watch) -> Change {
    tokio::time::timeout(LIMIT, watch.changed()).await.expect("a change is told")
}

#[tokio::test]
async fn what_others_change_is_told_and_what_we_change_is_not() {
    if isolate("kernel::linux::firewall::tests::what_others_change_is_told_and_what_we_change_is_not") {
        return;
    }
    load("docker");
    let mut watch = Watch::start().unwrap();
    let mut reconciler = Reconciler::new(LinuxKernel::new());
    // A thousand messages of ours, and the look of a pass; then one of somebody else: it is the first that is told of as a
    // change of the firewall.
    reconciler.reconcile(&goal()).await.unwrap();
    reconciler.reconcile(&blank()).await.unwrap();
    reconciler.reconcile(&goal()).await.unwrap();
    run("ip link add marker type veth peer name other && ip link del marker");
    let mut noticed = false;
    loop {
        let change = next(&mut watch).await;
        assert!(!change.firewall, "{change:?}");
        noticed |= reconciler.notice(&change);
        if change.links.contains("marker") {
            break;
        }
    }
    // The links that the second pass took away are there again: that costs one look, which finds nothing to do.
    assert!(noticed);
    assert_eq!(reconciler.reconcile(&goal()).await.unwrap().steps, 0);

    run("nft flush ruleset");
    let change = next(&mut watch).await;
    assert!(change.firewall);
    assert!(reconciler.notice(&change));
    assert!(reconciler.reconcile(&goal()).await.unwrap().steps > 0);
    let seen = LinuxKernel::new().observe().await.unwrap();
    let mut completed = goal();
    passage::complete(&mut completed, &seen);
    assert_eq!(seen.spaces[&Space::Host].tables, completed.spaces[&Space::Host].tables);

    run("ip addr del 172.18.0.1/16 dev heddle_gw");
    let change = next(&mut watch).await;
    assert!(reconciler.notice(&change), "{change:?}");
    assert_eq!(reconciler.reconcile(&goal()).await.unwrap().steps, 1);

    run("ip link del heddle_gw");
    while !reconciler.notice(&next(&mut watch).await) {}
    assert!(reconciler.reconcile(&goal()).await.unwrap().steps > 0);
    assert!(
        LinuxKernel::new().observe().await.unwrap().spaces[&Space::Host]
            .links
            .contains_key(&"heddle_gw".parse().unwrap())
    );
}
