//! Places on overlays, which the managers give.

use super::{OperationError, Operations, Result};
use crate::agent::chain;
use heddle_model::{
    NetworkId, TaskId,
    find::find,
    workload::{HostEndpoint, NetworkWish},
};
use heddle_proto::v1::{self, dispatcher_client::DispatcherClient};
use std::{error::Error, sync::atomic::Ordering, time::Duration};
use tonic::transport::Channel;

const MANAGER_LIMIT: Duration = Duration::from_secs(10);

/// What a manager said, or that none did: only a failure on the way has a cause.
fn unanswered(network: &str, status: &tonic::Status) -> OperationError {
    match status.source() {
        Some(_) => OperationError::NoManager(network.to_owned()),
        None => OperationError::Manager(status.message().to_owned()),
    }
}

/// A place that the managers gave.
pub(super) struct Given {
    pub endpoint: HostEndpoint,
    /// The network leads nowhere.
    pub internal: bool,
}

impl Operations {
    fn dispatcher(&self, network: &str) -> Result<DispatcherClient<Channel>> {
        let channel = self.leader.borrow().clone().ok_or_else(|| OperationError::NoManager(network.to_owned()))?;
        Ok(DispatcherClient::new(channel))
    }

    pub(super) async fn attach(&self, id: &TaskId, name: &str, wish: &NetworkWish) -> Result<Given> {
        let mut request = tonic::Request::new(v1::AttachRequest {
            workload: id.to_string(),
            name: name.to_owned(),
            wish: Some(wish.clone().into()),
        });
        request.set_timeout(MANAGER_LIMIT);
        let answer = self.dispatcher(&wish.network)?.attach(request).await;
        let answer = answer.map_err(|s| unanswered(&wish.network, &s))?.into_inner();
        let attachment = answer.attachment.map(heddle_model::endpoint::Attachment::try_from);
        let attachment = match attachment {
            Some(Ok(attachment)) => attachment,
            Some(Err(e)) => return Err(OperationError::Manager(e.to_string())),
            None => return Err(OperationError::Manager("the manager's answer has no attachment".into())),
        };
        let endpoint = HostEndpoint {
            network: attachment.network,
            index: 0,
            addrs: attachment.addr.addrs().to_vec(),
            mac: attachment.mac,
            aliases: attachment.aliases,
            gateway_priority: wish.gateway_priority,
        };
        Ok(Given { endpoint, internal: answer.internal })
    }

    /// Gives a place on an overlay back; empty: all of them.
    pub async fn detach(&self, id: &TaskId, network: &str) -> Result<()> {
        let mut request =
            tonic::Request::new(v1::DetachRequest { workload: id.to_string(), network: network.to_owned() });
        request.set_timeout(MANAGER_LIMIT);
        self.dispatcher(network)?.detach(request).await.map_err(|s| unanswered(network, &s))?;
        Ok(())
    }

    /// The same for a place that nothing here uses any more: it is gone from this host, whatever the managers answer. Without
    /// an answer they are asked again.
    pub(super) async fn give_back(&self, id: &TaskId, network: &str) {
        if let Err(error) = self.detach(id, network).await {
            tracing::warn!(task = %id, error = chain(&error), "the managers still count a place that is gone");
            self.owes.store(true, Ordering::Relaxed);
        }
    }

    /// An overlay that this host knows of.
    pub(super) fn overlay_named(&self, reference: &str) -> Option<(NetworkId, String)> {
        let picture = self.picture.borrow();
        let view = picture.member.as_ref()?.view.as_ref()?;
        let all = view.networks.values().map(|n| (n.id.as_str(), n.name.as_str(), n));
        find("network", reference, all).ok().map(|n| (n.id.clone(), n.name.clone()))
    }
}
