//! mTLS between the daemons of a cluster: TLS 1.3, our own CA, role in the certificate.
//!
//! ```text
//! credentials   key, certificate and root of this node; replaceable while running
//! verify        what a certificate must say to be a node's, or a manager's server
//! server        incoming connections as a stream for tonic, each with its Caller
//! client        channels to managers; the unverified first contact of a joiner
//! ```

mod client;
mod credentials;
mod server;
mod verify;

pub use client::{JoinError, dial, dial_pinned, dial_session, dial_unix, dial_user, fetch_root};
pub use credentials::{Credentials, CredentialsError, csr, new_key_and_csr, write_private};
pub use server::{Conn, incoming, incoming_unix, listen};
pub use verify::{CLOCK_SKEW, Life, MANAGER_NAME, USER_NAME, WORKER_NAME, identity_of, life_of, root_digest, user_of};

use std::sync::Arc;

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
