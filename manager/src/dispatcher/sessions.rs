//! Which nodes have a session with this manager, when each was last heard of, what its data plane has reached
//! and what it says goes wrong.

use super::assignment::Concerned;
use crate::store::Snapshot;
use heddle_model::{
    NodeId, Version,
    node::{NodeReport, NodeState},
};
use heddle_proto::v1;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

struct Entry {
    serial: u64,
    last_seen: Instant,
    /// The last revision that the agent was sent, and the last that it acknowledged.
    sent: Version,
    acked: Version,
    /// What it had reached when it was sent its last revision.
    before: Version,
    /// The newest state that nothing is left to be sent of.
    told: Version,
    /// Something since then may concern it, or it is being told.
    due: bool,
    telling: bool,
    bell: Arc<Notify>,
    report: NodeReport,
    send: Option<mpsc::Sender<v1::ManagerMessage>>,
}

impl Entry {
    /// Nothing of what was looked at since it was told concerned it.
    fn settle(&mut self, looked: Version) {
        if !self.due && !self.telling {
            self.told = self.told.max(looked);
        }
    }

    /// What its data plane has reached: when it has all that was sent, whatever did not concern it, too.
    fn reached(&self, newest: Version) -> Version {
        let current = self.sent > Version(0) && self.acked >= self.sent;
        let all = if self.due || self.telling { self.told } else { self.told.max(newest) };
        self.before.max(self.acked).max(if current { all } else { Version(0) })
    }
}

#[derive(Default)]
struct All {
    nodes: BTreeMap<NodeId, Entry>,
    begun: u64,
    /// Whom it concerns is known of all states up to this: sessions tell this one, and none that is newer.
    looked: Arc<Snapshot>,
}

impl All {
    fn of(&mut self, node: &NodeId, serial: u64) -> Option<&mut Entry> {
        self.nodes.get_mut(node).filter(|e| e.serial == serial)
    }

    fn reached(&self, node: &NodeId) -> Version {
        self.nodes.get(node).map_or(Version(0), |e| e.reached(self.looked.version))
    }
}

/// Only the leader's is of use.
#[derive(Default)]
pub struct Sessions {
    all: Mutex<All>,
    bell: watch::Sender<u64>,
}

impl Sessions {
    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rings when nodes may have reached more.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.bell.subscribe()
    }

    fn ring(&self) {
        self.bell.send_modify(|n| *n += 1);
    }

    /// A new session; an older one of the node counts no more. Its number, and what rings when something may concern it.
    pub fn begin(&self, node: &NodeId, send: mpsc::Sender<v1::ManagerMessage>) -> (u64, Arc<Notify>) {
        let mut all = self.all();
        all.begun += 1;
        let (serial, bell) = (all.begun, Arc::new(Notify::new()));
        let entry = Entry {
            serial,
            last_seen: Instant::now(),
            sent: Version(0),
            acked: Version(0),
            before: Version(0),
            told: Version(0),
            due: true,
            telling: false,
            bell: bell.clone(),
            report: NodeReport::default(),
            send: Some(send),
        };
        all.nodes.insert(node.clone(), entry);
        (serial, bell)
    }

    /// False: the session was replaced and should end.
    pub fn seen(&self, node: &NodeId, serial: u64) -> bool {
        match self.all().of(node, serial) {
            Some(entry) => {
                entry.last_seen = Instant::now();
                true
            }
            None => false,
        }
    }

    /// The state became this, which may be something to these.
    pub fn changed(&self, concerned: &Concerned, state: Arc<Snapshot>) {
        let mut all = self.all();
        let before = std::mem::replace(&mut all.looked, state).version;
        for (_, entry) in all.nodes.iter_mut().filter(|(node, e)| e.send.is_some() && concerned.includes(node)) {
            entry.settle(before);
            entry.due = true;
            entry.bell.notify_one();
        }
        drop(all);
        self.ring();
    }

    /// The state of which the session is to tell what concerns its node, from here on.
    pub fn telling(&self, node: &NodeId, serial: u64) -> Arc<Snapshot> {
        let mut all = self.all();
        let looked = all.looked.clone();
        if let Some(entry) = all.of(node, serial) {
            entry.settle(looked.version);
            (entry.due, entry.telling) = (false, true);
        }
        looked
    }

    /// Nothing was told: the node is not in that state yet, and the one that has it rings.
    pub fn put_off(&self, node: &NodeId, serial: u64) {
        if let Some(entry) = self.all().of(node, serial) {
            (entry.due, entry.telling) = (true, false);
        }
    }

    /// The newest state, if it is nothing to the node beside what it was told already.
    pub fn as_told(&self, node: &NodeId, serial: u64) -> Option<Arc<Snapshot>> {
        let mut all = self.all();
        let looked = all.looked.clone();
        all.of(node, serial).filter(|e| !e.due && !e.telling).map(|_| looked)
    }

    /// All of this state is told, `sent` being the last revision that was worth a message.
    pub fn told(&self, node: &NodeId, serial: u64, version: Version, sent: Version) {
        let mut all = self.all();
        let looked = all.looked.version;
        if let Some(entry) = all.of(node, serial) {
            entry.before = entry.reached(looked);
            (entry.told, entry.sent, entry.telling) = (entry.told.max(version), sent, false);
        }
        drop(all);
        self.ring();
    }

    pub fn acked(&self, node: &NodeId, serial: u64, version: Version) {
        if let Some(entry) = self.all().of(node, serial).filter(|e| e.acked < version) {
            entry.acked = version;
        }
        self.ring();
    }

    /// What a node says goes wrong on it. It changes with what it is about, which may be often: it is not for the store.
    pub fn reported(&self, node: &NodeId, serial: u64, report: NodeReport) {
        if let Some(entry) = self.all().of(node, serial) {
            entry.report = report.bounded();
        }
    }

    /// As last heard: of a node that is silent it may tell why.
    pub fn report_of(&self, node: &NodeId) -> NodeReport {
        self.all().nodes.get(node).map(|e| e.report.clone()).unwrap_or_default()
    }

    /// The stream is gone. When the node was last heard of stays known, so that a quick return is no failure.
    pub fn end(&self, node: &NodeId, serial: u64) {
        if let Some(entry) = self.all().of(node, serial) {
            entry.send = None;
            (entry.sent, entry.acked, entry.before) = (Version(0), Version(0), Version(0));
        }
    }

    pub fn last_seen(&self, node: &NodeId) -> Option<Instant> {
        self.all().nodes.get(node).map(|e| e.last_seen)
    }

    pub fn reached_by(&self, node: &NodeId) -> Version {
        self.all().reached(node)
    }

    /// What every ready node's data plane has reached.
    pub fn min_ready(&self, state: &Snapshot) -> Version {
        let all = self.all();
        let ready = state.nodes.values().filter(|n| n.status.state == NodeState::Ready);
        ready.map(|n| all.reached(&n.id)).min().unwrap_or(state.version)
    }

    /// Agents that have a session.
    pub fn open(&self) -> usize {
        self.all().nodes.values().filter(|e| e.send.is_some()).count()
    }

    /// Revisions that each ready node's data plane has not reached yet.
    pub fn behind(&self, state: &Snapshot) -> BTreeMap<NodeId, u64> {
        let all = self.all();
        let ready = state.nodes.values().filter(|n| n.status.state == NodeState::Ready);
        ready.map(|n| (n.id.clone(), state.version.0.saturating_sub(all.reached(&n.id).0))).collect()
    }

    /// The way to a node's agent; None while it has no session.
    pub fn sender(&self, node: &NodeId) -> Option<mpsc::Sender<v1::ManagerMessage>> {
        self.all().nodes.get(node)?.send.clone()
    }
}
