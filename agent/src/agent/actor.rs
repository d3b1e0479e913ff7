//! The agent's one loop: takes in what the managers say, what the operator of this host wants and what happens here, and acts.

use super::{
    answers::answers,
    flows::Flows,
    launch::{self, Place, knows_secrets, launch, memory_files},
    membership::Membership,
    missing::{self, Aim},
    picture::{MemberPicture, Picture, Status, TunnelPicture},
    sandboxes::{Known, Sandboxes, sandboxes},
};
use crate::{
    dataplane::{
        desired::{Member, Sandbox, Wanted, desired},
        flows::{Stale, stale},
        names,
        state::{KernelState, Space},
        step::Step,
    },
    dns::{Resolver, Upstream, Zone},
    executor::{Ends, Executor, FromImage, HOST_NETNS, ShimSpec, TaskProcess},
    health::{Checks, Trial},
    host,
    kernel::linux::{LinuxKernel, conntrack, describe, space, watch::Watch},
    local::{driver::facts::HostFacts, state::HostState, store::Store},
    reconciler::Reconciler,
    session::Event,
    volumes::{Hear, Users, Volumes},
    worker::{Job, Local, Outcome, Todo, Worker},
};
use heddle_model::{
    TaskId, Timestamp,
    net::{DualAddr, IfName, Mtu},
    network::Driver,
    task::{Task, TaskState},
};
use heddle_plumbing::metrics;
use nix::sys::signal::Signal;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tonic::transport::Channel;

/// How often running programs are looked at, though nothing rang; and while one of them is about to listen.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOOK_SOON: Duration = Duration::from_millis(5);
/// After a pass that failed; doubles while it fails.
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(6);

pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(since.as_millis() as u64)
}

/// What the daemon tells its agent.
pub enum Command {
    Join(Box<Membership>, oneshot::Sender<()>),
    /// Ends the cluster's tasks and takes away all of the cluster's in the kernel.
    Leave(oneshot::Sender<()>),
    /// Whether the kernel is as it should be, one line for each difference.
    Drift(oneshot::Sender<Result<Vec<String>, String>>),
    /// The hosts that this host's end of the tunnel knows.
    TunnelPeers(oneshot::Sender<Vec<TunnelPicture>>),
    /// Tells who uses which volume. While it is heard nothing starts.
    Volumes(Hear),
}

pub(super) struct Actor {
    pub(super) executor: Executor,
    pub(super) volumes: Volumes,
    pub(super) reconciler: Reconciler<LinuxKernel>,
    pub(super) watch: Watch,
    pub(super) worker: Worker,
    pub(super) ends: Ends,
    pub(super) checks: Checks,
    pub(super) store: Arc<Store>,
    pub(super) host: watch::Receiver<Arc<HostState>>,
    pub(super) member: Option<Membership>,
    pub(super) gateways: BTreeMap<TaskId, DualAddr>,
    pub(super) resolvers: BTreeMap<TaskId, Resolver>,
    pub(super) zones: BTreeMap<TaskId, Zone>,
    pub(super) flows: Flows,
    /// Sandboxes that the kernel has, whole.
    pub(super) ready: BTreeSet<TaskId>,
    pub(super) retry: Duration,
    pub(super) picture: watch::Sender<Picture>,
    pub(super) status: watch::Sender<Status>,
    pub(super) leader: watch::Sender<Option<Channel>>,
    /// Rings when what the managers know of this host's connections can be seen in the picture.
    pub(super) connected: Arc<tokio::sync::Notify>,
    /// It rings when others can see what the managers have just said.
    pub(super) ring: bool,
}

/// The next thing that the managers say; never, outside a cluster.
async fn hear(member: &mut Option<Membership>) -> Option<Event> {
    match member {
        Some(member) => member.heard.recv().await,
        None => std::future::pending().await,
    }
}

impl Actor {
    /// Finds out how everything is that an earlier daemon started: nobody may hear before that that there is nothing.
    pub(super) fn begin(&mut self) {
        self.assign();
        self.look();
        self.show();
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, in_cluster: bool) {
        // Without its place in the cluster, all that runs there would seem to be nobody's.
        while in_cluster && self.member.is_none() {
            let Some(command) = commands.recv().await else { return };
            match command {
                Command::Volumes(hear) => hear(None),
                command => self.obey(command).await,
            }
        }
        let mut retry_at = Instant::now();
        self.assign();
        let mut dirty = true;
        // The first pass is due.
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                event = hear(&mut self.member) => {
                    let Some(event) = event else { return };
                    dirty |= self.take(event);
                    // All that has come meanwhile, in one pass.
                    while let Some(event) = self.member.as_mut().and_then(|m| m.heard.try_recv().ok()) {
                        dirty |= self.take(event);
                    }
                }
                command = commands.recv() => {
                    let Some(command) = command else { return };
                    // Looking changes nothing.
                    dirty |= !matches!(command, Command::Drift(_) | Command::TunnelPeers(_) | Command::Volumes(_));
                    self.obey(command).await;
                }
                changed = self.host.changed() => {
                    if changed.is_err() { return }
                    self.host.borrow_and_update();
                    self.assign();
                    dirty = true;
                    // Somebody waits for it.
                    retry_at = Instant::now();
                    self.retry = RETRY;
                }
                change = self.watch.changed() => dirty |= self.reconciler.notice(&change),
                () = self.ends.rings() => {}
                (id, outcome) = self.checks.next() => self.take_outcome(&id, outcome),
                () = tokio::time::sleep(pause) => {}
            }
            dirty |= self.look();
            // Nobody waits for a pass to hear that a program runs.
            self.tell().await;
            let at = Instant::now();
            if (dirty && at >= retry_at) || at >= self.reconciler.due().max(retry_at) {
                let began = Instant::now();
                let done = self.pass().await;
                metrics::pass("dataplane", began.elapsed(), done);
                if done {
                    self.retry = RETRY;
                } else {
                    retry_at = Instant::now() + self.retry;
                    self.retry = (self.retry * 2).min(RETRY_MOST);
                }
                // A sandbox that is new lets its program start; that is another pass.
                dirty = self.look() || !done;
            }
            self.tell().await;
            self.show();
            if std::mem::take(&mut self.ring) {
                self.connected.notify_one();
            }
            pause = if self.worker.soon(now()) { LOOK_SOON } else { LOOK_EVERY };
        }
    }

    /// The managers hear what they have not heard.
    async fn tell(&mut self) {
        if let Some(member) = &mut self.member {
            let (applied, complaints) = {
                let status = self.status.borrow();
                (status.applied_revision, status.report())
            };
            member.report(&self.worker, applied, complaints).await;
        }
    }

    /// True: something changed that the kernel should follow.
    fn take(&mut self, event: Event) -> bool {
        let Some(member) = &mut self.member else { return false };
        let heard = member.hear(event, &self.status, &self.leader, &self.worker, &self.executor);
        if heard.assignments {
            self.assign();
        }
        self.ring |= heard.complete;
        heard.assignments
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Join(member, done) => {
                let mut member = *member;
                member.memory.save();
                if !member.fresh {
                    member.recall(&self.status);
                }
                self.member = Some(member);
                self.begin();
                let _ = done.send(());
            }
            Command::Leave(done) => {
                self.purge().await;
                let _ = done.send(());
            }
            Command::Drift(answer) => {
                let wanted = self.sandboxes();
                let state = self.desired(&wanted.all);
                let drift = self.reconciler.drift(&state).await;
                let line = |step: &Step| {
                    let (operation, object, space) = describe(step);
                    format!("{operation} {object} in {space}")
                };
                let lines = drift.map(|steps| steps.iter().map(line).collect());
                let _ = answer.send(lines.map_err(|e| chain(&e)));
            }
            Command::TunnelPeers(answer) => drop(answer.send(self.tunnel_peers().await)),
            Command::Volumes(hear) => hear(self.volume_users().as_ref()),
        }
    }

    /// Tasks that have not ended, and workloads, which may be started again.
    fn volume_users(&self) -> Option<Users> {
        if self.lacks_view() {
            return None;
        }
        let host = host_name();
        let at = Place { host: &host, node: self.member.as_ref().map(|m| &m.local.node) };
        let mut users = Users::new();
        for local in self.worker.tasks.values() {
            let user = match &local.job {
                Job::Task(_) if local.status.state.is_terminal() => continue,
                Job::Task(task) => format!("task {}.{}", task.service_name, task.slot),
                Job::Workload(workload) => format!("workload {}", workload.spec.annotations.name),
            };
            for volume in launch::volumes(&local.job, &at) {
                users.entry(volume).or_default().push(user.clone());
            }
        }
        Some(users)
    }

    /// What the managers want is not known.
    fn lacks_view(&self) -> bool {
        self.member.as_ref().is_some_and(|m| m.view.is_none() && !m.fresh)
    }

    /// As the links tell now, whatever they should know.
    async fn tunnel_peers(&self) -> Vec<TunnelPicture> {
        let Some(view) = self.member.as_ref().and_then(|m| m.view.clone()) else { return Vec::new() };
        let mut found = Vec::new();
        for epoch in view.cluster.epochs.all() {
            let traffic = self.reconciler.kernel().traffic(&names::tunnel_space(), &names::tunnel(epoch)).await;
            let traffic = traffic.unwrap_or_else(|error| {
                tracing::debug!(%epoch, %error, "a link of the tunnel tells nothing");
                BTreeMap::new()
            });
            found.extend(traffic.into_iter().map(|(key, traffic)| {
                let host = view.peers.values().find(|p| p.keys.get(&epoch) == Some(&key));
                TunnelPicture {
                    epoch,
                    key,
                    hostname: host.map(|p| p.hostname.clone()),
                    endpoint: traffic.endpoint,
                    last_handshake: traffic.last_handshake,
                    sent: traffic.sent,
                    received: traffic.received,
                }
            }));
        }
        found
    }

    /// Everything that should run here.
    fn jobs(&self) -> BTreeMap<TaskId, Job> {
        let view = self.member.as_ref().and_then(|m| m.view.as_ref());
        let tasks = view.into_iter().flat_map(|v| &v.tasks);
        let tasks = tasks.map(|(id, task)| (id.clone(), Job::Task(Box::new(task.clone()))));
        let host = self.host.borrow();
        let workloads = host.workloads.iter().map(|(id, w)| (id.clone(), Job::Workload(Box::new(w.clone()))));
        tasks.chain(workloads).collect()
    }

    fn assign(&mut self) {
        let jobs = self.jobs();
        for (id, job) in &jobs {
            // How an earlier run ended is no news of this one.
            if self.worker.tasks.get(id).is_some_and(|local| job.runs() > local.job.runs()) {
                self.executor.reset(id);
            }
        }
        // What cannot be looked for has not ended for that.
        let running = self.executor.list().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look for running tasks");
            jobs.keys().cloned().collect()
        });
        self.worker.assign(&jobs, &running, now());
    }

    /// Looks at the programs and does what is due. True: the kernel should follow.
    fn look(&mut self) -> bool {
        let before: BTreeSet<TaskId> = self.in_sandbox();
        // What was started runs now, or has failed: somebody waits to hear of it.
        if self.look_once() {
            self.look_once();
        }
        self.keep();
        self.in_sandbox() != before
    }

    /// True: something was started.
    fn look_once(&mut self) -> bool {
        let mut processes = BTreeMap::new();
        for id in self.worker.tasks.iter().filter(|(_, l)| l.needs_sandbox()).map(|(id, _)| id) {
            match self.executor.state(id) {
                // It waits; the others go on.
                Ok(TaskProcess::Unknown) => {}
                Ok(state) => drop(processes.insert(id.clone(), state)),
                Err(error) => tracing::warn!(task = %id, %error, "cannot look at a task"),
            }
        }
        let mut started = false;
        let (ready, on_host) = (self.ready.clone(), self.on_host());
        let view = self.member.as_ref().and_then(|m| m.view.clone());
        let answers = |job: &Job, pid: u32| answers(view.as_deref(), job, pid);
        let lacking: BTreeSet<TaskId> = self
            .worker
            .tasks
            .iter()
            .filter(|(_, l)| !knows_secrets(&l.job, view.as_deref()))
            .map(|(id, _)| id.clone())
            .collect();
        let sandboxed = |id: &TaskId| !lacking.contains(id) && (ready.contains(id) || on_host.contains(id));
        for todo in self.worker.advance(&processes, sandboxed, answers, now()) {
            let done = match &todo {
                Todo::Start(id) => {
                    started = true;
                    self.start(id)
                }
                Todo::Term(id) => {
                    let signal = self.worker.tasks.get(id).map_or(Signal::SIGTERM, |local| local.job.stop_signal());
                    self.executor.signal(id, signal)
                }
                Todo::Kill(id) => self.executor.signal(id, Signal::SIGKILL),
                Todo::Check(id) => {
                    self.check(id);
                    Ok(())
                }
            };
            if let (Err(error), Todo::Start(id)) = (&done, &todo) {
                self.worker.reject(id, error.to_string(), now());
            }
        }
        let worker = &self.worker;
        self.checks.keep(|id| worker.tasks.get(id).is_some_and(Local::is_checked));
        let running = processes.values().filter(|p| matches!(p, TaskProcess::Running { .. })).count() as u32;
        self.status.send_if_modified(|s| std::mem::replace(&mut s.running, running) != running);
        let running = processes.iter().filter(|(_, p)| matches!(p, TaskProcess::Running { .. }));
        self.ends.watch(running.map(|(id, _)| id), &self.executor.processes);
        started
    }

    /// Writes down how workloads are, for the daemon that comes after this one. What they only pass through it finds out anew.
    fn keep(&self) {
        let host = self.host.borrow().clone();
        let changed = |id: &TaskId, kept: &heddle_model::workload::Workload| {
            let local = self.worker.tasks.get(id).filter(|l| l.job.runs() == kept.runs)?;
            let news = local.status != kept.status && local.status.state >= TaskState::Running;
            news.then(|| (id.clone(), kept.runs, local.status.clone()))
        };
        let changes: Vec<_> = host.workloads.iter().filter_map(|(id, kept)| changed(id, kept)).collect();
        if changes.is_empty() {
            return;
        }
        let kept = self.store.update(|state| {
            for (id, runs, status) in changes {
                if let Some(workload) = state.workloads.get_mut(&id).filter(|w| w.runs == runs) {
                    workload.wanted &= !status.state.is_terminal();
                    workload.status = status;
                }
            }
            Ok::<_, crate::local::store::StoreError>(())
        });
        if let Err(error) = kept {
            tracing::warn!(error = chain(&error), "cannot keep the state of workloads");
        }
    }

    /// Jobs in the host's own network namespace.
    fn on_host(&self) -> BTreeSet<TaskId> {
        let host = self.host.borrow();
        let is = |(id, local): (&TaskId, &Local)| match &local.job {
            Job::Task(task) => on_host(task).then(|| id.clone()),
            Job::Workload(_) => host.on_host(id).then(|| id.clone()),
        };
        self.worker.tasks.iter().filter_map(is).collect()
    }

    /// Jobs that need a network namespace of their own now.
    fn in_sandbox(&self) -> BTreeSet<TaskId> {
        let on_host = self.on_host();
        let needs = self.worker.tasks.iter().filter(|(id, l)| l.needs_sandbox() && !on_host.contains(*id));
        needs.map(|(id, _)| id.clone()).collect()
    }

    fn start(&self, id: &TaskId) -> io::Result<()> {
        let Some(local) = self.worker.tasks.get(id) else { return Ok(()) };
        let host = host_name();
        let sandboxes = self.picture.borrow().sandboxes.clone();
        let sandbox = sandboxes.get(id);
        let netns = netns(id, self.on_host().contains(id), sandbox.is_some())?;
        let node = self.member.as_ref().map(|m| &m.local.node);
        let mut launch = launch(&local.job, sandbox, &Place { host: &host, node });
        let volumes = self.volumes.provide(&mut launch.container.mounts, &self.executor.task_dir(id), now())?;
        tracing::info!(task = local.job.name(), "starting");
        let process = local.job.process();
        let view = self.member.as_ref().and_then(|m| m.view.as_deref());
        let secret = memory_files(&local.job, view);
        let spec = ShimSpec {
            command: process.command.clone(),
            env: launch.env,
            dir: process.dir.clone(),
            hostname: launch.hostname,
            netns,
            files: launch.files,
            secrets: secret.len(),
            resources: local.job.task().map(|t| t.spec.resources.clone()).unwrap_or_default(),
            container: launch.container,
        };
        let logins = local.job.task().and_then(|task| view?.logins.get(&task.service));
        let image = local.job.image().map(|image| FromImage {
            spec: image.clone(),
            // What an operator runs is what is here, as docker has it.
            newest: local.job.task().is_some(),
            login: logins.and_then(|logins| logins.of(&image.image)).cloned(),
            volumes,
        });
        self.executor.start(id, spec, secret, image)
    }

    /// Tries a task's health check, once.
    fn check(&mut self, id: &TaskId) {
        let Some(local) = self.worker.tasks.get(id) else { return };
        let Some(check) = local.check() else { return };
        let by_network = || Trial::Request {
            probe: check.probe.clone(),
            space: if self.on_host().contains(id) { Space::Host } else { names::task_space(id) },
            addrs: local.job.task().map(own_addrs).unwrap_or_default(),
        };
        let trial = self.executor.check(id, &check.probe).map_or_else(by_network, Trial::Program);
        self.checks.start(id.clone(), trial, check.timeout);
    }

    fn take_outcome(&mut self, id: &TaskId, outcome: Outcome) {
        if let Some(error) = self.worker.checked(id, outcome, now()) {
            tracing::warn!(task = %id, error, "a task fails its health checks");
        }
    }

    /// The sandboxes that should exist. They keep their gateway addresses.
    fn sandboxes(&mut self) -> Sandboxes {
        let wanted = self.in_sandbox();
        let jobs: Vec<Job> = wanted.iter().filter_map(|id| self.worker.tasks.get(id)).map(|l| l.job.clone()).collect();
        let host = self.host.borrow().clone();
        let view = self.member.as_ref().and_then(|m| m.view.as_deref());
        let gateway = self.member.as_ref().map(|m| &m.local.gateway);
        let found = sandboxes(&jobs, &Known { host: &host, view, gateway }, &self.gateways);
        self.gateways.clone_from(&found.gateways);
        found
    }

    fn desired(&self, sandboxes: &BTreeMap<TaskId, Sandbox>) -> KernelState {
        let host = self.host.borrow().clone();
        let member = self.member.as_ref().and_then(|m| Some((m.view.as_deref()?, &m.local)));
        let member = member.map(|(view, local)| Member { view, local });
        let parents = parents(&host);
        desired(&Wanted { member, networks: &host.networks, parents: &parents, sandboxes })
    }

    /// Brings the kernel and the resolvers to what is wanted. False: something is missing still.
    async fn pass(&mut self) -> bool {
        if self.lacks_view() {
            // Nothing may be taken away.
            return true;
        }
        if let Some(member) = &mut self.member {
            member.follow();
        }
        let host_revision = self.host.borrow().revision;
        let revision = self.member.as_ref().map_or(0, |m| m.revision);
        let Sandboxes { all: sandboxes, waiting, .. } = self.sandboxes();
        // Sockets of a resolver would keep a namespace alive.
        self.resolvers.retain(|id, _| sandboxes.contains_key(id));
        self.zones.retain(|id, _| sandboxes.contains_key(id));
        let state = self.desired(&sandboxes);
        let outcome = self.reconciler.reconcile(&state).await;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                // What was whole before may have been taken away.
                self.ready.clear();
                self.picture.send_modify(|p| p.stall(host_revision, chain(&error)));
                self.fail(vec![chain(&error)]);
                return false;
            }
        };
        if outcome.steps > 0 {
            tracing::debug!(steps = outcome.steps, revision, host_revision, "the kernel follows");
        }
        let host = self.host.borrow().clone();
        let parents = parents(&host);
        let aim = Aim { networks: &host.networks, parents: &parents, sandboxes: &sandboxes };
        let mut hurts_cluster = missing::hurts_cluster(&outcome, &aim, |id| self.is_task(id));
        let networks = missing::networks(&outcome, &aim);
        let mut failures = missing::workloads(&outcome, &aim);
        for (id, sandbox) in sandboxes.iter().filter(|(id, _)| !failures.contains_key(*id)).collect::<Vec<_>>() {
            if let Err(error) = self.resolve(id, sandbox, &sandboxes).await {
                failures.insert(id.clone(), chain(&error));
                hurts_cluster |= self.is_task(id);
            }
        }
        self.ready =
            sandboxes.keys().filter(|id| !failures.contains_key(*id) && !waiting.contains(*id)).cloned().collect();
        let mut errors: Vec<String> = outcome.failures.iter().map(|f| chain(&f.error)).collect();
        let done = errors.is_empty() && failures.is_empty();
        let sandboxes = Arc::new(sandboxes);
        let before = self.picture.borrow().sandboxes.clone();
        forget_flows(stale(&before, &sandboxes)).await;
        let view = self.member.as_ref().and_then(|m| m.view.as_deref());
        let led = self.flows.follow(&state, view, &outcome.incomplete()).await;
        if !led {
            hurts_cluster = true;
            errors.push("datagrams may still go to tasks that have left: flows cannot be looked at".into());
        }
        let done = done && led;
        self.picture.send_modify(|p| {
            p.host_revision = host_revision;
            p.sandboxes = sandboxes;
            p.failures = failures;
            p.networks = networks;
            p.stalled = None;
        });
        if !hurts_cluster {
            self.status.send_modify(|s| s.applied_revision = revision);
        }
        if done {
            let closed = self.reconciler.closed().iter().cloned().collect();
            self.status.send_if_modified(|s| std::mem::replace(&mut s.errors, closed) != s.errors);
        } else {
            self.fail(errors);
        }
        let worker = &self.worker;
        if let Err(error) = self.executor.tidy(|id| worker.tasks.contains_key(id)) {
            tracing::warn!(%error, "cannot forget ended tasks");
        }
        done
    }

    fn fail(&mut self, errors: Vec<String>) {
        tracing::warn!(error = errors.first().map_or("", String::as_str), "the data plane is behind");
        self.reconciler.distrust();
        self.status.send_modify(|s| s.errors = errors);
    }

    fn is_task(&self, id: &TaskId) -> bool {
        self.worker.tasks.get(id).is_some_and(|local| local.job.task().is_some())
    }

    async fn resolve(
        &mut self,
        id: &TaskId,
        sandbox: &Sandbox,
        everybody: &BTreeMap<TaskId, Sandbox>,
    ) -> io::Result<()> {
        if sandbox.legs.is_empty() && sandbox.gateway.is_none() {
            self.resolvers.remove(id);
            return Ok(());
        }
        let space = names::task_space(id);
        if !self.resolvers.contains_key(id) {
            let upstream = self.upstream(id, &space);
            self.resolvers.insert(id.clone(), Resolver::start(&space, upstream).await?);
            self.zones.remove(id);
        }
        let host = self.host.borrow().clone();
        let view = self.member.as_ref().and_then(|m| m.view.as_deref());
        let zone = Zone::of(view, &host.networks, everybody, sandbox);
        if let Some(resolver) = self.resolvers.get(id).filter(|_| self.zones.get(id) != Some(&zone)) {
            resolver.set(zone.clone());
            self.zones.insert(id.clone(), zone);
        }
        Ok(())
    }

    /// The servers that a workload named are asked from inside it, where it can reach them.
    fn upstream(&self, id: &TaskId, space: &Space) -> Upstream {
        let servers = self.worker.tasks.get(id).map(|l| l.job.dns().servers.clone()).unwrap_or_default();
        if servers.is_empty() {
            return Upstream::default();
        }
        let servers = servers.into_iter().map(|ip| SocketAddr::new(ip, 53)).collect();
        Upstream { servers: Some(servers), from: Some(space.clone()) }
    }

    /// Publishes what runs here, if it changed.
    fn show(&mut self) {
        let member = self.member.as_ref().map(|m| MemberPicture {
            node: m.local.node.clone(),
            view: m.view.clone(),
            data_path_addr: m.local.data_path_addr,
            manager_addr: m.manager_addr,
            gateway: m.local.gateway,
            balancer: m.local.balancer,
        });
        self.picture.send_if_modified(|picture| {
            let same_view = match (&picture.member, &member) {
                (Some(MemberPicture { view: Some(a), .. }), Some(MemberPicture { view: Some(b), .. })) => {
                    Arc::ptr_eq(a, b)
                }
                (Some(a), Some(b)) => a.view.is_none() && b.view.is_none(),
                (None, None) => true,
                _ => false,
            };
            picture.member = member;
            picture.see(&self.worker) || !same_view
        });
    }

    /// Nothing of the cluster is left in the kernel and among the processes when this returns.
    async fn purge(&mut self) {
        let Some(member) = self.member.take() else { return };
        member.session.abort();
        let tasks: Vec<TaskId> =
            self.worker.tasks.iter().filter(|(_, l)| l.job.task().is_some()).map(|(id, _)| id.clone()).collect();
        for id in &tasks {
            let _ = self.executor.signal(id, Signal::SIGKILL);
            self.worker.tasks.remove(id);
            self.checks.keep(|checked| checked != id);
            self.resolvers.remove(id);
        }
        let left = self.store.update(|state| {
            let (networks, workloads) = (&state.networks, &state.workloads);
            // Places on overlays, and those of tasks, end with the cluster.
            state.endpoints.retain(|id, list| {
                list.retain(|e| networks.contains_key(&e.network));
                workloads.contains_key(id)
            });
            Ok::<_, crate::local::store::StoreError>(())
        });
        if let Err(error) = left {
            tracing::warn!(error = chain(&error), "cannot forget the cluster's networks");
        }
        let workloads = self.host.borrow().workloads.clone();
        self.executor.end_containers(|id| workloads.contains_key(id)).await;
        self.host.borrow_and_update();
        self.assign();
        for _ in 0..20 {
            self.reconciler.distrust();
            if self.pass().await {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // What the kernel still does in its own time must not meet a cluster that is joined next.
        member.memory.forget();
        member.keys.forget();
        // What ended before, too: only what this host runs by itself is its own.
        let workloads = self.host.borrow().workloads.clone();
        self.executor.forget_all(|id| workloads.contains_key(id));
        self.status.send_replace(Status::default());
        self.leader.send_replace(None);
        self.show();
    }
}

fn host_name() -> String {
    nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned()
}

/// A client that already sends to a new port must reach it when the port is said to be there; what led to somebody who has
/// gone can wait, since there may be very many flows to look at.
async fn forget_flows(stale: BTreeSet<Stale>) {
    if stale.is_empty() {
        return;
    }
    let urgent = stale.iter().any(|s| matches!(s, Stale::Port(_)));
    let forget = async move {
        match conntrack::forget(stale).await {
            Ok(0) => {}
            Ok(flows) => tracing::debug!(flows, "flows that led nowhere are forgotten"),
            Err(error) => tracing::warn!(%error, "flows to what has gone cannot be forgotten"),
        }
    };
    if urgent {
        forget.await;
    } else {
        tokio::spawn(forget);
    }
}

/// Where a program of a task may listen: nobody says on which of its addresses it does.
fn own_addrs(task: &Task) -> Vec<IpAddr> {
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    loopback.into_iter().chain(task.attachments.iter().flat_map(|a| a.addr.addrs())).collect()
}

/// Where a program runs. The host's own namespace is never what remains when another is missing.
fn netns(id: &TaskId, on_host: bool, has_sandbox: bool) -> io::Result<PathBuf> {
    match (on_host, has_sandbox, names::task_space(id)) {
        (true, _, _) => Ok(PathBuf::from(HOST_NETNS)),
        (false, true, Space::Named(name)) => Ok(space::path(&name)),
        (false, _, space) => {
            Err(io::Error::new(io::ErrorKind::NotFound, format!("network namespace {space} is not ready")))
        }
    }
}

/// The links that others can lie on, if any network needs to know.
fn parents(state: &HostState) -> BTreeMap<IfName, Mtu> {
    let lies = |n: &crate::local::network::HostNetwork| matches!(n.spec.driver, Driver::Macvlan | Driver::Ipvlan);
    if !state.networks.values().any(lies) {
        return BTreeMap::new();
    }
    match host::links::read() {
        Ok(links) => HostFacts { links, ..HostFacts::default() }.parents(),
        Err(error) => {
            tracing::warn!(%error, "the links of this host cannot be read");
            BTreeMap::new()
        }
    }
}

/// Whether a task runs in the host's own network namespace.
pub fn on_host(task: &Task) -> bool {
    task.spec.networks.iter().any(|t| t.target == heddle_model::network::HOST)
}

pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(&format!(": {source}"));
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_runs_in_the_hosts_namespace_but_what_is_meant_to() {
        let id = TaskId::from_random([1; 16]);
        assert_eq!(netns(&id, true, false).ok(), Some(HOST_NETNS.into()));
        assert!(netns(&id, false, true).is_ok_and(|path| path.as_os_str() != HOST_NETNS));
        assert!(netns(&id, false, false).is_err());
    }
}
