//! Whole clusters on one machine, for tests: `heddle lab` driven through the program itself.
//!
//! ```text
//! Lab ── heddle lab up/exec/kill/... ─> hosts with daemons      wait: until a condition holds, or what was last seen
//!  └── workload: what a host runs by itself
//! balancing, discovery, encryption, failure, scaling   what has to hold, whatever the hosts are: namespaces or machines
//! daemon     one of them, asked by many at once                 footprint  what a host has, to find leaks
//! wire       what goes over a host's cable                        kept       what its disk has
//! load       writes and requests while something is done to a cluster
//! ```

pub mod balancing;
pub mod daemon;
pub mod discovery;
pub mod encryption;
pub mod failure;
pub mod footprint;
pub mod images;
mod kept;
pub mod load;
pub mod matrix;
pub mod scaling;
pub mod vm;
pub mod wire;
mod workload;

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

/// How long anything may take before a test gives up.
pub const LIMIT: Duration = Duration::from_secs(30);
/// The same where hosts are virtual machines: an emulated processor is slower by an order of magnitude, and other work on this
/// machine may hold it up further.
const EMULATED_LIMIT: Duration = Duration::from_secs(120);
/// Hosts that are asked all the time are to get on with something else, too.
const ASKING_PAUSE: Duration = Duration::from_millis(50);
/// Of a lab with three nodes.
pub const HOSTS: [&str; 3] = ["node1", "node2", "node3"];

/// Where a node of a lab is.
pub fn addr(host: &str) -> String {
    format!("10.77.0.{}", host.trim_start_matches("node"))
}

/// The program under test, which cargo puts two levels above the tests.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let program = test.parent().and_then(|p| p.parent()).expect("tests live below the target directory").join("heddle");
    assert!(program.exists(), "{} is missing: run `cargo build` first", program.display());
    program
}

/// True: the test should end, since it cannot be run here. With `REQUIRE` set, that is a failure.
pub fn skipped() -> bool {
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    assert!(std::env::var_os("REQUIRE").is_none(), "REQUIRE is set and this needs root");
    println!("SKIPPED: root");
    true
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Waits until `look` gives a value; on a time-out panics with what it last saw.
pub fn wait<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    wait_for(LIMIT, what, look)
}

pub fn wait_for<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) => assert!(start.elapsed() < limit, "{what}: not after {limit:?}; last seen: {seen}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The texts of a JSON array.
pub fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// What `network inspect -v` tells of an overlay.
pub struct Overlay(pub Value);

impl Overlay {
    pub fn id(&self) -> &Value {
        &self.0["Id"]
    }

    pub fn vni(&self) -> u64 {
        let vni = self.0["Options"]["com.docker.network.driver.overlay.vxlanid_list"].as_str();
        vni.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("no VNI: {}", self.0))
    }

    /// A service's virtual addresses, IPv4 first.
    pub fn vips(&self, service: &str) -> Vec<String> {
        texts(&self.0["Services"][service]["VIPs"])
    }

    /// The addresses of a service's tasks, IPv4 first in each.
    pub fn endpoints(&self, service: &str) -> Vec<Vec<String>> {
        self.tasks(service).iter().map(|t| texts(&t["EndpointIPs"])).collect()
    }

    pub fn tasks(&self, service: &str) -> Vec<Value> {
        self.0["Services"][service]["Tasks"].as_array().cloned().unwrap_or_default()
    }
}

/// Ends with the value.
pub struct Lab {
    name: String,
    /// How long anything may take here.
    limit: Duration,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in HOSTS {
                let log = self.state_dir(host) + "/daemon.log";
                // Of a virtual machine it can be read only while that runs.
                let inside = || String::from_utf8_lossy(&self.exec(host, &["cat", &log]).stdout).into_owned();
                let log = std::fs::read_to_string(&log).unwrap_or_else(|_| inside());
                let lines: Vec<_> = log.lines().collect();
                eprintln!("---- {host}\n{}", lines[lines.len().saturating_sub(25)..].join("\n"));
            }
        }
        let _ = Command::new(program()).args(["lab", "down", "--name", &self.name]).output();
    }
}

/// Who answered how often, and which clients they saw.
#[derive(Debug, Default)]
pub struct Answers {
    pub tasks: BTreeMap<String, u32>,
    pub nodes: BTreeSet<String>,
    pub clients: BTreeSet<String>,
    pub failed: String,
}

impl Answers {
    fn add(&mut self, more: Answers) {
        for (task, count) in more.tasks {
            *self.tasks.entry(task).or_default() += count;
        }
        self.nodes.extend(more.nodes);
        self.clients.extend(more.clients);
        self.failed += &more.failed;
    }
}

/// Asks on, all without a failure, until so many tasks have answered. Which task a request goes to is chance: one that is
/// still missing after so many times as many requests as there are tasks gets none.
#[track_caller]
pub fn spread(tasks: usize, mut ask: impl FnMut(u32) -> Answers) -> Answers {
    let mut all = Answers::default();
    for _ in 0..10 {
        all.add(ask(4 * tasks as u32));
        assert_eq!(all.failed, "", "{all:?}");
        if all.tasks.len() >= tasks {
            break;
        }
    }
    assert_eq!(all.tasks.len(), tasks, "{all:?}");
    all
}

impl Lab {
    /// A lab of this name must not be used by two tests at once.
    pub fn up(name: &str, nodes: u8, managers: u8) -> Self {
        Self::with(name, nodes, &["--managers", &managers.to_string()])
    }

    /// One whose nodes may be silent for longer before they are down: their daemons are killed and started, and no task is to be
    /// made elsewhere for that.
    pub fn patient(name: &str, nodes: u8, managers: u8) -> Self {
        Self::with(name, nodes, &["--managers", &managers.to_string(), "--heartbeat-ms", "3000"])
    }

    /// One whose daemons balance with this.
    pub fn balanced(name: &str, nodes: u8, backend: &str) -> Self {
        Self::with(name, nodes, &["--lb-backend", backend])
    }

    /// Daemons that are in no cluster yet.
    pub fn bare(name: &str, nodes: u8) -> Self {
        Self::with(name, nodes, &["--bare"])
    }

    /// The same with nodes that are virtual machines on Debian's kernel, which have these programs of this machine too.
    pub fn vm(name: &str, nodes: u8, managers: u8, backend: &str, tools: &[&str]) -> Self {
        let managers = managers.to_string();
        let tools = tools.iter().flat_map(|tool| ["--tool", tool]);
        let more = ["--vm", "--managers", &managers, "--lb-backend", backend].into_iter().chain(tools);
        Self::with(name, nodes, &more.collect::<Vec<_>>())
    }

    /// One that is made with further arguments of `lab up`.
    pub fn with(name: &str, nodes: u8, more: &[&str]) -> Self {
        let _ = Command::new(program()).args(["lab", "down", "--name", name]).output();
        let limit = if more.contains(&"--vm") { EMULATED_LIMIT } else { LIMIT };
        let lab = Lab { name: name.to_owned(), limit };
        let nodes = nodes.to_string();
        let output = lab.lab(&[&["up", "--nodes", &nodes], more].concat());
        assert!(output.status.success(), "{}", text(&output));
        lab
    }

    /// Waits as [`wait`] does, for as long as anything may take on such hosts.
    pub fn wait<T>(&self, what: &str, look: impl FnMut() -> Result<T, String>) -> T {
        wait_for(self.limit, what, look)
    }

    /// So long, where a host is as fast as this machine.
    pub fn at_most(&self, time: Duration) -> Duration {
        if self.emulated() { self.limit } else { time }
    }

    pub fn emulated(&self) -> bool {
        self.limit == EMULATED_LIMIT
    }

    /// In seconds, for commands that wait by themselves.
    pub fn patience(&self) -> String {
        (2 * self.limit).as_secs().to_string()
    }

    /// Where a host has what its daemon keeps.
    pub fn state_dir(&self, host: &str) -> String {
        format!("/var/lib/heddle-lab/{}/{host}", self.name)
    }

    /// `heddle lab ARGS`.
    pub fn lab(&self, args: &[&str]) -> Output {
        let mut args = args.to_vec();
        let at = args.iter().position(|a| *a == "--").unwrap_or(args.len());
        args.splice(at..at, ["--name", &self.name]);
        let mut command = Command::new(program());
        command.env("HEDDLE_VM_CACHE", vm::cache_dir());
        command.arg("lab").args(args).output().expect("the program runs")
    }

    pub fn do_lab(&self, args: &[&str]) {
        let output = self.lab(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
    }

    /// The same with variables of the environment, which daemons that it starts have too.
    pub fn do_lab_with(&self, args: &[&str], env: &[(&str, &str)]) {
        let output = Command::new(program())
            .arg("lab")
            .args(args)
            .args(["--name", &self.name])
            .envs(env.iter().copied())
            .output()
            .expect("the program runs");
        assert!(output.status.success(), "{args:?}: {}", text(&output));
    }

    pub fn exec(&self, host: &str, command: &[&str]) -> Output {
        self.lab(&[&["exec", host, "--"], command].concat())
    }

    /// Output of a shell command on a host.
    pub fn sh(&self, host: &str, script: &str) -> String {
        let output = self.exec(host, &["sh", "-c", script]);
        assert!(output.status.success(), "{host}: {script}: {}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `heddle ARGS` on a host: its output, or its one sentence.
    pub fn try_heddle(&self, host: &str, args: &[&str]) -> Result<String, String> {
        let output = self.exec(host, &[&["heddle"], args].concat());
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    pub fn heddle(&self, host: &str, args: &[&str]) -> String {
        self.try_heddle(host, args).unwrap_or_else(|e| panic!("{host}: heddle {args:?}: {e}"))
    }

    /// The last sentence of a command that must fail.
    pub fn refused(&self, host: &str, args: &[&str]) -> String {
        match self.try_heddle(host, args) {
            Ok(output) => panic!("{host}: heddle {args:?} should be refused, but says {output}"),
            Err(said) => said.lines().last().unwrap_or_default().to_owned(),
        }
    }

    pub fn json(&self, host: &str, args: &[&str]) -> Value {
        serde_json::from_str(&self.heddle(host, args)).expect("the output is JSON")
    }

    pub fn try_json(&self, host: &str, args: &[&str]) -> Result<Value, String> {
        serde_json::from_str(&self.try_heddle(host, args)?).map_err(|e| e.to_string())
    }

    pub fn overlay(&self, host: &str, name: &str) -> Overlay {
        Overlay(self.json(host, &["network", "inspect", "-v", name])[0].clone())
    }

    pub fn info(&self, host: &str) -> Value {
        self.json(host, &["info", "--format", "json"])
    }

    /// Tasks of a service that should run and do, as `service ps` tells them.
    pub fn running(&self, host: &str, service: &str) -> Result<Vec<Value>, String> {
        let all = self.try_json(host, &["service", "ps", service, "--format", "json"])?;
        let wanted = |t: &&Value| t["state"] == "running" && t["desiredState"] == "running";
        Ok(all.as_array().into_iter().flatten().filter(wanted).cloned().collect())
    }

    /// Starts a `whoami` service.
    pub fn create_web(&self, name: &str, replicas: u64, more: &[&str]) {
        let (replicas, patience) = (replicas.to_string(), self.patience());
        let head = ["service", "create", "--process", "--timeout", &patience, "--name", name, "--replicas", &replicas];
        let args = [&head, more, &["--", "heddle", "whoami", "--port", "80"]].concat();
        self.heddle("node1", &args);
    }

    /// Removes every service, workload and overlay, and waits until no host has anything of them.
    pub fn clear(&self) {
        let program = program().display().to_string();
        self.sh("node1", &format!("{program} service ls -q | xargs -r {program} service rm"));
        for host in HOSTS {
            let script = format!("{program} ps -aq | xargs -r {program} rm -f");
            // A task whose service is gone may be about to go, too.
            self.wait("nothing is left to run", || match self.exec(host, &["sh", "-c", &script]) {
                output if output.status.success() => Ok(()),
                output => Err(text(&output)),
            });
        }
        self.heddle("node1", &["network", "prune", "-f"]);
        self.settled(&HOSTS, &[]);
    }

    /// What the client is answered, asking all the time while something is done.
    pub fn meanwhile(&self, target: &str, act: impl FnOnce()) -> Answers {
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut all = Answers::default();
                while !over.load(Ordering::Relaxed) {
                    all.add(self.ask("client", target, 4, false));
                    std::thread::sleep(ASKING_PAUSE);
                }
                all
            });
            let over = Over(&over);
            act();
            drop(over);
            asking.join().expect("asking does not panic")
        })
    }

    /// The lines of a `heddle` command on a host, which goes on until the lab ends.
    pub fn lines(&self, host: &str, args: &[&str]) -> mpsc::Receiver<String> {
        let mut command = Command::new(program());
        command.args(["lab", "exec", "--name", &self.name, host, "--", "heddle"]).args(args).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let (send, seen) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines());
            lines.map_while(Result::ok).take_while(|line| send.send(line.clone()).is_ok()).count();
            child.wait()
        });
        seen
    }

    /// Asks a `whoami` so often from a host, by TCP or UDP, each time on a new connection.
    pub fn ask(&self, from: &str, target: &str, count: u32, udp: bool) -> Answers {
        self.ask_by(&["exec", from, "--", "heddle"], target, count, udp)
    }

    /// The same from inside a task.
    pub fn ask_from_task(&self, task: &Value, target: &str, count: u32, udp: bool) -> Answers {
        let (host, pid) = place(task);
        let program = program().display().to_string();
        self.ask_by(&["exec", &host, "--", "nsenter", "-t", &pid, "-a", &program], target, count, udp)
    }

    pub(crate) fn ask_by(&self, how: &[&str], target: &str, count: u32, udp: bool) -> Answers {
        let count = count.to_string();
        let mut args = [how, &["whoami", "--ask", target, "--verbose", "--count", &count]].concat();
        if udp {
            args.push("--udp");
        }
        let output = self.lab(&args);
        let mut answers =
            Answers { failed: String::from_utf8_lossy(&output.stderr).into_owned(), ..Answers::default() };
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            let field = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            *answers.tasks.entry(field("task")).or_default() += 1;
            answers.nodes.insert(field("node"));
            let client: Option<std::net::SocketAddr> = field("client").parse().ok();
            answers.clients.extend(client.map(|c| c.ip().to_string()));
        }
        answers
    }

    /// A shell command inside a task.
    pub fn in_task(&self, task: &Value, script: &str) -> Output {
        let (host, pid) = place(task);
        self.exec(&host, &["nsenter", "-t", &pid, "-a", "sh", "-c", script])
    }

    /// A host answers by itself, outside of every workload, at these addresses.
    pub fn answers(&self, host: &str, addrs: &[IpAddr], port: u16) {
        let bind: String = addrs.iter().map(|a| format!(" --bind {a}")).collect();
        let program = program().display().to_string();
        // It ends with the host.
        self.sh(host, &format!("setsid {program} whoami --port {port}{bind} </dev/null >/dev/null 2>&1 &"));
        let asker = matrix::Party { host: host.to_owned(), workload: None, addrs: addrs.to_vec(), port };
        let target = |a: &IpAddr| {
            let kind = if a.is_ipv4() { "tcp4" } else { "tcp6" };
            format!("{kind}:{}", SocketAddr::new(*a, port))
        };
        let targets: Vec<_> = addrs.iter().map(target).collect();
        wait("the host answers", || {
            let found = asker.ask(self, &targets, LIMIT);
            if found.len() == addrs.len() { Ok(()) } else { Err(format!("{:?} do", found.keys())) }
        });
    }

    /// A further cable between two hosts.
    pub fn link(&self, host: &str, name: &str, peer: &str, peer_name: &str) {
        let pid = |host: &str| self.host_pid(host);
        let script = format!(
            "ip link add {name} type veth peer name {peer_name} netns {} && ip link set {name} up && \
             nsenter -t {} -n ip link set {peer_name} up",
            pid(peer),
            pid(peer)
        );
        let entered = Command::new("nsenter").args(["-t", &pid(host), "-n", "sh", "-c", &script]).output();
        let output = entered.expect("nsenter runs");
        assert!(output.status.success(), "{}", text(&output));
    }

    fn host_pid(&self, host: &str) -> String {
        let hosts = self.hosts();
        let found = hosts.as_array().into_iter().flatten().find(|h| h["name"] == host);
        found.map(|h| h["pid"].to_string()).expect("the lab has the host")
    }

    /// A host's network namespace, as seen from here. Of a machine: the one where its cable ends.
    pub fn netns(&self, host: &str) -> PathBuf {
        format!("/proc/{}/ns/net", self.host_pid(host)).into()
    }

    /// A task's network namespace, as seen from here.
    pub fn task_netns(&self, task: &Value) -> PathBuf {
        let id = task["id"].as_str().expect("a task has an id");
        let host = task["hostname"].as_str().expect("a task has a host");
        self.workload_netns(host, id)
    }

    /// A workload's network namespace, which is mounted where its host sees it.
    pub fn workload_netns(&self, host: &str, id: &str) -> PathBuf {
        format!("/proc/{}/root/run/netns/hd-t-{}", self.host_pid(host), &id[..10]).into()
    }

    /// The hosts as `lab ps` tells them.
    pub fn hosts(&self) -> Value {
        serde_json::from_slice(&self.lab(&["ps", "--format", "json"]).stdout).expect("the output is JSON")
    }

    /// The leading manager's host, as `host` sees it.
    pub fn leader(&self, host: &str) -> Result<String, String> {
        let nodes = self.try_json(host, &["node", "ls", "--format", "json"])?;
        let leader = nodes.as_array().into_iter().flatten().find(|n| n["leader"] == true);
        leader.and_then(|n| n["hostname"].as_str().map(str::to_owned)).ok_or_else(|| "no leader".into())
    }

    /// A host's state, as another one sees it.
    pub fn node_state(&self, seen_by: &str, host: &str) -> Result<String, String> {
        let nodes = self.try_json(seen_by, &["node", "ls", "--format", "json"])?;
        let node = nodes.as_array().into_iter().flatten().find(|n| n["hostname"] == host);
        node.and_then(|n| n["state"].as_str().map(str::to_owned)).ok_or_else(|| nodes.to_string())
    }

    /// Waits until a host's daemon is in touch with the managers.
    pub fn connected(&self, host: &str) {
        self.wait(&format!("{host} is connected"), || {
            let info = self.try_json(host, &["info", "--format", "json"])?;
            if info["connected"] == true { Ok(()) } else { Err(info.to_string()) }
        });
    }

    /// Waits until every one of these hosts has in its kernel what the newest state wants, and nothing more: revisions
    /// reached, one namespace for each task that runs there, no staging link left, nothing that the daemon would change.
    pub fn settled(&self, hosts: &[&str], services: &[&str]) {
        for host in hosts {
            self.wait(&format!("{host} settles"), || {
                let info = self.try_json(host, &["info", "--format", "json"])?;
                let behind = info["appliedRevision"] != info["assignedRevision"];
                if behind || info["dataPlaneErrors"].as_array().is_none_or(|e| !e.is_empty()) {
                    return Err(info.to_string());
                }
                let here = |t: &&Value| t["hostname"] == **host;
                let mut wanted = 0;
                for service in services {
                    wanted += self.running("node1", service)?.iter().filter(here).count();
                }
                let spaces = self.sh(host, "ls /run/netns | grep -c ^hd-t- || true");
                let staged = self.sh(host, "ls /sys/class/net | grep -c ^hdvx || true");
                let seen = format!("{} namespaces for {wanted} tasks, {} staged", spaces.trim(), staged.trim());
                if spaces.trim() != wanted.to_string() || staged.trim() != "0" {
                    return Err(seen);
                }
                let rules = self.try_heddle(host, &["network", "rules"])?;
                if rules.contains("The kernel is as it should be.") { Ok(()) } else { Err(rules) }
            });
        }
    }
}

fn place(task: &Value) -> (String, String) {
    (task["hostname"].as_str().expect("a task has a host").to_owned(), task["pid"].to_string())
}
