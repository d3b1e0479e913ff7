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
        if picture.member.as_ref().is_none_or(|m| m.view.is_none()) {
            return;
        }
        let gone = |id: &&TaskId| {
            let ended = picture.jobs.get(*id).is_none_or(|j| j.status.state.is_terminal());
            !state.workloads.contains_key(*id) && ended && !self.is_busy(id)
        };
        for id in state.endpoints.keys().filter(gone) {
            let forgotten = self.store.update(|state| Ok::<_, OperationError>(state.endpoints.remove(id).is_some()));
            if forgotten.is_ok() {
                self.give_back(id, "").await;
            }
        }
        if self.leader.borrow().is_some() && self.owes.swap(false, Ordering::Relaxed) {
            self.agree().await;
        }
    }

    /// Compares what this host asked for with what the managers know of it: they may have missed the end of something.
    pub async fn agree(&self) {
        let surplus: Vec<(TaskId, NetworkId)> = {
            let picture = self.picture.borrow();
            let Some(member) = &picture.member else { return };
            let Some(view) = &member.view else { return };
            let state = self.store.snapshot();
            let here = view.endpoints.values().filter(|e| e.service.is_none() && e.node == member.node);
            let unknown = |id: &TaskId, network: &NetworkId| {
                !state.endpoints_of(id).iter().any(|e| e.network == *network) && !self.is_busy(id)
            };
            here.filter(|e| unknown(&e.task, &e.network)).map(|e| (e.task.clone(), e.network.clone())).collect()
        };
        for (id, network) in surplus {
            self.give_back(&id, network.as_str()).await;
        }
        let state = self.store.snapshot();
        for (id, list) in &state.endpoints {
            for endpoint in list.iter().filter(|e| !state.networks.contains_key(&e.network)) {
                let known = self.picture.borrow().member.as_ref().and_then(|m| m.view.clone());
                if known.is_some_and(|v| v.endpoints.contains_key(&(endpoint.network.clone(), id.clone()))) {
                    continue;
                }
                self.restore(id, endpoint).await;
            }
        }
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
