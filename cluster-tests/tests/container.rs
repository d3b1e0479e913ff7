//! How the programs of tasks are set up on their hosts, and how much of what they print is kept.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, skipped, spread, wait};
use std::time::{Duration, Instant};

/// A service of one host's program, which is not waited for.
fn create(lab: &Lab, name: &str, more: &[&str], script: &str) {
    let head = ["service", "create", "--process", "--detach", "--name", name];
    lab.heddle("node1", &[&head[..], more, &["--", "sh", "-c", script]].concat());
}

/// What its task has printed, when that ends with `end`.
fn printed(lab: &Lab, name: &str) -> Vec<String> {
    wait("it has printed all", || {
        let said = lab.try_heddle("node1", &["service", "logs", "--raw", name])?;
        if said.contains("the end") { Ok(said) } else { Err(said) }
    })
    .lines()
    .map(str::to_owned)
    .collect()
}

/// The error of the newest task.
fn refused(lab: &Lab, name: &str) -> String {
    wait("it is refused", || {
        let tasks = lab.try_json("node1", &["service", "ps", name, "--format", "json"])?;
        let errors: Vec<_> = tasks.as_array().into_iter().flatten().filter_map(|t| t["error"].as_str()).collect();
        errors.iter().find(|e| !e.is_empty()).map(|e| (*e).to_owned()).ok_or_else(|| tasks.to_string())
    })
}

#[test]
fn a_program_is_set_up_as_its_service_says() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-container", 2, 1);
    lab.sh("node1", "mkdir -p /run/t-data /run/t-scratch && echo kept > /run/t-data/file");
    let set = [
        ["--constraint", "node.hostname==node1"],
        ["--user", "nobody:daemon"],
        ["--group", "4242"],
        ["--cap-drop", "ALL"],
        ["--ulimit", "nofile=123:456"],
        ["--env", "SLOT={{.Service.Name}}/{{.Task.Slot}}/{{.Node.Hostname}}"],
        ["--hostname", "{{.Service.Name}}-{{.Task.Slot}}"],
        ["--host", "elsewhere:192.0.2.9"],
        ["--dns-search", "example.org"],
        ["--mount", "type=bind,source=/run/t-data,target=/mnt,readonly"],
        ["--mount", "type=tmpfs,target=/run/t-scratch,tmpfs-size=64k,tmpfs-mode=1777"],
    ];
    let script = "id -u; id -g; id -G; echo $SLOT; hostname; echo $HOME; ulimit -Sn; ulimit -Hn
        grep CapBnd /proc/self/status; grep CapEff /proc/self/status
        getent hosts elsewhere; grep search /etc/resolv.conf; cat /mnt/file
        touch /mnt/new || echo no new; touch /var/tmp/new || echo no root
        touch /run/t-scratch/new && echo scratch; echo x > /dev/null && echo null
        head -c 100000 /dev/zero > /run/t-scratch/large || echo full
        echo x > /dev/stderr && echo stderr; echo the end; exec sleep 1000";
    create(&lab, "set", &[&set.concat()[..], &["--read-only"]].concat(), script);
    let said = printed(&lab, "set");
    let text = said.join("\n");
    let uid = lab.sh("node1", "id -u nobody; id -g daemon");
    let (uid, gid) = uid.trim().split_once('\n').unwrap();
    assert_eq!(
        said[..8],
        [uid, gid, &format!("{gid} 4242"), "set/1/node1", "set-1", "/nonexistent", "123", "456"],
        "{text}"
    );
    for want in [
        "CapBnd:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "search example.org",
        "kept",
        "no new",
        "no root",
        "scratch",
        "null",
        "full",
        "stderr",
    ] {
        assert!(said.iter().any(|line| line == want), "{want:?} in {text}");
    }
    assert!(text.contains("192.0.2.9"), "{text}");

    // Whoever comes in later is who the program is.
    let task = lab.running("node1", "set").unwrap().remove(0);
    let inside = lab
        .heddle("node1", &["exec", task["id"].as_str().unwrap(), "sh", "-c", "id -u; grep CapBnd /proc/self/status"]);
    assert_eq!(inside.split_whitespace().collect::<Vec<_>>(), [uid, "CapBnd:", "0000000000000000"]);
    assert_eq!(lab.sh("node1", "ls /run/t-data /run/t-scratch | wc -l").trim(), "4", "nothing was made on the host");

    // A capability that is named is kept by who is not root, and a health check has the same.
    let keeps = ["--user", "nobody", "--cap-add", "NET_ADMIN", "--health-cmd", "test $(id -u) = $(id -u nobody)"];
    create(
        &lab,
        "keeps",
        &[&keeps[..], &["--health-interval", "200ms"]].concat(),
        "grep CapEff /proc/self/status; echo the end; exec sleep 1000",
    );
    assert!(printed(&lab, "keeps").contains(&"CapEff:\t0000000000001000".into()));
    wait("it is healthy", || match lab.running("node1", "keeps")?.len() {
        1 => Ok(()),
        n => Err(format!("{n} run")),
    });

    // Nobody who listens on 80, where a service is published.
    lab.create_web("web", 2, &["-p", "8080:80", "--user", "nobody"]);
    spread(2, |count| lab.ask("client", "10.77.0.2:8080", count, false));

    // What cannot be says why, and nothing of it is left.
    create(&lab, "nobody", &["--user", "no-such-user"], "exec sleep 1000");
    assert!(refused(&lab, "nobody").contains("user \"no-such-user\": the host has none of that name"));
    create(&lab, "nowhere", &["--mount", "type=bind,source=/no/such,target=/mnt"], "exec sleep 1000");
    let said = refused(&lab, "nowhere");
    assert!(said.contains("source=/no/such,target=/mnt: the host has no such path"), "{said}");
    for name in ["set", "keeps", "web", "nobody", "nowhere"] {
        lab.heddle("node1", &["service", "rm", name]);
    }
}

#[test]
fn a_program_is_asked_to_end_by_its_own_signal() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-signal", 1, 1);
    let script = "trap 'echo asked; exit 0' USR1; trap '' TERM; echo the end; while :; do sleep 0.1; done";
    create(&lab, "signal", &["--stop-signal", "USR1", "--stop-grace-period", "30s"], script);
    printed(&lab, "signal");
    let began = Instant::now();
    lab.heddle("node1", &["service", "update", "--force", "--update-monitor", "0s", "signal"]);
    assert!(began.elapsed().as_secs() < 25, "it was not killed: {:?}", began.elapsed());
    let said = lab.heddle("node1", &["service", "logs", "--raw", "signal"]);
    assert_eq!(said.matches("asked").count(), 1, "{said}");
}

#[test]
fn of_what_is_printed_the_last_is_kept_and_who_follows_misses_nothing() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-logs", 2, 1);
    let kept = ["--log-opt", "max-size=4k", "--log-opt", "max-file=3", "--constraint", "node.hostname==node2"];
    // Nothing is printed before somebody follows.
    let script = "echo waiting; until [ -e /run/t-go ]; do sleep 0.1; done; for n in $(seq 2000); do echo line $n; [ $((n % 20)) = 0 ] && sleep 0.05; done; echo the end; exec sleep 1000";
    create(&lab, "talk", &kept, script);
    wait("it runs", || match lab.running("node1", "talk")?.len() {
        1 => Ok(()),
        n => Err(format!("{n} run")),
    });
    let following = lab.lines("node1", &["service", "logs", "--raw", "-f", "talk"]);
    let first = following.recv_timeout(Duration::from_secs(20));
    assert_eq!(first.as_deref(), Ok("waiting"), "it is followed");
    lab.sh("node2", "touch /run/t-go");
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line| line != "the end") {
        lines.push(following.recv_timeout(Duration::from_secs(30)).unwrap());
    }
    assert_eq!(lines.len(), 2001, "{} lines", lines.len());
    assert!((1..=2000).all(|n| lines[n - 1] == format!("line {n}")));
    let after = printed(&lab, "talk");
    assert!((50..400).contains(&after.len()), "{} are kept", after.len());
    assert_eq!(after, lines[lines.len() - after.len()..]);
    assert_eq!(
        lab.heddle("node1", &["service", "logs", "--raw", "-n", "3", "talk"]).lines().collect::<Vec<_>>(),
        lines[1998..]
    );
    let sizes = lab.sh("node2", "find / -xdev -name 'log*.jsonl' -size +0 -path '*heddle*' -printf '%s\n' 2>/dev/null");
    let sizes: Vec<u64> = sizes.lines().map(|n| n.parse().unwrap()).collect();
    println!("2,001 lines were printed, {} are kept in files of {sizes:?} bytes", after.len());
    assert!((1..=3).contains(&sizes.len()) && sizes.iter().all(|size| *size <= 4096), "{sizes:?}");
}
