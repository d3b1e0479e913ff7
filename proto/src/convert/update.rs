//! How services are updated, and how far that has come.

use super::{ConvertError, Result, enums, millis, missing, some, wrong};
use crate::v1;
use heddle_model::{
    Timestamp, Version,
    update::{FailureAction, Order, Previous, Ratio, UpdateConfig, UpdateState, UpdateStatus},
};
use std::time::Duration;

enums! {
    Order = UpdateOrder, "update.order" { StopFirst = StopFirst, StartFirst = StartFirst }
    FailureAction = FailureAction, "update.failure_action" { Pause = Pause, Continue = Continue, Rollback = Rollback }
    UpdateState = UpdateState, "update.state" {
        Updating = Updating, Paused = Paused, Completed = Completed, RollbackStarted = RollbackStarted,
        RollbackPaused = RollbackPaused, RollbackCompleted = RollbackCompleted,
    }
}

impl From<UpdateConfig> for v1::UpdateConfig {
    fn from(c: UpdateConfig) -> Self {
        Self {
            parallelism: c.parallelism,
            delay_ms: millis(c.delay),
            order: v1::UpdateOrder::from(c.order).into(),
            failure_action: v1::FailureAction::from(c.failure_action).into(),
            monitor_ms: millis(c.monitor),
            max_failure_permille: c.max_failure_ratio.0,
            deadline_ms: millis(c.deadline),
        }
    }
}

impl TryFrom<v1::UpdateConfig> for UpdateConfig {
    type Error = ConvertError;
    fn try_from(c: v1::UpdateConfig) -> Result<Self> {
        if c.max_failure_permille > Ratio::ONE.0 {
            let reason = format_args!("{} is more than {}", c.max_failure_permille, Ratio::ONE.0);
            return Err(wrong("update.max_failure_permille", reason));
        }
        Ok(Self {
            parallelism: c.parallelism,
            delay: Duration::from_millis(c.delay_ms),
            order: c.order().try_into()?,
            failure_action: c.failure_action().try_into()?,
            monitor: Duration::from_millis(c.monitor_ms),
            max_failure_ratio: Ratio(c.max_failure_permille),
            deadline: Duration::from_millis(c.deadline_ms),
        })
    }
}

impl From<UpdateStatus> for v1::UpdateStatus {
    fn from(s: UpdateStatus) -> Self {
        Self {
            state: v1::UpdateState::from(s.state).into(),
            started_ms: s.started.0,
            completed_ms: s.completed.map(|at| at.0),
            message: s.message,
            failed: s.failed.into_iter().collect(),
        }
    }
}

impl TryFrom<v1::UpdateStatus> for UpdateStatus {
    type Error = ConvertError;
    fn try_from(s: v1::UpdateStatus) -> Result<Self> {
        Ok(Self {
            state: s.state().try_into()?,
            started: Timestamp(s.started_ms),
            completed: s.completed_ms.map(Timestamp),
            message: s.message,
            failed: s.failed.into_iter().collect(),
        })
    }
}

impl From<Previous> for v1::PreviousSpec {
    fn from(p: Previous) -> Self {
        Self { spec: Some(p.spec.into()), spec_version: p.spec_version.0 }
    }
}

impl TryFrom<v1::PreviousSpec> for Previous {
    type Error = ConvertError;
    fn try_from(p: v1::PreviousSpec) -> Result<Self> {
        Ok(Self { spec: some("previous.spec", p.spec)?.try_into()?, spec_version: Version(p.spec_version) })
    }
}
