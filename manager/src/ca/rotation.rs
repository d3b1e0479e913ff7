//! Another root in place of the one before, without a session that breaks.
//!
//! ```text
//! idle ── asked for ──> next: it signs all certificates; nodes take one each, and believe both roots
//!  ^                     │ every node has one by it, and believes it
//!  └─────────────────────┘ the one before is forgotten, and with it the join tokens that name it
//! ```
//!
//! Until then each certificate comes with the next root's own by the one before, so whoever has not heard of the next one
//! believes it, too. A node that is down is waited for: without its certificate by the next root it could not come back.

use super::{CaError, issue::next_root, new_tokens, secret};
use crate::{
    plan::{Context, Plan},
    store::{Mutation, Snapshot},
};
use heddle_model::{
    ClusterId, Timestamp,
    cluster::{Cluster, RootCa, RootRotation},
    node::Node,
};
use heddle_plumbing::tls::root_digest;
use std::sync::Arc;

/// Of the random part of a root's name.
const NAME: usize = 8;

/// The first step; `random` names the root.
pub fn begin(
    before: &RootCa,
    cluster: &ClusterId,
    random: [u8; 16],
    since: Timestamp,
) -> Result<RootRotation, CaError> {
    let (next, cross_pem) = next_root(before, cluster, &format!("heddle-ca-{}", &secret(random).0[..NAME]))?;
    Ok(RootRotation { next, cross_pem, since })
}

/// Digest of the root that signs.
pub fn signer(cluster: &Cluster) -> String {
    root_digest(&cluster.signer().cert_pem).unwrap_or_default()
}

/// Nodes that could not do without the root before.
pub fn waits_for<'a>(state: &'a Snapshot, cluster: &Cluster) -> Vec<&'a Arc<Node>> {
    let Some(rotation) = &cluster.rotation else { return Vec::new() };
    let Some(next) = root_digest(&rotation.next.cert_pem) else { return state.nodes.values().collect() };
    state.nodes.values().filter(|n| !n.description.trust.is_by(&next)).collect()
}

/// People whose certificates end with the root before.
pub fn ending_users(cluster: &Cluster) -> Vec<&String> {
    let Some(rotation) = &cluster.rotation else { return Vec::new() };
    let next = root_digest(&rotation.next.cert_pem).unwrap_or_default();
    cluster.users.iter().filter(|(_, user)| user.signer != next).map(|(name, _)| name).collect()
}

/// The last step, once nobody is waited for.
pub fn plan(state: &Snapshot, context: &mut Context<'_>) -> Plan {
    let mut plan = Plan::default();
    if let Some(cluster) = &state.cluster
        && let Some(rotation) = &cluster.rotation
        && waits_for(state, cluster).is_empty()
    {
        let mut done = Cluster {
            root_ca: rotation.next.clone(),
            join_tokens: new_tokens([(context.random)(), (context.random)()]),
            rotation: None,
            ..Cluster::clone(cluster)
        };
        ending_users(cluster).into_iter().for_each(|name| drop(done.users.remove(name)));
        plan.push(Mutation::Update(done.into()));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ca,
        dispatcher::assignment::{Concerned, concerned},
        world::World,
    };
    use heddle_model::{
        Kind, NodeId, Version,
        cluster::{Role, User},
        node::{NodeState, NodeStatus, Trust},
    };
    use heddle_plumbing::tls::{self, Credentials};

    /// With a root, and another that comes.
    fn rotating() -> World {
        let mut world = World::new();
        let mut cluster = Cluster::clone(world.state.cluster.as_ref().unwrap());
        cluster.root_ca = ca::new_root(&cluster.id).unwrap();
        cluster.rotation = Some(begin(&cluster.root_ca, &cluster.id, [7; 16], Timestamp(5)).unwrap());
        for (name, by) in [("old", &cluster.root_ca), ("new", &cluster.rotation.as_ref().unwrap().next)] {
            let signer = root_digest(&by.cert_pem).unwrap();
            let user = User { id: name.into(), added: Timestamp(1), ends: Timestamp(2), signer };
            cluster.users.insert(name.into(), user);
        }
        world.write(vec![Mutation::Update(cluster.into())]);
        world
    }

    fn cluster(world: &World) -> Cluster {
        Cluster::clone(world.state.cluster.as_ref().unwrap())
    }

    fn tell(world: &mut World, node: &NodeId, trust: Trust) {
        let description = heddle_model::node::NodeDescription { trust, ..world.state.nodes[node].description.clone() };
        world.write(vec![Mutation::NodeDescription { id: node.clone(), description }]);
    }

    fn pass(world: &mut World) {
        let mut chance = 0;
        let mut random = || {
            chance += 1;
            [chance; 16]
        };
        let mut context = Context { now: Timestamp(9), acked: Version(0), random: &mut random };
        let Plan { mutations, .. } = plan(&world.state, &mut context);
        if !mutations.is_empty() {
            world.write(mutations);
        }
    }

    #[test]
    fn the_old_root_goes_when_no_node_needs_it() {
        let mut world = rotating();
        let nodes = world.ready_nodes(2);
        let before = cluster(&world);
        let [old, next] = [&before.root_ca, before.signer()].map(|root| root_digest(&root.cert_pem).unwrap());
        let down = NodeStatus { state: NodeState::Down, ..NodeStatus::default() };
        world.write(vec![Mutation::NodeStatus { id: nodes[1].clone(), status: down }]);
        let both = vec![old.clone(), next.clone()];
        tell(&mut world, &nodes[0], Trust { signer: next.clone(), roots: both.clone() });
        for not_yet in
            [Trust { signer: old.clone(), roots: both.clone() }, Trust { signer: String::new(), roots: vec![old] }]
        {
            tell(&mut world, &nodes[1], not_yet);
            pass(&mut world);
            let cluster = cluster(&world);
            assert_eq!(waits_for(&world.state, &cluster).iter().map(|n| &n.id).collect::<Vec<_>>(), [&nodes[1]]);
            assert_eq!(ending_users(&cluster), ["old"]);
        }
        tell(&mut world, &nodes[1], Trust { signer: next.clone(), roots: both });
        let waiting = world.state.clone();
        pass(&mut world);
        assert_eq!(concerned(&waiting, &world.state), Concerned::All, "every session tells of it");
        let after = cluster(&world);
        assert_eq!(root_digest(&after.root_ca.cert_pem), Some(next));
        assert!(after.rotation.is_none());
        assert_eq!(after.users.keys().collect::<Vec<_>>(), ["new"]);
        assert!(ca::role_of(&ca::token_text(&before, Role::Worker), &after).is_err());
        assert_eq!(ca::role_of(&ca::token_text(&after, Role::Manager), &after).unwrap(), Role::Manager);
        pass(&mut world);
        assert_eq!(cluster(&world), after, "nothing is left to do");
    }

    #[test]
    fn a_node_that_is_removed_is_not_waited_for() {
        let mut world = rotating();
        let node = world.ready_nodes(1).remove(0);
        pass(&mut world);
        assert!(cluster(&world).rotation.is_some());
        world.write(vec![Mutation::Remove { kind: Kind::Node, id: node.to_string(), version: None }]);
        pass(&mut world);
        assert!(cluster(&world).rotation.is_none());
    }

    /// Whether one with these credentials, as a client, and one with those, as a server, believe each other.
    async fn believe(client: &Credentials, server: &Credentials) -> bool {
        use heddle_proto::v1::node_ca_client::NodeCaClient;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let serving = tonic::transport::Server::builder()
            .add_routes(tonic::service::Routes::default())
            .serve_with_incoming(tls::incoming(listener, server, Default::default()));
        let serving = tokio::spawn(serving);
        let asked = NodeCaClient::new(tls::dial(addr, client)).get_root(heddle_proto::v1::GetRootRequest {}).await;
        serving.abort();
        // Nothing is served there: whoever hears so was believed.
        asked.unwrap_err().code() == tonic::Code::Unimplemented
    }

    #[tokio::test]
    async fn all_believe_each_other_at_every_step_and_nobody_the_old_one_after() {
        let during = cluster(&rotating());
        let before = Cluster { rotation: None, ..during.clone() };
        let after = Cluster { root_ca: during.signer().clone(), ..before.clone() };
        let (key, csr) = tls::new_key_and_csr().unwrap();
        let node = NodeId::from_random([3; 16]);
        let with = |by: &Cluster, roots: &Cluster| {
            let cert = ca::certificate(by, &node, Role::Manager, &csr).unwrap();
            Credentials::new(key.clone(), cert, roots.trusted_pem()).unwrap()
        };
        // Not yet heard; heard; renewed; forgotten.
        let steps = [with(&before, &before), with(&before, &during), with(&during, &during), with(&during, &after)];
        let (last, first_three) = (steps.len() - 1, &steps[..3]);
        for one in first_three {
            for other in first_three {
                assert!(believe(one, other).await);
            }
        }
        // Whoever has renewed is believed by all, and who forgot the old root believes no others.
        for (at, one) in steps.iter().enumerate() {
            assert_eq!(believe(&steps[last], one).await && believe(one, &steps[last]).await, at >= 2, "{at}");
        }
        let fresh = with(&after, &after);
        assert!(believe(&fresh, &steps[2]).await && believe(&steps[2], &fresh).await);
        assert!(!believe(&fresh, &steps[0]).await && !believe(&steps[0], &fresh).await);
        let trust = |c: &Credentials| (c.trust().signer, c.trust().roots.len());
        let [old, next] = [&before, &after].map(signer);
        assert_eq!(
            [0, 1, 2, 3].map(|at| trust(&steps[at])),
            [(old.clone(), 1), (old, 2), (next.clone(), 2), (next, 1)]
        );
        // A renewal that the node takes before it hears of the root.
        assert_eq!(trust(&with(&during, &before)), (String::new(), 1));
        // Given up: the old root signs again, and certificates by the other lead back to it still.
        let given_up = with(&during, &before);
        assert!(believe(&given_up, &steps[0]).await && believe(&steps[0], &given_up).await);
    }
}
