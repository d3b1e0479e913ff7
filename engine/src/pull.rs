//! Brings an image here: its manifests and layers into containerd's content, unpacked into its snapshots.
//!
//! All of it is made under a lease, which holds it until the image's own record does. Whatever fails half way is collected as
//! garbage when the lease is given back, at the latest when it expires.

use crate::{
    Engine, EngineError, Reference, RegistryAuth,
    api::{content, diff, images, snapshots, types},
    image::{Config, Image, chain_ids, choose, digest},
    ingest::Ingest,
    lease::Lease,
    link::Link,
    manifest::{is_list, media_type, parse, refs},
    registry::{Fault, Registry},
    store::here,
};
use bytes::BytesMut;
use bytesize::ByteSize;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use oci_client::manifest::{OciDescriptor, OciImageIndex, OciImageManifest};
use std::{collections::BTreeMap, fmt, time::Duration};
use tokio::sync::watch;
use tonic::{Code, metadata::MetadataValue};

pub(crate) const SNAPSHOTTER: &str = "overlayfs";
/// Bytes that containerd is given at once: each time it answers.
pub(crate) const CHUNK: usize = 1 << 20;
/// Layers that are fetched at once, as docker does.
const AT_ONCE: usize = 3;
/// Times that a layer is gone on with after its registry broke off.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);
const TELL_EVERY: Duration = Duration::from_millis(100);
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

impl fmt::Display for Progress {
    /// In steps of a tenth: some write down each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Progress { unpacking: true, .. } => f.write_str("unpacking"),
            Progress { of: 0, .. } => f.write_str("asking the registry"),
            Progress { done, of, .. } => {
                let tenths = done.saturating_mul(10) / of;
                write!(f, "pulling, {} % of {}", tenths * 10, ByteSize::b(*of))
            }
        }
    }
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

pub(crate) struct Pull<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) image: &'a Reference,
    registry: Registry,
    pub(crate) lease: String,
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
        let _alone = self.turn(&image.whole()).lock_owned().await;
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

    /// The same, and tells how far it is, no more often than anybody reads.
    ///
    /// # Errors
    /// The same.
    pub async fn pull_telling(
        &self,
        image: &Reference,
        auth: RegistryAuth,
        mut tell: impl FnMut(Progress),
    ) -> Result<Image, EngineError> {
        let (progress, mut seen) = watch::channel(Progress::default());
        let telling = async {
            while seen.changed().await.is_ok() {
                tell(*seen.borrow_and_update());
                tokio::time::sleep(TELL_EVERY).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            pulled = self.pull(image, auth, &progress) => pulled,
            never = telling => never,
        }
    }
}

impl Pull<'_> {
    pub(crate) fn link(&self) -> Link {
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
        if !is_list(&kind) {
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

fn of(descriptor: &OciDescriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.clone(),
        size: descriptor.size,
        ..types::Descriptor::default()
    }
}
