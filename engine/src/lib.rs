//! Containers of images, by containerd: it is asked over its socket, in a namespace of our own.
//!
//! ```text
//! reference ─> registry (over hosts: hosts.toml says where and how) ─> pull ─> content, snapshots
//!                                                                               │
//! store: the images that are here               ingest: blobs, as they come               lease: holds what is being made
//!
//! Run, config of the image ─> spec (pure; users of its file system, seccomp) ─> fill (volumes) ─> container ─> task
//! ```

pub mod container;
mod copy;
mod error;
mod fill;
mod health;
mod hosts;
pub mod image;
mod ingest;
mod lease;
mod link;
mod manifest;
pub mod pull;
mod registry;
mod rootfs;
pub mod spec;
pub mod store;

pub use error::EngineError;
pub use link::{Engine, Settings};
pub use oci_client::{Reference, secrets::RegistryAuth};

/// Of containerd's own API, as far as it is used.
#[allow(clippy::all, clippy::pedantic, clippy::unwrap_used)]
mod api {
    tonic::include_proto!("api");
    pub use containerd::{
        services::{
            containers::v1 as containers, content::v1 as content, diff::v1 as diff, images::v1 as images,
            leases::v1 as leases, namespaces::v1 as namespaces, snapshots::v1 as snapshots, tasks::v1 as tasks,
            version::v1 as version,
        },
        types,
        v1::types as process,
    };
}
