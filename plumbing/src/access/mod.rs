//! What each caller may call, decided in one place before any service sees the request.
//!
//! ```text
//! connection ─ Caller ─> guard ── table: who may call this method?
//!                          │  └─── Standing: does the caller's certificate still count?
//!                          └─> the service, which finds the Caller in the request
//! ```
//!
//! What changes something is written to the log, at target `audit`: who asked for it, what it is about, and what came of it.
//!
//! A manager that passes a request on says for whom; whoever is named there must be admitted, too.

mod guard;
mod object;
mod table;

pub use guard::{Guard, on_behalf, server};
#[cfg(test)]
pub(crate) use guard::{behalf_of, behalf_text};
pub use object::Object;
pub use table::{row, rows};

use crate::caller::Caller;
use heddle_model::cluster::Role;
use std::sync::Arc;
use tonic::Status;

/// Which callers an RPC admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Anyone,
    /// Any node of the cluster.
    Member,
    Manager,
    /// Root of this host, a person with a certificate, or a manager that passes on what they asked.
    Operator,
    /// Root of this host, or a manager that passes on what it asked.
    Administrator,
    /// Root of this host.
    Local,
}

/// Whether an RPC changes what operators care about, and is written down with its caller and what it is about.
#[derive(Debug, Clone, Copy)]
pub enum Effect {
    Reads,
    Changes(Object),
}

/// What is said of one RPC.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// With its package.
    pub service: &'static str,
    pub method: &'static str,
    pub access: Access,
    pub effect: Effect,
}

/// Whether the cluster still stands by the certificate of a node or person, for an RPC of this access.
pub type Standing = Arc<dyn Fn(Access, &Caller) -> Result<(), Status> + Send + Sync>;

impl Access {
    pub fn admits(self, caller: &Caller) -> bool {
        let local = *caller == Caller::Local;
        let manager = matches!(caller, Caller::Node(n) if n.role == Role::Manager);
        match self {
            Access::Anyone => true,
            Access::Member => matches!(caller, Caller::Node(_)),
            Access::Manager => manager,
            Access::Operator => manager || local || matches!(caller, Caller::User(_)),
            Access::Administrator => manager || local,
            Access::Local => local,
        }
    }
}

/// Whether the table admits this caller to this method.
fn admit(path: &str, caller: &Caller) -> Result<Row, Status> {
    let row = row(path).ok_or_else(|| {
        Status::unimplemented(format!("{path} is not known here: the daemon that asks may be of a newer version"))
    })?;
    if row.access.admits(caller) {
        return Ok(row);
    }
    Err(Status::permission_denied(match (caller, row.access) {
        (_, Access::Local) => "this call is for the root-only socket of the host itself".into(),
        (Caller::Node(n), _) => format!("a {} may not do this: a manager's certificate is needed", n.role),
        (Caller::User(_), _) => "a user may not do this: it is for root on a manager's host".into(),
        (Caller::Local, _) => "this call is for nodes, not for the local socket".into(),
        (Caller::Anonymous, _) => "a certificate of this cluster is needed".to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::{NodeIdentity, UserIdentity};
    use heddle_model::{ClusterId, NodeId};
    use std::collections::BTreeSet;

    #[test]
    fn each_access_admits_exactly_its_callers() {
        let node = |role| {
            Caller::Node(NodeIdentity {
                node: NodeId::from_random([1; 16]),
                role,
                cluster: ClusterId::from_random([2; 16]),
            })
        };
        let person = UserIdentity { name: "al".into(), id: "x".into(), cluster: ClusterId::from_random([2; 16]) };
        let [worker, manager] = [Role::Worker, Role::Manager].map(node);
        let callers = [Caller::Local, Caller::Anonymous, worker, manager, Caller::User(person)];
        for (path, want) in [
            ("/heddle.v1.NodeCa/Issue", [true, true, true, true, true]),
            ("/heddle.v1.Dispatcher/Session", [false, false, true, true, false]),
            ("/heddle.v1.Raft/Vote", [false, false, false, true, false]),
            ("/heddle.v1.Control/ListNodes", [true, false, false, true, true]),
            ("/heddle.v1.Users/AddUser", [true, false, false, true, false]),
            ("/heddle.v1.Roots/GetRoots", [true, false, false, true, true]),
            ("/heddle.v1.Roots/RotateRoot", [true, false, false, true, false]),
            ("/heddle.v1.Local/Init", [true, false, false, false, false]),
            ("/heddle.v1.Host/RunWorkload", [true, false, false, false, false]),
        ] {
            for (caller, want) in callers.iter().zip(want) {
                assert_eq!(admit(path, caller).is_ok(), want, "{path} {caller:?}");
            }
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_refused_to_all() {
        for path in ["/heddle.v1.Control/Destroy", "/heddle.v1.Control", "/", "", "/grpc.health.v1.Health/Check"] {
            assert_eq!(admit(path, &Caller::Local).unwrap_err().code(), tonic::Code::Unimplemented, "{path}");
        }
    }

    #[test]
    fn no_method_has_two_rows() {
        let distinct: BTreeSet<_> = rows().map(|r| (r.service, r.method)).collect();
        assert_eq!(distinct.len(), rows().count());
    }
}
