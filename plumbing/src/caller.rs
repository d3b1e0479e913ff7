//! Who is calling, taken from the connection, and which callers an RPC admits.

use heddle_model::{ClusterId, NodeId, cluster::Role};
use tonic::{Request, Status};

/// What a certificate of the cluster says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    pub node: NodeId,
    pub role: Role,
    pub cluster: ClusterId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The root-only socket of this host.
    Local,
    /// TLS without a client certificate.
    Anonymous,
    /// TLS with a certificate that our root signed.
    Node(NodeIdentity),
}

/// Which callers an RPC admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Anyone,
    /// Any node of the cluster.
    Member,
    Manager,
    LocalOrManager,
}

impl Access {
    pub fn admits(self, caller: &Caller) -> bool {
        let manager = matches!(caller, Caller::Node(n) if n.role == Role::Manager);
        match self {
            Access::Anyone => true,
            Access::Member => matches!(caller, Caller::Node(_)),
            Access::Manager => manager,
            Access::LocalOrManager => manager || *caller == Caller::Local,
        }
    }
}

/// The caller of a request, if `access` admits it.
pub fn require<T>(request: &Request<T>, access: Access) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned().unwrap_or(Caller::Anonymous);
    if access.admits(&caller) {
        return Ok(caller);
    }
    Err(Status::permission_denied(match (&caller, access) {
        (Caller::Node(n), _) => format!("a {} may not do this: a manager's certificate is needed", n.role),
        (Caller::Local, Access::Member | Access::Manager) => "this call is for nodes, not for the local socket".into(),
        _ => "a certificate of this cluster is needed".into(),
    }))
}

/// The node that calls, for RPCs in which a node speaks for itself.
pub fn require_node<T>(request: &Request<T>, access: Access) -> Result<NodeIdentity, Status> {
    match require(request, access)? {
        Caller::Node(identity) => Ok(identity),
        Caller::Local | Caller::Anonymous => Err(Status::permission_denied("a node's certificate is needed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_access_admits_exactly_its_callers() {
        let node = |role| {
            Caller::Node(NodeIdentity {
                node: NodeId::from_random([1; 16]),
                role,
                cluster: ClusterId::from_random([2; 16]),
            })
        };
        let callers = [Caller::Local, Caller::Anonymous, node(Role::Worker), node(Role::Manager)];
        for (access, want) in [
            (Access::Anyone, [true, true, true, true]),
            (Access::Member, [false, false, true, true]),
            (Access::Manager, [false, false, false, true]),
            (Access::LocalOrManager, [true, false, false, true]),
        ] {
            for (caller, want) in callers.iter().zip(want) {
                let mut request = Request::new(());
                request.extensions_mut().insert(caller.clone());
                assert_eq!(require(&request, access).is_ok(), want, "{access:?} {caller:?}");
            }
        }
    }

    #[test]
    fn a_request_without_a_connection_is_anonymous() {
        assert!(require(&Request::new(()), Access::Member).is_err());
    }
}
