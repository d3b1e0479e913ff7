//! How the managers and the nodes are, from what raft and the sessions say.

use crate::{control::roots, raft::raft_id, store::Snapshot};
use heddle_model::{NodeId, node::NodeState};
use heddle_plumbing::tls::life_of;
use heddle_proto::v1;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A manager that was silent for longer counts as out of reach.
pub const REACH: Duration = Duration::from_secs(2);
/// Slow nodes that are named.
const NAMED: usize = 5;

/// What raft says of its members, by their numbers.
#[derive(Debug, Clone, Default)]
pub struct Members {
    pub own: u64,
    /// The one that leads and answers.
    pub leader: Option<u64>,
    pub term: u64,
    pub log_index: u64,
    pub voters: BTreeSet<u64>,
    /// With the address of each.
    pub all: BTreeMap<u64, String>,
    pub reachable: BTreeSet<u64>,
    /// Of the others, as the leader knows: since they were heard of, and the last entry that they have.
    pub silent: BTreeMap<u64, Duration>,
    pub matched: BTreeMap<u64, u64>,
}

/// `behind`: revisions that each ready node is behind, if that is known.
pub fn status(state: &Snapshot, members: &Members, behind: &BTreeMap<NodeId, u64>) -> v1::ClusterStatus {
    let node_of = |id: u64| state.nodes.values().find(|n| raft_id(&n.id) == id);
    let text = |id: u64| node_of(id).map(|n| n.id.to_string()).unwrap_or_default();
    let mut managers: Vec<_> = members.all.iter().map(|(id, addr)| manager(state, members, *id, addr)).collect();
    managers.sort_by(|a, b| (&a.hostname, &a.node).cmp(&(&b.hostname, &b.node)));
    v1::ClusterStatus {
        told_by: text(members.own),
        leader: members.leader.map(text).unwrap_or_default(),
        term: members.term,
        revision: state.version.0,
        managers,
        nodes: Some(counts(state)),
        behind: slowest(state, behind),
        root_certificate_ends_ms: root_ends(state),
        dead_manager_after_ms: state.cluster.as_ref().map_or(0, |c| c.spec.dead_manager_after_ms()),
        roots: roots::status(state).filter(|roots| !roots.next_pem.is_empty()),
    }
}

fn manager(state: &Snapshot, members: &Members, id: u64, addr: &str) -> v1::ManagerHealth {
    let node = state.nodes.values().find(|n| raft_id(&n.id) == id);
    let leads = members.leader == Some(members.own);
    let own = id == members.own;
    let log_index = match own {
        true => Some(members.log_index),
        false => members.matched.get(&id).copied(),
    };
    let silent = if own { Some(Duration::ZERO) } else { members.silent.get(&id).copied() };
    v1::ManagerHealth {
        node: node.map(|n| n.id.to_string()).unwrap_or_default(),
        hostname: node.map(|n| n.description.hostname.clone()).unwrap_or_default(),
        addr: addr.to_owned(),
        voter: members.voters.contains(&id),
        reachable: members.reachable.contains(&id),
        log_index: log_index.filter(|_| leads || own),
        lag: log_index.filter(|_| leads).map(|at| members.log_index.saturating_sub(at)),
        silent_ms: silent.filter(|_| leads).map(|s| s.as_millis() as u64),
    }
}

fn counts(state: &Snapshot) -> v1::NodeCounts {
    let count = |wanted| state.nodes.values().filter(|n| n.status.state == wanted).count() as u32;
    v1::NodeCounts { ready: count(NodeState::Ready), down: count(NodeState::Down), unknown: count(NodeState::Unknown) }
}

fn slowest(state: &Snapshot, behind: &BTreeMap<NodeId, u64>) -> Vec<v1::NodeLag> {
    let mut slow: Vec<_> = behind.iter().filter(|(_, revisions)| **revisions > 0).collect();
    slow.sort_by_key(|(node, revisions)| (std::cmp::Reverse(**revisions), (*node).clone()));
    let hostname = |node: &NodeId| state.nodes.get(node).map(|n| n.description.hostname.clone()).unwrap_or_default();
    let lag = |(node, revisions): (&NodeId, &u64)| v1::NodeLag {
        node: node.to_string(),
        hostname: hostname(node),
        revisions: *revisions,
    };
    slow.into_iter().take(NAMED).map(lag).collect()
}

/// 0: there is no cluster yet.
fn root_ends(state: &Snapshot) -> u64 {
    let pem = state.cluster.as_ref().map(|c| c.root_ca.cert_pem.as_str()).unwrap_or_default();
    let parsed = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok();
    parsed.and_then(|(_, pem)| life_of(&pem.contents)).map_or(0, |life| life.ends.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::Mutation, world::World};
    use heddle_model::{cluster::Role, node::Node};

    fn members(nodes: &[Node]) -> Members {
        let ids: Vec<u64> = nodes.iter().map(|n| raft_id(&n.id)).collect();
        Members {
            own: ids[0],
            leader: Some(ids[0]),
            term: 3,
            log_index: 90,
            voters: ids[..2].iter().copied().collect(),
            all: ids.iter().map(|id| (*id, "192.0.2.1:2377".to_owned())).collect(),
            reachable: BTreeSet::from([ids[0], ids[2]]),
            silent: BTreeMap::from([(ids[1], Duration::from_secs(9)), (ids[2], Duration::from_millis(40))]),
            matched: BTreeMap::from([(ids[1], 70), (ids[2], 88)]),
        }
    }

    fn world() -> (World, Vec<Node>) {
        let mut world = World::new();
        let mut nodes: Vec<Node> = (1..=3).map(|n| world.node(n)).collect();
        nodes.iter_mut().for_each(|n| n.role = Role::Manager);
        nodes[2].status.state = NodeState::Down;
        world.write(nodes.iter().cloned().map(|n| Mutation::Create(n.into())).collect());
        (world, nodes)
    }

    #[test]
    fn the_leader_tells_how_far_the_others_are() {
        let (world, nodes) = world();
        let behind = BTreeMap::from([(nodes[0].id.clone(), 0), (nodes[1].id.clone(), 4)]);
        let status = status(&world.state, &members(&nodes), &behind);
        assert_eq!((status.leader, status.term), (nodes[0].id.to_string(), 3));
        let of = |host: &str| status.managers.iter().find(|m| m.hostname == host).unwrap().clone();
        let told = |host: &str| {
            let m = of(host);
            (m.voter, m.reachable, m.log_index, m.lag, m.silent_ms)
        };
        assert_eq!(told("h1"), (true, true, Some(90), Some(0), Some(0)));
        assert_eq!(told("h2"), (true, false, Some(70), Some(20), Some(9000)));
        assert_eq!(told("h3"), (false, true, Some(88), Some(2), Some(40)));
        assert_eq!(status.nodes.unwrap(), v1::NodeCounts { ready: 2, down: 1, unknown: 0 });
        assert_eq!(status.behind.iter().map(|b| (b.hostname.as_str(), b.revisions)).collect::<Vec<_>>(), [("h2", 4)]);
    }

    #[test]
    fn who_does_not_lead_tells_no_more_than_it_knows() {
        let (world, nodes) = world();
        let members = Members { leader: None, ..members(&nodes) };
        let status = status(&world.state, &members, &BTreeMap::new());
        assert_eq!(status.leader, "");
        let told: Vec<_> = status.managers.iter().map(|m| (m.lag, m.silent_ms)).collect();
        assert_eq!(told, [(None, None); 3]);
        assert_eq!(status.managers.iter().filter(|m| m.log_index.is_some()).count(), 1, "its own");
    }
}
