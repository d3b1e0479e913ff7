//! A program of a health check, in a container.

use super::AGAIN;
use crate::executor::{
    check::{because, check_output, judge, keep_end},
    log::now_ms,
};
use heddle_engine::{Engine, EngineError};
use heddle_model::TaskId;
use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::net::unix::pipe;

/// A program that may be run in a container.
#[derive(Clone)]
pub struct ContainerCheck {
    pub(super) engine: Engine,
    pub(super) task: TaskId,
    pub(super) dir: PathBuf,
    pub(super) args: Vec<String>,
}

impl ContainerCheck {
    /// What was wrong, if anything was. One that is given up ends by itself: as long as the shim waits for somebody to read the
    /// output, it does not tell how the container ended.
    pub async fn run(self, limit: Duration) -> io::Result<Result<(), String>> {
        loop {
            let check = self.clone();
            match tokio::spawn(async move { check.run_through(limit).await }).await? {
                // It says nothing of the task that nobody can ask.
                Err(error) if error.is_silent() => tokio::time::sleep(AGAIN).await,
                done => return done.map_err(io::Error::other),
            }
        }
    }

    async fn run_through(&self, limit: Duration) -> Result<Result<(), String>, EngineError> {
        let path = check_output(&self.dir)?;
        // Held open at both ends: between two writers it does not end.
        let mut output = pipe::OpenOptions::new().read_write(true).open_receiver(&path)?;
        let mut said = Vec::new();
        let to = path.display().to_string();
        let begun = Instant::now();
        let ended = loop {
            let id = format!("check-{}", now_ms());
            let left = limit.saturating_sub(begun.elapsed());
            let ended = tokio::select! {
                ended = self.engine.exec(self.task.as_str(), &id, &self.args, &to, left) => ended,
                read = keep_end(&mut output, &mut said) => {
                    return Err(read.err().unwrap_or_else(|| io::Error::other("it ended")).into());
                }
            };
            match ended {
                // Neither well nor ill.
                Err(EngineError::Lost) if !left.is_zero() => said.clear(),
                ended => break ended,
            }
        };
        let mut rest = [0; 4 << 10];
        while let Ok(count) = output.try_read(&mut rest) {
            said.extend_from_slice(&rest[..count]);
        }
        Ok(match ended? {
            Some(code) => judge(u8::try_from(code).unwrap_or(u8::MAX), &said),
            None => Err(format!("not done after {limit:?}{}", because(&said))),
        })
    }
}
