//! How a service's tasks are replaced when its spec changes, and how far that has come.

use crate::{
    Timestamp, Version,
    service::{Service, ServiceSpec},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};

/// What comes first where a task is replaced by another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The old task has ended before the new one begins.
    #[default]
    StopFirst,
    /// The old task leaves when every balancer has the new one: never fewer than wanted.
    StartFirst,
}

/// What happens when more replicas fail than an update allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureAction {
    #[default]
    Pause,
    Continue,
    Rollback,
}

/// A share, in thousandths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ratio(pub u32);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ratio {0:?}: use a number from 0 to 1, such as 0.25")]
pub struct BadRatio(pub String);

impl Ratio {
    pub const ONE: Ratio = Ratio(1000);

    /// Whether `part` of `whole` is more than this share.
    pub fn is_exceeded(self, part: u64, whole: u64) -> bool {
        u128::from(part) * 1000 > u128::from(whole) * u128::from(self.0)
    }
}

impl FromStr for Ratio {
    type Err = BadRatio;

    fn from_str(text: &str) -> Result<Self, BadRatio> {
        let share: f64 = text.parse().map_err(|_| BadRatio(text.to_owned()))?;
        if (0.0..=1.0).contains(&share) {
            Ok(Ratio((share * 1000.0).round() as u32))
        } else {
            Err(BadRatio(text.to_owned()))
        }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / 1000.0)
    }
}

/// docker's defaults, and a deadline, which docker does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateConfig {
    /// Replicas that are replaced at once; zero means all.
    pub parallelism: u64,
    /// Between a replica that is done and the next in its place.
    pub delay: Duration,
    pub order: Order,
    pub failure_action: FailureAction,
    /// How long after its start the end of a new task counts as a failure.
    pub monitor: Duration,
    /// The share of replicas that may fail.
    pub max_failure_ratio: Ratio,
    /// In which a new task must be in every balancer; zero means for ever.
    pub deadline: Duration,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: Duration::ZERO,
            order: Order::StopFirst,
            failure_action: FailureAction::Pause,
            monitor: Duration::from_secs(5),
            max_failure_ratio: Ratio(0),
            deadline: Duration::from_secs(600),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateState {
    Updating,
    Paused,
    Completed,
    RollbackStarted,
    RollbackPaused,
    RollbackCompleted,
}

impl UpdateState {
    pub fn in_progress(self) -> bool {
        matches!(self, UpdateState::Updating | UpdateState::RollbackStarted)
    }

    pub fn is_paused(self) -> bool {
        matches!(self, UpdateState::Paused | UpdateState::RollbackPaused)
    }

    pub fn is_rollback(self) -> bool {
        !matches!(self, UpdateState::Updating | UpdateState::Paused | UpdateState::Completed)
    }

    pub fn paused(self) -> Self {
        if self.is_rollback() { UpdateState::RollbackPaused } else { UpdateState::Paused }
    }

    pub fn completed(self) -> Self {
        if self.is_rollback() { UpdateState::RollbackCompleted } else { UpdateState::Completed }
    }

    /// The same in progress: what goes on after a pause.
    pub fn resumed(self) -> Self {
        if self.is_rollback() { UpdateState::RollbackStarted } else { UpdateState::Updating }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateStatus {
    pub state: UpdateState,
    pub started: Timestamp,
    /// When it ended, or was paused.
    pub completed: Option<Timestamp>,
    /// Why it is as it is; empty when nothing went wrong.
    pub message: String,
    /// Replicas whose new task failed.
    pub failed: BTreeSet<u64>,
}

impl UpdateStatus {
    pub fn begin(state: UpdateState, started: Timestamp, message: String) -> Self {
        Self { state, started, completed: None, message, failed: BTreeSet::new() }
    }
}

/// What a rollback goes back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    pub spec: ServiceSpec,
    /// Of the tasks that were made from it.
    pub spec_version: Version,
}

impl Service {
    /// The rules that the update in progress goes by, if there is one.
    pub fn update_config(&self) -> &UpdateConfig {
        match &self.update {
            Some(status) if status.state.is_rollback() => &self.spec.rollback,
            _ => &self.spec.update,
        }
    }

    pub fn is_updating(&self) -> bool {
        self.update.as_ref().is_some_and(|u| u.state.in_progress())
    }

    /// Takes a new spec over and begins an update. The spec before is kept, unless it was never reached: then there is
    /// no way back but to the one before that. The same spec again resumes what was paused. False: nothing is to be done.
    pub fn change(&mut self, spec: ServiceSpec, now: Timestamp) -> bool {
        let state = self.update.as_ref().map(|u| u.state);
        if spec == self.spec {
            let Some(state) = state.filter(|s| s.is_paused()) else { return false };
            self.update = Some(UpdateStatus::begin(state.resumed(), now, String::new()));
            return true;
        }
        if spec.rebalance != self.spec.rebalance {
            self.rebalanced = now;
        }
        let reached = !matches!(state, Some(UpdateState::Updating | UpdateState::Paused));
        let old = Previous { spec: std::mem::replace(&mut self.spec, spec), spec_version: self.spec_version };
        if reached || self.previous.is_none() {
            self.previous = Some(Box::new(old));
        }
        // A job is not updated task by task: its next run begins.
        let updates = !self.spec.mode.is_job();
        self.update = updates.then(|| UpdateStatus::begin(UpdateState::Updating, now, String::new()));
        true
    }

    /// Swaps the spec with the one before. False: there is none.
    pub fn roll_back(&mut self, now: Timestamp, message: String) -> bool {
        let Some(previous) = &mut self.previous else { return false };
        std::mem::swap(&mut self.spec, &mut previous.spec);
        previous.spec_version = self.spec_version;
        self.update = Some(UpdateStatus::begin(UpdateState::RollbackStarted, now, message));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_shares() {
        for (text, want) in [("0", Some(0)), ("0.25", Some(250)), ("1", Some(1000)), ("1.01", None), ("-0.1", None)] {
            assert_eq!(text.parse::<Ratio>().ok(), want.map(Ratio), "{text}");
        }
        for text in ["", "NaN", "half", "inf"] {
            assert!(text.parse::<Ratio>().is_err(), "{text}");
        }
        assert_eq!(Ratio(250).to_string(), "0.25");
        assert!(Ratio(0).is_exceeded(1, 6) && !Ratio(0).is_exceeded(0, 6));
        assert!(!Ratio(500).is_exceeded(3, 6) && Ratio(500).is_exceeded(4, 6) && !Ratio::ONE.is_exceeded(6, 6));
    }
}
