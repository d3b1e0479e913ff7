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
    use crate::{
        ca,
        plan::{Context, Plan},
        store::Action,
        world::World,
    };
    use heddle_model::{
        NodeId, Version,
        cluster::User,
        node::{NodeDescription, Trust},
    };
    use heddle_plumbing::tls::root_digest;

    /// With a root, and a node that does not say what it trusts.
    fn world() -> (World, NodeId) {
        let mut world = World::new();
        let node = world.ready_nodes(1).remove(0);
        let root_ca = ca::new_root(&cluster(&world).id).unwrap();
        change(&mut world, |cluster| cluster.root_ca = root_ca);
        (world, node)
    }

    fn cluster(world: &World) -> Cluster {
        Cluster::clone(world.state.cluster.as_ref().unwrap())
    }

    fn change(world: &mut World, set: impl FnOnce(&mut Cluster)) {
        let mut cluster = cluster(world);
        set(&mut cluster);
        world.write(vec![Mutation::Update(cluster.into())]);
    }

    /// The node has a certificate by this root, and believes it.
    fn tell(world: &mut World, node: &NodeId, root: &str) {
        let trust = Trust { signer: root.into(), roots: vec![root.into()] };
        let description = NodeDescription { trust, ..world.state.nodes[node].description.clone() };
        world.write(vec![Mutation::NodeDescription { id: node.clone(), description }]);
    }

    fn said(world: &World) -> v1::RootsStatus {
        status(&world.state).unwrap()
    }

    /// Begins, and gives the next root's digest.
    fn begin(world: &mut World, random: u8, since: u64) -> String {
        let begun = rotate(&world.state, [random; 16], Timestamp(since)).unwrap();
        world.write(begun);
        root_digest(&said(world).next_pem).unwrap()
    }

    fn waits(world: &World) -> Vec<String> {
        said(world).waits_for.into_iter().map(|w| w.node).collect()
    }

    #[test]
    fn one_is_followed_by_one_and_back_again() {
        let (mut world, node) = world();
        let root = cluster(&world).root_ca.cert_pem;
        assert!(abort(&world.state).unwrap_err().to_string().starts_with("no other root certificate is to follow"));
        let refused = rotate(&world.state, [1; 16], Timestamp(5)).unwrap_err().to_string();
        assert!(refused.contains("does not say what it trusts"), "{refused}");
        tell(&mut world, &node, "the first");
        let next = begin(&mut world, 1, 5);
        let told = said(&world);
        assert_eq!((told.cert_pem.as_str(), told.since_ms, told.nodes), (root.as_str(), 5, 1));
        assert_eq!(waits(&world), [node.to_string()]);

        tell(&mut world, &node, &next);
        assert_eq!(said(&world).waits_for, []);

        let back = abort(&world.state).unwrap();
        world.write(back);
        assert_eq!(cluster(&world).trusted_pem(), root);
        assert_eq!(said(&world).next_pem, "");
    }

    #[test]
    fn whoever_asks_for_one_while_another_is_under_way_waits_for_that() {
        let (mut world, node) = world();
        tell(&mut world, &node, "the first");
        begin(&mut world, 1, 5);
        let before = said(&world);
        assert_eq!(rotate(&world.state, [2; 16], Timestamp(6)).unwrap(), []);
        // One that came since and does not say what it trusts is waited for, too.
        let mute = world.node(2);
        world.write(vec![Mutation::Create(mute.clone().into())]);
        assert_eq!(rotate(&world.state, [2; 16], Timestamp(6)).unwrap(), []);
        let mut all = [node.to_string(), mute.id.to_string()];
        all.sort();
        assert_eq!(waits(&world), all);
        let after = said(&world);
        assert_eq!((after.next_pem, after.since_ms), (before.next_pem, 5));
    }

    #[test]
    fn after_one_that_was_given_up_another_begins_with_everybody() {
        let (mut world, node) = world();
        let first = cluster(&world);
        tell(&mut world, &node, "the first");
        let given_up = begin(&mut world, 1, 5);
        // Both took a certificate by it.
        tell(&mut world, &node, &given_up);
        let user = User { id: "x".into(), added: Timestamp(5), ends: Timestamp(90), signer: given_up.clone() };
        change(&mut world, |cluster| drop(cluster.users.insert("al".into(), user)));
        assert_eq!((waits(&world), said(&world).users), (vec![], vec![]));

        let back = abort(&world.state).unwrap();
        world.write(back);
        assert!(matches!(abort(&world.state), Err(RootsError::NoRotation)));
        let now = cluster(&world);
        assert_eq!((&now.root_ca, &now.join_tokens), (&first.root_ca, &first.join_tokens));
        assert_eq!(rotation::signer(&now), root_digest(&first.root_ca.cert_pem).unwrap());
        let told = said(&world);
        assert_eq!((told.next_pem, told.since_ms, told.waits_for, told.users), (String::new(), 0, vec![], vec![]));

        let next = begin(&mut world, 2, 8);
        assert_ne!(next, given_up);
        let told = said(&world);
        assert_eq!((told.cert_pem, told.since_ms, told.users), (first.root_ca.cert_pem, 8, vec!["al".to_owned()]));
        assert_eq!(waits(&world), [node.to_string()]);
    }

    #[test]
    fn one_that_is_over_is_not_given_up() {
        let (mut world, node) = world();
        tell(&mut world, &node, "the first");
        let next = begin(&mut world, 1, 5);
        let also = abort(&world.state).unwrap();
        tell(&mut world, &node, &next);
        let mut context = Context { now: Timestamp(9), acked: Version(0), random: &mut || [3; 16] };
        let Plan { mutations, .. } = rotation::plan(&world.state, &mut context);
        world.write(mutations);
        assert!(matches!(abort(&world.state), Err(RootsError::NoRotation)));
        // Nor is it by somebody who looked before.
        let late = Action { at: Timestamp(9), mutations: also };
        assert!(world.state.apply(Version(world.state.version.0 + 1), &late).is_err());
        assert_eq!(root_digest(&said(&world).cert_pem), Some(next.clone()));
        assert_ne!(begin(&mut world, 4, 10), next);
    }
}
