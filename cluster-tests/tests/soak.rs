//! A thousand changes, with daemons that are killed in between, leave nothing behind and take nothing away.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{
    Lab,
    daemon::Daemon,
    footprint::{Footprint, Usage},
    skipped, wait,
};
use heddle_proto::v1;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// Everything that changes is on this host; the manager is another.
const HOST: &str = "node2";
const HOSTS: [&str; 2] = ["node1", HOST];

/// Each is connected and disconnected by a worker of its own.
const ROUNDS: u32 = 1000;
const NETWORKS: u32 = 200;
/// Of these, so many come before the first daemon is killed: only a daemon that lives long shows what it does not give back.
const CALM: u32 = 4;
const MOST_GROWTH: f64 = 1.15;
const MOST_GROWTH_KIB: u64 = 4096;

fn seed() -> u64 {
    let given = std::env::var("SOAK_SEED").ok().map(|text| text.parse().expect("SOAK_SEED is a number"));
    let seed = given.unwrap_or_else(rand::random);
    println!("SOAK_SEED={seed}");
    seed
}

/// A program, and a network that it joins and leaves.
struct Rider {
    target: String,
    network: &'static str,
}

fn spec(name: &str, number: u32) -> v1::NetworkSpec {
    let annotations = Some(v1::Annotations { name: name.to_owned(), ..v1::Annotations::default() });
    let option = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let (driver, options) = match number % 4 {
        0 => (v1::Driver::Macvlan, vec![option("parent", "eth0")]),
        1 => (v1::Driver::Bridge, vec![option("com.docker.network.bridge.enable_icc", "false")]),
        2 => (v1::Driver::Bridge, vec![option("com.docker.network.bridge.name", name)]),
        _ => (v1::Driver::Bridge, vec![]),
    };
    let options = options.into_iter().collect();
    v1::NetworkSpec { annotations, driver: driver.into(), options, internal: number % 8 == 3, ..Default::default() }
}

#[derive(Default)]
struct Progress {
    rounds: AtomicU32,
    networks: AtomicU32,
    /// Milliseconds of each connecting, by network.
    took: Mutex<BTreeMap<&'static str, Vec<f64>>>,
}

impl Progress {
    fn changes(&self) -> u32 {
        self.rounds.load(Ordering::Relaxed) + self.networks.load(Ordering::Relaxed)
    }

    fn medians(&self) -> String {
        let mut took = std::mem::take(&mut *self.took.lock().unwrap());
        let median = |times: &mut Vec<f64>| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        took.iter_mut().map(|(n, times)| format!("{n} {:.0} ms", median(times))).collect::<Vec<_>>().join(", ")
    }
}

/// All of the changes, side by side.
fn change(daemon: &Daemon, riders: &[Rider], progress: &Progress, rounds: u32, networks: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = progress.networks.load(Ordering::Relaxed);
    let left = AtomicU32::new(rounds);
    let one_more = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
    runtime.block_on(async {
        let one_more = &one_more;
        let ride = |network: &'static str, target: String| async move {
            while one_more() {
                let begin = Instant::now();
                let connected = daemon.connect(&target, network).await;
                connected.unwrap_or_else(|e| panic!("connect {target} to {network}: {e}"));
                let took = begin.elapsed().as_secs_f64() * 1e3;
                progress.took.lock().unwrap().entry(network).or_default().push(took);
                let left = daemon.disconnect(&target, network).await;
                left.unwrap_or_else(|e| panic!("disconnect {target} from {network}: {e}"));
                progress.rounds.fetch_add(1, Ordering::Relaxed);
            }
        };
        let come_and_go = async {
            for number in first..first + networks {
                let name = format!("soak{number}");
                let made = daemon.create_network(&spec(&name, number)).await;
                made.unwrap_or_else(|e| panic!("create {name}: {e}"));
                daemon.remove_network(&name).await.unwrap_or_else(|e| panic!("remove {name}: {e}"));
                progress.networks.fetch_add(1, Ordering::Relaxed);
            }
        };
        let rides = futures::future::join_all(riders.iter().map(|r| ride(r.network, r.target.clone())));
        futures::join!(rides, come_and_go)
    });
}

/// Kills a daemon now and then, and starts it again at once.
fn kill_now_and_then(lab: &Lab, random: &mut StdRng, progress: &Progress, done: &AtomicBool) -> u32 {
    let mut kills = 0;
    let mut next = random.random_range(5..25);
    let mut from = progress.changes();
    while !done.load(Ordering::Relaxed) {
        if progress.changes() < from + next {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        // Anywhere in whatever goes on.
        std::thread::sleep(Duration::from_micros(random.random_range(0..30_000)));
        let victim = if random.random_ratio(1, 6) { "node1" } else { HOST };
        lab.do_lab(&["kill", victim, "--daemon"]);
        lab.do_lab(&["start", victim]);
        kills += 1;
        (from, next) = (progress.changes(), random.random_range(5..25));
    }
    kills
}

fn pids(lab: &Lab, services: &[&str]) -> BTreeMap<String, Value> {
    let mut pids = BTreeMap::new();
    for service in services {
        for task in lab.running("node1", service).unwrap() {
            pids.insert(task["id"].to_string(), task["pid"].clone());
        }
    }
    for name in ["a", "b", "c"] {
        pids.insert(name.into(), lab.json(HOST, &["inspect", name])[0]["State"]["Pid"].clone());
    }
    pids
}

/// What is known and wanted agrees with what is there, on every host and at the managers.
fn agrees(lab: &Lab) -> Result<(), String> {
    for host in HOSTS {
        let rules = lab.try_json(host, &["network", "rules", "--format", "json"])?;
        let info = lab.try_json(host, &["info", "--format", "json"])?;
        let drift = &rules["Drift"];
        if drift.as_array().is_none_or(|d| !d.is_empty())
            || info["dataPlaneErrors"].as_array().is_none_or(|e| !e.is_empty())
        {
            return Err(format!("{host}: drift {drift}, {info}"));
        }
        if info["appliedRevision"] != info["assignedRevision"] || info["connected"] != true {
            return Err(format!("{host}: {info}"));
        }
    }
    let connections = lab.try_json("node1", &["network", "inspect", "-v", "over"])?[0]["Connections"].clone();
    let names: Vec<_> = connections.as_array().into_iter().flatten().map(|c| c["Name"].to_string()).collect();
    if names.len() == 1 { Ok(()) } else { Err(format!("connections {connections}")) }
}

#[test]
fn a_thousand_rounds_leave_nothing_behind() {
    if skipped() {
        return;
    }
    let mut random = StdRng::seed_from_u64(seed());
    let lab = Lab::patient("t-soak", 2, 1);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "--attachable", "over"]);
    for network in ["home", "one", "two", "three"] {
        lab.heddle(HOST, &["network", "create", network]);
    }
    let constraint = format!("node.hostname=={HOST}");
    lab.create_web("web", 1, &["-p", "8080:80", "--constraint", &constraint]);
    let whoami = ["--", "heddle", "whoami", "--port", "80"];
    for (name, network, publish) in [("a", "home", "8081:80"), ("b", "home", "8082:80"), ("c", "over", "8083:80")] {
        let head = ["run", "-d", "--name", name, "--network", network, "-p", publish];
        lab.heddle(HOST, &[&head[..], &whoami].concat());
    }
    let task = lab.running("node1", "web").unwrap()[0]["name"].as_str().unwrap().to_owned();
    let riders = [("a", "one"), ("b", "two"), ("b", "over"), (task.as_str(), "three")];
    let riders = riders.map(|(target, network)| Rider { target: target.to_owned(), network });
    let daemon = Daemon::of(&lab, HOST);
    let progress = Progress::default();
    let calm = (ROUNDS / CALM, NETWORKS / CALM);

    // Once all around, so that what is made at first use is there.
    change(&daemon, &riders, &progress, calm.0, calm.1);
    wait("the hosts are as they should be", || agrees(&lab));
    let before = HOSTS.map(|host| Footprint::of(&lab, host));
    let programs = pids(&lab, &["web"]);
    let usage = HOSTS.map(|host| Usage::of(&lab, host));
    let begin = Instant::now();
    println!("connecting at first: {}", progress.medians());

    // The daemons live on.
    change(&daemon, &riders, &progress, calm.0, calm.1);
    println!("{} rounds took {:.1?}; connecting: {}", calm.0, begin.elapsed(), progress.medians());
    for (host, first) in HOSTS.iter().zip(usage) {
        let later = wait(&format!("the daemon of {host} gives back what it took"), || {
            let later = Usage::of(&lab, host);
            let files = later.files <= first.files + 2;
            let memory = later.resident_kib as f64 <= first.resident_kib as f64 * MOST_GROWTH + MOST_GROWTH_KIB as f64;
            if files && memory && later.threads <= first.threads + 4 {
                Ok(later)
            } else {
                Err(format!("{first:?} {later:?}"))
            }
        });
        println!("{host}: {first:?}, later {later:?}");
    }

    // The daemons are killed.
    let begin = Instant::now();
    let done = AtomicBool::new(false);
    let (rounds, networks) = (ROUNDS - 2 * calm.0, NETWORKS - 2 * calm.1);
    let kills = std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_now_and_then(&lab, &mut random, &progress, &done));
        // Ends the killer although it may panic.
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            change(&daemon, &riders, &progress, rounds, networks);
        }));
        done.store(true, Ordering::Relaxed);
        let kills = killer.join().unwrap();
        changed.unwrap();
        kills
    });
    let cut_off = daemon.cut_off.load(Ordering::Relaxed);
    println!("{rounds} rounds with {kills} kills took {:.1?}; {cut_off} calls were made again", begin.elapsed());
    assert!(kills >= 10, "{kills} kills");
    assert_eq!((progress.rounds.into_inner(), progress.networks.into_inner()), (ROUNDS, NETWORKS));

    wait("the hosts are as they should be", || agrees(&lab));
    for (host, before) in HOSTS.iter().zip(before) {
        wait(&format!("nothing is left on {host}"), || match before.changes(&Footprint::of(&lab, host)) {
            none if none.is_empty() => Ok(()),
            changes => Err(changes.join("\n")),
        });
    }
    assert_eq!(pids(&lab, &["web"]), programs, "the same programs run");
    for port in [8080, 8081, 8082, 8083] {
        assert_eq!(lab.ask("client", &format!("10.77.0.2:{port}"), 5, false).failed, "", "port {port}");
    }
    // Every port is still held for its workload.
    wait("the ports are held", || {
        for port in ["8081", "8082", "8083"] {
            let publish = format!("{port}:80");
            match lab.try_heddle(HOST, &["run", "-d", "--name", "thief", "-p", &publish, "--", "sleep", "9"]) {
                Ok(_) => {
                    lab.heddle(HOST, &["rm", "-f", "thief"]);
                    return Err(format!("port {port} is free"));
                }
                Err(said) => assert!(said.contains(port), "{said}"),
            }
        }
        Ok(())
    });
}

/// The daemon is killed and another takes its place.
fn restart(lab: &Lab, host: &str, between: impl FnOnce()) {
    lab.do_lab(&["kill", host, "--daemon"]);
    between();
    lab.do_lab(&["start", host]);
}

#[test]
fn workloads_and_what_is_known_of_them_outlive_the_daemon() {
    if skipped() {
        return;
    }
    // In no cluster: a host is enough.
    let lab = Lab::bare("t-outlive", 1);
    let host = "node1";
    let state = |name: &str| lab.json(host, &["inspect", name])[0]["State"].clone();
    let run = |name: &str, more: &[&str], script: &str| {
        let command = ["--", "sh", "-c", script];
        lab.heddle(host, &[&["run", "-d", "--name", name][..], more, &command].concat());
    };
    lab.heddle(host, &["network", "create", "own"]);
    let ticking = "echo begins; trap 'echo ends; exit 5' TERM; while :; do sleep 0.05; done";
    run("lives", &["--network", "own", "-p", "8080:80"], ticking);
    run("ended", &[], "echo words; exit 3");
    // These end while no daemon looks.
    let until = |name: &str| format!("until [ -e /tmp/heddle-outlive-{name} ]; do sleep 0.02; done");
    let open = |name: &str| drop(std::fs::write(format!("/tmp/heddle-outlive-{name}"), ""));
    let shut = |name: &str| drop(std::fs::remove_file(format!("/tmp/heddle-outlive-{name}")));
    shut("gate");
    let gate = until("gate");
    run("alone", &["--network", "own"], &format!("{gate}; echo unseen; exit 7"));
    run("guest", &["--rm", "--network", "own"], &format!("{gate}; exit 0"));
    let (pid, started) = (state("lives")["Pid"].clone(), state("lives")["StartedAt"].clone());
    assert_eq!(lab.heddle(host, &["wait", "ended"]).trim(), "3");

    restart(&lab, host, || {
        open("gate");
        wait("both ended", || {
            let left = lab.sh(host, "pgrep -fc heddle-outlive-gate || true");
            // The shell that looks is one of them.
            if left.trim() == "1" { Ok(()) } else { Err(left) }
        });
    });
    shut("gate");
    wait("what ended meanwhile is known", || match state("alone") {
        s if s["Status"] == "exited" && s["ExitCode"] == 7 => Ok(()),
        s => Err(s.to_string()),
    });
    assert_eq!(lab.heddle(host, &["logs", "alone"]).trim(), "unseen");
    assert_eq!(lab.heddle(host, &["wait", "alone"]).trim(), "7");
    assert_eq!((&state("ended")["Status"], &state("ended")["ExitCode"]), (&"exited".into(), &3.into()));
    assert_eq!(lab.heddle(host, &["logs", "ended"]).trim(), "words");
    assert_eq!((state("lives")["Pid"].clone(), state("lives")["StartedAt"].clone()), (pid, started));
    wait("the guest is gone", || match lab.try_heddle(host, &["inspect", "guest"]) {
        Ok(still) => Err(still),
        Err(said) if said.contains("no ") => Ok(()),
        Err(said) => Err(said),
    });
    // The port is still the workload's, and goes with it.
    let busy = lab.refused(host, &["run", "-d", "-p", "8080:80", "--", "sleep", "1"]);
    assert!(busy.contains("8080"), "{busy}");

    // Stop, start and remove, with a daemon killed between each.
    lab.heddle(host, &["stop", "lives"]);
    assert_eq!(state("lives")["ExitCode"], 5);
    restart(&lab, host, || ());
    assert_eq!((&state("lives")["Status"], &state("lives")["ExitCode"]), (&"exited".into(), &5.into()));
    assert_eq!(lab.heddle(host, &["logs", "lives"]).lines().collect::<Vec<_>>(), ["begins", "ends"]);
    lab.heddle(host, &["start", "lives"]);
    let pid = state("lives")["Pid"].clone();
    restart(&lab, host, || ());
    wait("it runs on", || match state("lives") {
        s if s["Running"] == true && s["Pid"] == pid => Ok(()),
        s => Err(s.to_string()),
    });
    wait("it began once more, and what it said before is kept", || match lab.heddle(host, &["logs", "lives"]) {
        said if said.lines().collect::<Vec<_>>() == ["begins", "ends", "begins"] => Ok(()),
        said => Err(said),
    });
    lab.heddle(host, &["rm", "-f", "lives"]);
    lab.heddle(host, &["rm", "ended"]);
    lab.heddle(host, &["rm", "alone"]);
    restart(&lab, host, || ());
    assert_eq!(lab.heddle(host, &["ps", "-aq"]).trim(), "");
    lab.heddle(host, &["network", "rm", "own"]);
    assert_eq!(lab.sh(host, "ls /run/netns 2>/dev/null | grep -c ^hd-t- || true").trim(), "0");
    assert_eq!(lab.json(host, &["network", "rules", "--format", "json"])["Drift"], serde_json::json!([]));
}
