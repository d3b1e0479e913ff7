//! The images that are here, by their names.

use crate::{
    Engine, EngineError, Reference,
    api::{containers, content, images, snapshots, types},
    image::{Config, Image, chain_ids, choose},
    link::LARGEST,
    manifest::{is_list, media_type, parse},
    pull::SNAPSHOTTER,
};
use images::images_client::ImagesClient;
use oci_client::manifest::{OciImageIndex, OciImageManifest};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};
use tokio::sync::OwnedMutexGuard;
use tonic::Code;

/// What containerd has under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub name: String,
    /// Of its manifest, or of the list that it was chosen from.
    pub digest: String,
    /// Since the epoch: when it was made or, if it does not say, when it came here. Zero: before that, or not known.
    pub created: Duration,
    /// All that it consists of for this machine, by digest: bytes as they were sent, so of layers that are compressed.
    pub blobs: BTreeMap<String, u64>,
    /// Its configuration as it says it; null if that is not here.
    pub config: Value,
}

impl Stored {
    pub fn size(&self) -> u64 {
        self.blobs.values().sum()
    }
}

/// An image that nobody pulls or removes while this lives.
pub struct Alone {
    name: String,
    _turn: OwnedMutexGuard<()>,
}

struct Content {
    blobs: BTreeMap<String, u64>,
    config: Vec<u8>,
}

impl Engine {
    fn images_client(&self) -> ImagesClient<crate::link::Link> {
        ImagesClient::new(self.link()).max_decoding_message_size(LARGEST)
    }

    /// The image, if it is here, whole and unpacked. No registry is asked.
    ///
    /// # Errors
    /// What containerd says.
    pub async fn image(&self, image: &Reference) -> Result<Option<Image>, EngineError> {
        here(self, image).await
    }

    /// All of the namespace, those of others too, in order of their names.
    ///
    /// # Errors
    /// What containerd says.
    pub async fn images(&self) -> Result<Vec<Stored>, EngineError> {
        let answer = self.images_client().list(images::ListImagesRequest {}).await;
        let mut all = Vec::new();
        for image in answer.map_err(self.failed("list images"))?.into_inner().images {
            let target = image.target.unwrap_or_default();
            let content = match content(self, &image.name, &target).await {
                // Whatever is wrong with one, the others are there.
                Err(EngineError::Image { .. }) => None,
                other => other?,
            };
            let (blobs, config) = content.map(|c| (c.blobs, c.config)).unwrap_or_default();
            let config: Value = serde_json::from_slice(&config).unwrap_or_default();
            let made = config["created"].as_str().and_then(|at| at.parse::<prost_types::Timestamp>().ok());
            let at = made.or(image.created_at).and_then(|at| SystemTime::try_from(at).ok());
            let created = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
            all.push(Stored { name: image.name, digest: target.digest, created, blobs, config });
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// The containers of the namespace, those of others too: each with the name of its image.
    ///
    /// # Errors
    /// What containerd says.
    pub async fn users(&self) -> Result<Vec<(String, String)>, EngineError> {
        let answer = self.containers().list(containers::ListContainersRequest {}).await;
        let all = answer.map_err(self.failed("list containers"))?.into_inner().containers;
        Ok(all.into_iter().map(|container| (container.id, container.image)).collect())
    }

    /// None: it is being pulled or removed.
    pub fn alone(&self, name: &str) -> Option<Alone> {
        let turn = self.turn(name).try_lock_owned().ok()?;
        Some(Alone { name: name.to_owned(), _turn: turn })
    }

    /// Forgets a name. What it had is gone when this returns, unless something else is made of it.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn remove_image(&self, image: Alone) -> Result<(), EngineError> {
        let delete = images::DeleteImageRequest { name: image.name.clone(), sync: true };
        let answer = self.images_client().delete(delete).await;
        answer.map(drop).map_err(self.failed("remove an image"))
    }
}

/// The image, if all of it is here.
pub(crate) async fn here(engine: &Engine, image: &Reference) -> Result<Option<Image>, EngineError> {
    let name = image.whole();
    let get = images::GetImageRequest { name: name.clone() };
    let target = match engine.images_client().get(get).await {
        Err(status) if status.code() == Code::NotFound => return Ok(None),
        other => other.map_err(engine.failed("look at an image"))?.into_inner().image.and_then(|i| i.target),
    };
    let Some(target) = target else { return Ok(None) };
    let Some(content) = content(engine, &name, &target).await? else { return Ok(None) };
    let config: Config = parse(&content.config).map_err(|why| EngineError::image(image, why))?;
    let top = chain_ids(&config.rootfs.diff_ids).pop().unwrap_or_default();
    let stat = snapshots::StatSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: top.clone() };
    match snapshots::snapshots_client::SnapshotsClient::new(engine.link()).stat(stat).await {
        Ok(_) => Ok(Some(Image { name, digest: target.digest, config, top })),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(engine.failed("look at a snapshot")(status)),
    }
}

/// What an image consists of. None: its manifest or its configuration is not here.
async fn content(engine: &Engine, name: &str, target: &types::Descriptor) -> Result<Option<Content>, EngineError> {
    let wrong = |why: String| EngineError::image(&name, why);
    let size = |size: i64| u64::try_from(size).unwrap_or(0);
    let mut blobs = BTreeMap::from([(target.digest.clone(), size(target.size))]);
    let Some(mut text) = read(engine, &target.digest).await? else { return Ok(None) };
    if is_list(&media_type(&text).map_err(wrong)?) {
        let index: OciImageIndex = parse(&text).map_err(wrong)?;
        let chosen = choose(&index.manifests).map_err(wrong)?;
        blobs.insert(chosen.digest.clone(), size(chosen.size));
        match read(engine, &chosen.digest).await? {
            Some(manifest) => text = manifest,
            None => return Ok(None),
        }
    }
    let manifest: OciImageManifest = parse(&text).map_err(wrong)?;
    let parts = manifest.layers.iter().chain([&manifest.config]);
    blobs.extend(parts.map(|part| (part.digest.clone(), size(part.size))));
    Ok(read(engine, &manifest.config.digest).await?.map(|config| Content { blobs, config }))
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
