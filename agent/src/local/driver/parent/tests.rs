use super::*;
use crate::{
    agent::chain,
    local::driver::{MTU, PARENT},
};
use heddle_model::{
    Annotations, NetworkId, Timestamp,
    network::{Driver, NetworkSpec},
};
use std::collections::BTreeMap;

fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn name(s: &str) -> IfName {
    s.parse().unwrap()
}

#[test]
fn options_say_what_docker_means_by_them() {
    assert_eq!(macvlan::Options::parse(&options(&[])), Ok(macvlan::Options::default()));
    let all = options(&[(PARENT, "eth0.10"), ("macvlan_mode", "passthru"), (MTU, "1400")]);
    let vlan = Some(Vlan { base: name("eth0"), id: 10 });
    assert_eq!(
        macvlan::Options::parse(&all),
        Ok(macvlan::Options {
            parent: Some(Parent { name: name("eth0.10"), vlan }),
            mode: MacvlanMode::Passthru,
            mtu: Some(Mtu(1400)),
        })
    );
    assert_eq!(
        ipvlan::Options::parse(&options(&[(PARENT, "eth0"), ("ipvlan_mode", "l3s"), ("ipvlan_flag", "vepa")])),
        Ok(ipvlan::Options {
            parent: Some(Parent { name: name("eth0"), vlan: None }),
            mode: IpvlanMode::L3s,
            flag: IpvlanFlag::Vepa,
            mtu: None,
        })
    );
    let none = ipvlan::Options::parse(&options(&[])).unwrap();
    assert_eq!((none.mode, none.flag), (IpvlanMode::L2, IpvlanFlag::Bridge));
    for mode in MacvlanMode::ALL {
        let parsed = macvlan::Options::parse(&options(&[("macvlan_mode", mode.as_str())]));
        assert_eq!(parsed.map(|o| o.mode), Ok(mode));
    }
}

#[test]
fn options_that_cannot_be_are_refused_in_one_sentence() {
    let macvlan = |k: &str, v: &str| chain(&macvlan::Options::parse(&options(&[(k, v)])).unwrap_err());
    let ipvlan = |k: &str, v: &str| chain(&ipvlan::Options::parse(&options(&[(k, v)])).unwrap_err());
    assert_eq!(
        macvlan("ipvlan_mode", "l2"),
        "option \"ipvlan_mode\" is unknown to the driver macvlan: it knows parent, macvlan_mode, com.docker.network.driver.mtu"
    );
    assert_eq!(
        macvlan("macvlan_mode", "source"),
        "option macvlan_mode=\"source\": use bridge, vepa, passthru, private"
    );
    assert_eq!(ipvlan("ipvlan_mode", "L2"), "option ipvlan_mode=\"L2\": use l2, l3, l3s");
    assert_eq!(ipvlan("ipvlan_flag", ""), "option ipvlan_flag=\"\": use bridge, private, vepa");
    assert!(ipvlan("macvlan_mode", "bridge").contains("it knows parent, ipvlan_mode, ipvlan_flag"));
    for id in ["0", "4095", "99999", ""] {
        assert_eq!(
            macvlan(PARENT, &format!("eth0.{id}")),
            format!("option parent=\"eth0.{id}\": a VLAN id is a number from 1 to 4094")
        );
    }
    for long in ["enp0s31f6abc.4000", "", "a/b", "a b", ".10"] {
        assert!(macvlan(PARENT, long).contains("1 to 15 characters"), "{long}");
    }
    for bad in ["67", "65536", "-1", "x"] {
        assert!(macvlan(MTU, bad).contains("68 to 65535"), "{bad}");
    }
}

#[test]
fn a_dot_alone_makes_no_vlan() {
    assert_eq!(Parent::parse("eth0.lan"), Ok(Parent { name: name("eth0.lan"), vlan: None }));
    assert_eq!(
        Parent::parse("eth0.7.4094"),
        Ok(Parent { name: name("eth0.7.4094"), vlan: Some(Vlan { base: name("eth0.7"), id: 4094 }) })
    );
}

fn plain() -> LinkFact {
    LinkFact { kind: FactKind::Other, mtu: Mtu(1500), ethernet: true, master: None, parent: None, ours: false }
}

fn facts() -> HostFacts {
    let on = |parent: &str, kind| LinkFact { kind, parent: Some(name(parent)), ..plain() };
    let links = [
        ("lo", LinkFact { kind: FactKind::Loopback, ethernet: false, ..plain() }),
        ("eth0", plain()),
        ("eth1", LinkFact { master: Some(name("br0")), ..plain() }),
        ("eth2", LinkFact { master: Some(name("red")), ..plain() }),
        ("eth3", plain()),
        ("eth4", plain()),
        ("eth5", plain()),
        ("wg0", LinkFact { ethernet: false, ..plain() }),
        ("br0", LinkFact { kind: FactKind::Bridge, ..plain() }),
        ("red", LinkFact { kind: FactKind::Vrf, ethernet: false, ..plain() }),
        ("heddle0", LinkFact { kind: FactKind::Bridge, ours: true, ..plain() }),
        ("eth0.5", on("eth0", FactKind::Vlan { id: 5 })),
        ("lan6", on("eth0", FactKind::Vlan { id: 6 })),
        ("eth0.7", LinkFact { ours: true, ..on("eth0", FactKind::Vlan { id: 7 }) }),
        ("mv3", on("eth3", FactKind::Macvlan { passthru: false })),
        ("mv4", on("eth4", FactKind::Macvlan { passthru: true })),
        ("iv5", on("eth5", FactKind::Ipvlan { mode: IpvlanMode::L3, flag: IpvlanFlag::Bridge })),
    ];
    let links = links.into_iter().map(|(n, l)| (name(n), l)).collect();
    HostFacts { links, has_macvlan: true, has_ipvlan: true, has_vlan: true }
}

fn network(n: &str, driver: Driver, pairs: &[(&str, &str)]) -> HostNetwork {
    let annotations = Annotations { name: n.into(), ..Annotations::default() };
    HostNetwork {
        id: NetworkId::from_random([1; 16]),
        created_at: Timestamp(0),
        spec: NetworkSpec { annotations, driver, options: options(pairs), ..NetworkSpec::default() },
        pools: vec![],
        owns_parent: false,
    }
}

/// What a driver says to options on a host with these facts and other networks.
fn said(driver: Driver, pairs: &[(&str, &str)], facts: &HostFacts, others: &[HostNetwork]) -> String {
    let (others, pairs): (Vec<&HostNetwork>, _) = (others.iter().collect(), options(pairs));
    let plan = match driver {
        Driver::Macvlan => macvlan::check(&macvlan::Options::parse(&pairs).unwrap(), facts, &others),
        _ => ipvlan::check(&ipvlan::Options::parse(&pairs).unwrap(), facts, &others),
    };
    match plan {
        Ok(Plan::DeadEnd) => "dead end".into(),
        Ok(Plan::Link(link)) => format!("on {link}"),
        Ok(Plan::Vlan { name, vlan }) => format!("{name}: {} of {}", vlan.id, vlan.base),
        Err(refusal) => refusal.to_string(),
    }
}

#[test]
fn the_parent_must_be_one_that_can_be() {
    for (parent, expected) in [
        ("eth0", "on eth0"),
        ("br0", "on br0"),
        ("eth2", "on eth2"),
        ("eth0.5", "on eth0.5"),
        ("eth0.7", "eth0.7: 7 of eth0"),
        ("eth0.10", "eth0.10: 10 of eth0"),
        ("eth1.10", "eth1.10: 10 of eth1"),
        ("eth0.6", "parent eth0.6 would be VLAN 6 of eth0, which lan6 is already: use parent=lan6"),
        ("eth9", "parent eth9 does not exist: use a link of this host, or NAME.ID for VLAN ID of the link NAME"),
        ("eth9.10", "parent eth9.10 does not exist and neither does eth9: use a link of this host"),
        ("lo", "parent lo is the loopback: use a link that leads out of this host"),
        ("lo.10", "parent lo is the loopback: use a link that leads out of this host"),
        ("eth1", "parent eth1 is a port of br0: use br0, or a link that belongs to none"),
        ("wg0", "parent wg0 is not an Ethernet link: use one that is"),
        ("wg0.3", "parent wg0 is not an Ethernet link: use one that is"),
        ("heddle0", "parent heddle0 was made by Heddle for another purpose: use a link of this host"),
        ("heddle0.3", "parent heddle0 was made by Heddle for another purpose: use a link of this host"),
        ("mv3", "parent mv3 is itself made on another link: use that link"),
    ] {
        for driver in [Driver::Macvlan, Driver::Ipvlan] {
            assert_eq!(said(driver, &[(PARENT, parent)], &facts(), &[]), expected, "{driver} {parent}");
        }
    }
    assert_eq!(said(Driver::Ipvlan, &[], &facts(), &[]), "dead end");
    let mtu = said(Driver::Macvlan, &[(PARENT, "eth0.10"), (MTU, "1501")], &facts(), &[]);
    assert_eq!(mtu, "MTU 1501 is over the 1500 of parent eth0.10: use at most that");
}

#[test]
fn a_kernel_that_lacks_a_kind_is_named_first() {
    let bare = HostFacts { has_macvlan: false, has_ipvlan: false, has_vlan: false, ..facts() };
    assert_eq!(said(Driver::Macvlan, &[], &bare, &[]), "this kernel has no macvlan: load the module macvlan");
    assert_eq!(
        said(Driver::Ipvlan, &[(PARENT, "eth9")], &bare, &[]),
        "this kernel has no ipvlan: load the module ipvlan"
    );
    let no_vlan = HostFacts { has_vlan: false, ..facts() };
    let refused = "this kernel has no 8021q: load the module 8021q";
    assert_eq!(said(Driver::Macvlan, &[(PARENT, "eth0.10")], &no_vlan, &[]), refused);
    // One that is there needs nothing made.
    assert_eq!(said(Driver::Macvlan, &[(PARENT, "eth0.5")], &no_vlan, &[]), "on eth0.5");
}

#[test]
fn who_may_share_a_parent() {
    use Driver::{Ipvlan, Macvlan};
    let mac = |mode: &str| network("m", Macvlan, &[(PARENT, "eth0"), ("macvlan_mode", mode)]);
    let ip = |mode: &str, flag: &str| {
        network("i", Ipvlan, &[(PARENT, "eth0"), ("ipvlan_mode", mode), ("ipvlan_flag", flag)])
    };
    let on0 = |k: &'static str, v: &'static str| vec![(PARENT, "eth0"), (k, v)];
    let beside_ipvlan =
        "parent eth0 carries ipvlan (network \"i\"), and macvlan cannot be beside it: use another parent";
    let beside_macvlan =
        "parent eth0 carries macvlan (network \"m\"), and ipvlan cannot be beside it: use another parent";
    let passthru =
        "parent eth0 is used by network \"m\", and passthru takes a parent for itself: use another parent or mode";
    let differs = "parent eth0 carries ipvlan in mode l3 with flag private (network \"i\"), and mode and flag are the parent's: use the same or another parent";
    for (driver, pairs, other, expected) in [
        (Macvlan, on0("macvlan_mode", "bridge"), mac("private"), "on eth0"),
        (Macvlan, on0("macvlan_mode", "passthru"), mac("bridge"), passthru),
        (Macvlan, on0("macvlan_mode", "vepa"), mac("passthru"), passthru),
        (Macvlan, on0("macvlan_mode", "passthru"), mac("passthru"), passthru),
        (Macvlan, on0("macvlan_mode", "bridge"), ip("l2", "bridge"), beside_ipvlan),
        (Ipvlan, on0("ipvlan_mode", "l2"), mac("bridge"), beside_macvlan),
        (Ipvlan, on0("ipvlan_mode", "l2"), ip("l2", "bridge"), "on eth0"),
        (Ipvlan, on0("ipvlan_mode", "l3"), ip("l3", "private"), differs),
        (Ipvlan, on0("ipvlan_flag", "private"), ip("l3", "private"), differs),
        // Elsewhere, or of no parent, all is free.
        (Macvlan, vec![(PARENT, "br0"), ("macvlan_mode", "passthru")], mac("passthru"), "on br0"),
        (Macvlan, vec![("macvlan_mode", "passthru")], network("n", Macvlan, &[]), "dead end"),
        (Ipvlan, vec![(PARENT, "eth0")], network("b", Driver::Bridge, &[]), "on eth0"),
    ] {
        assert_eq!(said(driver, &pairs, &facts(), &[other]), expected, "{driver} {pairs:?}");
    }
}

#[test]
fn links_of_others_count_too() {
    use Driver::{Ipvlan, Macvlan};
    for (driver, pairs, part) in [
        (Macvlan, vec![(PARENT, "eth3")], "on eth3"),
        (Macvlan, vec![(PARENT, "eth3"), ("macvlan_mode", "passthru")], "used by link mv3"),
        (Ipvlan, vec![(PARENT, "eth3")], "carries macvlan (link mv3)"),
        (Macvlan, vec![(PARENT, "eth4")], "used by link mv4"),
        (Macvlan, vec![(PARENT, "eth5")], "carries ipvlan (link iv5)"),
        (Ipvlan, vec![(PARENT, "eth5")], "carries ipvlan in mode l3 with flag bridge (link iv5)"),
        (Ipvlan, vec![(PARENT, "eth5"), ("ipvlan_mode", "l3")], "on eth5"),
    ] {
        let said = said(driver, &pairs, &facts(), &[]);
        assert!(said.contains(part), "{driver} {pairs:?}: {said}");
    }
}

#[test]
fn passthru_has_room_for_one() {
    let passthru = macvlan::Options { mode: MacvlanMode::Passthru, ..Default::default() };
    assert_eq!(macvlan::admit(&passthru, 0), Ok(()));
    assert_eq!(macvlan::admit(&passthru, 1), Err(Refusal::Full));
    assert_eq!(macvlan::admit(&macvlan::Options::default(), 7), Ok(()));
}

#[test]
fn what_others_hold_is_no_parent_of_the_moment() {
    let parents = facts().parents();
    assert!(parents.contains_key(&name("eth0")) && parents.contains_key(&name("eth2")));
    for not in ["lo", "eth1", "wg0", "red"] {
        assert!(!parents.contains_key(&name(not)), "{not}");
    }
}
