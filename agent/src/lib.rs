//! The agent of one host: runs its tasks and makes its kernel match what the managers want.

pub mod dataplane;
pub mod kernel;
pub mod reconciler;
