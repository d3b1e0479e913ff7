//! What a host is asked for and cannot be: one sentence with the field, the value and what would do, and nothing half-made.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, skipped, wait};

const NODE: &str = "node1";
const LONG: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// Links and routes of somebody else's, a full network, and whoever is in the way of something below.
fn crowded(name: &str) -> Lab {
    let lab = Lab::bare(name, 1);
    lab.sh(
        NODE,
        "ip route add 10.70.5.0/24 dev eth0; ip route add 10.71.0.9/32 dev eth0; ip -6 route add fd70::9/128 dev eth0
         ip link add foreign0 type bridge; ip link add p0 type veth peer p1; ip link set p0 master foreign0
         ip link set p0 up; ip link set p1 up; ip link set foreign0 up
         (timeout 200 nc -lk 7070 >/dev/null 2>&1 &)",
    );
    wait("somebody listens", || {
        let seen = lab.sh(NODE, "ss -Htln");
        if seen.contains(":7070") { Ok(()) } else { Err(seen) }
    });
    lab.heddle(NODE, &["network", "create", "tiny", "--subnet", "10.60.0.0/29"]);
    lab.heddle(NODE, &["network", "create", "v4", "--subnet", "10.64.0.0/24", "--ipv6=false"]);
    lab.heddle(NODE, &["network", "create", "mv", "-d", "macvlan", "-o", "parent=eth0", "--subnet", "10.66.0.0/24"]);
    let alone = ["-o", "parent=p1", "-o", "macvlan_mode=passthru", "--subnet", "10.67.0.0/24"];
    lab.heddle(NODE, &[&["network", "create", "pt", "-d", "macvlan"], &alone[..]].concat());
    lab.run_web(NODE, "one", &["--network", "tiny", "--ip", "10.60.0.3", "-p", "8080:80"]);
    for name in ["two", "three", "four", "five"] {
        lab.run_web(NODE, name, &["--network", "tiny"]);
    }
    lab.run_web(NODE, "owner", &["--network", "pt"]);
    lab.run_web(NODE, "hosted", &["--network", "host"]);
    lab.run_web(NODE, "plain", &[]);
    lab
}

/// Every one is refused with these parts in what is said, and changes nothing.
fn refuses(lab: &Lab, cases: &[(Vec<&str>, &[&str])]) {
    let before = (lab.listed_still(NODE), lab.kernel(NODE));
    let mut wrong = Vec::new();
    for (args, parts) in cases {
        match lab.try_heddle(NODE, args) {
            Ok(output) => wrong.push(format!("{args:?} is not refused: {output}")),
            Err(said) => {
                wrong.extend(
                    parts
                        .iter()
                        .filter(|p| !said.contains(**p))
                        .map(|p| format!("{args:?} says {said:?} without {p:?}")),
                );
                // What a source says is said once.
                let half = said.rsplit_once(": ").map(|(before, last)| before.contains(last));
                wrong.extend((half == Some(true)).then(|| format!("{args:?} says it twice: {said:?}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!((lab.listed_still(NODE), lab.kernel(NODE)), before, "nothing was made or lost");
}

fn create<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["network", "create", "b"], more].concat()
}

fn run<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["run", "-d"], more, &["--", "true"]].concat()
}

#[test]
fn networks_that_cannot_be() {
    if skipped() {
        return;
    }
    let lab = crowded("t-in-net");
    const ICC: &str = "com.docker.network.bridge.enable_icc=maybe";
    const MODE: &str = "com.docker.network.bridge.gateway_mode_ipv4=other";
    const BINDING: &str = "com.docker.network.bridge.host_binding_ipv4=fd00::1";
    const LINK: &str = "com.docker.network.bridge.name=foreign0";
    const LONG_LINK: &str = "com.docker.network.bridge.name=averyveryverylongname";
    let macvlan = |option| create(&["-d", "macvlan", "-o", option]);
    refuses(
        &lab,
        &[
            (create(&["--subnet", "10.60.0.0/24"]), &["10.60.0.0/24 overlaps with network tiny (10.60.0.0/29)"]),
            (
                create(&["--subnet", "10.70.0.0/16"]),
                &["10.70.0.0/16 overlaps with a route of this host (10.70.5.0/24)"],
            ),
            (create(&["--subnet", "10.71.0.0/24"]), &["a route of this host (10.71.0.9/32)"]),
            (create(&["--subnet", "fd70::/64"]), &["fd70::/64 overlaps with a route of this host (fd70::9/128)"]),
            (create(&["--subnet", "10.77.0.0/16"]), &["a route of this host (10.77.0.0/24)"]),
            (create(&["--subnet", "0.0.0.0/0"]), &["0.0.0.0/0", "use a private one such as 10.1.0.0/24"]),
            (create(&["--subnet", "127.0.0.0/24"]), &["127.0.0.0/24", "loopback"]),
            (create(&["--subnet", "224.0.0.0/24"]), &["224.0.0.0/24", "multicast"]),
            (create(&["--subnet", "fe80::/64"]), &["fe80::/64", "link-local"]),
            (create(&["--subnet", "10.61.0.0/33"]), &["\"10.61.0.0/33\"", "10.1.0.0/24"]),
            (create(&["--subnet", "10.61.0.1/24"]), &["\"10.61.0.1/24\"", "without host bits"]),
            (create(&["--subnet", "10.61.0.0/31"]), &["10.61.0.0/31 has no room: use at most /30"]),
            (create(&["--subnet", "10.61.0.0/24", "--subnet", "10.62.0.0/24"]), &["more than one IPv4 subnet"]),
            (create(&["--subnet", "10.61.0.0/24", "--gateway", "10.62.0.1"]), &["--gateway 10.62.0.1", "10.61.0.0/24"]),
            (create(&["--gateway", "10.62.0.1"]), &["--gateway 10.62.0.1: no --subnet is given"]),
            (create(&["--subnet", "10.61.0.0/24", "--gateway", "10.61.0.0"]), &["10.61.0.0 is the network address"]),
            (
                create(&["--subnet", "10.61.0.0/24", "--gateway", "10.61.0.255"]),
                &["10.61.0.255 is the broadcast address"],
            ),
            (create(&["--subnet", "10.61.0.0/24", "--ip-range", "10.62.0.0/25"]), &["--ip-range 10.62.0.0/25"]),
            (create(&["--subnet", "10.61.0.0/24", "--aux-address", "r=10.62.0.5"]), &["--aux-address r=10.62.0.5"]),
            (create(&["--subnet", "10.61.0.0/24", "--aux-address", "r=10.61.0.1"]), &["r=10.61.0.1 is the gateway"]),
            (create(&["--subnet", "10.61.0.0/24", "--ipv4=false"]), &["an IPv4 subnet with IPv4 switched off"]),
            (create(&["--ipv4=false", "--ipv6=false"]), &["--ipv4=false and --ipv6=false leave nothing"]),
            (vec!["network", "create", "tiny"], &["\"tiny\" exists already"]),
            (vec!["network", "create", "bridge"], &["\"bridge\" exists already"]),
            (vec!["network", "create", "ingress"], &["\"ingress\" exists already"]),
            (vec!["network", "create", "a/b"], &["\"a/b\": use 1 to 63 of a-z"]),
            (vec!["network", "create", LONG], &[LONG, "use 1 to 63 of a-z"]),
            (
                create(&["-o", "colour=red"]),
                &["\"colour\" is unknown to the driver bridge", "enable_icc", "host_binding_ipv4"],
            ),
            (create(&["-o", ICC]), &["enable_icc=\"maybe\": use true, false"]),
            (create(&["-o", MODE]), &["gateway_mode_ipv4=\"other\": use nat, nat-unprotected, routed"]),
            (create(&["-o", BINDING]), &["host_binding_ipv4=\"fd00::1\": use an IPv4 address"]),
            (create(&["-o", LINK]), &["\"foreign0\" is in use by a link of this host"]),
            (create(&["-o", LONG_LINK]), &["\"averyveryverylongname\"", "1 to 15"]),
            (create(&["-o", "com.docker.network.driver.mtu=abc"]), &["driver.mtu", "abc"]),
            (create(&["-d", "nosuch"]), &["driver \"nosuch\": use bridge, overlay, macvlan or ipvlan"]),
            (create(&["-d", "overlay"]), &["in no cluster: run `heddle init`, or `heddle join`"]),
            (create(&["--attachable"]), &["--attachable and --ingress are for overlay networks"]),
            (macvlan("parent=nosuch0"), &["parent nosuch0 does not exist: use a link of this host"]),
            (macvlan("parent=p0"), &["parent p0 is a port of foreign0: use foreign0"]),
            (macvlan("parent=a/b"), &["parent=\"a/b\"", "1 to 15 characters"]),
            (macvlan("parent=lo"), &["parent lo is the loopback"]),
            (macvlan("parent=eth0.0"), &["\"eth0.0\": a VLAN id is a number from 1 to 4094"]),
            (macvlan("parent=eth0.4095"), &["\"eth0.4095\": a VLAN id is a number from 1 to 4094"]),
            (macvlan("parent=nosuch0.10"), &["nosuch0.10 does not exist and neither does nosuch0"]),
            (macvlan("parent=p1"), &["parent p1 is used by network \"pt\", and passthru takes a parent for itself"]),
            (macvlan("macvlan_mode=sideways"), &["macvlan_mode=\"sideways\": use bridge, vepa, passthru, private"]),
            (
                macvlan("ipvlan_mode=l2"),
                &["\"ipvlan_mode\" is unknown to the driver macvlan: it knows parent, macvlan_mode"],
            ),
            (
                create(&["-d", "macvlan", "-o", "parent=eth0", "-o", "macvlan_mode=passthru"]),
                &["parent eth0 is used by network \"mv\""],
            ),
            (
                create(&["-d", "macvlan", "-o", "parent=eth0", "--mtu", "9000"]),
                &["MTU 9000 is over the 1500 of parent eth0"],
            ),
            // Either the kernel has none, or eth0 is macvlan's already.
            (create(&["-d", "ipvlan", "-o", "parent=eth0"]), &["ipvlan"]),
            (vec!["network", "rm", "bridge"], &["network bridge is one of every host's own: it cannot be removed"]),
            (vec!["network", "rm", "host"], &["network host is one of every host's own"]),
            (vec!["network", "rm", "none"], &["network none is one of every host's own"]),
            (
                vec!["network", "rm", "tiny"],
                &["network tiny is used by workload ", " and 4 more: disconnect or remove it first"],
            ),
            (vec!["network", "rm", "pt"], &["network pt is used by workload owner: disconnect or remove it first"]),
            (vec!["network", "rm", "nosuch"], &["no network is called \"nosuch\""]),
            (vec!["network", "inspect", "nosuch"], &["no network is called \"nosuch\""]),
            (vec!["network", "ls", "--filter", "colour=red"], &["\"colour\": use dangling, driver"]),
            (vec!["network", "ls", "--filter", "type=red"], &["type=red: use custom or builtin"]),
            (vec!["network", "prune", "--filter", "colour=red"], &["\"colour\": use label"]),
            (vec!["network", "prune"], &["give --force"]),
        ],
    );
}

#[test]
fn workloads_and_places_that_cannot_be() {
    if skipped() {
        return;
    }
    let lab = crowded("t-in-run");
    let place = |more: &[&'static str]| run(&[&["--network", "tiny"], more].concat());
    let publish = |port| run(&["-p", port]);
    refuses(
        &lab,
        &[
            (place(&[]), &["network tiny: no free address in 10.60.0.0/29"]),
            (place(&["--ip", "10.60.0.3"]), &["address 10.60.0.3 is in use by one: use another"]),
            (place(&["--ip", "10.60.0.1"]), &["10.60.0.1 is the gateway of subnet 10.60.0.0/29"]),
            (place(&["--ip", "10.60.0.7"]), &["10.60.0.7 is the broadcast address of subnet 10.60.0.0/29"]),
            (place(&["--ip", "10.61.0.7"]), &["10.61.0.7 is outside the subnet 10.60.0.0/29"]),
            (place(&["--ip", "fd99::7"]), &["fd99::7", "--ip"]),
            (run(&["--network", "v4", "--ip6", "fd99::7"]), &["network v4 has no IPv6: leave the address fd99::7 out"]),
            (
                run(&["--network", "v4", "--mac-address", "01:00:00:00:00:01"]),
                &["MAC address 01:00:00:00:00:01", "such as 02:42"],
            ),
            (run(&["--network", "v4", "--mac-address", "zz"]), &["\"zz\""]),
            (run(&["--network", "v4", "--network-alias", "a b"]), &["alias \"a b\""]),
            (run(&["--network", "v4", "--network", "v4"]), &["is connected to network v4 already"]),
            (run(&["--network", "name=v4,colour=red"]), &["\"colour=red\": use name=NETWORK"]),
            (run(&["--ip", "172.17.0.9"]), &["--ip", "the default network has neither"]),
            (run(&["--network-alias", "x"]), &["aliases", "the default network has neither"]),
            (run(&["--network", "host", "--network", "v4"]), &["network host goes with no other"]),
            (run(&["--network", "v4", "--network", "none"]), &["network none goes with no other"]),
            (run(&["--network", "nosuch"]), &["no network is called \"nosuch\""]),
            (run(&["--network", "pt"]), &["network pt", "passthru, which takes one workload at a time"]),
            (run(&["--name", "one"]), &["workload \"one\" exists already: choose another name"]),
            (run(&["--name", "a b"]), &["\"a b\": use 1 to 63 of a-z"]),
            (run(&["--name", LONG]), &[LONG, "use 1 to 63 of a-z"]),
            (vec!["run", "-d", "--", ""], &["no command: give the program to run after `--`"]),
            (vec!["run", "-d", "--", "/no/such"], &["\"/no/such\"", "No such file"]),
            (run(&["-w", "/no/such"]), &["\"/no/such\"", "No such file"]),
            (publish("8080:80"), &["port 8080/tcp of this host is in use: publish another"]),
            (publish("7070:80"), &["port 7070/tcp of this host is in use"]),
            (publish("192.0.2.1:80:80"), &["address 192.0.2.1 is not one of this host's"]),
            (publish("80:"), &["\"\": use a number from 1 to 65535"]),
            (publish("8088:0"), &["\"0\": use a number from 1 to 65535"]),
            (publish("99999:80"), &["\"99999\": use a number from 1 to 65535"]),
            (publish("90-80:80"), &["\"90-80\"", "a range such as 8000-8010"]),
            (publish("80-82:80-81"), &["80-82", "80-81", "ranges of one length"]),
            (publish("8088:80/sctp"), &["\"sctp\": use tcp or udp"]),
            (publish("fd00::1:80:80"), &["an IPv6 address in brackets such as [::1]"]),
            (publish("1.2.3:80:80"), &["\"1.2.3\": use an IPv4 address"]),
            (run(&["-p", "8088:80", "-p", "8088:80"]), &["port 8088/tcp"]),
            (run(&["--dns", "nosuch"]), &["nosuch"]),
            (run(&["--add-host", "x"]), &["use NAME:ADDRESS, such as db:192.0.2.5"]),
            (run(&["--env", "="]), &["\"=\": use NAME=VALUE"]),
            (vec!["network", "connect", "tiny", "one"], &["one is connected to network tiny already"]),
            (vec!["network", "connect", "tiny", "plain"], &["network tiny: no free address in 10.60.0.0/29"]),
            (vec!["network", "connect", "nosuch", "one"], &["no network is called \"nosuch\""]),
            (vec!["network", "connect", "v4", "nosuch"], &["no workload is called \"nosuch\""]),
            (vec!["network", "connect", "host", "one"], &["network host cannot be joined or left by what runs"]),
            (vec!["network", "connect", "none", "one"], &["network none cannot be joined or left by what runs"]),
            (vec!["network", "connect", "v4", "hosted"], &["network host goes with no other"]),
            (vec!["network", "connect", "bridge", "one", "--ip", "172.17.0.9"], &["the default network has neither"]),
            (vec!["network", "connect", "pt", "one"], &["network pt", "takes one workload at a time"]),
            (vec!["network", "disconnect", "bridge", "one"], &["one is not connected to network bridge"]),
            (vec!["network", "disconnect", "host", "hosted"], &["network host cannot be joined or left by what runs"]),
            (vec!["rm", "one"], &["one is running: stop it first, or use --force"]),
            (vec!["start", "nosuch"], &["no workload is called \"nosuch\""]),
            (vec!["exec", "nosuch", "true"], &["no workload is called \"nosuch\""]),
            (vec!["logs", "nosuch"], &["no workload is called \"nosuch\""]),
            (vec!["ps", "--filter", "colour=red"], &["\"colour\": use id, label"]),
        ],
    );
    assert!(lab.sh(NODE, "ss -Htln").lines().all(|l| !l.contains(":8088")), "no port stays held");
    assert_eq!(lab.ask("client", "10.77.0.1:8080", 1, false).by(), Ok("one".into()));
}

#[test]
fn a_host_without_ipv6_has_networks_of_ipv4() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-in-v6", 1);
    lab.sh(
        NODE,
        "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6",
    );
    refuses(
        &lab,
        &[
            (create(&["--ipv6"]), &["IPv6 is turned off in this host's kernel (net.ipv6.conf.all.disable_ipv6)"]),
            (create(&["--subnet", "fd61::/64"]), &["IPv6 is turned off in this host's kernel"]),
        ],
    );
    lab.heddle(NODE, &["network", "create", "front"]);
    let made = lab.json(NODE, &["network", "inspect", "front"]);
    assert_eq!((&made[0]["EnableIPv4"], &made[0]["EnableIPv6"]), (&true.into(), &false.into()));
    lab.run_web(NODE, "web", &["--network", "front", "-p", "8080:80", "-p", "8080:80/udp"]);
    lab.run_web(NODE, "same", &["--network", "front"]);
    for udp in [false, true] {
        assert_eq!(lab.ask("client", "10.77.0.1:8080", 1, udp).by(), Ok("web".into()), "udp={udp}");
        assert_eq!(lab.ask_from(NODE, "same", "10.77.0.1:8080", udp).by(), Ok("web".into()), "udp={udp}");
        assert_eq!(lab.ask_from(NODE, "same", "web:80", udp).by(), Ok("web".into()), "udp={udp}");
    }
    let info = lab.info(NODE);
    assert_eq!(info["dataPlaneErrors"].to_string(), "[]");
}
