//! Trying a health check, once, in the namespaces of the task.
//!
//! ```text
//! actor ── Todo::Check ─> Checks ─┬─> request: TCP and HTTP, from a socket made in the task's network namespace
//!   ^                             └─> executor: a command of a shell
//!   └───────── outcome ───────────┘
//! ```
//!
//! What an outcome means for the task is decided elsewhere.

mod request;

use crate::{dataplane::state::Space, executor::CheckProgram, worker::Outcome};
use heddle_model::{TaskId, health::Probe};
use std::{collections::BTreeMap, io, net::IpAddr, time::Duration};
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{error::Elapsed, timeout},
};

/// What is to be tried, and where.
pub enum Trial {
    Program(CheckProgram),
    /// At the first of these addresses that accepts a connection.
    Request {
        probe: Probe,
        space: Space,
        addrs: Vec<IpAddr>,
    },
}

impl Trial {
    async fn run(self, limit: Duration) -> Outcome {
        let late = |_: Elapsed| Err(format!("no answer after {limit:?}"));
        let cannot = |error: io::Error| Err(error.to_string());
        match self {
            Trial::Program(program) => program.run(limit).await.unwrap_or_else(cannot),
            Trial::Request { probe, space, addrs } => {
                timeout(limit, request::run(&probe, &space, addrs)).await.unwrap_or_else(late)
            }
        }
    }
}

/// The checks that are under way. They end with the value.
pub struct Checks {
    running: BTreeMap<TaskId, AbortHandle>,
    send: mpsc::Sender<(TaskId, Outcome)>,
    ended: mpsc::Receiver<(TaskId, Outcome)>,
}

impl Default for Checks {
    fn default() -> Self {
        let (send, ended) = mpsc::channel(64);
        Self { running: BTreeMap::new(), send, ended }
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.running.values().for_each(AbortHandle::abort);
    }
}

impl Checks {
    /// One of a task's at a time.
    pub fn start(&mut self, task: TaskId, trial: Trial, limit: Duration) {
        let (send, id) = (self.send.clone(), task.clone());
        let check = async move {
            let outcome = trial.run(limit).await;
            let _ = send.send((id, outcome)).await;
        };
        if let Some(before) = self.running.insert(task, tokio::spawn(check).abort_handle()) {
            before.abort();
        }
    }

    /// The next that ends.
    pub async fn next(&mut self) -> (TaskId, Outcome) {
        match self.ended.recv().await {
            Some((task, outcome)) => {
                self.running.remove(&task);
                (task, outcome)
            }
            // There is a sender here.
            None => std::future::pending().await,
        }
    }

    /// Ends those of other tasks.
    pub fn keep(&mut self, wanted: impl Fn(&TaskId) -> bool) {
        self.running.retain(|task, check| {
            let keep = wanted(task);
            if !keep {
                check.abort();
            }
            keep
        });
    }
}
