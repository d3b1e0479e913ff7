//! Networks of this host.

use super::{OperationError, Operations, Result, find_network, waiting::Part};
use crate::{
    agent::{chain, now},
    host,
    local::network::{self, HostNetwork},
};
use heddle_model::{NetworkId, limits, network::NetworkSpec};

impl Operations {
    pub async fn create_network(&self, spec: NetworkSpec) -> Result<HostNetwork> {
        limits::network(&spec)?;
        let mut around = host::surroundings();
        if let Some(member) = &self.picture.borrow().member {
            around.taken.extend(member.gateway.nets().map(|net| (net, "the gateway bridge".to_owned())));
            for overlay in member.view.iter().flat_map(|v| v.networks.values()) {
                let nets = [overlay.subnet.nets(), overlay.service_subnet.nets()].concat();
                around.taken.extend(nets.into_iter().map(|net| (net, format!("network {}", overlay.name))));
            }
        }
        let id = NetworkId::from_random(rand::random());
        let made = self.store.update(|state| {
            let made = network::create(state, spec, &around, id, now())?;
            state.networks.insert(made.id.clone(), made.clone());
            Ok::<_, OperationError>(made)
        })?;
        let name = made.name().to_owned();
        if let Err(error) = self.applied(&name, Part::Network(&made.id)).await {
            if let Err(left) = self.unmake(&made).await {
                tracing::warn!(network = name, error = chain(&left), "a network that was refused is not wholly gone");
            }
            return Err(error);
        }
        Ok(made)
    }

    /// Takes a network away again, unless somebody has joined it meanwhile.
    async fn unmake(&self, made: &HostNetwork) -> Result<()> {
        self.store.update(|state| {
            network::removal(state, made)?;
            state.networks.remove(&made.id);
            Ok::<_, OperationError>(())
        })?;
        self.applied(made.name(), Part::None).await
    }

    pub async fn remove_network(&self, reference: &str) -> Result<NetworkId> {
        let removed = self.store.update(|state| {
            let found = find_network(state, reference)?.clone();
            network::removal(state, &found)?;
            state.networks.remove(&found.id);
            Ok::<_, OperationError>(found)
        })?;
        self.applied(removed.name(), Part::None).await?;
        Ok(removed.id)
    }
}
