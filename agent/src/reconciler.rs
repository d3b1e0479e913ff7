//! Makes the kernel match what is wanted. Knows what is there from the last look and the steps since; looks anew at the
//! start, after every failure, and now and then, since others change things too.

use crate::{
    dataplane::{
        diff::diff,
        state::{KernelState, Space},
        step::Step,
    },
    kernel::{Kernel, KernelError},
};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::Instant;

/// How long what is known of the kernel is trusted.
const LOOK_EVERY: Duration = Duration::from_secs(10);

pub struct Reconciler<K> {
    kernel: K,
    known: Option<(KernelState, Instant)>,
}

/// A step that the kernel refused.
#[derive(Debug)]
pub struct Failure {
    /// The namespaces that miss something now.
    pub concerns: Vec<Space>,
    pub error: KernelError,
}

/// What a pass came to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub steps: usize,
    /// What did not work. The rest was done: a parent link that is gone must not stop a cluster.
    pub failures: Vec<Failure>,
}

impl Outcome {
    /// The namespaces, but the host's, that miss something.
    pub fn incomplete(&self) -> BTreeSet<&Space> {
        self.failures.iter().flat_map(|f| &f.concerns).filter(|s| **s != Space::Host).collect()
    }
}

/// Whether nothing may follow if it fails: the host's filters stand before what they guard.
fn guards(step: &Step) -> bool {
    matches!(step, Step::SetTable { space: Space::Host, .. })
}

impl<K: Kernel> Reconciler<K> {
    pub fn new(kernel: K) -> Self {
        Self { kernel, known: None }
    }

    /// The next pass looks at the kernel itself.
    pub fn distrust(&mut self) {
        self.known = None;
    }

    /// When to run again although nothing changed.
    pub fn due(&self) -> Instant {
        self.known.as_ref().map_or_else(Instant::now, |(_, at)| *at + LOOK_EVERY)
    }

    /// What the kernel lacks or has too much, without changing it.
    pub async fn drift(&self, desired: &KernelState) -> Result<Vec<Step>, KernelError> {
        Ok(diff(desired, &self.kernel.observe().await?))
    }

    /// One pass. An error: nothing more could be done.
    pub async fn reconcile(&mut self, desired: &KernelState) -> Result<Outcome, KernelError> {
        let fresh = self.known.take().filter(|(_, at)| at.elapsed() < LOOK_EVERY);
        let (mut state, at) = match fresh {
            Some(known) => known,
            None => (self.kernel.observe().await?, Instant::now()),
        };
        let steps = diff(desired, &state);
        for step in &steps {
            tracing::trace!(?step, "step");
        }
        let mut outcome = Outcome { steps: steps.len(), ..Outcome::default() };
        let mut done = 0;
        while done < steps.len() {
            let Err((count, error)) = self.kernel.apply(&steps[done..]).await else { break };
            let failed = &steps[done + count];
            if guards(failed) {
                return Err(error);
            }
            outcome.failures.push(Failure { concerns: failed.concerns(), error });
            done += count + 1;
        }
        // On a refusal the model and the kernel differ: look again next time.
        if outcome.failures.is_empty() && steps.iter().all(|step| state.step(step).is_ok()) {
            self.known = Some((state, at));
        }
        Ok(outcome)
    }
}
