//! The way to containerd.

use crate::{
    EngineError,
    api::{namespaces, version},
    error::chain,
};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::net::UnixStream;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// Bytes of an answer: lists hold what every container is.
pub(crate) const LARGEST: usize = 64 << 20;

#[derive(Debug, Clone)]
pub struct Settings {
    pub socket: PathBuf,
    /// Ours in containerd.
    pub namespace: String,
    /// Whose containers are ours there: others may use the same namespace.
    pub owner: String,
    /// Holds a directory with `hosts.toml` for each registry.
    pub hosts: PathBuf,
    /// The program that makes containers, as the OCI's runtime specification has it. None: containerd's own choice, runc.
    pub runtime: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            socket: "/run/containerd/containerd.sock".into(),
            namespace: "heddle".into(),
            owner: String::new(),
            hosts: "/etc/containerd/certs.d".into(),
            runtime: None,
        }
    }
}

/// One containerd. Cheap to clone; connects when it is asked, and again after it was gone.
#[derive(Debug, Clone)]
pub struct Engine {
    channel: Channel,
    pub(crate) settings: Arc<Settings>,
    namespace: MetadataValue<Ascii>,
    /// One for each image that is pulled or removed: who wants the same waits.
    pulls: Arc<Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

/// Says in which namespace, and under which lease.
#[derive(Debug, Clone)]
pub(crate) struct Within {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Within {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert("containerd-lease", lease.clone());
        }
        Ok(request)
    }
}

pub(crate) type Link = InterceptedService<Channel, Within>;

impl Engine {
    /// # Errors
    /// A namespace that no header can hold.
    pub fn new(settings: Settings) -> Result<Self, EngineError> {
        let namespace = settings.namespace.parse();
        let namespace = namespace.map_err(|_| EngineError::image(&settings.namespace, "no name for a namespace"))?;
        let socket = settings.socket.clone();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://containerd").connect_with_connector_lazy(connect);
        Ok(Self { channel, settings: settings.into(), namespace, pulls: Arc::default() })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn link(&self) -> Link {
        self.under(None)
    }

    pub(crate) fn under(&self, lease: Option<MetadataValue<Ascii>>) -> Link {
        InterceptedService::new(self.channel.clone(), Within { namespace: self.namespace.clone(), lease })
    }

    /// Whoever has the lock of it is the only one who changes what has this name.
    pub(crate) fn turn(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.retain(|_, turn| Arc::strong_count(turn) > 1);
        pulls.entry(name.to_owned()).or_default().clone()
    }

    /// What a failed call means.
    pub(crate) fn failed(&self, what: &'static str) -> impl Fn(Status) -> EngineError + '_ {
        move |status| {
            // What containerd says itself has no source.
            match std::error::Error::source(&status) {
                Some(_) => EngineError::Silent { socket: self.settings.socket.clone(), why: cause(&status) },
                None => EngineError::Refused { what, why: status.message().to_owned() },
            }
        }
    }

    /// Which containerd it is.
    ///
    /// # Errors
    /// [`EngineError::Silent`] if there is none.
    pub async fn version(&self) -> Result<String, EngineError> {
        let answer = version::version_client::VersionClient::new(self.link()).version(()).await;
        Ok(answer.map_err(self.failed("say its version"))?.into_inner().version)
    }

    /// Our namespace is there when this returns.
    pub(crate) async fn ready(&self) -> Result<(), EngineError> {
        let namespace = namespaces::Namespace { name: self.settings.namespace.clone() };
        let create = namespaces::CreateNamespaceRequest { namespace: Some(namespace) };
        match namespaces::namespaces_client::NamespacesClient::new(self.link()).create(create).await {
            Err(status) if status.code() != Code::AlreadyExists => Err(self.failed("make a namespace")(status)),
            _ => Ok(()),
        }
    }
}

/// The innermost error: "No such file or directory" and not "transport error".
fn cause(status: &Status) -> String {
    let mut error: &dyn std::error::Error = status;
    while let Some(next) = error.source() {
        error = next;
    }
    chain(error)
}
