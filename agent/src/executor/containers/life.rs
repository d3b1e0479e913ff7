//! What becomes of a container, from when it runs until nothing of it is left.

use super::{AGAIN, CONTAINER, Containers, Held, Kept, LONGEST_WAIT, MEMORY, Phase};
use crate::executor::{
    Exit,
    group::{self, Group},
    log::now_ms,
    memory,
    record::{self, EXIT, Running, SPEC, ShimSpec, TASK},
};
use heddle_engine::{
    EngineError,
    container::{End, State},
};
use heddle_model::TaskId;
use std::fs;

impl Containers {
    pub(super) fn runs(&self, task: &TaskId, pid: u32) {
        if matches!(self.held().get(task), Some(Held { phase: Phase::Running { pid: known, .. }, .. }) if *known == pid)
        {
            return;
        }
        self.note(task, pid);
        self.reach(task, Phase::Running { pid, health: self.kept(task).health });
        // It came while the container was made, and not since: then it is sent where it goes.
        let missed = self.held().get(task).and_then(|held| *held.cancel.borrow());
        if let Some(signal) = missed {
            self.send(task, signal);
        }
    }

    pub(super) fn kept(&self, task: &TaskId) -> Kept {
        record::read(&self.task_dir(task).join(CONTAINER)).ok().flatten().unwrap_or_default()
    }

    /// Leaves what tells others which process it is.
    fn note(&self, task: &TaskId, pid: u32) {
        let shim = record::parent(pid).unwrap_or_default();
        let start = |pid| record::start_time(pid).unwrap_or_default();
        let running = Running { shim, shim_start: start(shim), init: pid, init_start: start(pid) };
        if let Err(error) = record::write(&self.task_dir(task).join(TASK), &running) {
            tracing::warn!(%task, %error, "cannot write down which process a container has");
        }
    }

    /// Until it has ended. It goes on while containerd is away. `begun`: it was seen to run.
    pub(super) async fn follow(&self, task: &TaskId, mut begun: bool) {
        loop {
            match self.0.engine.state(task.as_str()).await {
                Ok(state) => match fate(state, begun) {
                    Fate::Runs(pid) => {
                        begun = true;
                        self.runs(task, pid);
                        match self.0.engine.wait(task.as_str()).await {
                            Ok(end) => return self.finish(task, self.explained(task, ended(end))).await,
                            Err(error) => tracing::debug!(%task, %error, "a container is not waited for"),
                        }
                    }
                    Fate::Ended(exit) => return self.finish(task, self.explained(task, exit)).await,
                    Fate::Open => return self.forget(task).await,
                },
                Err(error) => self.is_unknown(task, &error),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// With what its control groups, which are there until it is taken away, have to say of it.
    fn explained(&self, task: &TaskId, exit: Exit) -> Exit {
        let spec: Option<ShimSpec> = record::read(&self.task_dir(task).join(SPEC)).ok().flatten();
        let limit = spec.map_or(0, |spec| spec.resources.limit.memory);
        if exit.code == 0 || exit.error.is_some() || limit == 0 {
            return exit;
        }
        Exit { error: Group::made(task.as_str()).out_of_memory(exit.code, limit), ..exit }
    }

    /// It may begin as if nobody had tried.
    async fn forget(&self, task: &TaskId) {
        self.discard(task).await;
        let _ = fs::remove_file(self.task_dir(task).join(CONTAINER));
        self.held().remove(task);
        self.0.bell.notify_one();
    }

    /// One that ran when containerd was last asked most probably runs.
    fn is_unknown(&self, task: &TaskId, error: &EngineError) {
        let why = error.to_string();
        match self.held().get(task).map(|held| &held.phase) {
            Some(Phase::Running { .. }) => return tracing::debug!(%task, why, "it is not known how a container is"),
            Some(Phase::Unknown(known)) if *known == why => return,
            _ => tracing::warn!(%task, why, "it is not known how a container is"),
        }
        self.reach(task, Phase::Unknown(why));
    }

    /// How it ended is on disk before anybody hears of it; then nothing of it is left but what it printed.
    pub(super) async fn finish(&self, task: &TaskId, exit: Exit) {
        let dir = self.task_dir(task);
        // Whoever took the directory away wants to know nothing more.
        while let Err(error) = record::write(&dir.join(EXIT), &exit)
            && dir.exists()
        {
            tracing::warn!(%task, %error, "cannot write down how a container ended");
            tokio::time::sleep(AGAIN).await;
        }
        self.reach(task, Phase::Ended);
        self.discard(task).await;
        self.held().remove(task);
    }

    /// Takes it away from containerd, as soon as that lets it go. Nobody waits for that.
    pub(super) async fn discard(&self, task: &TaskId) {
        memory::clear(&self.task_dir(task).join(MEMORY));
        let (mut wait, mut version) = (AGAIN, self.version());
        while let Err(error) = self.0.engine.remove(task.as_str()).await {
            tracing::debug!(%task, %error, "a container is not taken away yet");
            tokio::select! {
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(LONGEST_WAIT),
                // It is back, or another one.
                Ok(()) = version.changed() => wait = AGAIN,
            }
        }
        remove_groups(task).await;
    }
}

/// Waits for processes that are on their way out.
pub(super) async fn remove_groups(task: &TaskId) {
    let task = task.clone();
    let _ = tokio::task::spawn_blocking(move || group::remove(task.as_str())).await;
}

/// What is to be made of a container.
#[derive(Debug, PartialEq)]
enum Fate {
    Runs(u32),
    Ended(Exit),
    /// Nothing of it has run.
    Open,
}

fn fate(state: State, begun: bool) -> Fate {
    match state {
        State::Running { pid } => Fate::Runs(pid),
        State::Ended(end) => Fate::Ended(ended(end)),
        // Somebody else took it away.
        State::Absent | State::Created if begun => Fate::Ended(Exit::lost()),
        State::Absent | State::Created => Fate::Open,
    }
}

fn ended(end: End) -> Exit {
    let at_ms = if end.at.is_zero() { now_ms() } else { end.at.as_millis() as u64 };
    Exit { code: end.code as i32, error: None, at_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_has_run_does_not_begin_once_more() {
        let end = End { code: 3, at: Duration::from_millis(5) };
        let exit = Exit { code: 3, error: None, at_ms: 5 };
        for begun in [false, true] {
            assert_eq!(fate(State::Running { pid: 7 }, begun), Fate::Runs(7));
            assert_eq!(fate(State::Ended(end), begun), Fate::Ended(exit.clone()));
        }
        for state in [State::Absent, State::Created] {
            assert_eq!(fate(state, false), Fate::Open);
            assert!(matches!(fate(state, true), Fate::Ended(exit) if exit.error.is_some()));
        }
    }
}
