//! Brings an image here: its manifests and layers into containerd's content, unpacked into its snapshots.
//!
//! All of it is made under a lease, which holds it until the image's own record does. Whatever fails half way is collected as
//! garbage when the lease is given back, at the latest when it expires.

use crate::{
    Engine, EngineError, Reference, RegistryAuth,
    api::{content, diff, images, leases, snapshots, types},
    image::{Config, Image, chain_ids, choose, digest},
    link::{LARGEST, Link},
    registry::{Fault, Registry},
};
use bytes::BytesMut;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use oci_client::manifest::{OciDescriptor, OciImageIndex, OciImageManifest};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, metadata::MetadataValue};

pub(crate) const SNAPSHOTTER: &str = "overlayfs";
/// Bytes that containerd is given at once: each time it answers.
const CHUNK: usize = 1 << 20;
/// Layers that are fetched at once, as docker does.
const AT_ONCE: usize = 3;
/// Times that a layer is gone on with after its registry broke off.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);
/// After which nobody pulls any more.
const LEASE: Duration = Duration::from_secs(24 * 3600);
/// A configuration or a manifest that is larger is none.
const SMALL: i64 = 8 << 20;

/// How far a pull is, in bytes as they are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    /// Zero: not known yet.
    pub of: u64,
    pub unpacking: bool,
}

/// What a registry has under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub digest: String,
}

/// The manifest that was chosen, with what it was chosen from.
struct Found {
    /// Each with its digest; the one that was asked for is the first.
    manifests: Vec<(OciDescriptor, bytes::Bytes)>,
    manifest: OciImageManifest,
}

impl Found {
    fn target(&self) -> &OciDescriptor {
        &self.manifests[0].0
    }
}

struct Pull<'a> {
    engine: &'a Engine,
    image: &'a Reference,
    registry: Registry,
    lease: String,
    progress: &'a watch::Sender<Progress>,
}

impl Engine {
    /// Asks the registry which digest an image has now.
    ///
    /// # Errors
    /// The registry does not answer, or has no such image.
    pub async fn resolve(&self, image: &Reference, auth: RegistryAuth) -> Result<Resolved, EngineError> {
        let registry = Registry::of(image, &self.settings.hosts, auth)?;
        let (_, digest) = registry.manifest(image).await?;
        Ok(Resolved { digest })
    }

    /// Brings an image here, if it is not. Who wants the same one at the same time waits for it.
    ///
    /// # Errors
    /// What is wrong with the registry, the image, or containerd. Nothing of it stays.
    pub async fn pull(
        &self,
        image: &Reference,
        auth: RegistryAuth,
        progress: &watch::Sender<Progress>,
    ) -> Result<Image, EngineError> {
        let mine = {
            let mut pulls = self.pulls.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            pulls.retain(|_, pull| std::sync::Arc::strong_count(pull) > 1);
            pulls.entry(image.whole()).or_default().clone()
        };
        let _alone = mine.lock().await;
        // A tag may be another image by now; a digest is always the same.
        if image.digest().is_some()
            && let Some(found) = here(self, image).await?
        {
            return Ok(found);
        }
        self.ready().await?;
        let lease = Lease::take(self).await?;
        let registry = Registry::of(image, &self.settings.hosts, auth)?;
        let pull = Pull { engine: self, image, registry, lease: lease.id.clone(), progress };
        let pulled = pull.run().await;
        lease.give_back(pulled.is_err()).await;
        pulled
    }
}

/// Given back when it is dropped, too: by somebody who stopped waiting.
pub(crate) struct Lease {
    engine: Engine,
    pub(crate) id: String,
    held: bool,
}

impl Lease {
    pub(crate) async fn take(engine: &Engine) -> Result<Self, EngineError> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let id = format!("heddle-{}-{}-{number}", std::process::id(), now.as_nanos());
        // A time as containerd reads it (RFC 3339).
        let until = prost_types::Timestamp::from(SystemTime::now() + LEASE).to_string();
        let labels = [("containerd.io/gc.expire".to_owned(), until)].into();
        let create = leases::CreateRequest { id: id.clone(), labels };
        let answer = leases::leases_client::LeasesClient::new(engine.link()).create(create).await;
        answer.map_err(engine.failed("make a lease"))?;
        Ok(Self { engine: engine.clone(), id, held: true })
    }

    /// With `now`, what nothing else holds is gone when this returns.
    pub(crate) async fn give_back(mut self, now: bool) {
        self.held = false;
        delete(&self.engine, self.id.clone(), now).await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.held
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (engine, id) = (self.engine.clone(), self.id.clone());
            runtime.spawn(async move { delete(&engine, id, true).await });
        }
    }
}

async fn delete(engine: &Engine, id: String, sync: bool) {
    let delete = leases::DeleteRequest { id, sync };
    if let Err(error) = leases::leases_client::LeasesClient::new(engine.link()).delete(delete).await {
        tracing::debug!(%error, "a lease waits until it expires");
    }
}

impl Pull<'_> {
    fn link(&self) -> Link {
        let lease: Option<MetadataValue<_>> = self.lease.parse().ok();
        self.engine.under(lease)
    }

    fn wrong(&self, why: impl ToString) -> EngineError {
        EngineError::image(self.image, why)
    }

    async fn run(&self) -> Result<Image, EngineError> {
        let found = self.find().await?;
        let manifest = &found.manifest;
        // The same layer may be there several times.
        let unique: BTreeMap<&str, &OciDescriptor> = manifest.layers.iter().map(|l| (l.digest.as_str(), l)).collect();
        let of = unique.values().map(|layer| layer.size.unsigned_abs()).sum();
        self.progress.send_replace(Progress { of, ..Progress::default() });
        let (text, config) = self.config(&manifest.config).await?;
        let chain = chain_ids(&config.rootfs.diff_ids);
        if chain.len() != manifest.layers.len() || chain.is_empty() {
            return Err(self.wrong(format!(
                "it has {} layers, and a configuration for {}",
                manifest.layers.len(),
                chain.len()
            )));
        }
        let top = chain.last().cloned().unwrap_or_default();
        let holds = [(format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"), top.clone())].into();
        self.store(&manifest.config, text.into(), holds).await?;
        let fetches: Vec<_> = unique.into_values().map(|layer| self.fetch(layer).boxed()).collect();
        stream::iter(fetches).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        for (at, (descriptor, bytes)) in found.manifests.iter().enumerate().rev() {
            let below = found.manifests.get(at + 1).map(|(below, _)| below);
            self.store(descriptor, bytes.clone(), refs(manifest, below)).await?;
        }
        self.progress.send_modify(|p| p.unpacking = true);
        for (at, layer) in manifest.layers.iter().enumerate() {
            let parent = at.checked_sub(1).map_or("", |below| chain[below].as_str());
            self.unpack(layer, &config.rootfs.diff_ids[at], parent, &chain[at]).await?;
        }
        self.record(found.target()).await?;
        let digest = found.target().digest.clone();
        Ok(Image { name: self.image.whole(), digest, config, top })
    }

    async fn find(&self) -> Result<Found, EngineError> {
        let (text, digest) = self.registry.manifest(self.image).await?;
        let kind = media_type(&text).map_err(|why| self.wrong(why))?;
        let described = |kind: &str, digest: String, text: &bytes::Bytes| OciDescriptor {
            media_type: kind.to_owned(),
            digest,
            size: text.len() as i64,
            ..OciDescriptor::default()
        };
        let first = (described(&kind, digest, &text), text.clone());
        if !kind.contains("index") && !kind.contains("manifest.list") {
            let manifest = parse(&text).map_err(|why| self.wrong(why))?;
            return Ok(Found { manifests: vec![first], manifest });
        }
        let index: OciImageIndex = parse(&text).map_err(|why| self.wrong(why))?;
        let chosen = choose(&index.manifests).map_err(|why| self.wrong(why))?;
        let (text, digest) = self.registry.manifest(&self.image.clone_with_digest(chosen.digest.clone())).await?;
        let manifest = parse(&text).map_err(|why| self.wrong(why))?;
        let second = (described(&chosen.media_type, digest, &text), text);
        Ok(Found { manifests: vec![first, second], manifest })
    }

    async fn config(&self, descriptor: &OciDescriptor) -> Result<(Vec<u8>, Config), EngineError> {
        if descriptor.size > SMALL {
            return Err(self.wrong("its configuration is too large to be one"));
        }
        let mut part = self.registry.blob(self.image, descriptor, 0, 0).await?;
        let mut text = Vec::new();
        while let Some(bytes) = part.bytes.next().await {
            text.extend_from_slice(&bytes.map_err(|(Fault::BrokeOff(why) | Fault::Other(why))| self.wrong(why))?);
            if text.len() as i64 > SMALL {
                return Err(self.wrong("its configuration is too large to be one"));
            }
        }
        if digest(&text) != descriptor.digest {
            return Err(self.wrong("the registry gives something else as its configuration"));
        }
        let config: Config = parse(&text).map_err(|why| self.wrong(why))?;
        let (os, wanted) = (&config.os, crate::image::architecture());
        if os != "linux" || config.architecture != wanted {
            return Err(self.wrong(format!("it is for {os}/{}, and this host is linux/{wanted}", config.architecture)));
        }
        Ok((text, config))
    }

    /// Writes down what is whole already.
    async fn store(
        &self,
        descriptor: &OciDescriptor,
        bytes: bytes::Bytes,
        labels: BTreeMap<String, String>,
    ) -> Result<(), EngineError> {
        let size = bytes.len() as i64;
        let Some((mut ingest, _)) = Ingest::open(self, descriptor, size).await? else {
            // Somebody may have brought it without these.
            let paths = labels.keys().map(|name| format!("labels.{name}")).collect();
            let info = content::Info { digest: descriptor.digest.clone(), labels: labels.into_iter().collect(), size };
            let update_mask = Some(prost_types::FieldMask { paths });
            let update = content::UpdateRequest { info: Some(info), update_mask };
            let updated = content::content_client::ContentClient::new(self.link()).update(update).await;
            return updated.map(drop).map_err(self.engine.failed("label content"));
        };
        ingest.write(0, bytes).await?;
        ingest.commit(size, labels).await
    }

    /// Brings a layer, and goes on where its registry broke off.
    async fn fetch(&self, layer: &OciDescriptor) -> Result<(), EngineError> {
        let mut tries = 0;
        let mut counted = 0;
        loop {
            let Some((ingest, offset)) = Ingest::open(self, layer, layer.size).await? else {
                self.progress.send_modify(|p| p.done += layer.size.unsigned_abs() - counted);
                return Ok(());
            };
            match self.fill(ingest, layer, (offset, tries), &mut counted).await {
                Err(Broken::Off(why)) if tries < TRIES => {
                    tries += 1;
                    tracing::debug!(image = %self.image, layer = layer.digest, why, "a layer is gone on with");
                    tokio::time::sleep(PAUSE * 2_u32.pow(tries - 1)).await;
                }
                Err(Broken::Off(why)) => return Err(self.wrong(why)),
                Err(Broken::Engine(error)) => return Err(error),
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn fill(
        &self,
        mut ingest: Ingest,
        layer: &OciDescriptor,
        (offset, tries): (i64, u32),
        counted: &mut u64,
    ) -> Result<(), Broken> {
        if offset == layer.size {
            return Ok(ingest.commit(layer.size, BTreeMap::new()).await?);
        }
        let mut part = self.registry.blob(self.image, layer, offset.unsigned_abs(), tries).await?;
        let mut at = part.from as i64;
        let mut gathered = BytesMut::with_capacity(CHUNK);
        loop {
            let came = part.bytes.next().await.transpose();
            let size = gathered.len() as i64;
            match &came {
                Ok(Some(bytes)) if at + size + bytes.len() as i64 > layer.size => {
                    return Err(Broken::Engine(self.wrong("the registry gives more than the layer has")));
                }
                Ok(Some(bytes)) => gathered.extend_from_slice(bytes),
                Ok(None) | Err(_) => {}
            }
            let more = matches!(came, Ok(Some(_)));
            if gathered.len() >= CHUNK || (!more && !gathered.is_empty()) {
                let bytes = gathered.split().freeze();
                let size = bytes.len() as i64;
                ingest.write(at, bytes).await?;
                at += size;
                let done = at.unsigned_abs().saturating_sub(*counted);
                *counted += done;
                self.progress.send_modify(|p| p.done += done);
            }
            match came {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(Fault::BrokeOff(why)) => return Err(Broken::Off(why)),
                Err(Fault::Other(why)) => {
                    ingest.abort().await;
                    return Err(Broken::Off(why));
                }
            }
        }
        if at < layer.size {
            return Err(Broken::Off(format!("the registry broke off after {at} of a layer's {} bytes", layer.size)));
        }
        Ok(ingest.commit(layer.size, BTreeMap::new()).await?)
    }

    async fn unpack(&self, layer: &OciDescriptor, diff_id: &str, parent: &str, chain: &str) -> Result<(), EngineError> {
        let mut client = snapshots::snapshots_client::SnapshotsClient::new(self.link());
        let stat = snapshots::StatSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: chain.into() };
        if client.stat(stat).await.is_ok() {
            return Ok(());
        }
        let key = format!("{}-{chain}", self.lease);
        let prepare = snapshots::PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: key.clone(),
            parent: parent.into(),
            ..snapshots::PrepareSnapshotRequest::default()
        };
        let prepared = client.prepare(prepare).await.map_err(self.engine.failed("prepare a snapshot"))?;
        let mounts = prepared.into_inner().mounts;
        let apply = diff::ApplyRequest { diff: Some(of(layer)), mounts };
        let applied = diff::diff_client::DiffClient::new(self.link()).apply(apply).await;
        let applied = match applied.map_err(self.engine.failed("unpack a layer")) {
            Ok(answer) => answer.into_inner().applied.map(|a| a.digest).unwrap_or_default(),
            Err(error) => {
                self.drop_snapshot(&mut client, key).await;
                return Err(error);
            }
        };
        if applied != diff_id {
            self.drop_snapshot(&mut client, key).await;
            return Err(self.wrong(format!("a layer is {applied} when it is unpacked, and should be {diff_id}")));
        }
        let commit = snapshots::CommitSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            name: chain.into(),
            key: key.clone(),
            ..snapshots::CommitSnapshotRequest::default()
        };
        match client.commit(commit).await {
            // Another image has the same layers, and was faster.
            Err(status) if status.code() == Code::AlreadyExists => {
                self.drop_snapshot(&mut client, key).await;
                Ok(())
            }
            other => other.map(drop).map_err(self.engine.failed("commit a snapshot")),
        }
    }

    async fn drop_snapshot(&self, client: &mut snapshots::snapshots_client::SnapshotsClient<Link>, key: String) {
        let remove = snapshots::RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key };
        // The lease's end does it else.
        let _ = client.remove(remove).await;
    }

    async fn record(&self, target: &OciDescriptor) -> Result<(), EngineError> {
        let mut client = images::images_client::ImagesClient::new(self.link());
        let image = images::Image { name: self.image.whole(), target: Some(of(target)), ..images::Image::default() };
        let create = images::CreateImageRequest { image: Some(image.clone()) };
        let done = match client.create(create).await {
            Err(status) if status.code() == Code::AlreadyExists => {
                let update_mask = Some(prost_types::FieldMask { paths: vec!["target".into()] });
                client.update(images::UpdateImageRequest { image: Some(image), update_mask }).await.map(drop)
            }
            other => other.map(drop),
        };
        done.map_err(self.engine.failed("write down an image"))
    }
}

enum Broken {
    /// The registry's fault: it may go on.
    Off(String),
    Engine(EngineError),
}

impl From<EngineError> for Broken {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Image { why, .. } => Broken::Off(why),
            other => Broken::Engine(other),
        }
    }
}

/// One blob that is being written.
struct Ingest {
    requests: mpsc::Sender<content::WriteContentRequest>,
    answers: tonic::Streaming<content::WriteContentResponse>,
    engine: Engine,
    reference: String,
    image: String,
    digest: String,
}

impl Ingest {
    /// With how much of it is here; None: all of it, and it is under the lease now.
    async fn open(pull: &Pull<'_>, blob: &OciDescriptor, total: i64) -> Result<Option<(Self, i64)>, EngineError> {
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
    async fn abort(&self) {
        let abort = content::AbortRequest { r#ref: self.reference.clone() };
        // It is gone with its lease at the latest.
        let _ = content::content_client::ContentClient::new(self.engine.link()).abort(abort).await;
    }

    async fn write(&mut self, offset: i64, data: bytes::Bytes) -> Result<(), EngineError> {
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

    async fn commit(mut self, total: i64, labels: BTreeMap<String, String>) -> Result<(), EngineError> {
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

/// What a manifest keeps from being collected.
fn refs(manifest: &OciImageManifest, below: Option<&OciDescriptor>) -> BTreeMap<String, String> {
    let held = |kind: &str, digest: &String| (format!("containerd.io/gc.ref.content.{kind}"), digest.clone());
    match below {
        Some(below) => [held("m.0", &below.digest)].into(),
        None => {
            let layers = manifest.layers.iter().enumerate().map(|(at, l)| held(&format!("l.{at}"), &l.digest));
            layers.chain([held("config", &manifest.config.digest)]).collect()
        }
    }
}

fn of(descriptor: &OciDescriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.clone(),
        size: descriptor.size,
        ..types::Descriptor::default()
    }
}

fn parse<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|e| format!("its manifest is not understood: {e}"))
}

/// What kind of manifest it is: it says so itself, or it is seen from what it has.
fn media_type(text: &[u8]) -> Result<String, String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Any {
        schema_version: u32,
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let any: Any = parse(text)?;
    if any.schema_version != 2 {
        return Err(format!("its manifest is of version {}, only 2 is understood", any.schema_version));
    }
    Ok(any.media_type.unwrap_or_else(|| match any.manifests {
        Some(_) => "application/vnd.oci.image.index.v1+json".into(),
        None => "application/vnd.oci.image.manifest.v1+json".into(),
    }))
}

/// The image, if all of it is here.
pub(crate) async fn here(engine: &Engine, image: &Reference) -> Result<Option<Image>, EngineError> {
    let get = images::GetImageRequest { name: image.whole() };
    let target = match images::images_client::ImagesClient::new(engine.link()).get(get).await {
        Err(status) if status.code() == Code::NotFound => return Ok(None),
        other => other.map_err(engine.failed("look at an image"))?.into_inner().image.and_then(|i| i.target),
    };
    let Some(target) = target else { return Ok(None) };
    let Some(mut text) = read(engine, &target.digest).await? else { return Ok(None) };
    let wrong = |why: String| EngineError::image(image, why);
    let kind = media_type(&text).map_err(wrong)?;
    if kind.contains("index") || kind.contains("manifest.list") {
        let index: OciImageIndex = parse(&text).map_err(wrong)?;
        let chosen = choose(&index.manifests).map_err(wrong)?.digest.clone();
        match read(engine, &chosen).await? {
            Some(manifest) => text = manifest,
            None => return Ok(None),
        }
    }
    let manifest: OciImageManifest = parse(&text).map_err(wrong)?;
    let Some(text) = read(engine, &manifest.config.digest).await? else { return Ok(None) };
    let config: Config = parse(&text).map_err(wrong)?;
    let top = chain_ids(&config.rootfs.diff_ids).pop().unwrap_or_default();
    let stat = snapshots::StatSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: top.clone() };
    match snapshots::snapshots_client::SnapshotsClient::new(engine.link()).stat(stat).await {
        Ok(_) => Ok(Some(Image { name: image.whole(), digest: target.digest, config, top })),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(engine.failed("look at a snapshot")(status)),
    }
}

/// None: it is not here.
async fn read(engine: &Engine, digest: &str) -> Result<Option<Vec<u8>>, EngineError> {
    let mut client = content::content_client::ContentClient::new(engine.link()).max_decoding_message_size(LARGEST);
    let request = content::ReadContentRequest { digest: digest.into() };
    let failed = engine.failed("read content");
    let mut parts = match client.read(request).await {
        Err(status) if status.code() == Code::NotFound => return Ok(None),
        other => other.map_err(&failed)?.into_inner(),
    };
    let mut text = Vec::new();
    loop {
        match parts.message().await {
            Ok(Some(part)) => text.extend_from_slice(&part.data),
            Ok(None) => return Ok(Some(text)),
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(failed(status)),
        }
    }
}
