//! The real kernel, in namespaces that end with the test. Needs root.

mod parents;
mod tunnel;

use super::LinuxKernel;
use crate::{
    dataplane::{
        state::Space,
        step::Step,
        tests::{blank, wanted},
    },
    kernel::Kernel,
    reconciler::Reconciler,
};
use std::process::Command;

const INSIDE: &str = "HEDDLE_TEST_INSIDE";

/// Runs the named test again in network and mount namespaces of its own. False: this is that second run.
pub(super) fn isolate(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        run("mount -t tmpfs none /run");
        run("ip link set lo up");
        return false;
    }
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("REQUIRE").is_none(), "REQUIRE is set and this needs root");
        println!("SKIPPED: root");
        return true;
    }
    let status = Command::new("unshare")
        .args(["-mn", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status();
    assert!(status.unwrap().success());
    true
}

pub(super) fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a part must be left out because the kernel lacks a feature; a failure where `REQUIRE` lists it.
pub(super) fn skip(feature: &str, has: bool) -> bool {
    let required = std::env::var("REQUIRE").unwrap_or_default();
    assert!(has || !required.split(',').any(|r| r == feature), "REQUIRE lists {feature} and this kernel has none");
    if !has {
        println!("SKIPPED: {feature}");
    }
    !has
}

#[tokio::test]
async fn the_kernel_becomes_what_is_wanted_and_foreign_objects_stay() {
    if isolate("kernel::linux::tests::the_kernel_becomes_what_is_wanted_and_foreign_objects_stay") {
        return;
    }
    run("ip link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.1 nolearning");
    run("ip link add docker0 type bridge && ip addr add 172.17.0.1/16 dev docker0 && ip link set docker0 up");
    run("ip link add hda type veth peer name hdb && ip netns add stranger");
    run("bridge fdb add 02:00:00:00:00:01 dev flannel.1 dst 192.0.2.9 self");
    run("nft add table inet docker && ip route add 198.51.100.0/24 dev docker0");
    let foreign = || {
        [
            // Without what the kernel itself changes a moment after a link is made.
            run("ip -o link | grep -e flannel -e hda -e docker0 | sed -E 's/<[^>]*>//; s/ (state|qdisc) [^ ]+//g'"),
            run("ip -o addr show docker0 | grep inet\\ ; bridge fdb show dev flannel.1; nft list table inet docker"),
            run("ip route show 198.51.100.0/24; ip netns list | grep stranger"),
        ]
    };
    let before = foreign();

    let one =
        wanted(3, &[(vec![0, 1], 0, true), (vec![0, 1, 2], 0, true), (vec![0], 1, true), (vec![1], 2, true)], 8080);
    let two = wanted(2, &[(vec![0, 2], 0, true), (vec![1], 0, false), (vec![0], 1, true)], 8081);
    for goal in [&one, &two, &one, &blank()] {
        Reconciler::new(LinuxKernel::new()).reconcile(goal).await.unwrap();
        assert_eq!(Reconciler::new(LinuxKernel::new()).drift(goal).await.unwrap(), vec![]);
        assert_eq!(foreign(), before);
    }
    let seen = LinuxKernel::new().observe().await.unwrap();
    let host = &seen.spaces[&Space::Host];
    assert_eq!(seen.spaces.len(), 1, "{:?}", seen.spaces.keys());
    assert!(host.links.is_empty() && host.tables.is_empty() && host.routes.is_empty());
}

#[tokio::test]
async fn drift_is_repaired() {
    if isolate("kernel::linux::tests::drift_is_repaired") {
        return;
    }
    let goal = wanted(3, &[(vec![0, 1], 0, true), (vec![0, 1], 1, true)], 8080);
    let mut reconciler = Reconciler::new(LinuxKernel::new());
    reconciler.reconcile(&goal).await.unwrap();
    assert_eq!(reconciler.reconcile(&goal).await.unwrap().steps, 0);
    run("ip link del heddle_gw");
    run("nft flush ruleset");
    run("ip -n hd-ingress link set vxlan0 down");
    run(
        "bridge -n hd-ingress fdb del $(bridge -n hd-ingress fdb show dev vxlan0 | grep dst | head -n1 | cut -d' ' -f1) dev vxlan0 self",
    );
    run("ip netns del $(ip netns list | grep -o 'hd-t-[a-z0-9]*' | head -n1)");
    reconciler.distrust();
    // The kernel takes a removed namespace apart in its own time, so a first pass may meet a link that just goes.
    let mut passes = 0;
    loop {
        let outcome = reconciler.reconcile(&goal).await;
        if outcome.as_ref().is_ok_and(|o| o.failures.is_empty()) {
            break;
        }
        passes += 1;
        assert!(passes < 10, "{outcome:?}");
    }
    assert_eq!(reconciler.drift(&goal).await.unwrap(), vec![]);
}

#[tokio::test]
async fn a_refused_sysctl_is_named_and_those_before_it_are_set() {
    if isolate("kernel::linux::tests::a_refused_sysctl_is_named_and_those_before_it_are_set") {
        return;
    }
    let set = |key: &str, value: &str| Step::SetSysctl { space: Space::Host, key: key.into(), value: value.into() };
    let (good, bad) = ("net.ipv4.conf.lo.rp_filter", "net.ipv4.conf.lo.no_such_thing");
    let steps = [set("net.ipv4.ip_forward", "1"), set(good, "2"), set(bad, "1"), set(good, "1")];
    let (at, error) = LinuxKernel::new().apply(&steps).await.unwrap_err();
    assert_eq!((at, error.object), (2, format!("{bad}=1")));
    assert_eq!(run("cat /proc/sys/net/ipv4/conf/lo/rp_filter /proc/sys/net/ipv4/ip_forward"), "2\n1\n");
    LinuxKernel::new().apply(&steps[3..]).await.unwrap();
    assert_eq!(run("cat /proc/sys/net/ipv4/conf/lo/rp_filter"), "1\n");
}

/// Whether the command works here; if not, that is said, and is a failure where `REQUIRE` is set.
pub(super) fn has(command: &str) -> bool {
    let works = Command::new("sh").args(["-c", command]).output().unwrap().status.success();
    assert!(works || std::env::var_os("REQUIRE").is_none(), "REQUIRE is set and this needs {command}");
    if !works {
        println!("SKIPPED: {}", command.split(' ').next().unwrap_or_default());
    }
    works
}
