//! Images as callers see them: in docker's shape, and while they are pulled.

use super::document::moment;
use heddle_engine::{
    Engine, EngineError,
    image::{auth, reference},
    store::Stored,
};
use heddle_model::{Timestamp, image::ImageName, login::Login};
use heddle_proto::v1;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tokio::sync::mpsc;
use tonic::Status;

type Sender = mpsc::Sender<Result<v1::PullImageProgress, Status>>;

/// Milliseconds since the epoch.
fn created(stored: &Stored) -> u64 {
    u64::try_from(stored.created.as_millis()).unwrap_or_default()
}

pub fn summary(stored: Stored) -> v1::Image {
    let (size, created_ms) = (stored.size(), created(&stored));
    v1::Image { name: stored.name, digest: stored.digest, size, created_ms }
}

/// With all of its names. What it says of its program is shown as it says it.
pub fn document(stored: &Stored, names: &[String]) -> Value {
    let names: Vec<ImageName> = names.iter().filter_map(|name| name.parse().ok()).collect();
    let of = |name: &ImageName| name.parts().repository();
    let tags: BTreeSet<String> =
        names.iter().filter_map(|name| Some(format!("{}:{}", of(name), name.parts().tag?))).collect();
    let digests: BTreeSet<String> = names.iter().map(|name| format!("{}@{}", of(name), stored.digest)).collect();
    let config = &stored.config;
    json!({
        "Id": stored.digest,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": moment(Timestamp(created(stored))),
        "Size": stored.size(),
        "Os": config["os"],
        "Architecture": config["architecture"],
        "Variant": config["variant"],
        "Config": config["config"],
        "RootFS": { "Type": "layers", "Layers": config["rootfs"]["diff_ids"] },
    })
}

/// What is to be pulled, and what its registry is shown.
pub struct Wish {
    pub image: ImageName,
    pub login: Option<Login>,
}

/// Tells how far it is, and at last the digest. It ends when nobody listens any more, and leaves nothing then.
pub async fn pull(engine: Engine, wish: Wish, send: Sender, refused: fn(EngineError) -> Status) {
    let tell = |progress: heddle_engine::pull::Progress| {
        let heddle_engine::pull::Progress { done, of, unpacking } = progress;
        // What is told late may be left out.
        let _ = send.try_send(Ok(v1::PullImageProgress { done, of, unpacking, digest: String::new() }));
    };
    let image = reference(&wish.image);
    let pulled = tokio::select! {
        pulled = engine.pull_telling(&image, auth(wish.login.as_ref()), tell) => pulled,
        () = send.closed() => return,
    };
    let last = pulled.map(|image| v1::PullImageProgress { digest: image.digest, ..v1::PullImageProgress::default() });
    // Who has gone meanwhile has the image all the same.
    let _ = send.send(last.map_err(refused)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_shown_in_dockers_shape_with_all_its_names() {
        let config = json!({"os": "linux", "architecture": "amd64", "config": {"User": "www", "Cmd": ["x"]}, "rootfs": {"diff_ids": ["sha256:l"]}});
        let digest = format!("sha256:{}", "a".repeat(64));
        let blobs = [("m".to_owned(), 1), ("l".to_owned(), 9)].into();
        let (name, created) = ("docker.io/library/x:1".to_owned(), std::time::Duration::from_secs(1));
        let stored = Stored { name, digest: digest.clone(), created, blobs, config };
        let names = ["docker.io/library/x:1".to_owned(), format!("h.x/x:1@{digest}"), format!("h.x/x@{digest}")];
        let document = document(&stored, &names);
        assert_eq!(document["RepoTags"], json!(["h.x/x:1", "x:1"]));
        assert_eq!(document["RepoDigests"], json!([format!("h.x/x@{digest}"), format!("x@{digest}")]));
        assert_eq!((&document["Size"], &document["Config"]["User"]), (&json!(10), &json!("www")));
        assert_eq!(document["Created"], "1970-01-01T00:00:01Z");
    }
}
