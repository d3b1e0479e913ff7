//! What both halves of a daemon stand on: who the caller is and what it may call, mTLS with replaceable credentials,
//! encryption of what is kept, telemetry. Knows of services no more than who may call them on what, and nothing of networks or kernels.

pub mod access;
pub mod caller;
#[cfg(test)]
mod fuzz;
pub mod metrics;
pub mod seal;
pub mod telemetry;
pub mod tls;
