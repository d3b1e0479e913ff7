//! Brings the output of tasks from the nodes that hold it to the operator who asked.

use heddle_model::NodeId;
use heddle_proto::v1;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::mpsc;

/// Lines under way to one reader.
const BUFFER: usize = 1024;

/// The tasks whose output a node was asked for: id and name.
pub type Share = BTreeMap<String, String>;

struct Reader {
    send: mpsc::Sender<v1::LogLine>,
    /// Of nodes that have not finished.
    shares: BTreeMap<NodeId, Share>,
}

#[derive(Default)]
pub struct Logs {
    readers: Mutex<HashMap<String, Reader>>,
}

/// The line as this node may tell it: of a task that it was asked for, by the names that the manager knows. None: of another.
fn told_by(node: &NodeId, share: &Share, line: v1::LogLine) -> Option<v1::LogLine> {
    let task_name = share.get(&line.task)?.clone();
    Some(v1::LogLine { task_name, node: node.to_string(), ..line })
}

impl Logs {
    fn readers(&self) -> MutexGuard<'_, HashMap<String, Reader>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new reader that ends when these nodes have finished.
    pub fn open(&self, id: String, shares: BTreeMap<NodeId, Share>) -> mpsc::Receiver<v1::LogLine> {
        let (send, receive) = mpsc::channel(BUFFER);
        if !shares.is_empty() {
            self.readers().insert(id, Reader { send, shares });
        }
        receive
    }

    /// Lines that a node sends. False: nobody reads them, or this node was not asked.
    pub async fn publish(&self, node: &NodeId, batch: v1::LogBatch) -> bool {
        let asked = self.readers().get(&batch.id).and_then(|r| Some((r.send.clone(), r.shares.get(node)?.clone())));
        let Some((send, share)) = asked else { return false };
        for line in batch.lines.into_iter().filter_map(|line| told_by(node, &share, line)) {
            if send.send(line).await.is_err() {
                self.readers().remove(&batch.id);
                return false;
            }
        }
        true
    }

    /// A node has sent all it has.
    pub fn finish(&self, id: &str, node: &NodeId) {
        let mut readers = self.readers();
        if let Some(reader) = readers.get_mut(id) {
            reader.shares.remove(node);
            if reader.shares.is_empty() {
                readers.remove(id);
            }
        }
    }

    pub fn close(&self, id: &str) {
        self.readers().remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_random([n; 16])
    }

    fn batch(task: &str, text: &str) -> v1::LogBatch {
        let line = v1::LogLine {
            task: task.into(),
            task_name: "bank.1".into(),
            node: node(2).to_string(),
            line: text.into(),
            ..v1::LogLine::default()
        };
        v1::LogBatch { id: "r".into(), lines: vec![line] }
    }

    #[tokio::test]
    async fn a_node_tells_of_its_own_tasks_alone_and_ends_nothing_for_others() {
        let logs = Logs::default();
        let share = |task: &str| Share::from([(task.to_owned(), format!("web.{task}"))]);
        let mut lines = logs.open("r".into(), BTreeMap::from([(node(1), share("1")), (node(2), share("2"))]));
        assert!(logs.publish(&node(1), batch("2", "forged")).await, "it is heard, but not of that");
        assert!(!logs.publish(&node(3), batch("2", "forged")).await, "it was not asked");
        for _ in 0..2 {
            logs.finish("r", &node(1));
            logs.finish("r", &node(3));
        }
        assert!(!logs.publish(&node(1), batch("1", "late")).await, "it had finished");
        assert!(logs.publish(&node(2), batch("2", "true")).await);
        logs.finish("r", &node(2));
        let line = lines.recv().await.unwrap();
        assert_eq!((line.line.as_slice(), line.task_name.as_str()), (&b"true"[..], "web.2"));
        assert_eq!(line.node, node(2).to_string());
        assert!(lines.recv().await.is_none());
    }
}
