//! Makes the kernel match what is wanted. Knows what is there from the last look and the steps since; looks anew at the
//! start, after every failure, and now and then, since others change things too.

use crate::{
    dataplane::{
        concern::{self, concerned},
        desired::{drain, passage},
        diff::diff,
        state::{KernelState, Space},
        step::Step,
    },
    kernel::{Kernel, KernelError, linux::watch::Change},
};
use heddle_model::net::IfName;
use metrics::counter;
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
    /// What the last pass made so, if it did.
    reached: Option<KernelState>,
}

/// A step that the kernel refused.
#[derive(Debug)]
pub struct Failure {
    /// The namespaces that miss something now.
    pub concerns: BTreeSet<Space>,
    /// The link that it is about.
    pub link: Option<(Space, IfName)>,
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
        Self { kernel, known: None, host_changed: false, closed: BTreeSet::new(), reached: None }
    }

    pub fn kernel(&self) -> &K {
        &self.kernel
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

    /// What the kernel lacks or has too much, without changing it.
    pub async fn drift(&self, desired: &KernelState) -> Result<Vec<Step>, KernelError> {
        let state = self.kernel.observe().await?;
        let mut desired = desired.clone();
        passage::complete(&mut desired, &state);
        drain::complete(&mut desired, &state);
        Ok(diff(&desired, &state))
    }

    /// One pass. An error: nothing more could be done.
    pub async fn reconcile(&mut self, wanted: &KernelState) -> Result<Outcome, KernelError> {
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
        let mut desired = wanted.clone();
        passage::complete(&mut desired, &state);
        drain::complete(&mut desired, &state);
        self.say_closed(passage::closed(&desired, &state));
        let steps = diff(&desired, &state);
        counter!("heddle_dataplane_steps_total").increment(steps.len() as u64);
        let drift = if self.reached.take().as_ref() == Some(wanted) { steps.len() } else { 0 };
        counter!("heddle_dataplane_drift_total").increment(drift as u64);
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
            let (concerns, link) = (concerned(failed, &desired), concern::link(failed));
            outcome.failures.push(Failure { concerns, link, error });
            done += count + 1;
        }
        // On a refusal the model and the kernel differ: look again next time.
        counter!("heddle_dataplane_errors_total").increment(outcome.failures.len() as u64);
        if outcome.failures.is_empty() && steps.iter().all(|step| state.step(step).is_ok()) {
            self.known = Some((state, at));
            self.reached = Some(wanted.clone());
        }
        Ok(outcome)
    }

    fn say_closed(&mut self, closed: BTreeSet<String>) {
        for sentence in closed.difference(&self.closed) {
            tracing::warn!("{sentence}");
        }
        self.closed = closed;
    }
}
