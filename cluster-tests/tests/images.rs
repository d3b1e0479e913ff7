//! Services of images: containerd and a registry on the hosts of a lab, images made of Debian's programs.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{
    HOSTS, Lab, addr,
    images::{PRIVATE, REGISTRY, Root, containerd_on, equip, push},
    program, skipped, spread, wait,
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

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

/// Images that one host runs by itself, from an image that is here and from one that has to come first.
fn workloads(lab: &Lab, small: &str) {
    let run = |words: &[&str]| lab.heddle("node3", &[&["run"], words].concat());
    lab.heddle("node3", &["network", "create", "-d", "bridge", "own"]);
    lab.refused("node3", &["image", "inspect", small]);
    let said = run(&["--rm", "--network", "own", "-e", "A=1", small, "sh", "-c", "echo $A in $(hostname)"]);
    assert!(said.starts_with("1 in ") && said.lines().count() == 1, "{said}");
    // Its registry is not asked for what is here.
    lab.heddle("node3", &["image", "inspect", small]);
    let said = lab
        .exec("node3", &[&program().display().to_string(), "run", "--rm", "--entrypoint", "sh", small, "-c", "exit 7"]);
    assert_eq!(said.status.code(), Some(7), "{said:?}");
    run(&[
        "-d",
        "--name",
        "runs",
        "--network",
        "own",
        "-v",
        "kept:/srv",
        small,
        "sh",
        "-c",
        "echo begun > /srv/a; sleep 1000",
    ]);
    assert_eq!(lab.heddle("node3", &["exec", "runs", "cat", "/srv/a"]), "begun\n");
    let seen: Value = lab.json("node3", &["inspect", "runs"]);
    assert!(seen[0]["Config"]["Image"].as_str().is_some_and(|i| i == small), "{seen}");
    let mount = json!({"Type": "volume", "Name": "kept", "Source": "", "Destination": "/srv", "RW": true});
    assert_eq!(seen[0]["Mounts"], json!([mount]));
    assert_eq!(lab.heddle("node3", &["exec", "runs", "pwd"]), "/srv\n", "where its program began");
    let listed = lab.heddle("node3", &["ps"]);
    assert!(listed.lines().nth(1).is_some_and(|row| row.contains(small)), "{listed}");
    lab.heddle("node3", &["stop", "-t", "1", "runs"]);
    // It may be started again.
    let said = lab.refused("node3", &["image", "rm", small]);
    assert!(said.contains("is used by workload runs"), "{said}");
    lab.heddle("node3", &["start", "runs"]);
    assert_eq!(lab.heddle("node3", &["exec", "runs", "cat", "/srv/a"]), "begun\n");
    lab.heddle("node3", &["rm", "-f", "runs"]);
    lab.heddle("node3", &["volume", "rm", "kept"]);
    lab.heddle("node3", &["network", "rm", "own"]);
    let said = lab.refused("node3", &["run", &format!("{small}-not")]);
    assert!(said.contains("the registry has no such image"), "{said}");
    assert_eq!(lab.heddle("node3", &["ps", "-aq"]), "", "nothing half-made stays");
}

/// Nodes get it with the login of whoever made the service, and nobody is told that again.
fn private_images(lab: &Lab, open: &str) {
    let image = open.replace(REGISTRY, PRIVATE);
    let create = ["service", "create", "--name", "private", "--mode", "global"];
    lab.heddle("node1", &[&create[..], &["--detach", "--no-resolve-image", &image]].concat());
    assert!(refused(lab, "private").ends_with("the registry does not give it without other credentials"));
    lab.heddle("node1", &["service", "rm", "private"]);
    let said = lab.refused("node1", &[&create[..], &["--with-registry-auth", &image]].concat());
    assert!(
        said.ends_with(&format!("registry {PRIVATE}: there is no login for it, see `heddle registry login`")),
        "{said}"
    );

    let docker = "export DOCKER_CONFIG=/run/docker";
    let heddle = program().display().to_string();
    let login = format!("{docker}; echo hunter2 | {heddle} registry login -u me --password-stdin {PRIVATE}");
    lab.sh("node1", &login);
    let create = format!("{docker}; {heddle} {} --with-registry-auth {image}", create.join(" "));
    lab.sh("node1", &create);
    let all = tasks(lab, "private");
    let runs = |host: &&str| all.iter().any(|t| t["hostname"] == **host && t["state"] == "running");
    assert!(HOSTS.iter().all(runs), "{all:?}");
    let id = all[0]["id"].as_str().unwrap();
    for told in ["service inspect private", "secret ls", "service ls --format json"] {
        let said = lab.sh("node1", &format!("{heddle} {told} || true"));
        assert!(!said.contains("hunter2"), "{told}: {said}");
    }
    assert!(!lab.heddle(all[0]["hostname"].as_str().unwrap(), &["inspect", id]).contains("hunter2"));
    for host in HOSTS {
        lab.sh(host, &format!("! grep -rqs hunter2 {}", lab.state_dir(host)));
    }
    lab.heddle("node1", &["service", "rm", "private"]);
}

/// The daemon, containerd and its shims at once: the tasks are replaced, and nothing of them is left. Containers are made by another
/// program from then on.
fn everybody_is_killed(lab: &Lab, small: &str) {
    let mine = |all: Vec<Value>| all.into_iter().find(|t| t["state"] == "running" && t["hostname"] == "node2");
    let one = mine(tasks(lab, "who"));
    lab.sh("node2", "kill -9 $(cat /run/ctd/pid) $(pgrep -x containerd-shim) || true");
    lab.do_lab(&["kill", "node2", "--daemon"]);
    lab.sh("node2", "kill -9 $(pgrep -x containerd-shim) 2>/dev/null || true");
    containerd_on(lab, "node2");
    let script = r#"echo '#!/bin/sh
echo ran >> /run/ran
exec runc "$@"' > /run/own-runtime; chmod +x /run/own-runtime"#;
    lab.sh("node2", script);
    lab.do_lab_with(&["start", "node2"], &[("HEDDLE_OCI_RUNTIME", "/run/own-runtime")]);
    lab.connected("node2");
    wait("what ran there is replaced", || {
        let all = lab.try_json("node1", &["service", "ps", "who", "--format", "json"])?;
        let running: Vec<_> = all.as_array().into_iter().flatten().filter(|t| t["state"] == "running").collect();
        let gone = one.as_ref().is_none_or(|one| running.iter().all(|t| t["id"] != one["id"]));
        if running.len() == 3 && gone { Ok(()) } else { Err(all.to_string()) }
    });
    lab.heddle("node2", &["run", "--rm", small, "true"]);
    lab.sh("node2", "grep -q ran /run/ran");
    let said = lab.try_heddle("node2", &["daemon", "--oci-runtime", "no-such-program"]).unwrap_err();
    assert!(said.contains("no such program: it takes a name in PATH or the path of one that may be run"), "{said}");
    for host in HOSTS {
        spread(3, |count| lab.ask("client", &format!("{}:8080", addr(host)), count, false));
    }
}

/// An image that no registry has, and one whose program ends at once: nobody who serves is touched.
fn bad_images_end_as_they_should(lab: &Lab, good: &str) {
    let ids = || {
        let all = tasks(lab, "who").into_iter().filter(|t| t["state"] == "running");
        let mut ids: Vec<_> = all.map(|t| t["id"].to_string()).collect();
        ids.sort();
        ids
    };
    let before = ids();
    assert_eq!(before.len(), 3);
    let none = format!("{good}-not");
    let causes = [
        (&["--no-resolve-image", "--image", &none][..], "the registry has no such image"),
        (&["--entrypoint", "false"], "exit code 1"),
    ];
    let actions = [
        ("pause", "the update is paused: 1 of 3 replicas failed: who."),
        ("continue", "it ended, but not well: 3 of 3 replicas failed: who."),
        ("rollback", "the update was rolled back: 1 of 3 replicas failed: who."),
    ];
    for (change, why) in causes {
        for (action, outcome) in actions {
            let rules =
                ["--update-parallelism", "1", "--update-order", "start-first", "--update-failure-action", action];
            let deadline = ["--update-monitor", "1s", "--update-deadline", "10s"];
            let said =
                lab.refused("node1", &[&["service", "update"], &rules[..], &deadline, change, &["who"]].concat());
            assert!(said.contains(outcome) && said.contains(why), "{action}: {said}");
            assert_eq!(ids(), before, "{action}, {why}");
            if action != "rollback" {
                lab.heddle("node1", &["service", "rollback", "who"]);
            }
        }
    }
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
        let create = [&create[..], &["--stop-grace-period", "1s"]].concat();
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
    let said = lab.try_heddle("node1", &["image", "ls"]).unwrap_err();
    assert!(said.contains("containerd does not answer at /run/containerd/containerd.sock"), "{said}");
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
    let other = push(&lab, "other:1", &Root::busybox().for_processor("s390x"), json!({"Cmd": ["sh"]}));
    lab.heddle("node1", &["service", "create", "--detach", "--name", "other", &other]);
    assert!(refused(&lab, "other").contains("it is for linux/s390x, and this host is linux/"));
    let eats = ["--limit-memory", "16m", "--restart-condition", "none", "--entrypoint", "busybox"];
    lab.heddle(
        "node1",
        &[&["service", "create", "--detach", "--name", "eats"], &eats[..], &[&nginx[0], "tail", "/dev/zero"]].concat(),
    );
    assert_eq!(refused(&lab, "eats"), "killed by the kernel: its memory limit of 16.0 MiB was reached");
    let bare = push(&lab, "bare:1", &Root::busybox(), json!({}));
    lab.heddle("node1", &["service", "create", "--detach", "--name", "bare", &bare]);
    assert_eq!(refused(&lab, "bare"), "the image names no program: give a command or an entry point");
    lab.heddle("node1", &["service", "rm", "missing", "broken", "nobody", "other", "bare", "eats"]);
    private_images(&lab, &whoami);

    // The check of an image is made where a service says nothing, and survives a daemon.
    let checked = push(
        &lab,
        "checked:1",
        &Root::busybox(),
        json!({"Cmd": ["sh", "-c", "sleep 1; touch /tmp/well; sleep 1000"],
            "Healthcheck": {"Test": ["CMD", "ls", "/tmp/well"], "Interval": 500_000_000, "StartInterval": 200_000_000, "Retries": 2}}),
    );
    let create = ["service", "create", "--name", "checked", "--restart-delay", "1s", "--stop-grace-period", "1s"];
    lab.heddle("node1", &[&create[..], &[&checked]].concat());
    let one = tasks(&lab, "checked").into_iter().find(|t| t["state"] == "running").unwrap();
    let (host, id) = (one["hostname"].as_str().unwrap(), one["id"].as_str().unwrap());
    lab.heddle(host, &["exec", id, "ls", "/tmp/well"]);
    lab.do_lab(&["kill", host, "--daemon"]);
    lab.do_lab(&["start", host]);
    lab.connected(host);
    lab.heddle(host, &["exec", id, "busybox", "rm", "/tmp/well"]);
    assert!(refused(&lab, "checked").starts_with("unhealthy: 2 checks failed: exit code 1: ls: /tmp/well"));
    let create = ["service", "create", "--name", "unchecked", "--no-healthcheck", "--entrypoint", "sleep"];
    let create = [&create[..], &["--stop-grace-period", "1s"]].concat();
    lab.heddle("node1", &[&create[..], &[&checked, "1000"]].concat());

    // Images are there as long as somebody needs them.
    let list = |host: &str| lab.heddle(host, &["image", "ls"]);
    let one = tasks(&lab, "unchecked").into_iter().find(|t| t["state"] == "running").unwrap();
    let (host, id) = (one["hostname"].as_str().unwrap(), one["id"].as_str().unwrap());
    assert!(list(host).contains("10.77.0.1:5000/checked  1 "), "{}", list(host));
    let said = lab.try_heddle(host, &["image", "rm", &checked]).unwrap_err();
    assert!(said.contains("is used by task unchecked.1"), "{said}");
    let pulled = lab.heddle(host, &["image", "pull", &nginx[0]]);
    assert!(pulled.trim().starts_with("sha256:"), "{pulled}");
    let shown = lab.json(host, &["image", "inspect", &nginx[0]]);
    assert_eq!((&shown[0]["Config"]["StopSignal"], &shown[0]["Os"]), (&json!("SIGQUIT"), &json!("linux")));
    assert_eq!(lab.heddle(host, &["image", "rm", &nginx[0]]).trim(), nginx[0]);
    let said = lab.try_heddle(host, &["image", "prune"]).unwrap_err();
    assert!(said.contains("give --force"), "{said}");
    let pruned = lab.heddle(host, &["image", "prune", "--all", "--force"]);
    assert!(pruned.contains("Total reclaimed space") && !pruned.contains("checked"), "{pruned}");
    let state = tasks(&lab, "unchecked").into_iter().find(|t| t["id"] == id).unwrap()["state"].clone();
    assert_eq!(state, "running");
    lab.heddle("node1", &["service", "rm", "checked", "unchecked"]);
    for host in HOSTS {
        wait("all images can go", || {
            lab.try_heddle(host, &["image", "prune", "--all", "--force"])?;
            match lab.try_heddle(host, &["image", "ls", "--quiet"])? {
                left if left.trim().is_empty() => Ok(()),
                left => Err(left),
            }
        });
    }

    // Secrets and configs are files in memory, wherever they are to be.
    lab.sh("node1", &format!("echo -n word | {} secret create key -", program().display()));
    lab.sh("node1", &format!("echo -n text | {} config create conf -", program().display()));
    let given = ["--secret", "source=key,uid=33,mode=0400", "--config", "source=conf,target=/srv/deep/app.conf"];
    let script = "cat /run/secrets/key /srv/deep/app.conf; echo; ls -l /run/secrets/key; touch /run/secrets/key || echo closed; sleep 1000";
    let create = ["service", "create", "--name", "given", "--user", "www", "--entrypoint", "sh -c"];
    let create = [&create[..], &["--stop-grace-period", "1s"]].concat();
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
    // Nothing of ours, and no library, has to be in an image for that.
    let config = json!({"Cmd": ["sleep", "1000"], "Env": ["PATH=/bin"], "WorkingDir": "/srv"});
    let small = push(&lab, "small:1", &Root::busybox(), config);
    lab.heddle(
        "node1",
        &[
            "service",
            "create",
            "--name",
            "small",
            "--constraint",
            "node.hostname==node2",
            "--stop-grace-period",
            "1s",
            &small,
        ],
    );
    let id = tasks(&lab, "small")[0]["id"].as_str().unwrap().to_owned();
    let said = lab.heddle("node2", &["exec", "-t", &id, "sh", "-c", "tty; echo from a terminal > /dev/tty"]);
    assert!(said.starts_with("/dev/pts/") && said.contains("from a terminal"), "{said:?}");
    lab.heddle("node1", &["service", "rm", "small"]);
    volumes(&lab);

    workloads(&lab, &small);

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
        "100ms",
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
    bad_images_end_as_they_should(&lab, &whoami);
    for order in ["stop-first", "start-first"] {
        let update = ["service", "update", "--force", "--update-order", order, "--update-parallelism", "1", "who"];
        let began = Instant::now();
        let answers = lab.meanwhile(&format!("{}:8080", addr("node2")), || drop(lab.heddle("node1", &update)));
        // A health check that is given up holds nobody up.
        assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
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
    let one = tasks(&lab, "who").into_iter().find(|t| t["state"] == "running").unwrap();
    lab.sh(one["hostname"].as_str().unwrap(), "kill -9 $(pgrep -x containerd-shim | head -1)");
    wait("another task is there", || {
        let now = tasks(&lab, "who");
        let failed = now.iter().any(|t| t["state"] == "failed");
        if failed && running(&now).len() == 3 { Ok(()) } else { Err(format!("{now:?}")) }
    });
    everybody_is_killed(&lab, &small);
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
