//! Services of images: containerd and a registry on the hosts of a lab, images made of Debian's programs.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{
    HOSTS, Lab, addr,
    images::{Root, containerd_on, equip, push},
    program, skipped, spread, wait,
};
use serde_json::{Value, json};
use std::time::Duration;

fn page(lab: &Lab, host: &str) -> String {
    let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {} 8080", addr(host));
    let answer = String::from_utf8_lossy(&lab.exec("client", &["sh", "-c", &ask]).stdout).into_owned();
    answer.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned()
}

fn tasks(lab: &Lab, name: &str) -> Vec<Value> {
    lab.json("node1", &["service", "ps", name, "--format", "json"]).as_array().unwrap().clone()
}

/// The error of the newest task.
fn refused(lab: &Lab, name: &str) -> String {
    wait("it is refused", || {
        let all = lab.try_json("node1", &["service", "ps", name, "--format", "json"])?;
        let errors: Vec<_> = all.as_array().into_iter().flatten().filter_map(|t| t["error"].as_str()).collect();
        errors.iter().find(|e| !e.is_empty()).map(|e| (*e).to_owned()).ok_or_else(|| all.to_string())
    })
}

/// What containerd has of ours on a host.
fn left(lab: &Lab, host: &str) -> String {
    let ctr = |what: &str| format!("ctr -n heddle {what} -q 2>/dev/null");
    let script = format!(
        "{}; {}; ctr -n heddle leases ls -q; ctr -n heddle snapshots ls | grep -c Active",
        ctr("containers ls"),
        ctr("tasks ls")
    );
    String::from_utf8_lossy(&lab.exec(host, &["sh", "-c", &script]).stdout).trim().to_owned()
}

/// Volumes begin with what the image has there: one by name, which stays, and one that the image asks for, which does not.
fn volumes(lab: &Lab) {
    let root = Root::busybox();
    root.write("srv/data/file", "given\n");
    root.write("srv/own/file", "own\n");
    let image = push(lab, "volumes:1", &root, json!({"Volumes": {"/srv/own": {}}}));
    let run = |name: &str| {
        let script = "cat /srv/data/file /srv/own/file; echo changed > /srv/data/file; echo changed > /srv/own/file
            echo the end; exec sleep 1000";
        let create =
            ["service", "create", "--name", name, "--constraint", "node.hostname==node2", "--entrypoint", "sh -c"];
        lab.heddle("node1", &[&create[..], &["-v", "filled:/srv/data", &image, script]].concat());
        wait("it has printed all", || {
            let said = lab.try_heddle("node1", &["service", "logs", "--raw", name])?;
            if said.contains("the end") { Ok(said) } else { Err(said) }
        })
    };
    assert_eq!(run("vol1"), "given\nown\nthe end\n");
    let own = format!("cat {}/agent/tasks/*/volumes/1/data/file 2>/dev/null || true", lab.state_dir("node2"));
    assert_eq!(lab.sh("node2", &own), "changed\n");
    lab.heddle("node1", &["service", "rm", "vol1"]);
    assert_eq!(run("vol2"), "changed\nown\nthe end\n");
    lab.heddle("node1", &["service", "rm", "vol2"]);
    wait("what has no name went with its tasks", || match lab.sh("node2", &own).as_str() {
        "" => Ok(()),
        left => Err(left.to_owned()),
    });
    wait("nobody uses the other", || lab.try_heddle("node2", &["volume", "rm", "filled"]));
}

#[test]
fn every_host_answers_for_an_image_and_an_update_drops_nothing() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-images", 3, 1);
    // Before there is a containerd, a service of an image waits, and says why.
    let detached = ["service", "create", "--detach", "--no-resolve-image", "--name", "early", "nginx"];
    lab.heddle("node1", &detached);
    let said = wait("it says why it waits", || {
        let said = lab.try_heddle("node1", &["service", "explain", "early"])?;
        if said.contains("it cannot run images") { Ok(said) } else { Err(said) }
    });
    assert!(said.contains("install and start containerd on node1"), "{said}");
    lab.heddle("node1", &["service", "rm", "early"]);
    equip(&lab, &HOSTS);
    let nginx = ["one", "two"].map(|page| {
        push(&lab, &format!("nginx:{page}"), &Root::nginx(page), json!({"Cmd": ["nginx", "-c", "/etc/nginx/nginx.conf"], "Env": ["PATH=/usr/sbin:/bin"], "StopSignal": "SIGQUIT"}))
    });
    wait("all nodes can run images", || {
        let nodes = lab.try_json("node1", &["node", "inspect", "node1", "node2", "node3"])?;
        let able = |n: &Value| n["description"]["executors"].to_string().contains("containerd");
        if nodes.as_array().is_some_and(|all| all.iter().all(able)) { Ok(()) } else { Err(nodes.to_string()) }
    });
    let create =
        ["service", "create", "--name", "web", "-p", "8080:80", "--replicas", "3", "--update-order", "start-first"];
    lab.heddle("node1", &[&create[..], &[&nginx[0]]].concat());
    for host in HOSTS {
        assert_eq!(page(&lab, host), "one", "{host}");
    }
    let shown = lab.heddle("node1", &["service", "ls"]);
    assert!(shown.contains("nginx:one@sha256:"), "the digest is pinned: {shown}");
    let log = lab.heddle("node1", &["service", "logs", "--raw", "web"]);
    assert!(log.contains("10.77.0.250"), "nginx sees who asks: {log}");
    // Another image, and back.
    lab.heddle("node1", &["service", "update", "--image", &nginx[1], "web"]);
    assert!(HOSTS.iter().all(|host| page(&lab, host) == "two"));
    lab.heddle("node1", &["service", "rollback", "web"]);
    assert!(HOSTS.iter().all(|host| page(&lab, host) == "one"));
    lab.heddle("node1", &["service", "rm", "web"]);

    // What an image cannot be is said as it is.
    let whoami = push(
        &lab,
        "whoami:1",
        &Root::whoami(),
        json!({"Entrypoint": ["heddle"], "Cmd": ["whoami", "--port", "80"], "User": "www", "Env": ["PATH=/bin"]}),
    );
    lab.heddle(
        "node1",
        &["service", "create", "--detach", "--no-resolve-image", "--name", "missing", &format!("{}-not", nginx[0])],
    );
    assert!(refused(&lab, "missing").ends_with("the registry has no such image"));
    lab.heddle(
        "node1",
        &["service", "create", "--detach", "--name", "broken", "--entrypoint", "/no/such/program", &whoami],
    );
    assert!(refused(&lab, "broken").contains("/no/such/program"));
    lab.heddle("node1", &["service", "create", "--detach", "--name", "nobody", "--user", "nobody-here", &whoami]);
    assert_eq!(refused(&lab, "nobody"), "user \"nobody-here\": the image has no user \"nobody-here\"");
    lab.heddle("node1", &["service", "rm", "missing", "broken", "nobody"]);

    // Secrets and configs are files in memory, wherever they are to be.
    lab.sh("node1", &format!("echo -n word | {} secret create key -", program().display()));
    lab.sh("node1", &format!("echo -n text | {} config create conf -", program().display()));
    let given = ["--secret", "source=key,uid=33,mode=0400", "--config", "source=conf,target=/srv/deep/app.conf"];
    let script = "cat /run/secrets/key /srv/deep/app.conf; echo; ls -l /run/secrets/key; touch /run/secrets/key || echo closed; sleep 1000";
    let create = ["service", "create", "--name", "given", "--user", "www", "--entrypoint", "sh -c"];
    lab.heddle("node1", &[&create[..], &given, &[&whoami, script]].concat());
    let said = wait("it has printed all", || {
        let said = lab.try_heddle("node1", &["service", "logs", "--raw", "given"])?;
        if said.contains("closed") { Ok(said) } else { Err(said) }
    });
    assert!(said.contains("wordtext\n-r-------- "), "{said}");
    for host in HOSTS {
        let mounts = lab.sh(host, "grep -c 'tasks/.*/memory' /proc/self/mounts || true");
        assert_eq!(mounts.trim(), "0", "{host} has nothing mounted for it any more");
    }
    lab.heddle("node1", &["service", "rm", "given"]);
    volumes(&lab);

    // Updates of an image are asked all the time.
    let create = [
        "service",
        "create",
        "--name",
        "who",
        "-p",
        "8080:80",
        "--replicas",
        "3",
        "--health-cmd",
        "true",
        "--health-interval",
        "1s",
    ];
    lab.heddle("node1", &[&create[..], &[&whoami]].concat());
    for host in HOSTS {
        let answers = spread(3, |count| lab.ask("client", &format!("{}:8080", addr(host)), count, false));
        assert_eq!(answers.clients.iter().collect::<Vec<_>>(), ["10.77.0.250"], "{answers:?}");
    }
    let one = tasks(&lab, "who").into_iter().find(|t| t["state"] == "running").unwrap();
    let (host, id) = (one["hostname"].as_str().unwrap(), one["id"].as_str().unwrap());
    let said = lab.heddle(host, &["exec", id, "sh", "-c", "id; cat /etc/hostname 2>/dev/null; ls /bin/heddle"]);
    assert!(said.starts_with("uid=33(www) gid=33(www) groups=4(adm)"), "exec is who the program is: {said}");
    assert!(said.ends_with("\n/bin/heddle\n"), "and sees its image: {said}");
    for order in ["stop-first", "start-first"] {
        let update = ["service", "update", "--force", "--update-order", order, "--update-parallelism", "1", "who"];
        let answers = lab.meanwhile(&format!("{}:8080", addr("node2")), || drop(lab.heddle("node1", &update)));
        let asked: u32 = answers.tasks.values().sum();
        println!("update of an image, {order}: {asked} requests, 0 failed");
        assert!(answers.failed.is_empty() && asked > 50, "{answers:?}");
    }

    // Whoever is killed, the containers run on and are known again.
    let before = tasks(&lab, "who");
    let running = |all: &[Value]| -> Vec<String> {
        all.iter().filter(|t| t["state"] == "running").map(|t| t["id"].to_string()).collect()
    };
    lab.do_lab(&["kill", "node2", "--daemon"]);
    lab.sh("node2", "kill -9 $(cat /run/ctd/pid)");
    lab.sh("node3", "kill -9 $(cat /run/ctd/pid)");
    std::thread::sleep(Duration::from_millis(500));
    containerd_on(&lab, "node2");
    containerd_on(&lab, "node3");
    lab.do_lab(&["start", "node2"]);
    lab.connected("node2");
    for host in HOSTS {
        spread(3, |count| lab.ask("client", &format!("{}:8080", addr(host)), count, false));
    }
    assert_eq!(running(&tasks(&lab, "who")), running(&before), "no task has been replaced");
    // A shim that is killed takes its container with it: another one comes.
    lab.sh("node3", "kill -9 $(pgrep -x containerd-shim | head -1)");
    wait("another task is there", || {
        let now = tasks(&lab, "who");
        let failed = now.iter().any(|t| t["state"] == "failed");
        if failed && running(&now).len() == 3 { Ok(()) } else { Err(format!("{now:?}")) }
    });
    // A host that leaves takes its containers with it.
    lab.heddle("node3", &["leave"]);
    assert_eq!(left(&lab, "node3"), "0");
    lab.heddle("node1", &["service", "rm", "who"]);
    for host in HOSTS {
        wait("containerd has nothing left", || match left(&lab, host) {
            nothing if nothing == "0" => Ok(()),
            some => Err(some),
        });
    }
}
