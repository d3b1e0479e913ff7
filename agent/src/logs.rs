//! Sends the output of tasks to the leader, which asked for it.

use crate::executor::{Line, LogReader, Stream};
use heddle_model::TaskId;
use heddle_proto::v1::{self, dispatcher_client::DispatcherClient};
use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    time::Duration,
};
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
    /// Empty: that of whoever asks.
    pub node: String,
    pub dir: PathBuf,
}

impl Source {
    fn line(&self, line: Line) -> v1::LogLine {
        let stream = match line.stream {
            Stream::Stdout => v1::LogStream::Stdout,
            Stream::Stderr => v1::LogStream::Stderr,
        };
        v1::LogLine {
            task: self.task.to_string(),
            task_name: self.name.clone(),
            node: self.node.clone(),
            at_ms: line.at_ms,
            stream: stream.into(),
            line: line.text.into_bytes(),
        }
    }
}

/// The lines of several tasks, by time. Of each no more are in memory than are read at once, or were asked for as its last ones.
pub struct Lines {
    sources: Vec<(Source, LogReader, VecDeque<Line>)>,
}

impl Lines {
    /// With `tail`, of each task no more than so many that there are now.
    pub fn of(sources: Vec<Source>, since_ms: u64, tail: Option<u64>) -> Self {
        let open = |source: Source| {
            let mut reader = LogReader::new(source.dir.clone(), since_ms);
            let kept = tail.map(|count| or_none(reader.tail(count as usize), &source.dir)).unwrap_or_default();
            (source, reader, kept)
        };
        Self { sources: sources.into_iter().map(open).collect() }
    }

    /// The next ones. Empty: there is nothing more for now.
    pub fn more(&mut self) -> Vec<v1::LogLine> {
        for (source, reader, queue) in self.sources.iter_mut().filter(|(.., queue)| queue.is_empty()) {
            *queue = or_none(reader.more(), &source.dir).into();
        }
        let mut lines = Vec::new();
        while lines.len() < BATCH {
            let at = |(.., queue): &(Source, LogReader, VecDeque<Line>)| queue.front().map(|line| line.at_ms);
            let first = self.sources.iter_mut().filter(|s| at(s).is_some()).min_by_key(|s| at(s));
            let Some((source, reader, queue)) = first else { break };
            lines.extend(queue.pop_front().map(|line| source.line(line)));
            // Others that had nothing a moment ago are asked the next time.
            if queue.is_empty() {
                *queue = or_none(reader.more(), &source.dir).into();
            }
        }
        lines
    }
}

fn or_none<T: Default>(read: std::io::Result<T>, dir: &Path) -> T {
    read.unwrap_or_else(|error| {
        tracing::warn!(%error, dir = %dir.display(), "what a task has printed cannot be read");
        T::default()
    })
}

/// Runs until all is sent, or, following, until nobody reads.
pub async fn publish(channel: Channel, request: v1::LogRequest, sources: Vec<Source>) {
    let (send, receive) = mpsc::channel(16);
    let publishing = tokio::spawn(async move {
        let _ = DispatcherClient::new(channel).publish_logs(ReceiverStream::new(receive)).await;
    });
    let mut all = Lines::of(sources, request.since_ms, request.tail);
    // The first message names the request, even when there is nothing to say.
    let mut first = true;
    loop {
        let lines = all.more();
        let ended = lines.is_empty();
        if (first || !ended) && send.send(v1::LogBatch { id: request.id.clone(), lines }).await.is_err() {
            return;
        }
        first = false;
        if !ended {
            continue;
        }
        if !request.follow || publishing.is_finished() {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    drop(send);
    let _ = publishing.await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn lines_of_several_tasks_come_by_time_and_no_more_than_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let source = |n: u8, times: &[u64]| {
            let (own, task) = (dir.path().join(n.to_string()), TaskId::from_random([n; 16]));
            fs::create_dir_all(&own).unwrap();
            let line = |at: &u64| format!("{{\"at_ms\":{at},\"stream\":\"stdout\",\"text\":\"{n} at {at}\"}}\n");
            fs::write(own.join("log.jsonl"), times.iter().map(line).collect::<String>()).unwrap();
            Source { task, name: n.to_string(), node: String::new(), dir: own }
        };
        let all = || vec![source(1, &[1, 4, 6]), source(2, &[2, 3, 5]), source(3, &[])];
        let said = |mut lines: Lines| -> Vec<u64> { lines.more().iter().map(|l| l.at_ms).collect() };
        assert_eq!(said(Lines::of(all(), 0, None)), [1, 2, 3, 4, 5, 6]);
        assert_eq!(said(Lines::of(all(), 3, None)), [3, 4, 5, 6]);
        assert_eq!(said(Lines::of(all(), 0, Some(1))), [5, 6]);
    }
}
