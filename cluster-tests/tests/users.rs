//! People who ask the cluster through its port, from a host where they are nobody.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, skipped, wait};

#[test]
fn a_user_asks_from_anywhere_until_removed_and_is_written_down() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-observe-users", 3, 2);
    let dir = format!("{}/alice", lab.state_dir("node1"));
    assert_eq!(lab.heddle("node1", &["cluster", "user", "add", "alice", "--dir", &dir]).trim(), dir);
    let said = lab.refused("node1", &["cluster", "user", "add", "alice", "--dir", &dir]);
    assert_eq!(said, format!("heddle: {dir} is there already: use another --dir"));
    let taken = lab.refused("node2", &["cluster", "user", "add", "alice", "--dir", &(dir.clone() + "2")]);
    assert_eq!(taken, "heddle: user alice is there already: remove it first, or use another name");
    let listed = lab.json("node2", &["cluster", "user", "ls", "--format", "json"]);
    assert_eq!(listed[0]["name"], "alice");

    // On a worker, through whichever manager.
    let alice = |args: &[&str]| lab.try_heddle("node3", &[&["--as", &dir], args].concat());
    assert!(alice(&["node", "ls"]).unwrap().contains("node3"));
    alice(&["network", "create", "-d", "overlay", "hers"]).unwrap();
    assert!(alice(&["cluster", "status"]).unwrap().contains("2 of 2 managers can be reached"));
    for (args, said) in [
        (&["join-token", "manager"][..], "a user may not do this: it is for root on a manager's host"),
        (&["cluster", "user", "ls"], "a user may not do this: it is for root on a manager's host"),
        (&["info"], "this command is about the host that it runs on: run it there as root, without --as"),
        (&["exec", "x", "true"], "this command is about the host that it runs on: run it there as root, without --as"),
    ] {
        let refused = alice(args).unwrap_err();
        assert_eq!(refused.lines().last().unwrap(), format!("heddle: {said}"), "{args:?}");
    }
    let log = |host: &str| std::fs::read_to_string(lab.state_dir(host) + "/daemon.log").unwrap_or_default();
    wait("the audit says who did it", || {
        let logs = log("node1") + &log("node2");
        let says = ["audit", "CreateNetwork", "object=\"hers\"", "user alice"];
        let line = logs.lines().any(|l| says.iter().all(|s| l.contains(s)));
        if line { Ok(()) } else { Err(logs) }
    });

    // A reader that goes away ends a command without a word.
    let program = heddle_cluster_tests::program();
    let unread = format!("{{ {{ sleep 0.3; {} node ls; echo rc $? >&3; }} 2>&3 | :; }} 3>&1", program.display());
    assert_eq!(lab.sh("node1", &unread).trim(), "rc 141");

    lab.heddle("node2", &["cluster", "user", "rm", "alice"]);
    wait("she is refused", || match alice(&["node", "ls"]) {
        Err(said) if said.ends_with("user alice was removed from the cluster") => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
