//! What has to hold when services grow, shrink and go, on three hosts that run nothing yet.

use crate::{HOSTS, Lab, balancing::backends, spread};

/// What is wanted and what the kernels have agree after every change. At the end the third host has left.
pub fn scaling_and_removing_leave_exactly_what_is_wanted(lab: &Lab) {
    lab.heddle("node1", &["network", "create", "-d", "overlay", "front"]);
    lab.create_web("web", 3, &["-p", "8080:80", "--network", "front"]);
    lab.create_web("other", 2, &["-p", "9090:80"]);
    for replicas in [10, 1, 4] {
        lab.heddle("node1", &["service", "scale", &format!("web={replicas}"), "--timeout", &lab.patience()]);
        lab.settled(&HOSTS, &["web", "other"]);
        assert_eq!(lab.running("node1", "web").expect("web runs").len(), replicas);
        for host in HOSTS {
            lab.wait(&format!("{host} balances over {replicas}"), || match backends(lab, host, 8080) {
                n if n == replicas => Ok(()),
                n => Err(n.to_string()),
            });
        }
        spread(replicas, |count| lab.ask("client", "10.77.0.2:8080", count, false));
    }
    lab.heddle("node1", &["service", "rm", "web"]);
    lab.settled(&HOSTS, &["other"]);
    for host in HOSTS {
        assert_eq!((backends(lab, host, 8080), backends(lab, host, 9090)), (0, 2), "{host}");
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
    let kept = lab.sh("node3", &format!("cd {}; find . -type f; ls agent/tasks", lab.state_dir("node3")));
    let mut kept: Vec<_> = kept.lines().filter(|l| *l != "./daemon.log").collect();
    kept.sort();
    assert_eq!(kept, ["./agent/host.json", "./daemon.lock"]);
    lab.wait("node3's tasks run elsewhere", || {
        let running = lab.running("node1", "other")?;
        if running.len() == 2 && running.iter().all(|t| t["hostname"] != "node3") {
            Ok(())
        } else {
            Err(format!("{running:?}"))
        }
    });
}
