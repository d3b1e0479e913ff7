//! Manifests, and lists of them.

use oci_client::manifest::{OciDescriptor, OciImageManifest};
use std::collections::BTreeMap;

/// What a manifest keeps from being collected.
pub(crate) fn refs(manifest: &OciImageManifest, below: Option<&OciDescriptor>) -> BTreeMap<String, String> {
    let held = |kind: &str, digest: &String| (format!("containerd.io/gc.ref.content.{kind}"), digest.clone());
    match below {
        Some(below) => [held("m.0", &below.digest)].into(),
        None => {
            let layers = manifest.layers.iter().enumerate().map(|(at, l)| held(&format!("l.{at}"), &l.digest));
            layers.chain([held("config", &manifest.config.digest)]).collect()
        }
    }
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|e| format!("its manifest is not understood: {e}"))
}

/// What kind of manifest it is: it says so itself, or it is seen from what it has.
pub(crate) fn media_type(text: &[u8]) -> Result<String, String> {
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

/// Whether a manifest of this kind is a list, from which one is chosen.
pub(crate) fn is_list(kind: &str) -> bool {
    kind.contains("index") || kind.contains("manifest.list")
}
