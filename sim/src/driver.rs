//! One run: faults for a while, then none, and the invariants after every tick.

use crate::{
    agent::{self, Kept},
    client::{self, Seen},
    faults::{self, Fault, Faults, Order},
    host::{BROKEN, Clocked, EPOCH, Guest, Host},
    invariants::{Agreement, Leaders, converged, given_twice, linearizable, went_back},
    net::{At, Net},
    world::{HOSTS, MANAGERS, OUTSIDE, World},
};
use heddle_manager::{
    ambient, membership,
    raft::raft_id,
    store::{Mutation, Snapshot, Store, WriteError},
};
use heddle_model::{Timestamp, cluster::Role, node::Node};
use openraft::{BasicNode, ServerState, async_runtime::WatchReceiver};
use rand::{SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::task::JoinHandle;

/// Milliseconds that every host runs for in turn.
const TICK: u64 = 5;
/// Milliseconds with faults, those in which clients go on without any, and those in which all must be well after that.
const FAULTY: u64 = 15_000;
const BUSY: u64 = 5_000;
const CALM: u64 = 120_000;
const CLIENTS: usize = 4;
const LIMIT: Duration = Duration::from_secs(3);

/// What happened in a run that held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Of everything that could be seen, in order.
    pub trace: u64,
    /// Milliseconds after the last fault until all was well.
    pub calm_after: u64,
    pub terms: usize,
    pub version: u64,
    pub operations: usize,
    pub faults: usize,
}

/// What did not hold, and what had gone wrong before.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub at: u64,
    pub what: String,
    faults: Vec<(u64, Fault, At)>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} after {} ms: {}", self.seed, self.at, self.what)?;
        self.faults.iter().try_for_each(|(at, fault, host)| writeln!(f, "  {at:>6} ms {fault:?} (host {host})"))
    }
}

struct Run {
    now: u64,
    net: Net,
    world: Arc<World>,
    hosts: Vec<Host>,
    faults: Faults,
    outside: Clocked,
    agents: Vec<(JoinHandle<()>, Arc<Mutex<Kept>>)>,
    clients: Vec<JoinHandle<()>>,
    seen: Arc<Mutex<Seen>>,
    agreement: Agreement,
    leaders: Leaders,
    last: BTreeMap<At, Arc<Snapshot>>,
    trace: DefaultHasher,
}

/// Runs one seed from start to end.
pub fn run(seed: u64) -> Result<Outcome, Failure> {
    ambient::simulate(seed);
    ambient::set_clock(Timestamp(EPOCH));
    BROKEN.take();
    let mut run = Run::new(seed);
    let outcome = run.whole();
    let faults = std::mem::take(&mut run.faults.log);
    outcome.map_err(|what| Failure { seed, at: run.now, what, faults })
}

impl Run {
    fn new(seed: u64) -> Self {
        let (net, world) = (Net::new(seed), Arc::new(World::new()));
        let mut hosts: Vec<Host> = (0..MANAGERS).map(|at| Host::new(at, world.node(at))).collect();
        hosts.iter_mut().for_each(|h| h.start(0, &net));
        let (outside, seen) = (Clocked::new(0), Arc::new(Mutex::new(Seen::default())));
        outside.spawn(begin(net.clone(), world.clone()));
        let client = || outside.spawn(client::run(net.clone(), world.clone(), seen.clone()));
        let clients = (0..CLIENTS).map(|_| client()).collect();
        let faults = Faults::new(SmallRng::seed_from_u64(seed ^ 0x5eed));
        let mut run = Self {
            now: 0,
            net,
            world,
            hosts,
            faults,
            outside,
            agents: Vec::new(),
            clients,
            seen,
            agreement: Agreement::default(),
            leaders: Leaders::default(),
            last: BTreeMap::new(),
            trace: DefaultHasher::new(),
        };
        run.agents = (0..HOSTS)
            .map(|at| {
                let kept: Arc<Mutex<Kept>> = Arc::default();
                (run.agent(at, kept.clone()), kept)
            })
            .collect();
        run
    }

    fn agent(&self, at: At, kept: Arc<Mutex<Kept>>) -> JoinHandle<()> {
        self.outside.spawn(agent::run(at, self.world.node(at), self.net.clone(), self.world.clone(), kept))
    }

    fn whole(&mut self) -> Result<Outcome, String> {
        while self.now < FAULTY {
            let order = self.faults.step(self.now, &mut self.hosts, &self.net);
            self.carry_out(order);
            self.tick()?;
        }
        self.faults.stop(self.now, &mut self.hosts, &self.net);
        let mut why = String::new();
        while self.now < FAULTY + BUSY + CALM {
            self.faults.step(self.now, &mut self.hosts, &self.net);
            self.tick()?;
            if self.now == FAULTY + BUSY {
                self.clients.drain(..).for_each(|client| client.abort());
            }
            if self.now.is_multiple_of(50) {
                match self.all_is_well() {
                    Ok(version) => return self.end(version),
                    Err(e) => why = e,
                }
            }
        }
        Err(format!("{CALM} ms after anybody did anything {why}"))
    }

    fn end(&mut self, version: u64) -> Result<Outcome, String> {
        let events = std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner).events);
        linearizable(&events)?;
        events.len().hash(&mut self.trace);
        Ok(Outcome {
            trace: self.trace.finish(),
            calm_after: self.now - FAULTY,
            terms: self.leaders.count(),
            version,
            operations: events.len(),
            faults: self.faults.log.len(),
        })
    }

    fn tick(&mut self) -> Result<(), String> {
        self.now += TICK;
        self.net.deliver(self.now);
        for host in self.hosts.iter_mut().filter(|h| !self.faults.frozen.contains_key(&h.at)) {
            host.run_until(self.now);
        }
        ambient::set_clock(Timestamp(EPOCH + self.now));
        self.outside.run_until(self.now);
        self.check()
    }

    fn carry_out(&mut self, order: Option<Order>) {
        match order {
            Some(Order::AgentCrash(at)) => {
                let kept = self.agents[at].1.clone();
                self.agents[at].0.abort();
                self.agents[at].0 = self.agent(at, kept);
            }
            Some(Order::Replace { out, with }) => {
                drop(self.outside.spawn(replace(self.net.clone(), self.world.clone(), out, with)));
            }
            None => {}
        }
    }

    fn check(&mut self) -> Result<(), String> {
        if let Some(broken) = BROKEN.with_borrow_mut(Vec::pop) {
            return Err(broken);
        }
        for host in &self.hosts {
            let Some(guest) = host.guest() else { continue };
            let metrics = guest.raft.metrics().borrow_watched().clone();
            if metrics.state == ServerState::Leader {
                self.leaders.see(host.at, metrics.current_term)?;
            }
            let state = guest.store.snapshot();
            if self.last.get(&host.at).is_some_and(|last| last.version == state.version) {
                continue;
            }
            (self.now, host.at, state.version.0, metrics.current_term).hash(&mut self.trace);
            self.agreement.see(host.at, &state)?;
            given_twice(&state)?;
            // One that starts begins with its last raft snapshot again.
            if let Some(last) = self.last.get(&host.at).filter(|last| last.version <= state.version) {
                went_back(last, &state)?;
            }
            self.last.insert(host.at, state);
        }
        for (_, kept) in &self.agents {
            let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(wrong) = kept.wrong.first() {
                return Err(wrong.clone());
            }
        }
        Ok(())
    }

    /// The version at which it is, or why it is not so.
    fn all_is_well(&self) -> Result<u64, String> {
        let leads = |g: &&Arc<Guest>| g.store.is_leader();
        let leader = self.hosts.iter().filter_map(Host::guest).find(leads).ok_or("nobody leads")?;
        let voters: Vec<u64> = leader.raft.voter_ids().collect();
        let votes = |h: &&Host| voters.contains(&raft_id(&h.node));
        let guests: Vec<&Arc<Guest>> = self.hosts.iter().filter(votes).filter_map(Host::guest).collect();
        if guests.len() != voters.len() {
            return Err(format!("{} of {} managers are up", guests.len(), voters.len()));
        }
        let states: Vec<Arc<Snapshot>> = guests.iter().map(|g| g.store.snapshot()).collect();
        let kept: Vec<_> = self.agents.iter().map(|(_, k)| k.lock().unwrap_or_else(PoisonError::into_inner)).collect();
        let agents: Vec<(usize, &Kept)> = kept.iter().enumerate().map(|(at, k)| (at, &**k)).collect();
        converged(&states, &agents, &self.world)?;
        Ok(states.first().map_or(0, |s| s.version.0))
    }
}

/// Makes the cluster.
async fn begin(net: Net, world: Arc<World>) {
    let members: BTreeMap<u64, BasicNode> = faults::first()
        .map(|at| (raft_id(&world.node(at)), BasicNode::new(world.manager_status(at).addr.to_string())))
        .collect();
    let initialize = move |guest: Arc<Guest>| async move {
        drop(guest.raft.initialize(members).await);
    };
    while net.call((OUTSIDE, 0), LIMIT, initialize.clone()).await.is_err() {}
    let objects = world.objects();
    on_leader(&net, move |store| {
        let objects = objects.clone();
        async move {
            match store.write(objects).await {
                Ok(_) | Err(WriteError::Conflict(_)) => Some(()),
                Err(_) => None,
            }
        }
    })
    .await;
}

/// Asks one manager after another until one has done it.
async fn on_leader<T, F>(net: &Net, job: impl Fn(Store) -> F + Clone + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = Option<T>> + Send + 'static,
{
    for at in (0..MANAGERS).cycle() {
        let job = job.clone();
        let ask = move |guest: Arc<Guest>| async move {
            if guest.store.is_leader() { job(guest.store.clone()).await } else { None }
        };
        if let Ok(Some(done)) = net.call((OUTSIDE, at), LIMIT, ask).await {
            return done;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    unreachable!("an endless cycle ended")
}

/// As `node promote` and `node demote` do it, and a new manager that asks to be let in.
async fn replace(net: Net, world: Arc<World>, out: At, with: At) {
    let status = world.manager_status(with);
    let (joins, leaves) = (world.node(with), world.node(out));
    let (id, node, addr) = (raft_id(&joins), joins.clone(), status.addr.to_string());
    let promoted = on_leader(&net, move |store| {
        let (joins, status) = (joins.clone(), status.clone());
        async move {
            let promote = |state: &Snapshot| {
                let node = state.nodes.get(&joins).filter(|n| n.spec.role == Role::Worker && n.role == Role::Worker);
                let promoted = node.map(|n| {
                    let mut node = Node::clone(n);
                    (node.role, node.spec.role, node.manager) = (Role::Manager, Role::Manager, Some(status.clone()));
                    node
                });
                Ok::<_, WriteError>(promoted.map(|n| Mutation::Update(n.into())).into_iter().collect())
            };
            let state = store.update(promote).await.ok()?;
            Some(state.nodes.get(&joins).is_some_and(|n| n.spec.role == Role::Manager))
        }
    })
    .await;
    if !promoted {
        return;
    }
    on_leader(&net, move |store| {
        let (node, leaves, addr) = (node.clone(), leaves.clone(), addr.clone());
        async move {
            // Whoever was told to go meanwhile is not let in.
            let stays = store.snapshot().nodes.get(&node).is_some_and(|n| n.spec.role == Role::Manager);
            if stays {
                membership::admit(store.raft(), id, &addr).await.ok()?;
            }
            let demote = |state: &Snapshot| {
                let managers = state.nodes.values().filter(|n| n.spec.role == Role::Manager).count();
                let node = state.nodes.get(&leaves).filter(|n| n.spec.role == Role::Manager && managers > 3);
                let demoted = node.map(|n| {
                    let mut node = Node::clone(n);
                    node.spec.role = Role::Worker;
                    node
                });
                Ok::<_, WriteError>(demoted.map(|n| Mutation::Update(n.into())).into_iter().collect())
            };
            store.update(demote).await.ok().map(drop)
        }
    })
    .await;
}
