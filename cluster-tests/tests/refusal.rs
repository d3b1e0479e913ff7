//! What is wrong is refused in one clear sentence, and nothing is left half-made.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, program, skipped, wait};
use serde_json::Value;
use std::{
    process::Command,
    time::{Duration, Instant},
};

fn create<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["service", "create", "--process"], more, &["--", "heddle", "whoami", "--port", "80"]].concat()
}

#[test]
fn specs_that_cannot_be_are_refused() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-refusal", 2, 1);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "small", "--subnet", "10.60.0.0/29"]);
    lab.create_web("web", 1, &["-p", "8080:80"]);
    lab.sh("node2", "(timeout 60 nc -lk -p 7070 || timeout 60 nc -lk 7070) >/dev/null 2>&1 &");
    wait("node2 reports its port", || {
        let node = lab.try_json("node1", &["node", "inspect", "node2"])?;
        if node.to_string().contains("7070") { Ok(()) } else { Err(node.to_string()) }
    });
    let state = || (lab.heddle("node1", &["service", "ls"]), lab.heddle("node1", &["network", "ls"]));
    let before = state();
    for (args, parts) in [
        (create(&["--name", "a_b"]), vec!["\"a_b\"", "not a DNS label"]),
        (create(&["--name", ""]), vec!["not a DNS label"]),
        (create(&["--name", "web"]), vec!["\"web\" exists already"]),
        (create(&["--name", "x", "-p", "8080:80"]), vec!["port 8080/tcp", "service \"web\""]),
        (create(&["--name", "x", "-p", "7070:80"]), vec!["port 7070/tcp", "process of host node2"]),
        (create(&["--name", "x", "-p", "2377:80"]), vec!["port 2377/tcp", "process of host node1"]),
        (create(&["--name", "x", "-p", "81:80", "-p", "81:90"]), vec!["port 81/tcp is named twice"]),
        (create(&["--name", "x", "-p", "0:80"]), vec!["\"0\" is not a number from 1 to 65535"]),
        (create(&["--name", "x", "--replicas", "1000000"]), vec!["replicas 1000000", "0 to 10000"]),
        (
            create(&["--name", "x", "--mode", "replicated-job", "--replicas", "0"]),
            vec!["replicas 0 of a job", "1 to 10000"],
        ),
        (create(&["--name", "x", "--network", "nowhere"]), vec!["no network is called \"nowhere\""]),
        (create(&["--name", "x", "--network", "ingress"]), vec!["publishing a port"]),
        (
            create(&["--name", "x", "--network", "small", "--replicas", "9"]),
            vec!["network small", "10.60.0.0/29 has 5"],
        ),
        (create(&["--name", "x", "--constraint", "zone=a"]), vec!["\"zone=a\"", "KEY==VALUE"]),
        (vec!["service", "create", "--process", "--name", "x"], vec!["--process", "PROGRAM"]),
        (vec!["service", "create", "--name", "x"], vec!["give an image", "--process"]),
        (vec!["service", "create", "--name", "x", "Nginx"], vec!["image \"Nginx\"", "lower-case", "nginx:1.27"]),
        (vec!["service", "create", "--name", "x", "--replcas", "3", "nginx"], vec!["--replcas", "before the image"]),
        (create(&["--name", "x", "--entrypoint", "sh"]), vec!["--entrypoint", "only a service of an image"]),
        (
            vec!["service", "update", "--no-resolve-image", "--image", "nginx", "web"],
            vec!["--image nginx", "program of the hosts"],
        ),
        (vec!["service", "scale", "web=10001"], vec!["replicas 10001", "0 to 10000"]),
        (vec!["service", "scale", "web=many"], vec!["\"many\""]),
        (vec!["service", "scale", "web=2", "nobody=3"], vec!["no service is called \"nobody\""]),
        (vec!["service", "scale", "web=2", "web=-1"], vec!["\"-1\""]),
        (create(&["--name", "x", "--user", "a b"]), vec!["user \"a b\"", "USER:GROUP"]),
        (create(&["--name", "x", "--cap-add", "SYS_ROOT"]), vec!["capability \"SYS_ROOT\"", "NET_ADMIN"]),
        (create(&["--name", "x", "--cap-add", "KILL", "--cap-drop", "KILL"]), vec!["--cap-drop KILL", "once"]),
        (create(&["--name", "x", "--ulimit", "files=1"]), vec!["ulimit \"files=1\"", "nofile"]),
        (create(&["--name", "x", "--ulimit", "nofile=2:1"]), vec!["nofile=2:1", "above the hard one"]),
        (create(&["--name", "x", "--stop-signal", "STOP"]), vec!["stop signal \"STOP\"", "SIGTERM"]),
        (create(&["--name", "x", "--mount", "type=bind,source=a,target=/b"]), vec!["source is an absolute path"]),
        (
            create(&["--name", "x", "--mount", "type=volume,source=-a,target=/b"]),
            vec!["volume name \"-a\"", "use 1 to 255"],
        ),
        (create(&["--name", "x", "--log-opt", "max-file=0"]), vec!["\"max-file=0\"", "from 1 to 100"]),
        (create(&["--name", "x", "--host", "db"]), vec!["host \"db\"", "NAME:ADDRESS"]),
        (create(&["--name", "x", "--env", "A={{.Node.Name}}"]), vec!["variable A", "{{.Node.Hostname}}"]),
        (create(&["--name", "x", "--hostname", "{{.Task"]), vec!["host name", "has no end"]),
        (create(&["--name", "x", "--rebalance-every", "1s"]), vec!["every 1s", "at least 10s"]),
        (create(&["--name", "x", "--rebalance-max", "0"]), vec!["tasks to move at most", "not 0"]),
        (
            create(&["--name", "x", "--mode", "global", "--rebalance-every", "1m"]),
            vec!["global service cannot be moved"],
        ),
        (vec!["service", "scale", "nobody=3"], vec!["no service is called \"nobody\""]),
        (vec!["service", "rm", "nobody"], vec!["no service is called \"nobody\""]),
        (vec!["service", "ps", "nobody"], vec!["no service is called \"nobody\""]),
        (
            vec!["network", "create", "-d", "overlay", "bad", "--subnet", "10.1.0.0/33"],
            vec!["\"10.1.0.0/33\"", "10.1.0.0/24"],
        ),
        (
            vec!["network", "create", "-d", "overlay", "bad", "--subnet", "10.1.0.1/24"],
            vec!["\"10.1.0.1/24\"", "without host bits"],
        ),
        (
            vec!["network", "create", "-d", "overlay", "bad", "--subnet", "10.60.0.0/24"],
            vec!["10.60.0.0/24 overlaps with network small"],
        ),
        (
            vec!["network", "create", "-d", "overlay", "bad", "--subnet", "10.77.0.0/16"],
            vec!["overlaps with host node", "10.77.0.0/24"],
        ),
        (vec!["network", "create", "-d", "overlay", "bad", "--subnet", "10.61.0.0/31"], vec!["no room"]),
        (vec!["network", "create", "-d", "overlay", "bad", "--mtu", "500"], vec!["MTU 500", "1280"]),
        (vec!["network", "create", "-d", "overlay", "small"], vec!["\"small\" exists already"]),
        (vec!["network", "create", "-b.d"], vec!["unexpected argument"]),
        (vec!["network", "rm", "ingress"], vec!["cannot be removed"]),
        (vec!["network", "inspect", "nowhere"], vec!["no network is called \"nowhere\""]),
        (vec!["node", "inspect", "nobody"], vec!["no node is called \"nobody\""]),
        (vec!["init"], vec!["in cluster", "heddle leave"]),
        (vec!["leave"], vec!["last manager", "--force"]),
    ] {
        let said = lab.try_heddle("node1", &args).expect_err(&format!("{args:?} should be refused"));
        for part in parts {
            assert!(said.contains(part), "{args:?} says {said:?}, which does not contain {part:?}");
        }
    }
    assert_eq!(state(), before, "nothing was made or lost");

    let said = lab.refused("node2", &["service", "ls"]);
    assert!(said.contains("this node is a worker"), "{said}");
    // A service that uses a network keeps it.
    lab.create_web("user", 1, &["--network", "small"]);
    let said = lab.refused("node1", &["network", "rm", "small"]);
    assert!(said.contains("used by service user"), "{said}");
    // What cannot run says why.
    let said = lab.refused(
        "node1",
        &["service", "create", "--process", "--name", "broken", "--timeout", "10", "--", "/no/such/program"],
    );
    assert!(said.contains("/no/such/program"), "{said}");
    let said =
        lab.refused("node1", &create(&["--name", "far", "--timeout", "2", "--constraint", "node.hostname==mars"]));
    assert!(said.contains("2 do not match the constraints"), "{said}");
}

/// What a host shows of its own state, and has in its kernel.
fn own(lab: &Lab) -> ((String, Value), String) {
    (lab.listed_still("node1"), lab.kernel("node1"))
}

#[test]
fn what_the_kernel_refuses_is_refused_with_its_reason() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-kernel", 1);
    lab.heddle("node1", &["network", "create", "front"]);
    lab.run_web("node1", "web", &["--network", "front"]);
    // No link is called so, but the name is taken.
    lab.sh("node1", "ip link property add dev eth0 altname taken0");
    let before = own(&lab);
    let named = ["network", "create", "-o", "com.docker.network.bridge.name=taken0", "bad"];
    let said = lab.refused("node1", &named);
    assert!(said.contains("the kernel refuses a part of bad: add link taken0 in host: a link of that name"), "{said}");
    assert_eq!(own(&lab), before, "nothing is left of it");
    let errors = lab.json("node1", &["info", "--format", "json"])["dataPlaneErrors"].clone();
    assert_eq!(errors.to_string(), "[]");

    // Somebody has taken our table away and made one that only he may change.
    lab.sh(
        "node1",
        "mkfifo /run/owner
         (timeout 120 nft -i < /run/owner & timeout 120 sleep 120 > /run/owner &) >/dev/null 2>&1
         timeout 10 sh -c 'echo \"delete table inet heddle_bridge; add table inet heddle_bridge { flags owner; }\" > /run/owner'",
    );
    wait("the table is his", || {
        let tables = lab.sh("node1", "nft list tables; nft list table inet heddle_bridge");
        if tables.contains("owner") { Ok(()) } else { Err(tables) }
    });
    for args in [
        vec!["network", "create", "more"],
        vec!["run", "-d", "--name", "more", "--network", "front", "--", "sleep", "9"],
        vec!["network", "connect", "bridge", "web"],
    ] {
        let begun = Instant::now();
        let said = lab.refused("node1", &args);
        assert!(said.contains("the kernel refuses a part of ") && said.contains("heddle_bridge"), "{args:?}: {said}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{args:?}: {:?}", begun.elapsed());
        assert_eq!(lab.listed_still("node1"), before.0, "{args:?} leaves nothing");
        let seen = lab.workload("node1", "web")["NetworkSettings"]["Networks"].clone();
        assert_eq!(seen.as_object().map(serde_json::Map::len), Some(1), "{args:?}: {seen}");
    }
}

#[test]
fn joining_needs_the_right_token_of_the_right_cluster() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-join", 3);
    let said = lab.refused("node1", &["service", "ls"]);
    assert!(said.contains("in no cluster"), "{said}");
    let said = lab.refused("node1", &["init", "--advertise-addr", "192.0.2.1"]);
    assert!(said.contains("192.0.2.1") && said.contains("does not have"), "{said}");
    let said = lab.refused("node1", &["init", "--default-addr-pool", "10.0.0.0"]);
    assert!(said.contains("10.0.0.0"), "{said}");
    lab.heddle("node1", &["init"]);
    lab.heddle("node2", &["init"]);
    let token = |host: &str| lab.heddle(host, &["join-token", "worker", "-q"]).trim().to_owned();
    let (mine, others) = (token("node1"), token("node2"));
    let wrong = format!("{}{}", &mine[..mine.len() - 4], "0000");
    for (token, part) in [
        ("nonsense", "not of the form"),
        (wrong.as_str(), "was replaced or is wrong"),
        (others.as_str(), "for another cluster"),
    ] {
        let said = lab.refused("node3", &["join", "--token", token, "10.77.0.1"]);
        assert!(said.contains(part), "{token}: {said}");
    }
    let said = lab.refused("node3", &["join", "--token", &mine, "10.77.0.99"]);
    assert!(said.contains("10.77.0.99:2377 does not answer"), "{said}");
    lab.heddle("node1", &["join-token", "worker", "--rotate", "-q"]);
    let said = lab.refused("node3", &["join", "--token", &mine, "10.77.0.1"]);
    assert!(said.contains("was replaced or is wrong"), "{said}");
    assert_eq!(lab.json("node1", &["node", "ls", "--format", "json"]).as_array().unwrap().len(), 1);
    assert!(lab.refused("node3", &["node", "ls"]).contains("in no cluster"));

    lab.heddle("node3", &["join", "--token", &token("node1"), "10.77.0.1"]);
    lab.heddle("node3", &["leave"]);
    // As a manager, after the other cluster is given up.
    lab.heddle("node2", &["leave", "--force"]);
    let manager = lab.heddle("node1", &["join-token", "manager", "-q"]);
    for host in ["node2", "node3"] {
        lab.heddle(host, &["join", "--token", manager.trim(), "10.77.0.1"]);
    }
    assert_eq!(lab.json("node3", &["node", "ls", "--format", "json"]).as_array().unwrap().len(), 3);
    lab.heddle("node1", &["leave"]);
    wait("the others go on", || {
        let nodes = lab.try_json("node2", &["node", "ls", "--format", "json"])?;
        if nodes.as_array().is_some_and(|n| n.len() == 2) { Ok(()) } else { Err(nodes.to_string()) }
    });
}

#[test]
fn without_a_daemon_or_without_root_the_way_out_is_named() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let output = Command::new(program()).arg("--socket").arg(&socket).args(["node", "ls"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("no daemon is running") && said.contains("heddle daemon"),
        "{said}"
    );

    // As nobody: neither a daemon nor a lab, and the socket of one that runs is closed.
    let lab = Lab::up("t-root", 1, 1);
    let copy = dir.path().join("heddle");
    std::fs::copy(program(), &copy).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).unwrap();
    let copy = copy.display().to_string();
    for (args, part) in
        [("daemon", "run it as root"), ("lab up", "as root"), ("doctor", "as root"), ("node ls", "for root only")]
    {
        let script = format!("setpriv --reuid 65534 --regid 65534 --clear-groups {copy} {args}");
        let output = lab.exec("node1", &["sh", "-c", &script]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(part), "{args}: {said}");
    }
}
