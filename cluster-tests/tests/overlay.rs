//! Overlays: names, virtual addresses, isolation.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{
    Lab,
    discovery::{self, dig},
    skipped,
};

#[test]
fn tasks_find_each_other_by_name_and_reach_the_virtual_address() {
    if !skipped() {
        discovery::tasks_find_each_other_by_name_and_reach_the_virtual_address(&Lab::up("t-overlay", 3, 1));
    }
}

/// By UDP and by TCP: an answer comes late, and no question fails.
#[test]
fn who_asks_for_a_name_while_no_daemon_runs_waits_for_the_next() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-silence", 1, 1);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "a"]);
    lab.create_web("web", 1, &["--network", "a"]);
    let task = lab.running("node1", "web").unwrap().remove(0);
    let vip = lab.overlay("node1", "a").vips("web")[0].clone();
    lab.do_lab(&["kill", "node1", "--daemon"]);
    let ways = ["", "RES_OPTIONS=use-vc "];
    std::thread::scope(|scope| {
        let (lab, task) = (&lab, &task);
        let asked = ways.map(|way| scope.spawn(move || lab.in_task(task, &format!("{way}getent ahostsv4 web"))));
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert!(asked.iter().all(|asked| !asked.is_finished()), "a question was answered by nobody");
        lab.do_lab(&["start", "node1"]);
        for (asked, way) in asked.into_iter().zip(ways) {
            let answer = asked.join().unwrap();
            let said = String::from_utf8_lossy(&answer.stdout).into_owned();
            assert!(answer.status.success() && said.starts_with(&vip), "{way:?}: {answer:?}");
        }
    });
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
    let answer = dig(&lab, &asker, &["upstream.a A"]).remove(0);
    std::fs::remove_file("/tmp/heddle-relay.py").unwrap();
    let _ = std::fs::remove_file("/tmp/heddle-relay.log");
    assert_eq!(answer, std::slice::from_ref(vip));
}
