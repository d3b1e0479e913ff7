//! Datagrams of clients that keep their ports, and connections that are only being made: led to another backend when theirs leaves.

use crate::{
    dataplane::{
        names,
        state::{KernelState, Space},
    },
    kernel::linux::datagrams::{lead_anew, let_go, tidy},
};
use futures::StreamExt;
use heddle_model::assignment::NodeView;
use std::{
    collections::BTreeSet,
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
pub struct Datagrams {
    /// Addresses that served when they were last looked at. None: never, or that failed.
    serving: Option<Arc<BTreeSet<IpAddr>>>,
    /// Namespaces where some may have zones of their own. None: nobody has looked since the start.
    zoned: Option<BTreeSet<Space>>,
    tidied: Instant,
}

/// All that serve by what the managers say.
fn serving(view: &NodeView) -> BTreeSet<IpAddr> {
    view.endpoints.values().filter(|e| e.in_service).flat_map(|e| e.addr.addrs()).collect()
}

/// Lets go of connections to who has left, which their clients would try to make again and again. Who is only about to leave has
/// answered by then.
async fn let_go_of(balancing: Vec<Space>, serving: Arc<BTreeSet<IpAddr>>) {
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

impl Datagrams {
    pub fn new() -> Self {
        Self { serving: None, zoned: None, tidied: Instant::now() }
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
        let left = self.serving.as_ref().is_none_or(|before| !before.is_subset(&serving));
        let due = self.tidied.elapsed() > TIDY_EVERY;
        if !left && !due {
            self.serving = Some(serving);
            return true;
        }
        let balancing = state.spaces.iter().filter(|(_, s)| s.tables.contains_key(&names::flows_table()));
        // One that still balances as before would lead to the same backend again.
        let whole: Vec<Space> =
            balancing.map(|(space, _)| space).filter(|s| !incomplete.contains(s)).cloned().collect();
        if left {
            tokio::spawn(let_go_of(whole.clone(), serving.clone()));
        }
        let (to, zoned) = (&serving, &self.zoned);
        let looks = futures::stream::iter(whole).map(|space| async move {
            let led = if left { lead_anew(&space, to).await } else { Ok(0) };
            let zones = match led {
                Ok(0) if due && zoned.as_ref().is_none_or(|zoned| zoned.contains(&space)) => tidy(&space).await,
                Ok(0) => Ok(usize::from(zoned.as_ref().is_some_and(|zoned| zoned.contains(&space)))),
                led => led,
            };
            (space, zones)
        });
        let (mut failed, mut now) = (false, BTreeSet::new());
        for (space, zones) in looks.buffer_unordered(LOOKS).collect::<Vec<_>>().await {
            match zones {
                Ok(0) => {}
                Ok(zones) => {
                    tracing::debug!(zones, %space, "datagrams are led to another backend");
                    now.insert(space);
                }
                Err(error) => {
                    tracing::warn!(%error, %space, "datagrams cannot be led to another backend");
                    failed = true;
                    now.insert(space);
                }
            }
        }
        if due || self.zoned.is_some() {
            self.zoned = Some(now);
        }
        if due {
            self.tidied = Instant::now();
        }
        // What is incomplete is looked at when it is whole; whether it keeps the cluster waiting is for others to say.
        self.serving = (!failed && incomplete.is_empty()).then_some(serving);
        !failed
    }
}
