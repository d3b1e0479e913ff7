//! Measures ways in turns.

use crate::report;
use heddle_cluster_tests::{balancing::within, program, wait_for};
use serde_json::Value;
use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

/// On an emulated processor everything takes its time.
const LIMIT: Duration = Duration::from_secs(120);

/// How much is measured: many short rounds, since others on this machine come and go.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    pub rounds: usize,
    /// Of bulk, about.
    pub seconds: f64,
    pub connections: u32,
}

#[derive(Debug, Clone)]
pub struct Way {
    pub name: String,
    /// The network namespace where it begins.
    pub from: PathBuf,
    pub to: IpAddr,
    /// Of iperf3.
    pub bulk: u16,
    /// Of `heddle whoami`.
    pub web: u16,
}

/// What a round found, by the number of the way.
pub struct Round {
    /// Bits a second.
    pub bulk: Vec<f64>,
    /// Connections a second.
    pub connections: Vec<f64>,
}

/// A program in a network namespace of somebody else's.
fn output(netns: &Path, program: &Path, args: Vec<String>) -> Output {
    let program = program.to_owned();
    within(netns.to_owned(), move || Command::new(program).args(args).output()).unwrap()
}

impl Way {
    fn ask(&self, count: u32) -> Result<(), String> {
        let target = SocketAddr::new(self.to, self.web).to_string();
        let args = ["whoami", "--ask", &target, "--count", &count.to_string()].map(str::to_owned).into();
        let output = output(&self.from, &program(), args);
        let said = || format!("{}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(()) } else { Err(said()) }
    }

    fn connections(&self, count: u32) -> f64 {
        let start = Instant::now();
        self.ask(count).unwrap();
        f64::from(count) / start.elapsed().as_secs_f64()
    }

    /// For so long (`-t`, whole seconds), or so much (`-n`, bytes).
    fn bulk(&self, limit: [&str; 2]) -> Result<f64, String> {
        let (to, port) = (self.to.to_string(), self.bulk.to_string());
        let args = ["-J", "-c", &to, "-p", &port, limit[0], limit[1]].map(str::to_owned).into();
        let output = output(&self.from, Path::new("iperf3"), args);
        let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let received = value["end"]["sum_received"]["bits_per_second"].as_f64();
        received.ok_or_else(|| format!("{}: {}", self.name, value["error"]))
    }
}

pub fn rounds(ways: &[Way], effort: Effort) -> Vec<Round> {
    let try_out = |way: &Way| {
        let rate = wait_for(LIMIT, "the way leads somewhere", || way.ask(1).and_then(|()| way.bulk(["-t", "1"])));
        ((rate / 8.0 * effort.seconds) as u64).max(1 << 20).to_string()
    };
    let bytes: Vec<String> = ways.iter().map(try_out).collect();
    let mut rounds = Vec::new();
    for number in 0..effort.rounds {
        let mut round = Round { bulk: vec![0.0; ways.len()], connections: vec![0.0; ways.len()] };
        for turn in 0..ways.len() {
            let at = (turn + number) % ways.len();
            round.bulk[at] = ways[at].bulk(["-n", &bytes[at]]).unwrap();
            round.connections[at] = ways[at].connections(effort.connections);
        }
        rounds.push(round);
    }
    rounds
}

/// What each way comes to by itself.
pub fn show(ways: &[Way], rounds: &[Round]) {
    for (at, way) in ways.iter().enumerate() {
        let median =
            |of: fn(&Round) -> &Vec<f64>| report::median(&rounds.iter().map(|r| of(r)[at]).collect::<Vec<_>>());
        let gigabits = median(|r| &r.bulk) / 1e9;
        let bulk =
            if gigabits < 1.0 { format!("{:.1} Mbit/s", gigabits * 1e3) } else { format!("{gigabits:.2} Gbit/s") };
        report::value(&way.name, format!("{bulk}, {:.0} connections/s", median(|r| &r.connections)));
    }
}
