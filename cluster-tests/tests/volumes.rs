//! Volumes of a host: they outlive who uses them, the daemon and the cluster, and go when nobody uses them and somebody says so.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, skipped, wait};

const NODE: &str = "node1";

/// The names that `volume ls` shows.
fn names(lab: &Lab, more: &[&str]) -> Vec<String> {
    let said = lab.heddle(NODE, &[&["volume", "ls", "-q"][..], more].concat());
    said.lines().map(str::to_owned).collect()
}

/// What a service has printed, when that has this in it.
fn printed(lab: &Lab, service: &str, last: &str) -> String {
    wait("it has printed all", || {
        let said = lab.try_heddle(NODE, &["service", "logs", "--raw", service])?;
        if said.contains(last) { Ok(said) } else { Err(said) }
    })
}

#[test]
fn a_volume_outlives_who_uses_it_and_goes_when_nobody_does() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-volumes", 1, 1);
    lab.sh(NODE, "mkdir -p /run/t-own");
    assert_eq!(lab.heddle(NODE, &["volume", "create", "--label", "tier=db", "data"]).trim(), "data");
    lab.heddle(NODE, &["volume", "create", "data"]);
    let unnamed = lab.heddle(NODE, &["volume", "create"]).trim().to_owned();
    assert_eq!(unnamed.len(), 64, "{unnamed}");

    let write = "echo kept > /mnt/file; echo own > /run/t-own/file; exec sleep 1000";
    let run = ["run", "-d", "--name", "db", "-v", "data:/mnt", "-v", "/run/t-own", "--", "sh", "-c", write];
    let id = lab.heddle(NODE, &run).trim().to_owned();
    let reads = || {
        wait("it has written", || {
            let said = lab.exec(NODE, &["heddle", "exec", "db", "cat", "/mnt/file", "/run/t-own/file"]);
            match String::from_utf8_lossy(&said.stdout).as_ref() {
                "kept\nown\n" => Ok(()),
                other => Err(other.to_owned()),
            }
        })
    };
    reads();
    let own = format!("{}/agent/tasks/{id}/volumes/1/data/file", lab.state_dir(NODE));
    let seen = lab.sh(NODE, &format!("cat {own}; ls /mnt/file /run/t-own/file 2>/dev/null || echo hidden"));
    assert_eq!(seen, "own\nhidden\n", "the host itself sees neither where its task does");
    let in_use = || {
        let said = lab.refused(NODE, &["volume", "rm", "data"]);
        assert!(said.contains("volume \"data\" is in use by workload db"), "{said}");
    };
    in_use();

    lab.do_lab(&["kill", NODE, "--daemon"]);
    lab.do_lab(&["start", NODE]);
    wait("its use is known again", || {
        let said = lab.try_json(NODE, &["volume", "inspect", "data"])?;
        if said[0]["UsedBy"][0] == "workload db" { Ok(()) } else { Err(said.to_string()) }
    });
    reads();
    in_use();
    // One that may be started again has its volumes still.
    lab.heddle(NODE, &["stop", "-t", "1", "db"]);
    in_use();
    lab.heddle(NODE, &["start", "db"]);
    reads();
    lab.heddle(NODE, &["rm", "-f", "db"]);
    assert_eq!(lab.sh(NODE, &format!("ls {own} 2>/dev/null || true")), "", "it went with its workload");
    assert_eq!(names(&lab, &["--filter", "dangling=true"]).len(), 2);

    // Tasks of services, each with the volume of its own slot.
    let script = "cat /mnt/file; touch /mnt/new || echo closed; exec sleep 1000";
    let create = ["service", "create", "--process", "--name"];
    lab.heddle(NODE, &[&create[..], &["web", "-v", "data:/mnt:ro", "--", "sh", "-c", script]].concat());
    assert!(printed(&lab, "web", "closed").contains("kept\n"));
    let said = lab.refused(NODE, &["volume", "rm", "data"]);
    assert!(said.contains("volume \"data\" is in use by task web.1"), "{said}");
    let script = "echo $HEDDLE_SLOT >> /mnt/slot; cat /mnt/slot; exec sleep 1000";
    let more =
        ["each", "--replicas", "2", "--mount", "source=each-{{.Task.Slot}},target=/mnt", "--", "sh", "-c", script];
    lab.heddle(NODE, &[&create[..], &more].concat());
    printed(&lab, "each", "2\n");
    assert_eq!(names(&lab, &["--filter", "name=each"]), ["each-1", "each-2"]);
    lab.sh(NODE, &format!("grep -qx 2 {}/agent/volumes/each-2/data/slot", lab.state_dir(NODE)));

    // What cannot be is said.
    for (line, want) in [
        (&["run", "-v", "x{{.Task.Slot}}:/mnt", "--", "true"][..], "use 1 to 255 of a-z, A-Z, 0-9"),
        (&["volume", "create", "a/b"], "volume name \"a/b\": use 1 to 255 of"),
        (&["volume", "rm", "nothing"], "\"nothing\""),
        (&["volume", "inspect", "nothing"], "\"nothing\""),
        (&["volume", "prune"], "give --force to remove unused volumes"),
    ] {
        let said = lab.refused(NODE, line);
        assert!(said.contains(want), "{line:?}: {said}");
    }
    lab.heddle(NODE, &["volume", "rm", "-f", "nothing"]);

    lab.heddle(NODE, &["volume", "rm", &unnamed]);
    lab.heddle(NODE, &["service", "rm", "each"]);
    lab.heddle(NODE, &["volume", "create", "large"]);
    lab.sh(NODE, &format!("head -c 200000 /dev/zero > {}/agent/volumes/large/data/zero", lab.state_dir(NODE)));
    let said = wait("nobody uses them", || match names(&lab, &["--filter", "dangling=true"]).as_slice() {
        [a, b, c] if [a, b, c] == ["each-1", "each-2", "large"] => Ok(lab.heddle(NODE, &["volume", "prune", "-f"])),
        other => Err(format!("{other:?}")),
    });
    assert!(said.starts_with("Deleted Volumes:\neach-1\neach-2\nlarge\n"), "{said}");
    assert!(said.contains("Total reclaimed space: 2") && said.contains(" KiB"), "{said}");
    assert_eq!(names(&lab, &[]), ["data"]);

    lab.heddle(NODE, &["leave", "--force"]);
    assert_eq!(
        names(&lab, &["--filter", "label=tier=db", "--filter", "dangling=true"]),
        ["data"],
        "the cluster went, it is still there"
    );
    let ended = lab.attended(NODE, &["--rm", "-v", "data:/mnt", "--", "cat", "/mnt/file"]);
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "kept\n");
    lab.heddle(NODE, &["volume", "rm", "data"]);
    assert!(names(&lab, &[]).is_empty());
    assert_eq!(lab.sh(NODE, &format!("ls -A {}/agent/volumes", lab.state_dir(NODE))), "", "nothing of them is left");
}
