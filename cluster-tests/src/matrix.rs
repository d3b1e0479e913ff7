//! Who reaches whom: questions that are asked by real packets, the answers that are expected, and a table of both.
//!
//! ```text
//! Party, Goal ─> Matrix::expect (row, column, from, goal, yes or no) ─> Matrix::verify: a process for each asker
//! ```

use crate::{Lab, program};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

/// What is asked of every goal, in this order.
pub const KINDS: [(&str, bool); 4] = [("tcp4", true), ("udp4", true), ("tcp6", false), ("udp6", false)];
/// For an answer that must come: a neighbour has to be found first, or a name server told.
const PATIENCE: Duration = Duration::from_secs(10);

/// A host, or a workload on one, that may ask and be asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Party {
    pub host: String,
    /// None: the host itself.
    pub workload: Option<String>,
    pub addrs: Vec<IpAddr>,
    /// Where its server listens.
    pub port: u16,
}

impl Party {
    pub fn host(host: &str, addrs: [&str; 2], port: u16) -> Self {
        let addrs = addrs.map(|a| a.parse().expect("an address")).to_vec();
        Self { host: host.to_owned(), workload: None, addrs, port }
    }

    /// A workload with its addresses on a network, as `inspect` tells them.
    pub fn workload(lab: &Lab, host: &str, name: &str, network: &str, port: u16) -> Self {
        Self::inspected(&lab.json(host, &["inspect", name])[0], host, name, network, port)
    }

    /// The same from what `inspect` tells of it.
    pub fn inspected(told: &Value, host: &str, name: &str, network: &str, port: u16) -> Self {
        let told = &told["NetworkSettings"]["Networks"][network];
        let addr = |field: &str| told[field].as_str().and_then(|a| a.parse().ok());
        let addrs = ["IPAddress", "GlobalIPv6Address"].into_iter().filter_map(addr).collect();
        Self { host: host.to_owned(), workload: Some(name.to_owned()), addrs, port }
    }

    /// A running task with its addresses on an overlay.
    pub fn task(task: &Value, network: &Value, port: u16) -> Self {
        let on = |a: &&Value| a["network"] == *network;
        let attachment = task["attachments"].as_array().into_iter().flatten().find(on).expect("an attachment");
        let addr = |family: &str| attachment["addr"][family].as_str().and_then(|a| a.parse().ok());
        Self {
            host: task["hostname"].as_str().expect("a task has a host").to_owned(),
            workload: Some(task["id"].as_str().expect("a task has an id").to_owned()),
            addrs: ["v4", "v6"].into_iter().filter_map(addr).collect(),
            port,
        }
    }

    /// The party at its own addresses.
    pub fn itself(&self) -> Goal {
        self.at(&self.addrs, self.port)
    }

    /// The party by a name that whoever asks has to resolve.
    pub fn named(&self, name: &str) -> Goal {
        let targets = KINDS.map(|(kind, _)| format!("{kind}:{name}:{}", self.port)).to_vec();
        Goal { targets, owner: self.clone() }
    }

    /// The party at somebody else's addresses, or at another port.
    pub fn at(&self, addrs: &[IpAddr], port: u16) -> Goal {
        let target = |(kind, v4): (&str, bool)| {
            let addr = addrs.iter().find(|a| a.is_ipv4() == v4)?;
            Some(format!("{kind}:{}", std::net::SocketAddr::new(*addr, port)))
        };
        Goal { targets: KINDS.into_iter().filter_map(target).collect(), owner: self.clone() }
    }

    /// `heddle lab exec` with this behind it runs `heddle` as the party: in an image it is not where it is on the host.
    fn inside<'a>(&'a self, program: &'a str) -> Vec<&'a str> {
        let host = ["exec", &self.host, "--", program];
        match &self.workload {
            None => host.to_vec(),
            Some(workload) => [&host[..], &["exec", workload, "--", "heddle"]].concat(),
        }
    }

    /// What each of the targets answers.
    pub fn ask(&self, lab: &Lab, targets: &[String], within: Duration) -> BTreeMap<String, Value> {
        let (program, within) = (program().display().to_string(), within.as_millis().to_string());
        let mut args = self.inside(&program);
        args.extend(["whoami", "--within", &within]);
        args.extend(targets.iter().flat_map(|t| ["--probe", t]));
        let output = lab.lab(&args);
        assert!(output.status.success(), "{self:?}: {}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let told: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).expect("a line is JSON")).collect();
        assert_eq!(told.len(), targets.len(), "{self:?}: {lines}");
        told.into_iter().filter_map(|t| Some((t["target"].as_str()?.to_owned(), t.get("answer")?.clone()))).collect()
    }

    fn title(&self) -> String {
        format!("{} on {}", self.workload.as_deref().unwrap_or("the host"), self.host)
    }

    /// Whether an answer is this party's: a task is told by its id, a workload by its name.
    fn said(&self, answer: &Value) -> bool {
        let task = answer["task"].as_str().unwrap_or_default();
        match &self.workload {
            None => answer["hostname"] == self.host.as_str(),
            Some(workload) => task == workload || task.ends_with(&format!(".{workload}")),
        }
    }
}

/// Somebody who should, or should not, answer to some targets.
#[derive(Debug, Clone)]
pub struct Goal {
    targets: Vec<String>,
    owner: Party,
}

struct Cell {
    row: String,
    column: String,
    from: Party,
    goal: Goal,
    expected: bool,
}

/// The column of the positive controls: whom nobody is expected to reach must be reached from inside itself.
const CONTROL: &str = "by itself";

pub struct Matrix<'a> {
    lab: &'a Lab,
    columns: &'a [&'a str],
    cells: Vec<Cell>,
    within: Duration,
}

impl<'a> Matrix<'a> {
    /// `columns`: in the order of printing; `within`: how long an answer is waited for that should not come.
    pub fn new(lab: &'a Lab, columns: &'a [&'a str], within: Duration) -> Self {
        Self { lab, columns, cells: Vec::new(), within }
    }

    pub fn expect(&mut self, row: &str, column: &str, from: &Party, goal: Goal, expected: bool) {
        assert!(!goal.targets.is_empty(), "{row}, {column}: nothing to ask");
        let (row, column, from) = (row.to_owned(), column.to_owned(), from.clone());
        self.cells.push(Cell { row, column, from, goal, expected });
    }

    /// Asks everything, prints the table and fails with all that is not as expected.
    pub fn verify(mut self) {
        let owners = |expected| {
            let cells = self.cells.iter().filter(move |c| c.expected == expected);
            cells.map(|c| c.goal.owner.clone()).collect::<BTreeSet<Party>>()
        };
        let reached = owners(true);
        for owner in owners(false).into_iter().filter(|o| !reached.contains(o)) {
            let (row, column, goal) = (owner.title(), CONTROL.to_owned(), owner.itself());
            self.cells.push(Cell { row, column, from: owner, goal, expected: true });
        }
        let askers: BTreeSet<&Party> = self.cells.iter().map(|c| &c.from).collect();
        let answers: BTreeMap<&Party, BTreeMap<String, Value>> = std::thread::scope(|scope| {
            let threads: Vec<_> = askers.iter().map(|a| (*a, scope.spawn(|| self.answers(a)))).collect();
            threads.into_iter().map(|(a, t)| (a, t.join().expect("the asker ends"))).collect()
        });
        let results: Vec<Vec<Option<bool>>> = self.cells.iter().map(|c| c.results(&answers[&c.from])).collect();
        println!("{}", self.table(&results));
        let wrong: Vec<String> =
            self.cells.iter().zip(&results).filter_map(|(cell, seen)| cell.wrong(seen, &answers[&cell.from])).collect();
        assert!(wrong.is_empty(), "{} of {} cells:\n{}", wrong.len(), self.cells.len(), wrong.join("\n"));
    }

    /// All that one party asks, at once; what should answer and does not is asked again for a while.
    fn answers(&self, asker: &Party) -> BTreeMap<String, Value> {
        let start = Instant::now();
        let cells = || self.cells.iter().filter(|c| c.from == *asker);
        let all: BTreeSet<String> = cells().flat_map(|c| c.goal.targets.clone()).collect();
        let mut answers = asker.ask(self.lab, &all.into_iter().collect::<Vec<_>>(), self.within);
        loop {
            let wanted: BTreeSet<String> =
                cells().filter(|c| c.expected).flat_map(|c| c.goal.targets.clone()).collect();
            let missing: Vec<String> = wanted.into_iter().filter(|t| !answers.contains_key(t)).collect();
            if missing.is_empty() || start.elapsed() > PATIENCE {
                return answers;
            }
            answers.extend(asker.ask(self.lab, &missing, self.within));
        }
    }

    fn table(&self, results: &[Vec<Option<bool>>]) -> String {
        let mut rows: Vec<&str> = Vec::new();
        for cell in self.cells.iter().filter(|c| c.column != CONTROL) {
            if !rows.contains(&cell.row.as_str()) {
                rows.push(&cell.row);
            }
        }
        let width = rows.iter().map(|r| r.len()).max().unwrap_or(0);
        let mut text = format!("\n{} (+ answers, - does not, . is not asked)\n", KINDS.map(|(kind, _)| kind).join(" "));
        text += &format!("{:width$}{}\n", "", self.columns.iter().map(|c| format!(" | {c:<9}")).collect::<String>());
        for row in rows {
            text += &format!("{row:width$}");
            for column in self.columns {
                let is = |(cell, _): &(&Cell, &Vec<Option<bool>>)| cell.row == row && cell.column == *column;
                let shown = self.cells.iter().zip(results).find(is).map(|(cell, seen)| cell.shown(seen));
                text += &format!(" | {:<w$}", shown.unwrap_or_default(), w = column.len().max(9));
            }
            text += "\n";
        }
        text
    }
}

impl Cell {
    /// For each kind whether it was answered, None where it was not asked.
    fn results(&self, answers: &BTreeMap<String, Value>) -> Vec<Option<bool>> {
        let asked = |kind: &str| self.goal.targets.iter().find(|t| t.starts_with(kind));
        KINDS.iter().map(|(kind, _)| asked(kind).map(|t| answers.contains_key(t))).collect()
    }

    fn shown(&self, seen: &[Option<bool>]) -> String {
        let marks: String = seen.iter().map(|s| s.map_or('.', |yes| if yes { '+' } else { '-' })).collect();
        let right = seen.iter().flatten().all(|yes| *yes == self.expected);
        format!("{marks} {}", if right { "ok" } else { "FAIL" })
    }

    fn wrong(&self, seen: &[Option<bool>], answers: &BTreeMap<String, Value>) -> Option<String> {
        let title = format!("{}, {}", self.row, self.column);
        let (from, owner) = (self.from.title(), self.goal.owner.title());
        if seen.iter().flatten().any(|yes| *yes != self.expected) {
            let word = if self.expected { "yes" } else { "no" };
            let targets = self.goal.targets.join(" ");
            return Some(format!("{title}: {} from {from} to {targets}, expected {word}", self.shown(seen)));
        }
        // Somebody else's answer would not show that the way is open.
        let other = self.goal.targets.iter().filter_map(|t| answers.get(t)).find(|a| !self.goal.owner.said(a))?;
        Some(format!("{title}: {owner} should answer {from}, but this did: {other}"))
    }
}
