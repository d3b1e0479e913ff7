//! Who is calling, taken from the connection.

use heddle_model::{ClusterId, NodeId, cluster::Role};
use std::fmt;
use tonic::{Request, Status};

/// What a certificate of the cluster says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    pub node: NodeId,
    pub role: Role,
    pub cluster: ClusterId,
}

/// What the certificate of a person says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserIdentity {
    pub name: String,
    /// Of this certificate's user, whatever others had the name before.
    pub id: String,
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
    /// The same, of a person.
    User(UserIdentity),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Local => f.write_str("root of the host"),
            Caller::Anonymous => f.write_str("no certificate"),
            Caller::Node(n) => write!(f, "{} {}", n.role, n.node),
            Caller::User(u) => write!(f, "user {}", u.name),
        }
    }
}

/// The caller of a request; anonymous, if it came by no connection.
pub fn caller<T>(request: &Request<T>) -> Caller {
    request.extensions().get::<Caller>().cloned().unwrap_or(Caller::Anonymous)
}

/// The node that calls, for RPCs in which a node speaks for itself.
pub fn node<T>(request: &Request<T>) -> Result<NodeIdentity, Status> {
    match caller(request) {
        Caller::Node(identity) => Ok(identity),
        Caller::Local | Caller::Anonymous | Caller::User(_) => {
            Err(Status::permission_denied("a node's certificate is needed"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_a_connection_is_anonymous() {
        assert_eq!(caller(&Request::new(())), Caller::Anonymous);
        assert!(node(&Request::new(())).is_err());
    }
}
