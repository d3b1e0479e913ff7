//! What has changed by itself, and what the managers may have missed.

use super::{OperationError, Operations};
use crate::agent::now;
use heddle_model::{
    NetworkId, TaskId,
    workload::{HostEndpoint, NetworkWish},
};
use std::{sync::atomic::Ordering, time::Duration};

impl Operations {
    /// What has changed by itself: ports of what has ended are free, what was to go when it ended goes, places of tasks that
    /// are gone are given back.
    pub async fn tidy(&self) {
        let picture = self.picture.borrow().clone();
        let state = self.store.snapshot();
        for workload in state.workloads.values().filter(|w| w.status.state.is_terminal() && !w.wanted) {
            if self.ports.holds(&workload.id)
                && let Err(error) = self.release_ended(&workload.id)
            {
                tracing::warn!(task = %workload.id, %error, "cannot give ports of a workload that has ended back");
            }
            let linger = Duration::from_secs(2);
            if workload.spec.auto_remove
                && now().since(workload.status.since) > linger
                && let Err(error) = self.remove(workload.id.as_str(), false).await
            {
                tracing::warn!(task = %workload.id, %error, "cannot remove a workload that has ended");
            }
        }
        self.hold_missing();
        if picture.member.as_ref().is_none_or(|m| m.view.is_none()) {
            return;
        }
        let gone = |id: &&TaskId| {
            let ended = picture.jobs.get(*id).is_none_or(|j| j.status.state.is_terminal());
            !state.workloads.contains_key(*id) && ended
        };
        for id in state.endpoints.keys().filter(gone) {
            let Some(_busy) = self.try_busy(id) else { continue };
            let forgotten = self.store.update(|state| Ok::<_, OperationError>(state.endpoints.remove(id).is_some()));
            if forgotten.is_ok() {
                self.give_back(id, "").await;
            }
        }
        if self.leader.borrow().is_some() && self.owes.swap(false, Ordering::Relaxed) {
            self.agree().await;
        }
    }

    /// Compares what this host asked for with what the managers know of it: they may have missed the end of something. What
    /// is being connected or disconnected just now is looked at again later: it would be given back while it is asked for.
    pub async fn agree(&self) {
        for (id, network) in self.surplus() {
            let Some(_busy) = self.try_busy(&id) else {
                self.owes.store(true, Ordering::Relaxed);
                continue;
            };
            // Somebody may have asked for it since.
            if self.surplus().contains(&(id.clone(), network.clone())) {
                self.give_back(&id, network.as_str()).await;
            }
        }
        for (id, endpoint) in self.forgotten() {
            let Some(_busy) = self.try_busy(&id) else {
                self.owes.store(true, Ordering::Relaxed);
                continue;
            };
            // It may have been given up since.
            if self.forgotten().contains(&(id.clone(), endpoint.clone())) {
                self.restore(&id, &endpoint).await;
            }
        }
    }

    /// Places that the managers count and nothing here uses.
    fn surplus(&self) -> Vec<(TaskId, NetworkId)> {
        let picture = self.picture.borrow();
        let Some((member, view)) = picture.member.as_ref().and_then(|m| Some((m, m.view.as_ref()?))) else {
            return Vec::new();
        };
        let state = self.store.snapshot();
        let here = view.endpoints.values().filter(|e| e.service.is_none() && e.node == member.node);
        let unknown = |id: &TaskId, network: &NetworkId| !state.endpoints_of(id).iter().any(|e| e.network == *network);
        here.filter(|e| unknown(&e.task, &e.network)).map(|e| (e.task.clone(), e.network.clone())).collect()
    }

    /// Places that something here uses and the managers do not know.
    fn forgotten(&self) -> Vec<(TaskId, HostEndpoint)> {
        let view = self.picture.borrow().member.as_ref().and_then(|m| m.view.clone());
        let state = self.store.snapshot();
        let known = |id: &TaskId, e: &HostEndpoint| {
            view.as_ref().is_some_and(|v| v.endpoints.contains_key(&(e.network.clone(), id.clone())))
        };
        let all = state.endpoints.iter().flat_map(|(id, list)| list.iter().map(move |e| (id, e)));
        let overlays = all.filter(|(_, e)| !state.networks.contains_key(&e.network));
        overlays.filter(|(id, e)| !known(id, e)).map(|(id, e)| (id.clone(), e.clone())).collect()
    }

    /// Asks for a place once more that the managers have forgotten, such as after this host was removed and joined again.
    async fn restore(&self, id: &TaskId, endpoint: &HostEndpoint) {
        let Ok((_, name, _)) = self.job(id.as_str()) else { return };
        let mut wish = NetworkWish { network: endpoint.network.to_string(), ..NetworkWish::default() };
        wish.aliases = endpoint.aliases.clone();
        wish.mac = Some(endpoint.mac);
        for addr in &endpoint.addrs {
            match addr {
                std::net::IpAddr::V4(a) => wish.ip = Some(*a),
                std::net::IpAddr::V6(a) => wish.ip6 = Some(*a),
            }
        }
        if let Err(error) = self.attach(id, &name.replace('.', "-"), &wish).await {
            tracing::warn!(task = %id, %error, "a place on an overlay is lost");
        }
    }
}
