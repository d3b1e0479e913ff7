//! Workloads that a host runs by itself, and what the kernel of a host has.

use crate::{Answers, Lab, program, text};
use serde_json::Value;
use std::process::Output;

impl Lab {
    /// Starts a `whoami` on a host, as a workload of this name, and waits until it listens; returns its id.
    pub fn run_web(&self, host: &str, name: &str, more: &[&str]) -> String {
        let args = [&["run", "-d", "--name", name], more, &["--", "heddle", "whoami", "--port", "80"]].concat();
        let id = self.heddle(host, &args).trim().to_owned();
        self.wait("the program listens", || self.ask_from(host, name, "127.0.0.1:80", false).by());
        id
    }

    /// `inspect` of one workload.
    pub fn workload(&self, host: &str, name: &str) -> Value {
        self.json(host, &["inspect", name])[0].clone()
    }

    /// A workload's address on a network.
    pub fn address(&self, host: &str, name: &str, network: &str, v4: bool) -> String {
        let seen = self.workload(host, name);
        let key = if v4 { "IPAddress" } else { "GlobalIPv6Address" };
        let addr = seen["NetworkSettings"]["Networks"][network][key].as_str().map(str::to_owned);
        addr.filter(|a| !a.is_empty()).unwrap_or_else(|| panic!("{name} has no {key} on {network}: {seen:#}"))
    }

    pub fn pid(&self, host: &str, name: &str) -> u64 {
        let seen = self.workload(host, name);
        seen["State"]["Pid"].as_u64().filter(|pid| *pid > 0).unwrap_or_else(|| panic!("{name} does not run: {seen:#}"))
    }

    /// Asks a `whoami` from inside a workload.
    pub fn ask_from(&self, host: &str, name: &str, target: &str, udp: bool) -> Answers {
        let program = program().display().to_string();
        self.ask_by(&["exec", host, "--", "heddle", "exec", name, &program], target, 1, udp)
    }

    /// Output of a shell command inside a workload.
    pub fn inside(&self, host: &str, name: &str, script: &str) -> String {
        let output = self.exec(host, &["heddle", "exec", name, "sh", "-c", script]);
        assert!(output.status.success(), "{name}: {script}: {}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What the resolver of a workload answers to a question of `dig`, sorted.
    pub fn dig(&self, host: &str, name: &str, question: &str) -> Vec<String> {
        let script = format!("dig +time=2 +tries=1 +short {question} || true");
        let mut lines: Vec<_> = self.inside(host, name, &script).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// Everything of a host's kernel that a network is made of, without counters and numbers that the kernel gives.
    pub fn kernel(&self, host: &str) -> String {
        let script = "ip -o link | sed 's/^[0-9]*: //; s/@if[0-9]*//; s/ link-netnsid [0-9]*//; s/ state .*//; s/NO-CARRIER,//; s/,LOWER_UP//'
            ip -o addr | grep -v 'scope link' | sed 's/^[0-9]*: //; s/valid_lft.*//'
            (ip route; ip -6 route) | grep -v ^fe80 | sed 's/ linkdown//'; ip rule; ip -6 rule
            ls /run/netns 2>/dev/null; nft -s list ruleset";
        self.sh(host, script)
    }

    /// The networks and workloads of a host, without what goes on by itself, such as how long somebody has been running.
    pub fn listed_still(&self, host: &str) -> (String, Value) {
        let mut rows = self.json(host, &["ps", "-a", "--format", "json"]);
        rows.as_array_mut().into_iter().flatten().for_each(|row| row["Status"] = Value::Null);
        (self.heddle(host, &["network", "ls"]), rows)
    }

    /// A program of the foreground: its exit code and all that it says.
    pub fn attended(&self, host: &str, args: &[&str]) -> Output {
        self.exec(host, &[&["heddle", "run"], args].concat())
    }
}

impl Answers {
    /// The one that answered, or why nobody did.
    pub fn by(&self) -> Result<String, String> {
        match (self.failed.as_str(), self.tasks.len()) {
            ("", 1) => Ok(self.tasks.keys().cloned().collect()),
            ("", _) => Err(format!("{self:?}")),
            (why, _) => Err(why.trim().to_owned()),
        }
    }
}
