//! Overlays: names, virtual addresses, isolation.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, skipped, spread};
use serde_json::Value;
use std::collections::BTreeSet;

fn dig(lab: &Lab, task: &Value, question: &str) -> Vec<String> {
    let output = lab.in_task(task, &format!("dig +time=2 +tries=1 +short {question}"));
    let mut lines: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn tasks_find_each_other_by_name_and_reach_the_virtual_address() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-overlay", 3, 1);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "front"]);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "back"]);
    lab.create_web("web", 3, &["--network", "name=front,alias=www"]);
    lab.create_web("pool", 2, &["--network", "front", "--endpoint-mode", "dnsrr"]);
    lab.create_web("db", 1, &["--network", "back"]);
    lab.create_web("both", 1, &["--network", "front", "--network", "back"]);
    let network = lab.overlay("node1", "front");
    let vip = network.vips("web");
    let endpoints = |name: &str, family: usize| -> Vec<String> {
        let mut all: Vec<_> = network.endpoints(name).into_iter().map(|addrs| addrs[family].clone()).collect();
        all.sort();
        all
    };
    let caller = lab.running("node1", "both").unwrap().remove(0);

    assert_eq!(dig(&lab, &caller, "web A"), [vip[0].clone()]);
    assert_eq!(dig(&lab, &caller, "web AAAA"), [vip[1].clone()]);
    assert_eq!(dig(&lab, &caller, "+tcp web A"), [vip[0].clone()]);
    assert_eq!(dig(&lab, &caller, "www A"), [vip[0].clone()]);
    assert_eq!(dig(&lab, &caller, "WEB.front A"), [vip[0].clone()]);
    assert_eq!(dig(&lab, &caller, "tasks.web A"), endpoints("web", 0));
    assert_eq!(dig(&lab, &caller, "tasks.web AAAA"), endpoints("web", 1));
    assert_eq!(dig(&lab, &caller, "pool A"), endpoints("pool", 0));
    assert_eq!(dig(&lab, &caller, &format!("-x {}", vip[0])), ["web.front."]);
    assert_eq!(dig(&lab, &caller, &format!("-x {}", vip[1])), ["web.front."]);
    assert_eq!(dig(&lab, &caller, "nobody A"), Vec::<String>::new());

    // By TCP and UDP, both families, with the caller's own overlay address as the source.
    let attachment =
        &caller["attachments"].as_array().unwrap().iter().find(|a| a["network"] == *network.id()).unwrap()["addr"];
    for (target, family, udp) in [
        ("web:80".to_owned(), "", false),
        (format!("{}:80", vip[0]), "v4", false),
        (format!("[{}]:80", vip[1]), "v6", false),
        (format!("{}:80", vip[0]), "v4", true),
        (format!("[{}]:80", vip[1]), "v6", true),
    ] {
        let answers = spread(3, |count| lab.ask_from_task(&caller, &target, count, udp));
        if !family.is_empty() {
            let own = attachment[family].as_str().unwrap().to_owned();
            assert_eq!(answers.clients, BTreeSet::from([own]), "{target} udp={udp}");
        }
    }
    // A workload reaches itself by its own service's name.
    assert_eq!(lab.ask_from_task(&caller, "both:80", 2, false).failed, "");

    // Who is only on `front` knows nothing of `back`, and cannot reach it by address either.
    let outsider = lab.running("node1", "web").unwrap().remove(0);
    let back = lab.overlay("node1", "back");
    let (db_vip, db_task) = (back.vips("db"), back.endpoints("db").remove(0));
    assert_eq!(dig(&lab, &outsider, "db A"), Vec::<String>::new());
    for target in [&db_vip[0], &db_task[0], &format!("[{}]", db_vip[1]), &format!("[{}]", db_task[1])] {
        let answers = lab.ask_from_task(&outsider, &format!("{target}:80"), 1, false);
        assert!(answers.tasks.is_empty(), "{target} is reached from another overlay");
    }
    assert_eq!(lab.ask_from_task(&caller, "db:80", 2, false).failed, "");
}

#[test]
fn unknown_names_are_asked_of_the_hosts_resolver() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-forward", 1, 1);
    // The host's resolver: another task's resolver on the same host, so that nothing outside is needed.
    lab.heddle("node1", &["network", "create", "-d", "overlay", "a"]);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "b"]);
    lab.create_web("upstream", 1, &["--network", "a"]);
    lab.create_web("asker", 1, &["--network", "b"]);
    let vip = &lab.overlay("node1", "a").vips("upstream")[0];
    let task = lab.running("node1", "upstream").unwrap().remove(0);
    let space = format!("hd-t-{}", &task["id"].as_str().unwrap()[..10]);
    // 127.0.0.9 on the host leads to that resolver.
    lab.sh("node1", "mount -t tmpfs none /mnt && cp /etc/resolv.conf /mnt/r && echo nameserver 127.0.0.9 > /mnt/r && mount --bind /mnt/r $(readlink -f /etc/resolv.conf)");
    let relay = "import socket,os,sys\n\
        h=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);h.bind(('127.0.0.9',53))\n\
        fd=os.open('/run/netns/'+sys.argv[1],os.O_RDONLY)\n\
        import ctypes;ctypes.CDLL(None).setns(fd,0x40000000)\n\
        t=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);t.connect(('127.0.0.11',53))\n\
        q,a=h.recvfrom(4096);t.send(q);h.sendto(t.recv(4096),a)\n";
    std::fs::write("/tmp/heddle-relay.py", relay).unwrap();
    lab.sh(
        "node1",
        &format!("timeout 20 python3 /tmp/heddle-relay.py {space} >/tmp/heddle-relay.log 2>&1 & sleep 0.5"),
    );
    let asker = lab.running("node1", "asker").unwrap().remove(0);
    let answer = dig(&lab, &asker, "upstream.a A");
    std::fs::remove_file("/tmp/heddle-relay.py").unwrap();
    let _ = std::fs::remove_file("/tmp/heddle-relay.log");
    assert_eq!(answer, std::slice::from_ref(vip));
}
