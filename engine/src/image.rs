//! What an image says of itself, and what is here of it.

use crate::{Reference, RegistryAuth, health::Healthcheck};
use heddle_model::{container::Mount, image::ImageName, login::Login};
use oci_client::manifest::ImageIndexEntry;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// The configuration of an image, as far as it is used (config.md of the OCI's image format).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Config {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default, deserialize_with = "or_default")]
    pub config: Program,
    #[serde(default, deserialize_with = "or_default")]
    pub rootfs: Layers,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Program {
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    pub stop_signal: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub healthcheck: Healthcheck,
    /// What its commands of a shell are handed to. Empty: `/bin/sh -c`.
    #[serde(deserialize_with = "or_default")]
    pub shell: Vec<String>,
    /// By path in the image.
    #[serde(deserialize_with = "or_default")]
    pub volumes: BTreeMap<String, Value>,
}

impl Program {
    /// Where the image asks for a volume, and nothing of `mounts` lies.
    pub fn open_volumes(&self, mounts: &[Mount]) -> BTreeSet<String> {
        let usable = |path: &str| path.starts_with('/') && path.len() > 1 && !path.split('/').any(|part| part == "..");
        let plain = |path: &str| path.trim_end_matches('/').to_owned();
        let is_open = |path: &String| !mounts.iter().any(|mount| plain(&mount.target) == *path);
        self.volumes.keys().map(|path| plain(path)).filter(|path| usable(path) && is_open(path)).collect()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Layers {
    /// Digests of what the layers are when they are not compressed, the lowest first.
    #[serde(default)]
    pub diff_ids: Vec<String>,
}

/// Builders write null for an empty list.
pub(crate) fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// An image that is here, whole and unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// As containerd calls it.
    pub name: String,
    /// Of its manifest, or of the list that it was chosen from.
    pub digest: String,
    pub config: Config,
    /// The snapshot of its uppermost layer.
    pub top: String,
}

/// The name of the snapshot in which all of these layers are, one above the other (image-spec, "Layer ChainID").
pub fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff in diff_ids {
        let next = match chain.last() {
            None => diff.clone(),
            Some(below) => digest(format!("{below} {diff}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// How a registry is asked for an image.
pub fn auth(login: Option<&Login>) -> RegistryAuth {
    let basic = |login: &Login| RegistryAuth::Basic(login.username.clone(), login.password.0.clone());
    login.map_or(RegistryAuth::Anonymous, basic)
}

/// The image of a name, and the tag that is meant where none is said.
pub fn reference(name: &ImageName) -> Reference {
    let parts = name.parts();
    let path = if parts.library { format!("library/{}", parts.path) } else { parts.path.to_owned() };
    let (registry, tag) = (parts.registry.to_owned(), parts.tag.map(str::to_owned));
    match (tag, parts.digest.map(str::to_owned)) {
        (Some(tag), Some(digest)) => Reference::with_tag_and_digest(registry, path, tag, digest),
        (None, Some(digest)) => Reference::with_digest(registry, path, digest),
        (tag, None) => Reference::with_tag(registry, path, tag.unwrap_or_else(|| "latest".into())),
    }
}

/// This machine's processor, as images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// The one of a list that runs here; else what it has.
pub(crate) fn choose(entries: &[ImageIndexEntry]) -> Result<&ImageIndexEntry, String> {
    let of = |entry: &ImageIndexEntry| {
        let platform = entry.platform.as_ref()?;
        Some((platform.os.to_string(), platform.architecture.to_string()))
    };
    let wanted = ("linux".to_owned(), architecture().to_owned());
    entries.iter().find(|entry| of(entry).as_ref() == Some(&wanted)).ok_or_else(|| {
        // What only attests something of another entry runs nowhere.
        let known = entries.iter().filter_map(of).filter(|(os, _)| os != "unknown");
        let mut known: Vec<_> = known.map(|(os, arch)| format!("{os}/{arch}")).collect();
        known.dedup();
        format!("there is none for linux/{}, only for {}", architecture(), known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_image_that_docker_means() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for name in
            ["nginx", "nginx:1", "a/b", "host:5000/x:2", &format!("nginx:1@{digest}"), &format!("h.x/y@{digest}")]
        {
            // Another parser of the same grammar, which takes 24 MB for it.
            assert_eq!(reference(&name.parse().unwrap()), name.parse::<Reference>().unwrap(), "{name}");
        }
    }

    #[test]
    fn a_chain_is_named_by_all_that_is_in_it() {
        let layers = ["sha256:a", "sha256:b", "sha256:c"].map(String::from);
        let chain = chain_ids(&layers);
        assert_eq!(chain[0], "sha256:a");
        assert_eq!(chain[1], digest(b"sha256:a sha256:b"));
        assert_eq!(chain[2], digest(format!("{} sha256:c", chain[1]).as_bytes()));
        assert!(chain_ids(&[]).is_empty());
    }

    #[test]
    fn a_config_may_leave_out_nearly_everything() {
        let text = r#"{"config":{"Env":null,"Cmd":["nginx"],"Entrypoint":null,"StopSignal":"SIGQUIT",
            "User":null,"Volumes":null,"Healthcheck":{"Test":["CMD","true"]}},"rootfs":{"type":"layers","diff_ids":["sha256:a"]}}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!((config.config.cmd.as_slice(), config.config.env.len()), (["nginx".to_owned()].as_slice(), 0));
        assert_eq!(config.config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
    }

    #[test]
    fn volumes_are_asked_for_where_nothing_is_mounted() {
        let text = r#"{"Volumes":{"/data":{},"/data/":{},"/srv/../x":{},"/tmp":{},"/":{},"relative":{}}}"#;
        let program: Program = serde_json::from_str(text).unwrap();
        let mounts = ["type=tmpfs,target=/tmp/".parse().unwrap(), "type=tmpfs,target=/other".parse().unwrap()];
        assert_eq!(program.open_volumes(&mounts), ["/data".to_owned()].into());
        assert_eq!(program.open_volumes(&[]), ["/data".to_owned(), "/tmp".to_owned()].into());
    }

    #[test]
    fn an_image_of_another_processor_is_refused_with_what_there_is() {
        let entry = |os: &str, arch: &str| {
            let text = format!(
                r#"{{"mediaType":"m","digest":"sha256:{arch}","size":1,"platform":{{"os":"{os}","architecture":"{arch}"}}}}"#
            );
            serde_json::from_str::<ImageIndexEntry>(&text).unwrap()
        };
        let all = [entry("linux", "s390x"), entry("unknown", "unknown"), entry("linux", architecture())];
        assert_eq!(choose(&all).unwrap().digest, format!("sha256:{}", architecture()));
        let said = choose(&all[..2]).unwrap_err();
        assert!(said.ends_with("only for linux/s390x"), "{said}");
    }
}
