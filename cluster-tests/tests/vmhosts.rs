//! A cluster of virtual machines on Debian's kernel: the mesh, a power cut, a cut cable, and nothing left behind.
//!
//! An emulated processor is slower by an order of magnitude, and other work on this machine may hold it up further: what
//! is waited for here has a minute and a half where namespaces have seconds.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, program, vm, wait_for};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    process::Command,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(90);
const HOSTS: [&str; 3] = ["node1", "node2", "node3"];
const TARGETS: [&str; 6] =
    ["10.77.0.1:8080", "10.77.0.2:8080", "10.77.0.3:8080", "[fd77::1]:8080", "[fd77::2]:8080", "[fd77::3]:8080"];

/// Every replica runs, on these hosts only, and answers the client by one of them.
fn converge(lab: &Lab, target: &str, hosts: &[&str]) -> Vec<Value> {
    wait_for(LIMIT, "every replica runs and answers", || {
        let running = lab.running("node1", "web")?;
        let strays = running.iter().filter(|t| !hosts.iter().any(|h| t["hostname"] == **h)).count();
        if running.len() != 3 || strays > 0 {
            return Err(format!("{} running, {strays} elsewhere", running.len()));
        }
        let answers = lab.ask("client", target, 12, false);
        match answers.failed.is_empty() && answers.tasks.len() == 3 {
            true => Ok(running),
            false => Err(format!("{answers:?}")),
        }
    })
}

fn every_host_answers(lab: &Lab) {
    for target in TARGETS {
        let answers = lab.ask("client", target, 6, false);
        let client = if target.starts_with('[') { "fd77::fa" } else { "10.77.0.250" };
        assert_eq!((answers.failed.as_str(), answers.tasks.values().sum::<u32>()), ("", 6), "{target}: {answers:?}");
        assert_eq!(answers.clients.iter().collect::<Vec<_>>(), [client], "{target}");
    }
}

fn is_ready(lab: &Lab, host: &str, ready: bool) {
    wait_for(LIMIT, &format!("{host} is ready: {ready}"), || {
        let nodes = lab.try_json("node1", &["node", "ls", "--format", "json"])?;
        let state = nodes.as_array().into_iter().flatten().find(|n| n["hostname"] == host).map(|n| n["state"].clone());
        if state == Some(if ready { "ready" } else { "down" }.into()) { Ok(()) } else { Err(format!("{state:?}")) }
    });
}

/// What this machine has of the lab: its processes, and links, namespaces and mounts of this one.
fn traces(name: &str) -> BTreeSet<String> {
    let output = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let ours = |link: &String| HOSTS.contains(&link.as_str()) || ["br0", "client"].contains(&link.as_str());
    let mut all: BTreeSet<String> = output("ip", &["-o", "link"]).lines().map(link).filter(ours).collect();
    all.extend(output("lsns", &["-n", "-o", "NS,COMMAND"]).lines().filter(|l| l.contains(name)).map(str::to_owned));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    all.extend(mounts.lines().filter(|l| l.contains("heddle-lab")).map(str::to_owned));
    all.extend(
        output("ps", &["-eo", "pid,args"]).lines().filter(|l| l.contains(&format!("/{name}/"))).map(str::to_owned),
    );
    for folder in ["/run/heddle-lab", "/var/lib/heddle-lab"].map(|f| std::path::Path::new(f).join(name)) {
        all.extend(folder.exists().then(|| folder.display().to_string()));
    }
    all
}

fn link(line: &str) -> String {
    line.split(": ").nth(1).unwrap_or_default().to_owned()
}

/// Of the machine's qemu, in MiB.
fn resident(host: &Value) -> u64 {
    let pid = host["pid"].as_u64().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let qemu = children.trim();
    let status = std::fs::read_to_string(format!("/proc/{qemu}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn three_machines_are_a_cluster_through_a_power_cut_and_a_cut_cable() {
    if vm::skipped() {
        return;
    }
    let name = "t-vmhosts";
    let before = traces(name);
    let start = Instant::now();
    let lab = Lab::vm(name, 3, 1, &[]);
    println!("up after {:.1?}", start.elapsed());
    for host in HOSTS {
        assert!(lab.sh(host, "uname -v; hostname").contains("Debian"), "{host}");
    }
    assert_eq!(lab.sh("node2", "hostname"), "node2\n");
    lab.create_web("web", 3, &["-p", "8080:80"]);
    println!("the service after {:.1?}", start.elapsed());
    every_host_answers(&lab);
    println!("asked after {:.1?}", start.elapsed());
    for host in lab.hosts().as_array().unwrap().iter().filter(|h| h["name"] != "client") {
        println!("{}: {} MiB", host["name"], resident(host));
    }

    lab.sh("node3", "sync; echo kept > /var/lib/heddle-lab/t-vmhosts/node3/mark; sync; echo lost > /root/mark");
    lab.do_lab(&["kill", "node3"]);
    let said = lab.exec("node3", &["true"]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("`heddle lab start node3`"), "{said:?}");
    is_ready(&lab, "node3", false);
    converge(&lab, "10.77.0.2:8080", &["node1", "node2"]);
    println!("moved after {:.1?}", start.elapsed());
    let booting = Instant::now();
    lab.do_lab(&["start", "node3"]);
    println!("node3 is back in {:.1?}", booting.elapsed());
    assert_eq!(lab.sh("node3", "cat /var/lib/heddle-lab/t-vmhosts/node3/mark; cat /root/mark || true"), "kept\n");
    is_ready(&lab, "node3", true);
    converge(&lab, "10.77.0.3:8080", &HOSTS);
    println!("rejoined after {:.1?}", start.elapsed());

    lab.do_lab(&["cut", "node2"]);
    is_ready(&lab, "node2", false);
    converge(&lab, "10.77.0.3:8080", &["node1", "node3"]);
    lab.do_lab(&["heal"]);
    is_ready(&lab, "node2", true);
    converge(&lab, "10.77.0.2:8080", &HOSTS);
    println!("healed after {:.1?}", start.elapsed());
    lab.do_lab(&["kill", "node2", "--daemon"]);
    assert_eq!(lab.ask("client", "10.77.0.2:8080", 6, false).failed, "");
    lab.do_lab(&["start", "node2"]);
    is_ready(&lab, "node2", true);
    every_host_answers(&lab);

    lab.do_lab(&["down"]);
    assert_eq!(traces(name), before);
    println!("over after {:.1?}", start.elapsed());
}

#[test]
fn what_is_missing_is_said_before_anything_is_made() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(program())
        .args(["lab", "up", "--vm", "--name", "t-vmnone", "--tool", "no-such-tool"])
        .env("HEDDLE_VM_CACHE", empty.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{output:?}");
    assert!(said.contains("no-such-tool") && said.trim().lines().count() == 1, "{said}");
    assert!(!std::path::Path::new("/run/heddle-lab/t-vmnone").exists());
}
