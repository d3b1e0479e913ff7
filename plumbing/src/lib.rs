//! What both halves of a daemon stand on: who the caller is, mTLS with replaceable credentials, telemetry.
//! Knows nothing of services, networks or kernels.

pub mod caller;
pub mod telemetry;
pub mod tls;
