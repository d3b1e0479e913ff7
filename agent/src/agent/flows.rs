//! Datagrams of clients that keep their ports, and connections that are only being made: led to another backend when theirs leaves.

use crate::{
    dataplane::{
        names,
        state::{KernelState, Space},
    },
    kernel::linux::{
        conntrack::let_go,
        datagrams::{lead_anew, tidy},
    },
};
use futures::StreamExt;
use heddle_model::assignment::NodeView;
use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often zones are looked at that may not be needed any more.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// In which whoever is there answers the first packet of a connection; a client sends it again after 1, 3 and 7 s.
const ANSWERED_IN: Duration = Duration::from_millis(500);
/// Namespaces that are looked at side by side.
const LOOKS: usize = 4;

/// What is known of the flows of this host's balancers.
pub struct Flows {
    /// Addresses that served when they were last looked at. None: never, or that failed.
    serving: Option<Arc<BTreeSet<IpAddr>>>,
    /// Namespaces where datagrams may have zones of their own.
    zoned: BTreeSet<Space>,
    tidied: Instant,
}

/// All that serve by what the managers say.
fn serving(view: &NodeView) -> BTreeSet<IpAddr> {
    view.endpoints.values().filter(|e| e.in_service).flat_map(|e| e.addr.addrs()).collect()
}

/// Lets go of connections to who has left, which their clients would try to make again and again. Who is only about to leave has
/// answered by then.
async fn let_go_of(balancing: BTreeSet<Space>, serving: Arc<BTreeSet<IpAddr>>) {
    tokio::time::sleep(ANSWERED_IN).await;
    for space in balancing {
        match let_go(&space, serving.clone()).await {
            Ok(0) => {}
            Ok(flows) => tracing::debug!(flows, %space, "connections that nobody answers are led to another backend"),
            // The namespace may have ended.
            Err(error) => tracing::debug!(%error, %space, "connections that nobody answers cannot be looked at"),
        }
    }
}

impl Flows {
    pub fn new() -> Self {
        Self { serving: None, zoned: BTreeSet::new(), tidied: Instant::now() }
    }

    /// After the kernel was brought to `state`, but for the namespaces that are `incomplete`. True: whoever is out of the balancers
    /// gets no more datagrams, and may be stopped.
    pub async fn follow(
        &mut self,
        state: &KernelState,
        view: Option<&NodeView>,
        incomplete: &BTreeSet<&Space>,
    ) -> bool {
        let Some(view) = view else { return true };
        let serving = Arc::new(serving(view));
        let balancing = state.spaces.iter().filter(|(_, s)| s.tables.contains_key(&names::flows_table()));
        // One that still balances as before would lead to the same backend again.
        let whole = balancing.map(|(space, _)| space).filter(|space| !incomplete.contains(space));
        let whole: BTreeSet<Space> = whole.cloned().collect();
        let left = self.serving.as_ref().is_none_or(|before| !before.is_subset(&serving));
        let led = !left || self.lead(&whole, &serving).await;
        if self.tidied.elapsed() > TIDY_EVERY {
            self.tidy(&whole).await;
        }
        // What is incomplete is looked at when it is whole; whether it keeps the cluster waiting is for others to say.
        self.serving = (led && incomplete.is_empty()).then_some(serving);
        led
    }

    /// Away from whoever does not serve. False: that may not be so everywhere.
    async fn lead(&mut self, balancing: &BTreeSet<Space>, serving: &Arc<BTreeSet<IpAddr>>) -> bool {
        if self.serving.is_none() {
            // What an earlier daemon has led, nobody knows.
            self.zoned.extend(balancing.iter().cloned());
        }
        tokio::spawn(let_go_of(balancing.clone(), serving.clone()));
        let mut whole = true;
        let look = |space: Space| {
            let serving = serving.clone();
            async move {
                let led = lead_anew(&space, &serving).await;
                (space, led)
            }
        };
        for (space, led) in each(balancing, look).await {
            match led {
                Ok(0) => {}
                Ok(flows) => {
                    tracing::debug!(flows, %space, "datagrams are led to another backend");
                    self.zoned.insert(space);
                }
                Err(error) => {
                    tracing::warn!(%error, %space, "datagrams cannot be led to another backend");
                    whole = false;
                }
            }
        }
        whole
    }

    /// Takes away zones that are not needed any more.
    async fn tidy(&mut self, balancing: &BTreeSet<Space>) {
        self.zoned.retain(|space| balancing.contains(space));
        let look = |space: Space| async move {
            let left = tidy(&space).await;
            (space, left)
        };
        let seen = each(&self.zoned, look).await.into_iter();
        self.zoned = seen.filter(|(_, left)| !matches!(left, Ok(0))).map(|(space, _)| space).collect();
        self.tidied = Instant::now();
    }
}

/// What looks at namespaces tell, some of them side by side.
async fn each<F>(spaces: &BTreeSet<Space>, look: impl Fn(Space) -> F) -> Vec<(Space, io::Result<usize>)>
where
    F: Future<Output = (Space, io::Result<usize>)>,
{
    let looks: Vec<F> = spaces.iter().cloned().map(look).collect();
    futures::stream::iter(looks).buffer_unordered(LOOKS).collect().await
}
