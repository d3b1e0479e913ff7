//! A log of few writes, each of them large.
#![allow(clippy::unwrap_used)]

#[path = "access/stage.rs"]
#[allow(dead_code)]
mod stage;

use heddle_manager::store::{Mutation, Snapshot, WriteError};
use heddle_model::{NodeId, cluster::Role, node::Node};
use openraft::async_runtime::WatchReceiver;
use stage::Stage;
use std::time::Duration;

const BYTES: usize = 4 << 20;
/// Together more than a log has before a snapshot is made, and far fewer than raft makes one by itself for.
const WRITES: usize = 14;
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn it_is_cut_by_its_bytes() {
    let stage = Stage::set().await;
    let store = &stage.manager.store;
    let id = NodeId::from_random([7; 16]);
    store.write(vec![Mutation::Create(stage::node(&id, Role::Worker, 2).into())]).await.unwrap();
    for nth in 0..WRITES {
        let grown = |state: &Snapshot| -> Result<_, WriteError> {
            let mut node = Node::clone(&state.nodes[&id]);
            node.spec.annotations.labels.insert("large".into(), format!("{nth}").repeat(BYTES));
            Ok(vec![Mutation::Update(node.into())])
        };
        store.update(grown).await.unwrap();
    }
    let cut = async {
        let mut metrics = store.raft().metrics();
        loop {
            let (snapshot, purged) = {
                let now = metrics.borrow_watched();
                (now.snapshot.map(|id| id.index), now.purged.map(|id| id.index))
            };
            if let (Some(snapshot), Some(purged)) = (snapshot, purged) {
                return (snapshot, purged);
            }
            metrics.changed().await.unwrap();
        }
    };
    let (snapshot, purged) = tokio::time::timeout(LIMIT, cut).await.expect("nothing was cut off");
    assert!(purged < snapshot, "the newest are kept for managers that are a little behind: {purged} of {snapshot}");
    assert!(store.snapshot().nodes[&id].spec.annotations.labels["large"].len() >= BYTES);
}
