//! Writes blobs into containerd's content, as they come.

use crate::{
    Engine, EngineError,
    api::content,
    pull::{CHUNK, Pull},
};
use oci_client::manifest::OciDescriptor;
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

/// One blob that is being written.
pub(crate) struct Ingest {
    requests: mpsc::Sender<content::WriteContentRequest>,
    answers: tonic::Streaming<content::WriteContentResponse>,
    engine: Engine,
    reference: String,
    image: String,
    digest: String,
}

impl Ingest {
    /// With how much of it is here; None: all of it, and it is under the lease now.
    pub(crate) async fn open(
        pull: &Pull<'_>,
        blob: &OciDescriptor,
        total: i64,
    ) -> Result<Option<(Self, i64)>, EngineError> {
        let reference = format!("{}-{}", pull.lease, blob.digest);
        let (requests, receiver) = mpsc::channel(1);
        let first = content::WriteContentRequest {
            action: content::WriteAction::Stat.into(),
            r#ref: reference.clone(),
            total,
            expected: blob.digest.clone(),
            ..content::WriteContentRequest::default()
        };
        // The channel is open, and holds one.
        let _ = requests.send(first).await;
        let mut client = content::content_client::ContentClient::new(pull.link());
        let failed = pull.engine.failed("store content");
        let mut answers = match client.write(ReceiverStream::new(receiver)).await {
            Err(status) if status.code() == Code::AlreadyExists => return Ok(None),
            other => other.map_err(&failed)?.into_inner(),
        };
        match answers.message().await {
            Err(status) if status.code() == Code::AlreadyExists => Ok(None),
            Err(status) => Err(failed(status)),
            Ok(answer) => {
                let offset = answer.map_or(0, |a| a.offset);
                let (engine, image, digest) = (pull.engine.clone(), pull.image.whole(), blob.digest.clone());
                Ok(Some((Self { requests, answers, engine, reference, image, digest }, offset)))
            }
        }
    }

    async fn call(&mut self, request: content::WriteContentRequest) -> Result<(), EngineError> {
        // An end that is closed has said why.
        let _ = self.requests.send(request).await;
        match self.answers.message().await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(EngineError::image(&self.image, "containerd stopped storing it")),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) if status.code() == Code::FailedPrecondition => {
                self.abort().await;
                Err(EngineError::image(&self.image, format!("the registry gives something else as {}", self.digest)))
            }
            Err(status) => Err(self.engine.failed("store content")(status)),
        }
    }

    /// What has come is not what was asked for: the next try begins anew.
    pub(crate) async fn abort(&self) {
        let abort = content::AbortRequest { r#ref: self.reference.clone() };
        // It is gone with its lease at the latest.
        let _ = content::content_client::ContentClient::new(self.engine.link()).abort(abort).await;
    }

    pub(crate) async fn write(&mut self, offset: i64, data: bytes::Bytes) -> Result<(), EngineError> {
        let mut offset = offset;
        for chunk in data.chunks(CHUNK) {
            let request = content::WriteContentRequest {
                action: content::WriteAction::Write.into(),
                r#ref: self.reference.clone(),
                offset,
                data: chunk.to_vec(),
                ..content::WriteContentRequest::default()
            };
            self.call(request).await?;
            offset += chunk.len() as i64;
        }
        Ok(())
    }

    pub(crate) async fn commit(mut self, total: i64, labels: BTreeMap<String, String>) -> Result<(), EngineError> {
        let request = content::WriteContentRequest {
            action: content::WriteAction::Commit.into(),
            r#ref: self.reference.clone(),
            total,
            offset: total,
            expected: self.digest.clone(),
            labels: labels.into_iter().collect(),
            ..content::WriteContentRequest::default()
        };
        self.call(request).await
    }
}
