//! Joining a network and leaving it, while running.

use super::{OperationError, Operations, Result, Target, find_network, random_mac, waiting::Part};
use crate::{
    agent::chain,
    local::place::{self, Newcomer, PlaceError, place},
};
use heddle_model::{
    NetworkId, TaskId,
    find::FindError,
    limits,
    network::Driver,
    workload::{HostEndpoint, NetworkWish},
};
use std::collections::BTreeSet;

impl Operations {
    pub async fn connect(&self, reference: &str, wish: NetworkWish) -> Result<()> {
        limits::wish(&wish)?;
        let (id, name, job) = self.job(reference)?;
        let target = self.target(&wish.network)?;
        if let Target::Host(network) = &target
            && matches!(network.spec.driver, Driver::Host | Driver::Null)
        {
            return Err(PlaceError::Fixed(network.name().to_owned()).into());
        }
        let first = job.task().map_or(0, |t| t.attachments.len() as u8 + 1);
        let on = |network: &NetworkId| job.task().is_some_and(|t| t.attachments.iter().any(|a| a.network == *network));
        if let Some(task) = job.task().filter(|t| crate::agent::on_host(t)) {
            return Err(PlaceError::Alone(format!("host of {}", task.name())).into());
        }
        if job.task().is_some_and(|t| !t.on_node()) {
            return Err(OperationError::NotRunning(name));
        }
        let _busy = self.busy(&id).await;
        let attached = match &target {
            Target::Host(_) => None,
            Target::Overlay => {
                let state = self.store.snapshot();
                if let Some(fixed) = state.endpoints_of(&id).iter().find(|e| !state.is_joined(e)) {
                    let network = state.networks.get(&fixed.network).map_or("none", |n| n.name());
                    return Err(PlaceError::Alone(network.to_owned()).into());
                }
                let known = self.overlay_named(&wish.network);
                let twice = |n: &NetworkId| state.endpoints_of(&id).iter().any(|e| e.network == *n) || on(n);
                if known.as_ref().is_some_and(|(n, _)| twice(n)) {
                    return Err(PlaceError::Twice { workload: name, network: wish.network }.into());
                }
                Some(self.attach(&id, &name.replace('.', "-"), &wish).await?.endpoint)
            }
        };
        let place_given = attached.is_some();
        let made = self.store.update(|state| {
            let mut links: BTreeSet<u8> = (0..first).collect();
            links.extend(state.endpoints_of(&id).iter().map(|e| e.index));
            let endpoint = match &target {
                Target::Host(network) => {
                    let network = find_network(state, network.id.as_str())?;
                    place(state, network, &wish, &Newcomer { id: &id, name: &name, links: &links, mac: random_mac() })?
                }
                Target::Overlay => {
                    let Some(endpoint) = attached else { return Ok(None) };
                    if state.endpoints_of(&id).iter().any(|e| e.network == endpoint.network) {
                        let (workload, network) = (name.clone(), wish.network.clone());
                        return Err(PlaceError::Twice { workload, network }.into());
                    }
                    HostEndpoint { index: place::free_link(&links, &name)?, ..endpoint }
                }
            };
            state.endpoints.entry(id.clone()).or_default().push(endpoint.clone());
            Ok::<_, OperationError>(Some(endpoint))
        });
        let made = match made {
            Ok(made) => made,
            // The place is in use: it was given once more.
            Err(error @ OperationError::Place(PlaceError::Twice { .. })) => return Err(error),
            Err(error) => {
                if place_given {
                    self.give_back(&id, &wish.network).await;
                }
                return Err(error);
            }
        };
        let Some(endpoint) = made else { return Ok(()) };
        let there = self.applied(&name, Part::Place(&id, &endpoint.network)).await;
        if there.is_err()
            && let Err(left) = self.undo(&id, &endpoint.network).await
        {
            tracing::warn!(task = %id, error = chain(&left), "a connection that was refused is not wholly gone");
        }
        there
    }

    pub async fn disconnect(&self, reference: &str, network: &str, force: bool) -> Result<()> {
        let (id, name, job) = match self.job(reference) {
            Err(OperationError::Find(FindError::None { .. })) if force => return Ok(()),
            other => other?,
        };
        let state = self.store.snapshot();
        let found = match self.target(network)? {
            Target::Host(found) => Some((found.id.clone(), found.name().to_owned())),
            Target::Overlay => self.overlay_named(network),
        };
        let not_there = || OperationError::NotConnected { workload: name.clone(), network: network.to_owned() };
        let (found, found_name) = found.ok_or_else(not_there)?;
        if job.task().is_some_and(|t| t.attachments.iter().any(|a| a.network == found)) {
            return Err(OperationError::ByService { task: name, network: found_name });
        }
        let Some(endpoint) = state.endpoints_of(&id).iter().find(|e| e.network == found) else {
            return if force { Ok(()) } else { Err(not_there()) };
        };
        if !state.is_joined(endpoint) {
            return Err(PlaceError::Fixed(found_name).into());
        }
        let _busy = self.busy(&id).await;
        self.undo(&id, &found).await
    }

    async fn undo(&self, id: &TaskId, network: &NetworkId) -> Result<()> {
        let overlay = self.store.update(|state| {
            if let Some(list) = state.endpoints.get_mut(id) {
                list.retain(|e| e.network != *network);
            }
            let empty = state.endpoints.get(id).is_some_and(Vec::is_empty);
            if empty && !state.workloads.contains_key(id) {
                state.endpoints.remove(id);
            }
            Ok::<_, OperationError>(!state.networks.contains_key(network))
        })?;
        // Whatever the kernel says: nothing here asks for the place any more.
        let gone = self.applied("the workload", Part::None).await;
        if overlay {
            self.give_back(id, network.as_str()).await;
        }
        gone
    }
}
