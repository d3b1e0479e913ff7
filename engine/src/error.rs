use oci_client::errors::{OciDistributionError, OciErrorCode};
use std::path::PathBuf;

/// Why something could not be done with a container or an image. One sentence each, for whoever asked for it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("containerd does not answer at {}: {why}", .socket.display())]
    Silent { socket: PathBuf, why: String },
    #[error("containerd cannot {what}: {why}")]
    Refused { what: &'static str, why: String },
    #[error("image {reference:?}: {why}")]
    Image { reference: String, why: String },
    #[error("{}: {why}", .path.display())]
    Hosts { path: PathBuf, why: String },
    #[error("registries cannot be asked: {0}")]
    Client(String),
    #[error(
        "registries cannot be asked: this host has no CA certificates; on Debian they are in the package ca-certificates"
    )]
    NoAuthorities,
    #[error("user {user:?}: the image has no {missing}")]
    User { user: String, missing: String },
    #[error("containerd has lost how a program in a container ended")]
    Lost,
    #[error("the image names no program: give a command or an entry point")]
    NoProgram,
    #[error("the file system of the image: {0}")]
    Rootfs(std::io::Error),
    #[error(transparent)]
    Host(#[from] std::io::Error),
}

impl EngineError {
    pub(crate) fn image(reference: &impl ToString, why: impl ToString) -> Self {
        Self::Image { reference: reference.to_string(), why: why.to_string() }
    }

    /// Whether it is an image's registry that does not give it, or this host that cannot ask.
    pub fn is_of_registry(&self) -> bool {
        matches!(self, Self::Image { .. } | Self::NoAuthorities | Self::Client(_))
    }

    /// Whether containerd itself is not there, so that nothing is known of what it runs.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Silent { .. })
    }
}

/// What a registry's answer means for who asked for an image.
pub(crate) fn of_registry(error: &OciDistributionError) -> String {
    match error {
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            "the registry does not give it without other credentials".into()
        }
        OciDistributionError::RegistryError { envelope, .. } => {
            let has = |code: OciErrorCode| envelope.errors.iter().any(|e| e.code == code);
            if has(OciErrorCode::ManifestUnknown) || has(OciErrorCode::NameUnknown) || has(OciErrorCode::NotFound) {
                return "the registry has no such image".into();
            }
            if has(OciErrorCode::Unauthorized) || has(OciErrorCode::Denied) {
                return "the registry does not give it without other credentials".into();
            }
            let said: Vec<_> = envelope.errors.iter().map(|e| e.message.as_str()).collect();
            format!("the registry refuses: {}", said.join("; "))
        }
        OciDistributionError::ImageManifestNotFoundError(_) => "the registry has no such image".into(),
        OciDistributionError::ServerError { code: 404, .. } => "the registry has no such image".into(),
        OciDistributionError::ServerError { code, .. } => format!("the registry answers with status {code}"),
        OciDistributionError::DigestError(error) => format!("the registry gives something else: {error}"),
        OciDistributionError::RequestError(error) => chain(error),
        other => other.to_string(),
    }
}

/// With what is below it: what is on top says the least.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        next = error.source();
    }
    text
}
