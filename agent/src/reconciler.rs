//! Makes the kernel match what is wanted. Knows what is there from the last look and the steps since; looks anew at the
//! start, after every failure, and now and then, since others change things too.

use crate::{
    dataplane::{diff::diff, state::KernelState},
    kernel::{Kernel, KernelError},
};
use std::time::Duration;
use tokio::time::Instant;

/// How long what is known of the kernel is trusted.
const LOOK_EVERY: Duration = Duration::from_secs(10);

pub struct Reconciler<K> {
    kernel: K,
    known: Option<(KernelState, Instant)>,
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

    /// One pass. How many steps were needed.
    pub async fn reconcile(&mut self, desired: &KernelState) -> Result<usize, KernelError> {
        let fresh = self.known.take().filter(|(_, at)| at.elapsed() < LOOK_EVERY);
        let (mut state, at) = match fresh {
            Some(known) => known,
            None => (self.kernel.observe().await?, Instant::now()),
        };
        let steps = diff(desired, &state);
        for step in &steps {
            tracing::trace!(?step, "step");
        }
        self.kernel.apply(&steps).await.map_err(|(_, error)| error)?;
        // On a refusal the model and the kernel differ: look again next time.
        if steps.iter().all(|step| state.step(step).is_ok()) {
            self.known = Some((state, at));
        }
        Ok(steps.len())
    }
}
