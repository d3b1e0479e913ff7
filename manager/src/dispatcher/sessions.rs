//! Which nodes have a session with this manager, when each was last heard of, what its data plane has reached
//! and what it says goes wrong.

use crate::store::Snapshot;
use heddle_model::{
    NodeId, Version,
    node::{NodeReport, NodeState},
};
use heddle_proto::v1;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

struct Entry {
    serial: u64,
    last_seen: Instant,
    acked: Version,
    report: NodeReport,
    send: Option<mpsc::Sender<v1::ManagerMessage>>,
}

/// Only the leader's is of use.
#[derive(Default)]
pub struct Sessions {
    nodes: Mutex<BTreeMap<NodeId, Entry>>,
    bell: watch::Sender<u64>,
}

impl Sessions {
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Entry>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rings when an acknowledgement comes in.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.bell.subscribe()
    }

    /// A new session; an older one of the node counts no more. Its number.
    pub fn begin(&self, node: &NodeId, send: mpsc::Sender<v1::ManagerMessage>) -> u64 {
        let mut nodes = self.nodes();
        let serial = nodes.values().map(|e| e.serial).max().unwrap_or(0) + 1;
        let (last_seen, report) = (Instant::now(), NodeReport::default());
        let entry = Entry { serial, last_seen, acked: Version(0), report, send: Some(send) };
        nodes.insert(node.clone(), entry);
        serial
    }

    /// False: the session was replaced and should end.
    pub fn seen(&self, node: &NodeId, serial: u64) -> bool {
        match self.nodes().get_mut(node).filter(|e| e.serial == serial) {
            Some(entry) => {
                entry.last_seen = Instant::now();
                true
            }
            None => false,
        }
    }

    pub fn acked(&self, node: &NodeId, serial: u64, version: Version) {
        if let Some(entry) = self.nodes().get_mut(node).filter(|e| e.serial == serial && e.acked < version) {
            entry.acked = version;
            self.bell.send_modify(|n| *n += 1);
        }
    }

    /// What a node says goes wrong on it. It changes with what it is about, which may be often: it is not for the store.
    pub fn reported(&self, node: &NodeId, serial: u64, report: NodeReport) {
        if let Some(entry) = self.nodes().get_mut(node).filter(|e| e.serial == serial) {
            entry.report = report.bounded();
        }
    }

    /// As last heard: of a node that is silent it may tell why.
    pub fn report_of(&self, node: &NodeId) -> NodeReport {
        self.nodes().get(node).map(|e| e.report.clone()).unwrap_or_default()
    }

    /// The stream is gone. When the node was last heard of stays known, so that a quick return is no failure.
    pub fn end(&self, node: &NodeId, serial: u64) {
        if let Some(entry) = self.nodes().get_mut(node).filter(|e| e.serial == serial) {
            entry.send = None;
            entry.acked = Version(0);
        }
    }

    pub fn last_seen(&self, node: &NodeId) -> Option<Instant> {
        self.nodes().get(node).map(|e| e.last_seen)
    }

    pub fn acked_by(&self, node: &NodeId) -> Version {
        self.nodes().get(node).map_or(Version(0), |e| e.acked)
    }

    /// What every ready node's data plane has reached.
    pub fn min_ready(&self, state: &Snapshot) -> Version {
        let nodes = self.nodes();
        let ready = state.nodes.values().filter(|n| n.status.state == NodeState::Ready);
        ready.map(|n| nodes.get(&n.id).map_or(Version(0), |e| e.acked)).min().unwrap_or(state.version)
    }

    /// Agents that have a session.
    pub fn open(&self) -> usize {
        self.nodes().values().filter(|e| e.send.is_some()).count()
    }

    /// Revisions that each ready node's data plane has not reached yet.
    pub fn behind(&self, state: &Snapshot) -> BTreeMap<NodeId, u64> {
        let nodes = self.nodes();
        let ready = state.nodes.values().filter(|n| n.status.state == NodeState::Ready);
        let acked = |id| nodes.get(id).map_or(0, |e| e.acked.0);
        ready.map(|n| (n.id.clone(), state.version.0.saturating_sub(acked(&n.id)))).collect()
    }

    /// The way to a node's agent; None while it has no session.
    pub fn sender(&self, node: &NodeId) -> Option<mpsc::Sender<v1::ManagerMessage>> {
        self.nodes().get(node)?.send.clone()
    }
}
