//! The gRPC service that hands out certificates.

use super::forward::Forward;
use crate::{
    ambient,
    ca::{self, CaError},
    control::forward::removed,
    dispatcher,
    raft::raft_id,
    store::{Mutation, Snapshot, WriteError, now},
};
use heddle_model::{
    Annotations, Meta, NodeId,
    cluster::Role,
    limits,
    node::{Availability, ManagerStatus, Node, NodeDescription, NodeSpec, NodeState, NodeStatus},
};
use heddle_plumbing::caller::{Caller, caller};
use heddle_proto::v1::{self, node_ca_client::NodeCaClient, node_ca_server};
use std::net::{IpAddr, SocketAddr};
use tonic::{Request, Response, Status};

pub struct CaService {
    pub forward: Forward,
}

fn refused(e: CaError) -> Status {
    match e {
        CaError::TokenForm | CaError::OtherCluster | CaError::TokenRefused | CaError::Former(_) => {
            Status::permission_denied(e.to_string())
        }
        CaError::Request(_) | CaError::Sign(_) => Status::invalid_argument(e.to_string()),
    }
}

fn field<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, Status> {
    text.parse().map_err(|_| Status::invalid_argument(format!("field {name}: {text:?} is not an address")))
}

impl CaService {
    /// The node that a certificate is renewed for.
    fn renewing(&self, request: &Request<v1::RenewRequest>) -> Result<NodeId, Status> {
        let wish = request.get_ref();
        match caller(request) {
            Caller::Node(identity) if !wish.node.is_empty() => {
                self.forward.speaks_for_others(&identity)?;
                wish.node.parse().map_err(|e| Status::invalid_argument(format!("field node: {e}")))
            }
            Caller::Node(identity) => Ok(identity.node),
            Caller::Anonymous if !wish.expired_pem.is_empty() => {
                let state = self.forward.store.snapshot();
                let cluster = state.cluster.as_ref().ok_or_else(starting)?;
                let former =
                    ca::former(&cluster.trusted_pem(), &wish.expired_pem, &wish.csr_pem, now()).map_err(refused)?;
                Ok(former.node)
            }
            Caller::Anonymous | Caller::Local | Caller::User(_) => {
                Err(Status::permission_denied("a node's certificate is needed"))
            }
        }
    }
}

/// Why no other node may have this address; None: it may. A worker that is down may have been wiped, and be who joins now.
fn clash(node: &Node, addr: IpAddr) -> Option<String> {
    let (host, id) = (&node.description.hostname, &node.id);
    match (node.status.state, node.next_role()) {
        _ if node.data_path_addr != addr => None,
        (NodeState::Down, Role::Worker) => None,
        (NodeState::Down, Role::Manager) => Some(format!(
            "address {addr} is manager {host} ({id}), which is down: if it was wiped, run `heddle node rm --force {id}` on \
             another manager first"
        )),
        (NodeState::Ready | NodeState::Unknown, _) => Some(format!(
            "address {addr} is node {host} ({id}) already: `heddle leave` there first, or join with another --data-path-addr"
        )),
    }
}

enum RenewError {
    Refused(Status),
    Write(WriteError),
}

impl From<WriteError> for RenewError {
    fn from(e: WriteError) -> Self {
        Self::Write(e)
    }
}

impl RenewError {
    fn status(self) -> Status {
        match self {
            RenewError::Refused(status) => status,
            RenewError::Write(e) => Status::unavailable(e.to_string()),
        }
    }
}

/// Makes a manager of a node that is to be one, now that it asks for the certificate.
fn raise(state: &Snapshot, id: &NodeId, control_addr: &str) -> Result<Vec<Mutation>, RenewError> {
    let node = state.nodes.get(id).ok_or_else(|| RenewError::Refused(removed()))?;
    if node.next_role() == node.role {
        return Ok(Vec::new());
    }
    let addr = field("control_addr", control_addr).map_err(RenewError::Refused)?;
    let manager = Some(ManagerStatus { raft_id: raft_id(id), addr });
    Ok(vec![Mutation::Update(Node { role: Role::Manager, manager, ..Node::clone(node) }.into())])
}

fn starting() -> Status {
    Status::unavailable("this manager is still starting")
}

#[tonic::async_trait]
impl node_ca_server::NodeCa for CaService {
    async fn get_root(&self, _: Request<v1::GetRootRequest>) -> Result<Response<v1::GetRootResponse>, Status> {
        let state = self.forward.store.snapshot();
        let cluster = state.cluster.as_ref().ok_or_else(starting)?;
        Ok(Response::new(v1::GetRootResponse { cert_pem: cluster.root_ca.cert_pem.clone() }))
    }

    async fn issue(&self, request: Request<v1::IssueRequest>) -> Result<Response<v1::IssueResponse>, Status> {
        if let Some(channel) = self.forward.leader().await? {
            return NodeCaClient::new(channel).issue(request.into_inner()).await;
        }
        let wish = request.into_inner();
        let store = &self.forward.store;
        let state = store.snapshot();
        let cluster = state.cluster.as_ref().ok_or_else(starting)?;
        let role = ca::role_of(&wish.token, cluster).map_err(refused)?;
        let id = NodeId::from_random(ambient::random());
        let cert = ca::certificate(cluster, &id, role, &wish.csr_pem).map_err(refused)?;
        let description = NodeDescription { hostname: wish.hostname, ..NodeDescription::default() };
        limits::description(&description).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let manager = match role {
            Role::Worker => None,
            Role::Manager => {
                let addr: SocketAddr = field("control_addr", &wish.control_addr)?;
                Some(ManagerStatus { raft_id: raft_id(&id), addr })
            }
        };
        let node = Node {
            id: id.clone(),
            meta: Meta::default(),
            spec: NodeSpec { annotations: Annotations::default(), role, availability: Availability::Active },
            role,
            description,
            status: NodeStatus::default(),
            data_path_addr: field("data_path_addr", &wish.data_path_addr)?,
            manager,
            ingress: None,
        };
        let clash = state.nodes.values().find_map(|n| clash(n, node.data_path_addr));
        if let Some(text) = clash {
            return Err(Status::already_exists(text));
        }
        store
            .write(vec![Mutation::Create(node.into())])
            .await
            .map_err(|e: WriteError| Status::unavailable(e.to_string()))?;
        tracing::info!(node = %id, %role, "node joined");
        Ok(Response::new(v1::IssueResponse {
            node: id.to_string(),
            cluster: cluster.id.to_string(),
            role: v1::Role::from(role).into(),
            cert_pem: cert,
            managers: dispatcher::managers(&store.snapshot()),
            roots_pem: cluster.trusted_pem(),
        }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let id = self.renewing(&request)?;
        let wish = request.into_inner();
        if let Some(channel) = self.forward.leader().await? {
            let forwarded = v1::RenewRequest { expired_pem: String::new(), node: id.to_string(), ..wish };
            return NodeCaClient::new(channel).renew(forwarded).await;
        }
        let raised = self.forward.store.update(|state| raise(state, &id, &wish.control_addr));
        let state = raised.await.map_err(RenewError::status)?;
        let cluster = state.cluster.as_ref().ok_or_else(starting)?;
        let role = state.nodes.get(&id).ok_or_else(removed)?.role;
        let cert_pem = ca::certificate(cluster, &id, role, &wish.csr_pem).map_err(refused)?;
        tracing::info!(node = %id, %role, "certificate renewed");
        Ok(Response::new(v1::RenewResponse { cert_pem, roots_pem: cluster.trusted_pem() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn who_was_wiped_has_its_address_again() {
        let mut node = World::new().node(7);
        let addr = node.data_path_addr;
        let said = |node: &Node| clash(node, addr).unwrap_or_default();
        assert!(said(&node).contains("is node h7") && said(&node).contains("`heddle leave` there first"));
        assert_eq!(clash(&node, [192, 0, 2, 8].into()), None);
        node.status.state = NodeState::Down;
        assert_eq!(clash(&node, addr), None);
        node.spec.role = Role::Manager;
        assert!(said(&node).contains(&format!("run `heddle node rm --force {}` on another manager first", node.id)));
    }
}
