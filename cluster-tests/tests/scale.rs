//! What is wanted and what the kernels have agree after every change, and nothing is left at the end.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, program, skipped, wait};
use std::process::Command;

const HOSTS: [&str; 3] = ["node1", "node2", "node3"];

/// Everything of this machine that a lab could leave behind.
fn machine() -> Vec<String> {
    let run = |script: &str| {
        let output = Command::new("sh").args(["-c", script]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    vec![
        run("ls /sys/class/net | sort"),
        run("ls /run/netns 2>/dev/null | sort"),
        run("nft list tables"),
        run("cut -d' ' -f2 /proc/mounts | sort"),
        run("lsns -t net -n -o NS | sort"),
        run("ls /run/heddle-lab /var/lib/heddle-lab 2>/dev/null"),
        run("pgrep -af 'heddle.*t-scale' | grep -v pgrep"),
    ]
}

#[test]
fn scaling_and_removing_leave_exactly_what_is_wanted() {
    if skipped() {
        return;
    }
    let before = machine();
    let lab = Lab::up("t-scale", 3, 1);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "front"]);
    lab.create_web("web", 3, &["-p", "8080:80", "--network", "front"]);
    lab.create_web("other", 2, &["-p", "9090:80"]);
    let backends = |host: &str| {
        let text = lab.sh(host, "ip netns exec hd-ingress nft list chain inet heddle v4_tcp_8080 2>/dev/null || true");
        text.matches(" . 80").count()
    };
    for replicas in [10, 1, 4] {
        lab.heddle("node1", &["service", "scale", &format!("web={replicas}")]);
        lab.settled(&HOSTS, &["web", "other"]);
        assert_eq!(lab.running("node1", "web").unwrap().len(), replicas);
        for host in HOSTS {
            wait(&format!("{host} balances over {replicas}"), || match backends(host) {
                n if n == replicas => Ok(()),
                n => Err(n.to_string()),
            });
        }
        let answers = lab.ask("client", "10.77.0.2:8080", 200, false);
        assert_eq!((answers.failed.as_str(), answers.tasks.len()), ("", replicas));
    }
    lab.heddle("node1", &["service", "rm", "web"]);
    lab.settled(&HOSTS, &["other"]);
    for host in HOSTS {
        assert_eq!(backends(host), 0);
        assert_eq!(lab.sh(host, "ls /run/netns | grep -c ^hd-n- || true").trim(), "0", "no overlay is left on {host}");
    }
    assert!(lab.ask("client", "10.77.0.1:8080", 1, false).failed.contains("refused"));
    assert_eq!(lab.ask("client", "10.77.0.1:9090", 10, false).failed, "");
    lab.heddle("node1", &["network", "rm", "front"]);

    // A host that leaves has nothing of ours any more, and the cluster goes on without it.
    lab.heddle("node3", &["leave"]);
    let left = lab.sh("node3", "ls /run/netns 2>/dev/null; ls /sys/class/net | grep -e ^hd -e heddle; nft list tables");
    assert!(!left.contains("hd") && !left.contains("heddle"), "{left}");
    // What the host has by itself stays: its own networks.
    let kept = lab.sh("node3", "cd /var/lib/heddle-lab/t-scale/node3; find . -type f; ls agent/tasks");
    let mut kept: Vec<_> = kept.lines().filter(|l| *l != "./daemon.log").collect();
    kept.sort();
    assert_eq!(kept, ["./agent/host.json", "./daemon.lock"]);
    wait("node3's tasks run elsewhere", || {
        let running = lab.running("node1", "other")?;
        if running.len() == 2 && running.iter().all(|t| t["hostname"] != "node3") {
            Ok(())
        } else {
            Err(format!("{running:?}"))
        }
    });
    drop(lab);
    wait("the machine is as it was", || {
        let after = machine();
        if after == before { Ok(()) } else { Err(format!("{after:#?} instead of {before:#?}")) }
    });
    let gone = Command::new(program()).args(["lab", "ps", "--name", "t-scale"]).output().unwrap();
    assert!(!gone.status.success());
}
