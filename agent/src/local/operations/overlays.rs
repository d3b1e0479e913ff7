//! Places on overlays, which the managers give.

use super::{OperationError, Operations, Result};
use heddle_model::{
    NetworkId, TaskId,
    find::find,
    workload::{HostEndpoint, NetworkWish},
};
use heddle_proto::v1::{self, dispatcher_client::DispatcherClient};
use std::time::Duration;
use tonic::transport::Channel;

const MANAGER_LIMIT: Duration = Duration::from_secs(10);

impl Operations {
    fn dispatcher(&self, network: &str) -> Result<DispatcherClient<Channel>> {
        let channel = self.leader.borrow().clone().ok_or_else(|| OperationError::NoManager(network.to_owned()))?;
        Ok(DispatcherClient::new(channel))
    }

    pub async fn attach(&self, id: &TaskId, name: &str, wish: &NetworkWish) -> Result<HostEndpoint> {
        let mut request = tonic::Request::new(v1::AttachRequest {
            workload: id.to_string(),
            name: name.to_owned(),
            wish: Some(wish.clone().into()),
        });
        request.set_timeout(MANAGER_LIMIT);
        let refused = |s: tonic::Status| OperationError::Manager(s.message().to_owned());
        let answer = self.dispatcher(&wish.network)?.attach(request).await.map_err(refused)?.into_inner();
        let attachment = answer.attachment.map(heddle_model::endpoint::Attachment::try_from);
        let attachment = match attachment {
            Some(Ok(attachment)) => attachment,
            Some(Err(e)) => return Err(OperationError::Manager(e.to_string())),
            None => return Err(OperationError::Manager("the manager's answer has no attachment".into())),
        };
        Ok(HostEndpoint {
            network: attachment.network,
            index: 0,
            addrs: attachment.addr.addrs().to_vec(),
            mac: attachment.mac,
            aliases: attachment.aliases,
            gateway_priority: wish.gateway_priority,
        })
    }

    /// Gives a place on an overlay back; empty: all of them.
    pub async fn detach(&self, id: &TaskId, network: &str) -> Result<()> {
        let mut request =
            tonic::Request::new(v1::DetachRequest { workload: id.to_string(), network: network.to_owned() });
        request.set_timeout(MANAGER_LIMIT);
        let refused = |s: tonic::Status| OperationError::Manager(s.message().to_owned());
        self.dispatcher(network)?.detach(request).await.map_err(refused)?;
        Ok(())
    }

    /// An overlay that this host knows of.
    pub(super) fn overlay_named(&self, reference: &str) -> Option<(NetworkId, String)> {
        let picture = self.picture.borrow();
        let view = picture.member.as_ref()?.view.as_ref()?;
        let all = view.networks.values().map(|n| (n.id.as_str(), n.name.as_str(), n));
        find("network", reference, all).ok().map(|n| (n.id.clone(), n.name.clone()))
    }
}
