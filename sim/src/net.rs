//! The network between hosts: calls take a while, arrive in any order, get lost, and find nobody.

use crate::host::Guest;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// A host by its number.
pub type At = usize;
/// Something that a host does for another.
pub type Job = Box<dyn FnOnce(Arc<Guest>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// How bad it is now.
#[derive(Debug, Clone)]
pub struct Weather {
    /// Nothing gets from the one to the other.
    pub cut: BTreeSet<(At, At)>,
    /// Share of messages that are lost.
    pub loss: f64,
    /// Milliseconds under way.
    pub latency: Range<u64>,
}

impl Default for Weather {
    fn default() -> Self {
        Self { cut: BTreeSet::new(), loss: 0.0, latency: 1..10 }
    }
}

type Delivery = Box<dyn FnOnce() + Send>;

struct State {
    rng: SmallRng,
    /// Milliseconds since the start.
    now: u64,
    posted: u64,
    under_way: BTreeMap<(u64, u64), Delivery>,
    inboxes: BTreeMap<At, mpsc::UnboundedSender<Job>>,
    weather: Weather,
}

/// No answer: the other may have done it, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

/// Cheap to clone; clones are one network.
#[derive(Clone)]
pub struct Net(Arc<Mutex<State>>);

impl Net {
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: SmallRng::seed_from_u64(seed),
            now: 0,
            posted: 0,
            under_way: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            weather: Weather::default(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on messages to the host come here.
    pub fn listen(&self, at: At) -> mpsc::UnboundedReceiver<Job> {
        let (send, receive) = mpsc::unbounded_channel();
        self.state().inboxes.insert(at, send);
        receive
    }

    pub fn weather(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.state().weather);
    }

    /// Delivers what is due by this moment, in milliseconds since the start.
    pub fn deliver(&self, now: u64) {
        loop {
            let due = {
                let mut state = self.state();
                state.now = now;
                match state.under_way.first_entry().filter(|e| e.key().0 <= now) {
                    Some(entry) => entry.remove(),
                    None => return,
                }
            };
            due();
        }
    }

    /// When a message that is sent now arrives; None: it does not.
    fn fate(&self, from: At, to: At) -> Option<u64> {
        let state = &mut *self.state();
        let (loss, latency) = (state.weather.loss, state.weather.latency.clone());
        let lost = state.weather.cut.contains(&(from, to)) || state.rng.random_bool(loss);
        (!lost).then(|| state.now + state.rng.random_range(latency))
    }

    /// How long it takes to learn that a message is lost.
    fn refusal(&self, ttl: Duration) -> Duration {
        let state = &mut *self.state();
        if state.rng.random_bool(0.5) { ttl } else { Duration::from_millis(state.rng.random_range(1..10)) }
    }

    fn post(&self, at: u64, delivery: Delivery) {
        let mut state = self.state();
        state.posted += 1;
        let key = (at, state.posted);
        state.under_way.insert(key, delivery);
    }

    fn hand(&self, to: At, job: Job) {
        let inbox = self.state().inboxes.get(&to).cloned();
        // Whoever has crashed meanwhile hears nothing, and the caller's end falls with the job.
        let _ = inbox.map(|inbox| inbox.send(job));
    }

    /// Has another host do something and waits for the answer, for at most `ttl`.
    pub async fn call<T, F>(
        &self,
        (from, to): (At, At),
        ttl: Duration,
        job: impl FnOnce(Arc<Guest>) -> F + Send + 'static,
    ) -> Result<T, Lost>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (tx, rx) = oneshot::channel();
        let net = self.clone();
        let job: Job = Box::new(move |guest| {
            Box::pin(async move {
                let answer = job(guest).await;
                if let Some(at) = net.fate(to, from) {
                    net.post(at, Box::new(move || drop(tx.send(answer))));
                }
            })
        });
        let net = self.clone();
        if let Some(at) = self.fate(from, to) {
            self.post(at, Box::new(move || net.hand(to, job)));
        }
        // A message that is lost is missed only when time is up, one to a dead host is refused: whichever it is here.
        let refused = self.refusal(ttl);
        let answer = async {
            match rx.await {
                Ok(answer) => Ok(answer),
                Err(_) => {
                    tokio::time::sleep(refused).await;
                    Err(Lost)
                }
            }
        };
        tokio::time::timeout(ttl, answer).await.unwrap_or(Err(Lost))
    }

    /// One direction of a connection: in order, and broken for good when something of it is lost.
    pub fn stream<T: Send + 'static>(&self, from: At, to: At, into: mpsc::Sender<T>) -> Outbound<T> {
        Outbound { net: self.clone(), ends: (from, to), last: 0, into: Arc::new(Mutex::new(Some(into))) }
    }
}

/// The sending end of a stream.
pub struct Outbound<T: Send + 'static> {
    net: Net,
    ends: (At, At),
    last: u64,
    into: Arc<Mutex<Option<mpsc::Sender<T>>>>,
}

impl<T: Send + 'static> Outbound<T> {
    /// False: the stream is broken.
    pub fn send(&mut self, message: T) -> bool {
        let Some(at) = self.net.fate(self.ends.0, self.ends.1) else {
            self.close();
            return false;
        };
        self.last = self.last.max(at);
        let into = self.into.clone();
        let deliver = move || {
            let mut into = into.lock().unwrap_or_else(PoisonError::into_inner);
            // The other end is gone, or does not read: a connection that is reset.
            if into.as_ref().is_some_and(|tx| tx.try_send(message).is_err()) {
                *into = None;
            }
        };
        self.net.post(self.last, Box::new(deliver));
        self.open()
    }

    fn open(&self) -> bool {
        self.into.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The other end hears of it after what was sent before.
    fn close(&mut self) {
        let (into, at) = (self.into.clone(), self.last.max(self.net.state().now) + 1);
        self.net.post(at, Box::new(move || *into.lock().unwrap_or_else(PoisonError::into_inner) = None));
    }
}

impl<T: Send + 'static> Drop for Outbound<T> {
    fn drop(&mut self) {
        self.close();
    }
}
