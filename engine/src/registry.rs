//! Asks the hosts of a registry, one after the other.

use crate::{
    EngineError,
    error::of_registry,
    hosts::{Host, hosts},
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream::BoxStream};
use oci_client::{
    Client, Reference,
    client::{BlobResponse, ClientConfig},
    errors::{DigestError, OciDistributionError},
    manifest::OciDescriptor,
    secrets::RegistryAuth,
};
use std::{path::Path, time::Duration};

/// A registry that says nothing for so long is not waited for.
const SILENCE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);

/// What is asked for, first of all.
pub const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

pub struct Registry {
    sources: Vec<Source>,
    auth: RegistryAuth,
}

struct Source {
    host: Host,
    client: Client,
}

impl Source {
    fn new(host: Host) -> Result<Self, EngineError> {
        // Without any the client panics, whomever it is to ask.
        if rustls_native_certs::load_native_certs().certs.is_empty() {
            return Err(EngineError::NoAuthorities);
        }
        // Somebody may have done so before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ClientConfig {
            protocol: host.protocol(),
            accept_invalid_certificates: host.skip_verify,
            extra_root_certificates: host.certificates()?,
            read_timeout: Some(SILENCE),
            connect_timeout: Some(CONNECT),
            user_agent: concat!("heddle/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|e| EngineError::Client(of_registry(&e)))?;
        Ok(Self { client, host })
    }

    /// The image as it is called there.
    fn named(&self, image: &Reference) -> Reference {
        let mut image = image.clone();
        if let Some(name) = self.host.name.as_ref().filter(|name| *name != image.registry()) {
            image.set_mirror_registry(name.clone());
        }
        image
    }
}

/// Part of a blob: from where on, and the bytes.
pub struct Part {
    pub from: u64,
    pub bytes: BoxStream<'static, Result<Bytes, Fault>>,
}

/// What was wrong with a blob as it came.
#[derive(Debug)]
pub enum Fault {
    /// There may be more of it.
    BrokeOff(String),
    /// All of it came, and was another one.
    Other(String),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        if let Some(other) = error.get_ref().and_then(|e| e.downcast_ref::<DigestError>()) {
            return Self::Other(format!("the registry gives something else: {other}"));
        }
        let mut inner: &dyn std::error::Error = &error;
        while let Some(next) = inner.source() {
            inner = next;
        }
        Self::BrokeOff(format!("the registry broke off: {inner}"))
    }
}

impl Registry {
    pub fn of(image: &Reference, dir: &Path, auth: RegistryAuth) -> Result<Self, EngineError> {
        let sources = hosts(dir, image.registry())?.into_iter().map(Source::new).collect::<Result<_, _>>()?;
        Ok(Self { sources, auth })
    }

    /// Each is asked until one answers, beginning with the one after so many; what the last one said counts.
    async fn ask<T>(
        &self,
        image: &Reference,
        resolves: bool,
        after: u32,
        call: impl for<'a> Fn(&'a Client, &'a Reference) -> BoxFuture<'a, Result<T, OciDistributionError>>,
    ) -> Result<T, EngineError> {
        let mut why = "no host of its registry is asked for it".to_owned();
        let count = self.sources.len();
        let sources = self.sources.iter().cycle().skip(after as usize % count.max(1)).take(count);
        for source in sources.filter(|s| s.host.resolves || !resolves) {
            let there = source.named(image);
            // Credentials are the registry's, and no mirror's.
            let auth = if source.host.own { &self.auth } else { &RegistryAuth::Anonymous };
            let answer = async {
                source.client.store_auth_if_needed(there.resolve_registry(), auth).await;
                call(&source.client, &there).await
            };
            match answer.await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    why = of_registry(&error);
                    tracing::debug!(host = source.host.name, image = %image, why, "a registry's host has no answer");
                }
            }
        }
        Err(EngineError::image(image, why))
    }

    /// A manifest, or a list of some; and its digest, which it has.
    pub async fn manifest(&self, image: &Reference) -> Result<(Bytes, String), EngineError> {
        fn call<'a>(
            client: &'a Client,
            image: &'a Reference,
        ) -> BoxFuture<'a, Result<(Bytes, String), OciDistributionError>> {
            client.pull_manifest_raw(image, &RegistryAuth::Anonymous, &MANIFESTS).boxed()
        }
        self.ask(image, image.digest().is_none(), 0, call).await
    }

    /// From a byte on, or from the first if the registry cannot do that. Another try begins with another host.
    pub async fn blob(
        &self,
        image: &Reference,
        blob: &OciDescriptor,
        from: u64,
        tries: u32,
    ) -> Result<Part, EngineError> {
        // An image does not say where else a host asks for its layers.
        let blob = OciDescriptor { urls: None, ..blob.clone() };
        self.ask(image, false, tries, move |client, image| part(client, image, blob.clone(), from).boxed()).await
    }
}

async fn part(
    client: &Client,
    image: &Reference,
    blob: OciDescriptor,
    from: u64,
) -> Result<Part, OciDistributionError> {
    let (from, stream) = match from {
        0 => (0, client.pull_blob_stream(image, &blob).await?),
        _ => match client.pull_blob_stream_partial(image, &blob, from, None).await? {
            BlobResponse::Full(stream) => (0, stream),
            BlobResponse::Partial(stream) => (from, stream),
        },
    };
    Ok(Part { from, bytes: stream.stream.map_err(Fault::from).boxed() })
}
