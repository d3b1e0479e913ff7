//! Sends the output of tasks to the leader, which asked for it.

use crate::executor::{self, Stream};
use heddle_model::TaskId;
use heddle_proto::v1::{self, dispatcher_client::DispatcherClient};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Lines in one message.
const BATCH: usize = 256;

/// One task's log directory and name.
pub struct Source {
    pub task: TaskId,
    pub name: String,
    pub node: String,
    pub dir: PathBuf,
}

/// Runs until all is sent, or, following, until nobody reads.
pub async fn publish(channel: Channel, request: v1::LogRequest, sources: Vec<Source>) {
    let (send, receive) = mpsc::channel(16);
    let publishing = tokio::spawn(async move {
        let _ = DispatcherClient::new(channel).publish_logs(ReceiverStream::new(receive)).await;
    });
    // The first message names the request, even when there is nothing to say.
    let mut offsets: BTreeMap<TaskId, u64> = BTreeMap::new();
    let mut first = true;
    loop {
        let mut lines = Vec::new();
        for source in &sources {
            let from = offsets.get(&source.task).copied().unwrap_or(0);
            let Ok((mut new, at)) = executor::read(&source.dir, request.since_ms, from) else { continue };
            offsets.insert(source.task.clone(), at);
            if let Some(tail) = request.tail.filter(|_| first) {
                new.drain(..new.len().saturating_sub(tail as usize));
            }
            lines.extend(new.into_iter().map(|line| {
                v1::LogLine {
                    task: source.task.to_string(),
                    task_name: source.name.clone(),
                    node: source.node.clone(),
                    at_ms: line.at_ms,
                    stream: match line.stream {
                        Stream::Stdout => v1::LogStream::Stdout,
                        Stream::Stderr => v1::LogStream::Stderr,
                    }
                    .into(),
                    line: line.text.into_bytes(),
                }
            }));
        }
        lines.sort_by_key(|l| l.at_ms);
        let mut batches: Vec<Vec<v1::LogLine>> = lines.chunks(BATCH).map(<[_]>::to_vec).collect();
        if first && batches.is_empty() {
            batches.push(Vec::new());
        }
        for lines in batches {
            if send.send(v1::LogBatch { id: request.id.clone(), lines }).await.is_err() {
                return;
            }
        }
        first = false;
        if !request.follow || publishing.is_finished() {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    drop(send);
    let _ = publishing.await;
}
