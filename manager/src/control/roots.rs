//! The root certificate: what it is, and how another takes its place.

use super::{Forward, stale};
use crate::{
    ambient,
    ca::{CaError, rotation},
    store::{Mutation, Snapshot, WriteError, now},
};
use heddle_model::{
    Timestamp,
    cluster::{Cluster, RootRotation},
    node::Node,
};
use heddle_plumbing::access::on_behalf;
use heddle_proto::v1::{self, roots_client::RootsClient, roots_server};
use std::sync::Arc;
use tonic::{Request, Response, Status};

#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    #[error("no other root certificate is to follow: there is nothing to abort")]
    NoRotation,
    #[error(
        "{0} does not say what it trusts: it runs an older version, or was never heard of; upgrade or remove it first"
    )]
    Old(String),
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error("this manager is still starting")]
    Starting,
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<RootsError> for Status {
    fn from(e: RootsError) -> Status {
        let text = e.to_string();
        match e {
            RootsError::NoRotation | RootsError::Old(_) => Status::failed_precondition(text),
            RootsError::Ca(_) => Status::internal(text),
            RootsError::Starting | RootsError::Write(_) => Status::unavailable(text),
        }
    }
}

fn known(state: &Snapshot) -> Result<&Arc<Cluster>, RootsError> {
    state.cluster.as_ref().ok_or(RootsError::Starting)
}

fn with(cluster: &Cluster, rotation: Option<RootRotation>) -> Vec<Mutation> {
    vec![Mutation::Update(Cluster { rotation, ..cluster.clone() }.into())]
}

/// Begins with another root: nothing, if one is to follow already.
fn rotate(state: &Snapshot, random: [u8; 16], since: Timestamp) -> Result<Vec<Mutation>, RootsError> {
    let cluster = known(state)?;
    let mute = state.nodes.values().find(|n| n.description.trust.roots.is_empty());
    match (&cluster.rotation, mute) {
        (Some(_), _) => Ok(Vec::new()),
        (None, Some(node)) => Err(RootsError::Old(node.description.hostname.clone())),
        (None, None) => Ok(with(cluster, Some(rotation::begin(&cluster.root_ca, &cluster.id, random, since)?))),
    }
}

/// Goes back: nodes take certificates by the one before again. Those by the other count, too, for as long as they last.
fn abort(state: &Snapshot) -> Result<Vec<Mutation>, RootsError> {
    let cluster = known(state)?;
    match cluster.rotation {
        Some(_) => Ok(with(cluster, None)),
        None => Err(RootsError::NoRotation),
    }
}

/// How far it is.
pub(crate) fn status(state: &Snapshot) -> Option<v1::RootsStatus> {
    let cluster = state.cluster.as_ref()?;
    let rotation = cluster.rotation.as_ref();
    let waits = |node: &Arc<Node>| v1::WaitsForNode {
        node: node.id.to_string(),
        hostname: node.description.hostname.clone(),
        state: v1::NodeState::from(node.status.state).into(),
    };
    Some(v1::RootsStatus {
        cert_pem: cluster.root_ca.cert_pem.clone(),
        next_pem: rotation.map(|r| r.next.cert_pem.clone()).unwrap_or_default(),
        since_ms: rotation.map_or(0, |r| r.since.0),
        nodes: state.nodes.len() as u32,
        waits_for: rotation::waits_for(state, cluster).into_iter().map(waits).collect(),
        users: rotation::ending_users(cluster).into_iter().cloned().collect(),
    })
}

pub struct RootsService {
    pub forward: Forward,
}

#[tonic::async_trait]
impl roots_server::Roots for RootsService {
    async fn get_roots(&self, request: Request<v1::GetRootsRequest>) -> Result<Response<v1::RootsStatus>, Status> {
        let state = match stale::asked(&request) {
            true => self.forward.store.snapshot(),
            false => {
                if let Some(leader) = self.forward.leader().await? {
                    return RootsClient::new(leader).get_roots(on_behalf(request)).await;
                }
                self.forward.newest().await?
            }
        };
        Ok(Response::new(status(&state).ok_or(RootsError::Starting)?))
    }

    async fn rotate_root(&self, request: Request<v1::RotateRootRequest>) -> Result<Response<v1::RootsStatus>, Status> {
        stale::refuse(&request)?;
        if let Some(leader) = self.forward.leader().await? {
            return RootsClient::new(leader).rotate_root(on_behalf(request)).await;
        }
        let back = request.into_inner().abort;
        let change = |state: &Snapshot| if back { abort(state) } else { rotate(state, ambient::random(), now()) };
        let state = self.forward.store.update(change).await?;
        Ok(Response::new(status(&state).ok_or(RootsError::Starting)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ca, world::World};
    use heddle_model::node::{NodeDescription, Trust};

    #[test]
    fn one_is_followed_by_one_and_back_again() {
        let mut world = World::new();
        let node = world.ready_nodes(1).remove(0);
        let first = Cluster::clone(world.state.cluster.as_ref().unwrap());
        let root_ca = ca::new_root(&first.id).unwrap();
        world.write(vec![Mutation::Update(Cluster { root_ca: root_ca.clone(), ..first }.into())]);
        assert!(abort(&world.state).unwrap_err().to_string().starts_with("no other root certificate is to follow"));
        let said = rotate(&world.state, [1; 16], Timestamp(5)).unwrap_err().to_string();
        assert!(said.contains("does not say what it trusts"), "{said}");
        let tell = |world: &mut World, root: &str| {
            let trust = Trust { signer: root.into(), roots: vec![root.into()] };
            let description = NodeDescription { trust, ..world.state.nodes[&node].description.clone() };
            world.write(vec![Mutation::NodeDescription { id: node.clone(), description }]);
        };
        tell(&mut world, "the first");
        let begun = rotate(&world.state, [1; 16], Timestamp(5)).unwrap();
        world.write(begun);
        let told = status(&world.state).unwrap();
        assert_eq!((told.cert_pem.as_str(), told.since_ms, told.nodes), (root_ca.cert_pem.as_str(), 5, 1));
        assert_eq!(told.waits_for.iter().map(|w| w.node.clone()).collect::<Vec<_>>(), [node.to_string()]);
        assert_eq!(rotate(&world.state, [2; 16], Timestamp(6)).unwrap(), Vec::new());

        let next = heddle_plumbing::tls::root_digest(&told.next_pem).unwrap();
        tell(&mut world, &next);
        assert_eq!(status(&world.state).unwrap().waits_for, []);

        let back = abort(&world.state).unwrap();
        world.write(back);
        assert_eq!(world.state.cluster.as_ref().unwrap().trusted_pem(), root_ca.cert_pem);
        assert_eq!(status(&world.state).unwrap().next_pem, "");
    }
}
