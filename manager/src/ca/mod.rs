//! The cluster's certificate authority.
//!
//! ```text
//! token     what lets a machine join: a digest of the root, and a secret
//! issue     certificates of nodes and people, by the root's key         former    whose certificate that was, after its end
//! rotation  another root in place of the one before
//! ```

mod former;
mod issue;
pub mod rotation;
mod token;

pub use former::former;
pub use issue::{certificate, issue, issue_user, new_root, user_certificate};
pub use token::{Token, new_tokens, role_of, secret, token_text};

#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("the token is not of the form HDLTKN-1-<digest>-<secret>: copy it whole from `heddle join-token`")]
    TokenForm,
    #[error(
        "the token is for another cluster, or for the root certificate that this one had before: get a new one from `heddle join-token`"
    )]
    OtherCluster,
    #[error("the token was replaced or is wrong: get a new one from `heddle join-token worker|manager`")]
    TokenRefused,
    #[error("the old certificate renews nothing: {0}")]
    Former(&'static str),
    #[error("the certificate request is refused")]
    Request(#[source] rcgen::Error),
    #[error("the root key cannot sign")]
    Sign(#[source] rcgen::Error),
}
