//! Waiting for the agent to have done what the store says.

use super::{OperationError, Operations, Result};
use crate::{agent::Picture, local::state::HostState};
use heddle_model::{NetworkId, TaskId};
use std::{sync::Arc, time::Duration};

/// How long the kernel may take to follow.
pub const KERNEL_LIMIT: Duration = Duration::from_secs(30);

/// What must be whole beside.
#[derive(Clone, Copy)]
pub(super) enum Part<'a> {
    /// Nothing: something was taken away.
    None,
    Network(&'a NetworkId),
    /// What does not run has no links.
    Place(&'a TaskId, &'a NetworkId),
}

impl Operations {
    /// Waits until the kernel has what the store says now, and the part of it is whole.
    pub(super) async fn applied(&self, name: &str, part: Part<'_>) -> Result<()> {
        let state: Arc<HostState> = self.store.snapshot();
        let refused =
            |reason: &str| Some(Err(OperationError::Kernel { name: name.to_owned(), reason: reason.to_owned() }));
        let judge = |picture: &Picture| {
            if picture.host_revision < state.revision {
                return picture.refusal(state.revision).and_then(refused);
            }
            let (id, network) = match part {
                Part::None => return Some(Ok(())),
                Part::Network(id) => return picture.networks.get(id).map_or(Some(Ok(())), |r| refused(r)),
                Part::Place(id, network) => (id, network),
            };
            if let Some(reason) = picture.failures.get(id) {
                return refused(reason);
            }
            let Some(sandbox) = picture.sandboxes.get(id) else { return Some(Ok(())) };
            let known = state.networks.contains_key(network)
                || picture
                    .member
                    .as_ref()
                    .and_then(|m| m.view.as_ref())
                    .is_some_and(|v| v.networks.contains_key(network));
            (known && sandbox.leg(network).is_some()).then_some(Ok(()))
        };
        let last = |p: &Picture| format!("revision {} of {}", p.host_revision, state.revision);
        self.wait(name, KERNEL_LIMIT, judge, last).await
    }

    pub(super) async fn wait(
        &self,
        name: &str,
        limit: Duration,
        judge: impl Fn(&Picture) -> Option<Result<()>>,
        last: impl Fn(&Picture) -> String,
    ) -> Result<()> {
        let mut picture = self.picture.clone();
        let waited = tokio::time::timeout(limit, async {
            loop {
                if let Some(verdict) = judge(&picture.borrow_and_update()) {
                    return verdict;
                }
                if picture.changed().await.is_err() {
                    return Ok(());
                }
            }
        });
        match waited.await {
            Ok(verdict) => verdict,
            Err(_) => {
                let picture = self.picture.borrow();
                let seen = picture.stalled.as_ref().map_or_else(|| last(&picture), |s| s.reason.clone());
                Err(OperationError::TimedOut { name: name.to_owned(), limit, seen })
            }
        }
    }
}
