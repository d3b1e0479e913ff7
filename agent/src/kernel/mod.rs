//! The kernel as the data plane needs it: look, change, be told of changes. Makes no choices.

pub mod linux;

use crate::dataplane::{
    state::{KernelState, Space, SpaceState},
    step::Step,
};
use std::{future::Future, io};

/// What went wrong with a kernel object.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {object} in {space}")]
pub struct KernelError {
    /// Such as `add link`.
    pub operation: &'static str,
    pub object: String,
    pub space: Space,
    #[source]
    pub source: io::Error,
}

/// Reads and changes the kernel's objects that are ours. Foreign objects are neither listed nor touched.
pub trait Kernel: Send + Sync {
    /// All of our objects, from the kernel itself. A part that cannot be read is an error, never an empty list.
    fn observe(&self) -> impl Future<Output = Result<KernelState, KernelError>> + Send;

    /// Our objects in the host's namespace alone.
    fn observe_host(&self) -> impl Future<Output = Result<SpaceState, KernelError>> + Send;

    /// Applies steps in order and stops at the first failure: how many were applied, and the failure. May send
    /// independent neighbouring steps (forwarding entries, neighbours) together.
    fn apply(&self, steps: &[Step]) -> impl Future<Output = Result<(), (usize, KernelError)>> + Send;
}
