//! Links on parents, and links whose names an operator chose, in the real kernel and in the model of it.

use super::{LinuxKernel, isolate, run, skip};
use crate::{
    dataplane::{
        diff::diff,
        names,
        state::{KernelState, LinkKind, Space},
        step::Step,
        tests::{OnParent, add_chosen_bridge, add_on_parents, blank, wanted},
    },
    host,
    kernel::Kernel,
    reconciler::Reconciler,
};
use heddle_model::{NetworkId, network::Driver};

/// An uplink that is not ours: `up9`, a veth whose other end is elsewhere.
fn uplinks() {
    run("ip netns add outside");
    for up in ["up8", "up9"] {
        run(&format!("ip link add {up} type veth peer name {up} netns outside && ip link set {up} up"));
        run(&format!("ip -n outside link set {up} up"));
    }
    // What workloads call their links is here too: it must be in nobody's way.
    run("ip link add par1 type veth peer name eth0");
}

fn goal(networks: &[OnParent]) -> KernelState {
    let mut state = blank();
    add_on_parents(&mut state, networks, &["up8", "up9"]);
    state
}

/// What both can be asked for: links with what they are on, and addresses.
fn shape(state: &KernelState) -> Vec<String> {
    let mut out = Vec::new();
    for (space, objects) in &state.spaces {
        out.push(format!("{space}"));
        out.extend(objects.links.iter().map(|(n, l)| format!("{space} {n} {:?} {} {}", l.kind, l.mtu, l.up)));
        out.extend(objects.addresses.iter().map(|(dev, addr)| format!("{space} {dev} {addr}")));
    }
    out
}

/// One script for the model and the kernel: both must be alike after every step.
async fn alike(steps: &[Step], model: &mut KernelState, kernel: &LinuxKernel) {
    for step in steps {
        assert_eq!(model.step(step), Ok(()), "{step:?}");
        kernel.apply(std::slice::from_ref(step)).await.unwrap();
        let seen = LinuxKernel::new().observe().await.unwrap();
        assert_eq!(shape(model), shape(&seen), "after {step:?}");
    }
}

#[tokio::test]
async fn the_model_and_the_kernel_agree_on_parents() {
    if isolate("kernel::linux::tests::parents::the_model_and_the_kernel_agree_on_parents") {
        return;
    }
    uplinks();
    let facts = host::links::facts().unwrap();
    if skip("macvlan", facts.has_macvlan) {
        return;
    }
    let macvlan = |mode, members| (1, Driver::Macvlan, vec![("parent", "up9"), ("macvlan_mode", mode)], false, members);
    let dead = |members| (2, Driver::Macvlan, vec![], false, members);
    let mut goals = vec![
        vec![macvlan("bridge", vec![0, 1]), dead(vec![1, 2])],
        vec![macvlan("private", vec![0]), dead(vec![])],
        vec![macvlan("passthru", vec![1])],
        vec![macvlan("vepa", vec![1, 2]), dead(vec![0])],
    ];
    if !skip("ipvlan", facts.has_ipvlan) {
        let ipvlan = |mode, flag, members| {
            let options = vec![("parent", "up8"), ("ipvlan_mode", mode), ("ipvlan_flag", flag)];
            (3, Driver::Ipvlan, options, false, members)
        };
        let alone = |members| (4, Driver::Ipvlan, vec![("ipvlan_mode", "l3")], false, members);
        goals.push(vec![ipvlan("l2", "bridge", vec![0, 1]), alone(vec![1, 2])]);
        goals.push(vec![ipvlan("l3", "private", vec![0, 1]), macvlan("bridge", vec![1])]);
        goals.push(vec![ipvlan("l3s", "vepa", vec![1]), alone(vec![1])]);
    }
    if !skip("vlan", facts.has_vlan) {
        let vlan =
            |mode, members| (1, Driver::Macvlan, vec![("parent", "up9.10"), ("macvlan_mode", mode)], true, members);
        goals.push(vec![vlan("bridge", vec![0, 1])]);
        goals.push(vec![vlan("private", vec![0]), dead(vec![0])]);
    }
    goals.push(vec![]);
    let (mut model, kernel) = (blank(), LinuxKernel::new());
    let before = run("ip -o link show up9 | sed -E 's/ (state|qdisc) [^ ]+//g; s/<[^>]*>//'");
    for networks in &goals {
        let steps = diff(&goal(networks), &model);
        alike(&steps, &mut model, &kernel).await;
        let seen = LinuxKernel::new().observe().await.unwrap();
        assert_eq!(diff(&goal(networks), &seen), vec![]);
        assert_eq!(run("ip -o link show up9 | sed -E 's/ (state|qdisc) [^ ]+//g; s/<[^>]*>//'"), before);
    }
    // A parent that goes takes its children, from whichever namespace.
    let networks = [dead(vec![0, 1]), macvlan("bridge", vec![0])];
    let steps = diff(&goal(&networks), &model);
    alike(&steps, &mut model, &kernel).await;
    let name = names::dead_end(&NetworkId::from_random([102; 16]));
    alike(&[Step::RemoveLink { space: Space::Host, name }], &mut model, &kernel).await;
    let steps = diff(&goal(&networks), &model);
    alike(&steps, &mut model, &kernel).await;
    // One of somebody else's that goes, or is replaced: seen, and mended when the wish follows.
    run("ip link del up9");
    let seen = LinuxKernel::new().observe().await.unwrap();
    let on_up9 = |s: &KernelState| {
        s.spaces
            .values()
            .flat_map(|o| o.links.values())
            .filter(|l| matches!(&l.kind, LinkKind::Macvlan { parent, .. } if parent.as_str() == "up9"))
            .count()
    };
    assert_eq!((on_up9(&seen), on_up9(&goal(&networks))), (0, 1));
    let refused =
        Reconciler::new(LinuxKernel::new()).reconcile(&goal(&networks)).await.unwrap().failures.remove(0).error;
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert!(why.contains("up9 is not a link of this host"), "{why}");
    run("ip link add up9 type bridge && ip link set up9 up");
    Reconciler::new(LinuxKernel::new()).reconcile(&goal(&networks)).await.unwrap();
    let seen = LinuxKernel::new().observe().await.unwrap();
    assert_eq!(diff(&goal(&networks), &seen), vec![]);
}

#[tokio::test]
async fn what_the_kernel_refuses_is_said_in_one_sentence() {
    if isolate("kernel::linux::tests::parents::what_the_kernel_refuses_is_said_in_one_sentence") {
        return;
    }
    uplinks();
    let facts = host::links::facts().unwrap();
    let on = |driver, options: Vec<(&'static str, &'static str)>, owns, members| {
        goal(&[(1, driver, options, owns, members)])
    };
    let mut cases = Vec::new();
    if !skip("macvlan", facts.has_macvlan) {
        let passthru = vec![("parent", "up9"), ("macvlan_mode", "passthru")];
        cases.push((on(Driver::Macvlan, passthru, false, vec![0, 1]), "up9 takes no macvlan like this"));
        run("ip link add b0 type bridge && ip link set up8 master b0");
        cases.push((on(Driver::Macvlan, vec![("parent", "up8")], false, vec![0]), "up8 is in use"));
    }
    if !facts.has_ipvlan {
        let said = "this kernel has no ipvlan: load the module ipvlan";
        cases.push((on(Driver::Ipvlan, vec![("parent", "up9")], false, vec![0]), said));
    }
    if !facts.has_vlan {
        let said = "this kernel has no 8021q: load the module 8021q";
        cases.push((on(Driver::Macvlan, vec![("parent", "up9.10")], true, vec![0]), said));
    }
    for (goal, part) in cases {
        let refused = Reconciler::new(LinuxKernel::new()).reconcile(&goal).await.unwrap().failures.remove(0).error;
        let why = std::error::Error::source(&refused).unwrap().to_string();
        assert!(why.contains(part), "{why}");
        Reconciler::new(LinuxKernel::new()).reconcile(&blank()).await.unwrap();
    }
    assert_eq!(shape(&LinuxKernel::new().observe().await.unwrap()), ["host"]);
}

#[tokio::test]
async fn a_name_that_an_operator_chose_is_ours_by_its_alias() {
    if isolate("kernel::linux::tests::parents::a_name_that_an_operator_chose_is_ours_by_its_alias") {
        return;
    }
    run("ip link add theirs type bridge && ip link set theirs alias 'heddle uplink' up");
    run("ip addr add 192.0.2.1/24 dev theirs");
    // Without what the kernel itself changes a moment after a link is up.
    let theirs = || run("ip -o addr show theirs | sed 's/ tentative//'; ip -o link show theirs | grep -o alias.*");
    let before = theirs();
    let mut goal = wanted(1, &[(vec![1], 0, true)], 8080);
    for name in ["office.lan", "br-x"] {
        add_chosen_bridge(&mut goal, name);
        if name == "br-x" {
            // Two bridges with one address: as the model has it.
            goal.spaces.get_mut(&Space::Host).unwrap().addresses.retain(|(dev, _)| dev.as_str() != "br-x");
        }
    }
    let key = "net.ipv4.conf.office/lan.route_localnet";
    goal.spaces.get_mut(&Space::Host).unwrap().sysctls.insert(key.into(), "1".into());
    let mut reconciler = Reconciler::new(LinuxKernel::new());
    reconciler.reconcile(&goal).await.unwrap();
    reconciler.distrust();
    assert_eq!(reconciler.reconcile(&goal).await.unwrap().steps, 0);
    assert!(run("ip -o link show office.lan").contains("alias heddle"));
    assert_eq!(run("cat /proc/sys/net/ipv4/conf/office.lan/route_localnet").trim(), "1");

    // What a crash leaves at either point on the way to the name.
    let staging = names::staging(&Space::Host, &"br-x".parse().unwrap());
    for alias in ["", "heddle"] {
        run(&format!("ip link del br-x; ip link add {staging} type bridge"));
        if !alias.is_empty() {
            run(&format!("ip link set {staging} alias {alias}"));
        }
        reconciler.distrust();
        reconciler.reconcile(&goal).await.unwrap();
        assert!(run("ip -o link show br-x").contains("alias heddle"));
        assert!(!run("ip -o link").contains(staging.as_str()));
    }

    // One of that name that is not ours stays as it is, and nothing of ours is left beside it.
    run("ip link del br-x && ip link add br-x type bridge");
    reconciler.distrust();
    let refused = reconciler.reconcile(&goal).await.unwrap().failures.remove(0).error;
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert!(why.contains("is not ours"), "{why}");
    assert!(!run("ip -o link").contains(staging.as_str()));
    let facts = host::links::read().unwrap();
    let ours = |name: &str| facts[&name.parse().unwrap()].ours;
    assert!(ours("office.lan") && !ours("br-x") && !ours("theirs") && !ours("lo"));

    let mut reconciler = Reconciler::new(LinuxKernel::new());
    reconciler.reconcile(&blank()).await.unwrap();
    let left = run("ip -o link | grep -v ': lo' | cut -d: -f2");
    assert_eq!(left.split_whitespace().collect::<Vec<_>>(), ["theirs", "br-x"]);
    assert_eq!(theirs(), before);
}
