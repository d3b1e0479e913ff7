//! Every parser of a manager, tried with what nobody should send: tokens, requests for certificates, specs, raft's messages,
//! rows on its disk, backups.

use crate::{
    backup,
    ca::{self, Token},
    control::{check, nodes},
    raft::{
        TypeConfig, decode, encode, frame,
        packed::{pack, unpack},
    },
    scheduler::constraint::Constraint,
    store::{Action, Mutation, Snapshot, now},
    world::World,
};
use heddle_fuzz::{Memory, Messages, one_of, run, run_text};
use heddle_model::{
    ClusterId, NodeId, Object, Timestamp, Version,
    cluster::Role,
    network::NetworkSpec,
    node::NodeStatus,
    service::ServiceSpec,
    task::{TaskState, TaskStatus},
};
use heddle_plumbing::seal::Key;
use heddle_plumbing::tls::new_key_and_csr;
use heddle_proto::{DESCRIPTORS, v1};
use openraft::{
    Entry, EntryPayload,
    raft::{AppendEntriesRequest, VoteRequest},
    type_config::alias::{EntryOf, LogIdOf, VoteOf},
    vote::RaftLeaderId,
};
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

#[test]
fn join_tokens() {
    let token = format!("HDLTKN-1-{}-{}", "0f".repeat(32), "a".repeat(25));
    run_text(&[token], |text| {
        if let Ok(token) = text.parse::<Token>() {
            assert_eq!(format!("HDLTKN-1-{}-{}", token.root_digest, token.secret.0), text);
        }
    });
}

#[test]
fn placement_constraints() {
    run_text(&["node.role==worker", "node.labels.zone!=a"], |text| {
        if let Ok(constraint) = text.parse::<Constraint>() {
            let _ = constraint.admits(&World::new().node(1));
        }
    });
}

#[test]
fn certificates_and_requests_for_them() {
    let (cluster, node) = (ClusterId::from_random([1; 16]), NodeId::from_random([2; 16]));
    let root = ca::new_root(&cluster).unwrap();
    let (_, csr) = new_key_and_csr().unwrap();
    let life = Duration::from_secs(60);
    let cert = ca::issue(&root, &cluster, &node, Role::Worker, &csr, life).unwrap();
    run_text(&[&csr, &cert], |text| {
        drop(ca::issue(&root, &cluster, &node, Role::Worker, text, life));
        if let Ok(former) = ca::former(&root.cert_pem, text, &csr, now()) {
            assert_eq!(former.node, node);
        }
        drop(ca::former(&root.cert_pem, &cert, text, now()));
    });
}

fn words(message: &str, field: &str) -> &'static [&'static str] {
    match (message, field) {
        ("NetworkTarget", "target") => &["front", "host", "ingress"],
        ("Pool", "subnet" | "range") => &["10.1.0.0/24", "fd00:1::/64", "10.1.0.0/30", "255.255.255.255/32"],
        ("Pool", "gateway") | ("AuxEntry", "value") => &["10.1.0.1", "10.1.0.0", "fd00:1::1"],
        (_, "constraints") => &["node.role==worker", "node.labels.a!=b"],
        ("OptionsEntry", "key") => &["encrypted", "com.docker.network.driver.mtu"],
        _ => &["web", "db", "1500", ""],
    }
}

/// As an operator's request is checked.
#[test]
fn specs() {
    let messages = Messages::new(DESCRIPTORS, words);
    let mut world = World::new();
    let network = world.network("front", false);
    world.write(vec![Mutation::Create(network.into())]);
    world.ready_nodes(2);
    run(
        Memory::USUAL,
        |random| messages.random("heddle.v1.ServiceSpec", random),
        |bytes| {
            let Ok(Ok(spec)) = v1::ServiceSpec::decode(bytes).map(ServiceSpec::try_from) else { return };
            if let Ok(stored) = check::service(&world.state, spec) {
                assert!(stored.task.networks.iter().all(|n| n.target == "host" || n.target.parse::<NodeId>().is_ok()));
            }
        },
    );
    run(
        Memory::USUAL,
        |random| messages.random("heddle.v1.NetworkSpec", random),
        |bytes| {
            let Ok(Ok(spec)) = v1::NetworkSpec::decode(bytes).map(NetworkSpec::try_from) else { return };
            if let Ok(stored) = check::network(&world.state, spec) {
                assert!(stored.pools.iter().all(|p| p.room() > 0 && p.subnet.contains(&p.gateway())));
            }
        },
    );
    run(
        Memory::USUAL,
        |random| messages.random("heddle.v1.UpdateNodeRequest", random),
        |bytes| {
            let Ok(request) = v1::UpdateNodeRequest::decode(bytes) else { return };
            let reference = request.r#ref.clone();
            if let Ok(change) = nodes::Change::try_from(request) {
                drop(nodes::update(&world.state, &reference, &change));
            }
        },
    );
}

/// What is read is written alike.
fn packed<T: Serialize + DeserializeOwned>(valid: &T, each: impl Fn(&T)) {
    run(Memory { base: 8 << 20, factor: 2 << 10 }, one_of(&[encode(valid).unwrap()]), |bytes| {
        if let Ok(value) = decode::<T>(bytes) {
            let again = encode(&value).unwrap();
            assert_eq!(encode(&decode::<T>(&again).unwrap()).unwrap(), again);
            each(&value);
        }
    });
}

fn state() -> Snapshot {
    let mut world = World::new();
    world.ready_nodes(2);
    world.run(1, |_| {});
    world.state
}

/// An action may be anything that a leader of another version means: it is applied or refused.
#[test]
fn actions() {
    let state = state();
    let task = state.tasks.keys().next().unwrap().clone();
    let node = state.nodes.keys().next().unwrap().clone();
    let status = TaskStatus { state: TaskState::Running, message: "m".into(), ..TaskStatus::default() };
    let objects = state.objects().map(Mutation::Update);
    let reports = [
        Mutation::TaskStatus { id: task, status },
        Mutation::NodeStatus { id: node.clone(), status: NodeStatus::default() },
        Mutation::NodeDataPath { id: node, addr: [192, 0, 2, 9].into() },
    ];
    let action = Action { at: Timestamp(9), mutations: objects.chain(reports).collect() };
    packed(&action, |action| drop(state.apply(Version(99), action)));
}

#[test]
fn messages_of_raft() {
    let vote = VoteOf::<TypeConfig>::new(3, 1);
    let at = LogIdOf::<TypeConfig>::new(vote.leader_id().to_committed(), 7);
    let action = Action { at: Timestamp(1), mutations: state().objects().map(Mutation::Create).collect() };
    let entry: EntryOf<TypeConfig> = Entry { log_id: at, payload: EntryPayload::Normal(action.into()) };
    packed(&entry, |_| {});
    packed(&VoteRequest::<TypeConfig> { vote, last_log_id: Some(at), leadership_transfer: false }, |_| {});
    let append = AppendEntriesRequest::<TypeConfig> {
        vote,
        prev_log_id: Some(at),
        entries: vec![entry],
        leader_commit: Some(at),
    };
    packed(&append, |_| {});
}

#[test]
fn snapshots() {
    let objects: Vec<Object> = state().objects().collect();
    packed(&objects, |objects| drop(Snapshot::from_objects(Version(1), objects.clone())));
    let state = state();
    let data = pack(&state).unwrap();
    run(Memory { base: 16 << 20, factor: 64 }, one_of(std::slice::from_ref(&data)), |bytes| {
        // What a checksum does not cover says nothing of what is in it.
        let read = unpack(state.version, bytes);
        assert!(read.is_err() || !bytes.starts_with(&data[..4]) || read.is_ok_and(|read| read == state));
    });
}

#[test]
fn rows_on_disk() {
    let payload = encode(&state().objects().collect::<Vec<_>>()).unwrap();
    let (key, place) = (Key::new([7; 32]), frame::Place::Meta("snapshot.data"));
    let row = frame::seal(&key, [9; 24], place, &payload);
    run(Memory { base: 8 << 20, factor: 2 << 10 }, one_of(&[row.clone(), payload]), |bytes| {
        assert!(frame::open(&key, place, bytes).is_err() || bytes == row);
        // As programs of before wrote them.
        if let Ok(payload) = frame::open_plain(bytes) {
            drop(decode::<Vec<Object>>(&payload));
        }
    });
}

#[test]
fn backups() {
    let file = backup::write(&state(), Timestamp(7)).unwrap();
    run(Memory { base: 16 << 20, factor: 64 }, one_of(std::slice::from_ref(&file)), |bytes| {
        assert!(backup::read(bytes).is_err() || bytes == file);
    });
}
