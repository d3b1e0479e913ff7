//! Operators: they write and read the labels of services through whichever manager answers, and note what they were told.
//! What they write also changes how many tasks there are, makes updates of either order, and moves tasks.

use crate::{
    host::Guest,
    net::{At, Net},
    world::{BATCH, EVERYWHERE, LABEL, OUTSIDE, REGISTERS, World, register},
};
use heddle_manager::{
    ambient,
    store::{Mutation, Snapshot, Store, WriteError},
};
use heddle_model::{
    service::{Mode, Service},
    update::Order,
};
use openraft::ReadPolicy;
use rand::RngExt;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::sleep;

const LIMIT: Duration = Duration::from_secs(7);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    Write(u64),
    /// None: the answer is not known yet.
    Read(Option<u64>),
}

/// One operation of one client, from its call until its answer; the order of both is that of all clients' histories.
#[derive(Debug, Clone)]
pub struct Event {
    pub register: usize,
    pub call: u64,
    pub answer: Answer,
    pub op: Op,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    At(u64),
    /// It did not take effect and never will.
    Never,
    /// Nobody knows whether it took effect, or will.
    Unknown,
}

/// What all clients saw.
#[derive(Debug, Default)]
pub struct Seen {
    clock: u64,
    value: u64,
    pub events: Vec<Event>,
}

impl Seen {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

type Shared = Arc<Mutex<Seen>>;

fn locked(seen: &Shared) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of a try.
enum Tried {
    Done(u64),
    /// It did not and will not take effect.
    Not,
    Unknown,
}

/// One client; runs until it is aborted.
pub async fn run(net: Net, world: Arc<World>, seen: Shared) {
    let mut manager = world.any_manager();
    loop {
        sleep(Duration::from_millis(ambient::rng().random_range(20..400))).await;
        if ambient::rng().random_bool(0.03) {
            run_anew(&net, manager).await;
        }
        let (which, writes) = (ambient::rng().random_range(0..REGISTERS), ambient::rng().random_bool(0.5));
        if !once(&net, manager, which, writes, &seen).await {
            manager = world.any_manager();
        }
    }
}

/// One operation. False: ask another manager next time.
pub async fn once(net: &Net, manager: At, which: usize, writes: bool, seen: &Shared) -> bool {
    // Noted before it is known how it ends: it may take effect although the client never hears of it.
    let (noted, value) = {
        let mut seen = locked(seen);
        seen.value += 1;
        let (call, value) = (seen.tick(), seen.value);
        let op = if writes { Op::Write(value) } else { Op::Read(None) };
        seen.events.push(Event { register: which, call, answer: Answer::Unknown, op });
        (seen.events.len() - 1, value)
    };
    let job = move |guest: Arc<Guest>| async move {
        if writes { write(&guest.store, which, value).await } else { read(&guest.store, which).await }
    };
    let tried = net.call((OUTSIDE, manager), LIMIT, job).await.unwrap_or(Tried::Unknown);
    let mut seen = locked(seen);
    let answer = seen.tick();
    let event = &mut seen.events[noted];
    match tried {
        Tried::Done(found) => {
            event.answer = Answer::At(answer);
            if !writes {
                event.op = Op::Read(Some(found));
            }
        }
        Tried::Not => event.answer = Answer::Never,
        Tried::Unknown => {}
    }
    matches!(tried, Tried::Done(_))
}

/// Has the tasks of what is no register replaced, or a job done once more. Nobody notes whether that came to be.
async fn run_anew(net: &Net, manager: At) {
    let name = if ambient::rng().random_bool(0.5) { EVERYWHERE } else { BATCH };
    let job = move |guest: Arc<Guest>| async move {
        let plan = |state: &Snapshot| {
            let mut service = Service::clone(state.service_named(name).ok_or(WriteError::NotLeader)?);
            let mut spec = service.spec.clone();
            spec.task.force_update += 1;
            service.change(spec, ambient::now());
            Ok::<_, WriteError>(vec![Mutation::Update(service.into())])
        };
        guest.store.update(plan).await.is_ok()
    };
    let _ = net.call((OUTSIDE, manager), LIMIT, job).await;
}

fn found(state: &Snapshot, which: usize) -> Option<&Arc<Service>> {
    state.service_named(&register(which))
}

/// The label of a register; 0 before it was written.
pub fn value(state: &Snapshot, which: usize) -> u64 {
    let label = |s: &Arc<Service>| s.spec.annotations.labels.get(LABEL)?.parse().ok();
    found(state, which).and_then(label).unwrap_or(0)
}

/// Also changes how many replicas there are to be, now and then what tasks are, and whether they move.
async fn write(store: &Store, which: usize, value: u64) -> Tried {
    let plan = |state: &Snapshot| {
        let service = found(state, which).ok_or(WriteError::NotLeader)?;
        let mut service = Service::clone(service);
        let mut spec = service.spec.clone();
        spec.annotations.labels.insert(LABEL.into(), value.to_string());
        spec.mode = Mode::Replicated { replicas: value % 4 };
        if value.is_multiple_of(3) {
            spec.task.force_update = value;
            spec.update.order = if value.is_multiple_of(2) { Order::StartFirst } else { Order::StopFirst };
        }
        service.change(spec, ambient::now());
        if value.is_multiple_of(5) {
            service.moves = 2;
        }
        Ok::<_, WriteError>(vec![Mutation::Update(service.into())])
    };
    match store.update(plan).await {
        Ok(_) => Tried::Done(value),
        Err(WriteError::NotLeader | WriteError::Conflict(_) | WriteError::NoQuorum(_)) => Tried::Not,
        Err(WriteError::Unknown | WriteError::Unconfirmed(_) | WriteError::Stopped(_)) => Tried::Unknown,
    }
}

async fn read(store: &Store, which: usize) -> Tried {
    match store.raft().ensure_linearizable(ReadPolicy::ReadIndex).await {
        Ok(_) => Tried::Done(value(&store.snapshot(), which)),
        Err(_) => Tried::Not,
    }
}
