//! What operators ask of the cluster.
//!
//! ```text
//! service   the RPCs; a follower passes them on to the leader      find      objects by id, name, beginning of an id
//! check     whether a spec can be accepted                         progress  how far a service is from what is wanted
//! ca        certificates for joiners                                inspect   a network with all that is on it
//! removal   what goes when something is removed                     nodes     what may be changed of nodes
//! stale     reads that this manager answers by itself               autolock  what locks managers that start
//! users     people with certificates                               changes   what may be changed of services
//! payloads  secrets and configs                                    cluster   what may be changed of all of it
//! roots     the root certificate
//! ```

mod autolock;
mod ca;
pub(crate) mod changes;
pub(crate) mod check;
mod cluster;
mod explain;
pub(crate) mod find;
mod forward;
mod inspect;
pub(crate) mod nodes;
pub(crate) mod payloads;
mod progress;
pub(crate) mod removal;
pub(crate) mod roots;
mod service;
pub(crate) mod stale;
#[cfg(test)]
mod tests;
mod users;

pub use autolock::AutolockError;
pub use ca::CaService;
#[cfg(test)]
pub(crate) use changes::scale;
pub use check::SpecError;
pub use find::FindError;
pub use forward::Forward;
pub use nodes::NodeError;
pub(crate) use nodes::remove as remove_node;
pub use payloads::PayloadsService;
pub use roots::RootsService;
pub use service::ControlService;
pub use stale::HEADER as STALE_HEADER;
pub use users::UsersService;

use crate::store::WriteError;
use tonic::Status;

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Autolock(#[from] AutolockError),
}

impl From<ControlError> for Status {
    fn from(e: ControlError) -> Status {
        let text = e.to_string();
        match e {
            ControlError::Find(FindError::None { .. }) => Status::not_found(text),
            ControlError::Spec(SpecError::Find(FindError::None { .. }) | SpecError::UnknownTarget(_)) => {
                Status::not_found(text)
            }
            ControlError::Node(NodeError::Find(FindError::None { .. })) => Status::not_found(text),
            ControlError::Spec(SpecError::NoPrevious(_)) => Status::failed_precondition(text),
            ControlError::Spec(_) | ControlError::Find(_) | ControlError::Node(NodeError::Limit(_)) => {
                Status::invalid_argument(text)
            }
            ControlError::Node(_) | ControlError::Autolock(_) => Status::failed_precondition(text),
            ControlError::Write(WriteError::Conflict(_)) => Status::aborted(text),
            ControlError::Write(_) => Status::unavailable(text),
        }
    }
}
