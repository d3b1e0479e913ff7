//! Makes the kernel match what is wanted. Knows what is there from the last look and the steps since; looks anew at the
//! start, after every failure, and now and then, since others change things too.

use crate::{
    dataplane::{
        desired::passage,
        diff::diff,
        state::{KernelState, Space},
    },
    kernel::{Kernel, KernelError, linux::watch::Change},
};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::Instant;

/// How long what is known of the kernel is trusted.
const LOOK_EVERY: Duration = Duration::from_secs(10);

pub struct Reconciler<K> {
    kernel: K,
    known: Option<(KernelState, Instant)>,
    /// What is known of the host's namespace is out of date.
    host_changed: bool,
    closed: BTreeSet<String>,
}

impl<K: Kernel> Reconciler<K> {
    pub fn new(kernel: K) -> Self {
        Self { kernel, known: None, host_changed: false, closed: BTreeSet::new() }
    }

    /// The next pass looks at the kernel itself.
    pub fn distrust(&mut self) {
        self.known = None;
    }

    /// Takes in what others may have done to the host's namespace. True: the next pass looks at it, and is due now.
    pub fn notice(&mut self, change: &Change) -> bool {
        let Some((state, _)) = &self.known else { return true };
        let host = state.spaces.get(&Space::Host);
        // What we took away ourselves is not known to be there any more.
        let ours = host.is_some_and(|host| {
            host.links.keys().any(|name| change.links.contains(name.as_str()))
                || host.addresses.iter().any(|(_, net)| change.addresses.contains(&net.addr()))
        });
        self.host_changed |= change.firewall || ours;
        self.host_changed
    }

    /// Foreign chains that stay closed to us, as of the last pass, and what the operator has to do.
    pub fn closed(&self) -> &BTreeSet<String> {
        &self.closed
    }

    /// When to run again although nothing changed.
    pub fn due(&self) -> Instant {
        self.known.as_ref().map_or_else(Instant::now, |(_, at)| *at + LOOK_EVERY)
    }

    /// One pass. How many steps were needed.
    pub async fn reconcile(&mut self, desired: &KernelState) -> Result<usize, KernelError> {
        let fresh = self.known.take().filter(|(_, at)| at.elapsed() < LOOK_EVERY);
        let (mut state, at) = match fresh {
            Some((mut state, at)) => {
                if std::mem::take(&mut self.host_changed) {
                    state.spaces.insert(Space::Host, self.kernel.observe_host().await?);
                }
                (state, at)
            }
            None => {
                self.host_changed = false;
                (self.kernel.observe().await?, Instant::now())
            }
        };
        let mut desired = desired.clone();
        passage::complete(&mut desired, &state);
        self.say_closed(passage::closed(&desired, &state));
        let steps = diff(&desired, &state);
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

    fn say_closed(&mut self, closed: BTreeSet<String>) {
        for sentence in closed.difference(&self.closed) {
            tracing::warn!("{sentence}");
        }
        self.closed = closed;
    }
}
