//! Brings the output of tasks from the nodes that hold it to the operator who asked.

use heddle_proto::v1;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::mpsc;

/// Lines under way to one reader.
const BUFFER: usize = 1024;

struct Reader {
    send: mpsc::Sender<v1::LogLine>,
    /// Nodes that have not finished.
    left: usize,
}

#[derive(Default)]
pub struct Logs {
    readers: Mutex<HashMap<String, Reader>>,
}

impl Logs {
    fn readers(&self) -> MutexGuard<'_, HashMap<String, Reader>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new reader that ends when so many nodes have finished.
    pub fn open(&self, id: String, nodes: usize) -> mpsc::Receiver<v1::LogLine> {
        let (send, receive) = mpsc::channel(BUFFER);
        if nodes > 0 {
            self.readers().insert(id, Reader { send, left: nodes });
        }
        receive
    }

    /// False: nobody reads any more.
    pub async fn publish(&self, batch: v1::LogBatch) -> bool {
        let Some(send) = self.readers().get(&batch.id).map(|r| r.send.clone()) else { return false };
        for line in batch.lines {
            if send.send(line).await.is_err() {
                self.readers().remove(&batch.id);
                return false;
            }
        }
        true
    }

    /// A node has sent all it has.
    pub fn finish(&self, id: &str) {
        let mut readers = self.readers();
        if let Some(reader) = readers.get_mut(id) {
            reader.left = reader.left.saturating_sub(1);
            if reader.left == 0 {
                readers.remove(id);
            }
        }
    }

    pub fn close(&self, id: &str) {
        self.readers().remove(id);
    }
}
