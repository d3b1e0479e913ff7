//! The gRPC service behind the CLI.

use super::{
    ControlError, autolock,
    changes::{self, Wish},
    check, cluster, explain, find,
    forward::{Forward, LARGEST},
    inspect, nodes, progress, removal, stale,
};
use crate::{
    ambient, backup, ca,
    dispatcher::{Logs, Sessions, Share},
    membership, orchestrator, rehearsal, scheduler,
    store::{Mutation, Snapshot, Store, WriteError, now},
    tunnel,
    vault::UnlockKey,
};
use futures::{Stream, StreamExt};
use heddle_model::{
    Kind, Meta, NetworkId, NodeId, ServiceId, TaskId, Version,
    cluster::{Cluster, Role},
    login::Logins,
    network::{Network, NetworkSpec},
    node::{Node, NodeState},
    service::{Service, ServiceSpec},
    task::Task,
};
use heddle_plumbing::{access::on_behalf, tls::root_digest};
use heddle_proto::v1::{self, control_client::ControlClient, control_server, manager_message::Message as ToAgent};
use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, transport::Channel};

/// A node that has not answered a log request by then has nothing to say.
const LOG_LIMIT: Duration = Duration::from_secs(5);

/// What an update would do is gone through for no longer.
const REHEARSAL_LIMIT: Duration = Duration::from_secs(5);
static REHEARSALS: Semaphore = Semaphore::const_new(1);

/// Bytes of a backup in one message.
const CHUNK: usize = 1 << 20;

/// Hosts that follow change keys in seconds.
const ROTATION_LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct ControlService {
    pub forward: Forward,
    pub sessions: Arc<Sessions>,
    pub logs: Arc<Logs>,
}

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// On a follower, answers with what the leader says.
macro_rules! at_leader {
    ($self:ident, $request:ident, $method:ident) => {{
        stale::refuse(&$request)?;
        if let Some(mut leader) = $self.leader().await? {
            return leader.$method(on_behalf($request)).await;
        }
        $request.into_inner()
    }};
    ($self:ident, $request:ident, stream $method:ident) => {{
        stale::refuse(&$request)?;
        if let Some(mut leader) = $self.leader().await? {
            let stream = leader.$method(on_behalf($request)).await?.into_inner();
            return Ok(Response::new(Box::pin(stream)));
        }
        $request.into_inner()
    }};
}

/// The same for what only looks: the request, and the state that answers it, which is the newest unless that is not asked for.
macro_rules! look {
    ($self:ident, $request:ident, $method:ident) => {{
        match stale::asked(&$request) {
            true => ($request.into_inner(), $self.store().snapshot()),
            false => {
                let request = at_leader!($self, $request, $method);
                (request, $self.state().await?)
            }
        }
    }};
}

fn known(state: &Snapshot) -> Result<Arc<Cluster>, Status> {
    state.cluster.clone().ok_or_else(|| Status::unavailable("this manager is still starting"))
}

/// Empty: autolock is off.
fn unlock_key(cluster: &Arc<Cluster>) -> String {
    cluster.unlock_key.as_ref().map_or_else(String::new, |key| key.0.clone())
}

fn some<T>(field: &str, value: Option<T>) -> Result<T, Status> {
    value.ok_or_else(|| Status::invalid_argument(format!("field {field} is missing")))
}

impl ControlService {
    fn store(&self) -> &Store {
        &self.forward.store
    }

    async fn leader(&self) -> Result<Option<ControlClient<Channel>>, Status> {
        let channel = self.forward.leader().await?;
        Ok(channel.map(|c| ControlClient::new(c).max_decoding_message_size(LARGEST)))
    }

    async fn state(&self) -> Result<Arc<Snapshot>, Status> {
        self.forward.newest().await
    }

    async fn cluster(&self) -> Result<Arc<Cluster>, Status> {
        known(&*self.state().await?)
    }

    fn info(&self, state: &Snapshot) -> Result<v1::ClusterInfo, Status> {
        let cluster = known(state)?;
        let managers = state.nodes.values().filter(|n| n.manager.is_some());
        Ok(v1::ClusterInfo {
            id: cluster.id.to_string(),
            name: cluster.spec.name.clone(),
            version: state.version.0,
            leader: self.store().leader().map_or_else(String::new, |n| n.to_string()),
            managers: managers.map(|n| (**n).clone().into()).collect(),
            data_path_port: cluster.spec.data_path_port.get().into(),
            ca_digest: root_digest(&cluster.root_ca.cert_pem).unwrap_or_default(),
            tunnel_port: cluster.spec.tunnel_port.get().into(),
            epochs: Some(cluster.epochs.into()),
            autolock: cluster.unlock_key.is_some(),
            dead_manager_after_ms: cluster.spec.dead_manager_after_ms(),
        })
    }

    fn with_report(&self, node: Arc<Node>) -> v1::Node {
        let report = self.sessions.report_of(&node.id);
        v1::Node { report: Some(report.into()), ..Arc::unwrap_or_clone(node).into() }
    }

    /// Writes a service's change, and answers with the service.
    async fn changed(
        &self,
        mut change: impl FnMut(&Snapshot) -> Result<changes::Changed, ControlError>,
    ) -> Answer<v1::Service> {
        let mut id = None;
        let state = self
            .write(|state| {
                let changed = change(state)?;
                id = Some(changed.id);
                Ok(changed.mutations)
            })
            .await?;
        let service = id.and_then(|id| state.services.get(&id).cloned());
        let service = service.ok_or_else(|| Status::not_found("the service was removed meanwhile"))?;
        Ok(Response::new(Arc::unwrap_or_clone(service).into()))
    }

    /// Writes what another unlock key makes of the cluster, if it is another, and answers with the key.
    async fn write(
        &self,
        plan: impl FnMut(&Snapshot) -> Result<Vec<Mutation>, ControlError>,
    ) -> Result<Arc<Snapshot>, Status> {
        Ok(self.store().update(plan).await?)
    }
}

#[tonic::async_trait]
impl control_server::Control for ControlService {
    type WatchServiceStream = Streamed<v1::ServiceProgress>;
    type ServiceLogsStream = Streamed<v1::LogLine>;
    type BackupStream = Streamed<v1::BackupChunk>;

    async fn list_nodes(&self, request: Request<v1::ListNodesRequest>) -> Answer<v1::ListNodesResponse> {
        let (_, state) = look!(self, request, list_nodes);
        let nodes = state.nodes.values().map(|n| self.with_report(n.clone())).collect();
        Ok(Response::new(v1::ListNodesResponse { nodes }))
    }

    async fn get_node(&self, request: Request<v1::RefRequest>) -> Answer<v1::Node> {
        let (request, state) = look!(self, request, get_node);
        let node = find::node(&state, &request.r#ref).map_err(ControlError::from)?;
        Ok(Response::new(self.with_report(node)))
    }

    async fn update_node(&self, request: Request<v1::UpdateNodeRequest>) -> Answer<v1::Node> {
        let request = at_leader!(self, request, update_node);
        let reference = request.r#ref.clone();
        let change = nodes::Change::try_from(request)?;
        let mut id = None;
        let state = self
            .write(|state| {
                let (node, mutations) = nodes::update(state, &reference, &change)?;
                id = Some(node);
                Ok(mutations)
            })
            .await?;
        let node =
            id.and_then(|id| state.nodes.get(&id)).ok_or_else(|| Status::not_found("the node left meanwhile"))?;
        if node.spec.role == Role::Manager && node.status.state == NodeState::Ready {
            membership::votes(self.store(), &node.id).await;
        }
        Ok(Response::new(Node::clone(node).into()))
    }

    async fn remove_node(&self, request: Request<v1::RemoveNodeRequest>) -> Answer<v1::RemoveResponse> {
        let request = at_leader!(self, request, remove_node);
        let mut removed = None;
        self.write(|state| {
            let (node, mutations) = nodes::remove(state, &request.r#ref, request.force)?;
            removed = Some(node);
            Ok(mutations)
        })
        .await?;
        let Some(node) = removed else { return Err(Status::not_found("the node left meanwhile")) };
        membership::gone(self.store(), &node).await;
        let id = node.to_string();
        tracing::info!(node = id, "node removed");
        Ok(Response::new(v1::RemoveResponse { id }))
    }

    async fn create_network(&self, request: Request<v1::CreateNetworkRequest>) -> Answer<v1::Network> {
        let request = at_leader!(self, request, create_network);
        let spec = NetworkSpec::try_from(some("spec", request.spec)?)?;
        let id = NetworkId::from_random(ambient::random());
        let state = self
            .write(|state| {
                let spec = check::network(state, spec.clone())?;
                let network = Network { id: id.clone(), meta: Meta::default(), spec, allocation: None };
                Ok(vec![Mutation::Create(network.into())])
            })
            .await?;
        Ok(Response::new((*state.networks[&id]).clone().into()))
    }

    async fn list_networks(&self, request: Request<v1::ListNetworksRequest>) -> Answer<v1::ListNetworksResponse> {
        let (_, state) = look!(self, request, list_networks);
        let networks = state.networks.values().map(|n| (**n).clone().into()).collect();
        Ok(Response::new(v1::ListNetworksResponse { networks }))
    }

    async fn inspect_network(&self, request: Request<v1::RefRequest>) -> Answer<v1::InspectNetworkResponse> {
        let (request, state) = look!(self, request, inspect_network);
        let network = find::network(&state, &request.r#ref).map_err(ControlError::from)?;
        Ok(Response::new(inspect::network(&state, &network)))
    }

    async fn remove_network(&self, request: Request<v1::RefRequest>) -> Answer<v1::RemoveResponse> {
        let request = at_leader!(self, request, remove_network);
        let mut id = String::new();
        self.write(|state| {
            let network = find::network(state, &request.r#ref)?;
            check::network_removal(state, &network)?;
            id = network.id.to_string();
            Ok(removal::network(state, &network))
        })
        .await?;
        Ok(Response::new(v1::RemoveResponse { id }))
    }

    async fn create_service(&self, request: Request<v1::CreateServiceRequest>) -> Answer<v1::Service> {
        let request = at_leader!(self, request, create_service);
        let spec = ServiceSpec::try_from(some("spec", request.spec)?)?;
        let logins = Logins::from(request.logins.unwrap_or_default());
        let id = ServiceId::from_random(ambient::random());
        let state = self
            .write(|state| {
                let spec = check::service(state, spec.clone())?;
                check::logins(&spec, &logins)?;
                let service = Service { logins: logins.clone(), ..Service::new(id.clone(), spec) };
                Ok(vec![Mutation::Create(service.into())])
            })
            .await?;
        Ok(Response::new((*state.services[&id]).clone().into()))
    }

    async fn list_services(&self, request: Request<v1::ListServicesRequest>) -> Answer<v1::ListServicesResponse> {
        let (_, state) = look!(self, request, list_services);
        let summary = |service: &Arc<Service>| {
            let desired = orchestrator::wanted(&state, service);
            let completed = service.spec.mode.is_job().then(|| orchestrator::ended(&state, service).0);
            let completed = completed.unwrap_or_default();
            let running = state.tasks_of_service(&service.id).filter(|t| t.in_service()).count() as u64;
            v1::ServiceSummary { service: Some((**service).clone().into()), running, desired, completed }
        };
        let services = state.services.values().map(summary).collect();
        Ok(Response::new(v1::ListServicesResponse { services }))
    }

    async fn get_service(&self, request: Request<v1::RefRequest>) -> Answer<v1::Service> {
        let (request, state) = look!(self, request, get_service);
        let service = find::service(&state, &request.r#ref).map_err(ControlError::from)?;
        Ok(Response::new(Arc::unwrap_or_clone(service).into()))
    }

    async fn scale_service(&self, request: Request<v1::ScaleServiceRequest>) -> Answer<v1::Service> {
        let request = at_leader!(self, request, scale_service);
        self.changed(|state| changes::scale(state, &request.r#ref, request.replicas)).await
    }

    async fn remove_service(&self, request: Request<v1::RefRequest>) -> Answer<v1::RemoveResponse> {
        let request = at_leader!(self, request, remove_service);
        let mut id = String::new();
        self.write(|state| {
            let service = find::service(state, &request.r#ref)?;
            id = service.id.to_string();
            Ok(vec![Mutation::Remove { kind: Kind::Service, id: id.clone(), version: Some(service.meta.version) }])
        })
        .await?;
        Ok(Response::new(v1::RemoveResponse { id }))
    }

    async fn list_tasks(&self, request: Request<v1::ListTasksRequest>) -> Answer<v1::ListTasksResponse> {
        let (request, state) = look!(self, request, list_tasks);
        let services: Vec<ServiceId> = request
            .services
            .iter()
            .map(|r| find::service(&state, r).map(|s| s.id.clone()))
            .collect::<Result<_, _>>()
            .map_err(ControlError::from)?;
        let nodes: Vec<NodeId> = request
            .nodes
            .iter()
            .map(|r| find::node(&state, r).map(|n| n.id.clone()))
            .collect::<Result<_, _>>()
            .map_err(ControlError::from)?;
        let wanted = |t: &&Arc<Task>| {
            (services.is_empty() || services.contains(&t.service))
                && (nodes.is_empty() || t.node.as_ref().is_some_and(|n| nodes.contains(n)))
        };
        let tasks = state.tasks.values().filter(wanted).map(|t| (**t).clone().into()).collect();
        Ok(Response::new(v1::ListTasksResponse { tasks }))
    }

    async fn watch_service(&self, request: Request<v1::RefRequest>) -> Answer<Self::WatchServiceStream> {
        let request = at_leader!(self, request, stream watch_service);
        let state = self.state().await?;
        // A service that was just removed is watched by its id until nothing of it is left.
        let id = match find::service(&state, &request.r#ref) {
            Ok(service) => service.id.clone(),
            Err(e) => request.r#ref.parse::<ServiceId>().map_err(|_| ControlError::from(e))?,
        };
        let (send, receive) = tokio::sync::mpsc::channel(16);
        let (mut states, mut acks) = (self.store().watch(), self.sessions.watch());
        let (sessions, store) = (self.sessions.clone(), self.store().clone());
        tokio::spawn(async move {
            let mut last = None;
            // Who leads no more hears no acknowledgements: the caller asks again.
            while store.is_leader() {
                let snapshot = states.borrow_and_update().clone();
                acks.mark_unchanged();
                let next = progress::of(&snapshot, &id, &sessions);
                if last.as_ref() != Some(&next) {
                    let gone = next.gone;
                    if send.send(Ok(next.clone())).await.is_err() || gone {
                        return;
                    }
                    last = Some(next);
                }
                tokio::select! {
                    changed = states.changed() => if changed.is_err() { return },
                    _ = acks.changed() => {}
                    () = send.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn service_logs(&self, request: Request<v1::ServiceLogsRequest>) -> Answer<Self::ServiceLogsStream> {
        let request = at_leader!(self, request, stream service_logs);
        let state = self.state().await?;
        let by_id = request.r#ref.parse::<TaskId>().ok().and_then(|id| state.tasks.get(&id));
        let tasks: Vec<Arc<Task>> = match by_id {
            Some(task) => vec![task.clone()],
            None => {
                let service = find::service(&state, &request.r#ref).map_err(ControlError::from)?;
                state.tasks_of_service(&service.id).cloned().collect()
            }
        };
        let mut shares: BTreeMap<NodeId, Share> = BTreeMap::new();
        for (node, task) in tasks.iter().filter_map(|t| Some((t.node.clone()?, t))) {
            shares.entry(node).or_default().insert(task.id.to_string(), task.name());
        }
        shares.retain(|node, _| self.sessions.sender(node).is_some());
        let sender =
            |(node, share): (&NodeId, &Share)| Some((self.sessions.sender(node)?, share.keys().cloned().collect()));
        let senders: Vec<(_, Vec<String>)> = shares.iter().filter_map(sender).collect();
        let id = TaskId::from_random(ambient::random()).to_string();
        let lines = self.logs.open(id.clone(), shares);
        for (sender, tasks) in &senders {
            let wish = v1::LogRequest {
                id: id.clone(),
                tasks: tasks.clone(),
                follow: request.follow,
                tail: request.tail,
                since_ms: request.since_ms,
            };
            let message = v1::ManagerMessage { message: Some(ToAgent::Logs(wish)) };
            let _ = sender.send(message).await;
        }
        let guard = Guard { id, logs: self.logs.clone(), senders: senders.into_iter().map(|(s, _)| s).collect() };
        let lines = ReceiverStream::new(lines);
        let follow = request.follow;
        let limited = futures::stream::unfold((lines, guard), move |(mut lines, guard)| async move {
            let next = match follow {
                true => lines.next().await,
                false => tokio::time::timeout(LOG_LIMIT, lines.next()).await.ok().flatten(),
            };
            next.map(|line| (Ok(line), (lines, guard)))
        });
        Ok(Response::new(Box::pin(limited)))
    }

    async fn get_join_token(&self, request: Request<v1::GetJoinTokenRequest>) -> Answer<v1::JoinToken> {
        let request = at_leader!(self, request, get_join_token);
        let role = Role::try_from(request.role())?;
        if request.rotate {
            let fresh = ca::secret(rand::random());
            self.write(|state| {
                let Some(cluster) = &state.cluster else { return Ok(Vec::new()) };
                let mut cluster = Cluster::clone(cluster);
                match role {
                    Role::Worker => cluster.join_tokens.worker = fresh.clone(),
                    Role::Manager => cluster.join_tokens.manager = fresh.clone(),
                }
                Ok(vec![Mutation::Update(cluster.into())])
            })
            .await?;
        }
        let cluster = self.cluster().await?;
        let managers = crate::dispatcher::managers(&self.store().snapshot());
        let managers = managers.into_iter().map(|m| m.addr).collect();
        Ok(Response::new(v1::JoinToken { token: ca::token_text(&cluster, role), managers }))
    }

    async fn update_cluster(&self, request: Request<v1::UpdateClusterRequest>) -> Answer<v1::UpdateClusterResponse> {
        let request = at_leader!(self, request, update_cluster);
        let fresh = UnlockKey::new(rand::random()).text();
        let state = self.write(|state| cluster::update(state, &request, &fresh)).await?;
        let unlock_key = unlock_key(&known(&state)?);
        Ok(Response::new(v1::UpdateClusterResponse { cluster: Some(self.info(&state)?), unlock_key }))
    }

    async fn get_unlock_key(&self, request: Request<v1::GetUnlockKeyRequest>) -> Answer<v1::UnlockKey> {
        let request = at_leader!(self, request, get_unlock_key);
        let fresh = request.rotate.then(|| UnlockKey::new(rand::random()).text());
        let state = self
            .write(|state| {
                let Some(cluster) = &state.cluster else { return Ok(Vec::new()) };
                let next = autolock::rotate(cluster, fresh.as_ref())?;
                Ok(next.into_iter().map(|c| Mutation::Update(c.into())).collect())
            })
            .await?;
        Ok(Response::new(v1::UnlockKey { key: unlock_key(&known(&state)?) }))
    }

    async fn get_cluster(&self, request: Request<v1::GetClusterRequest>) -> Answer<v1::ClusterInfo> {
        let (_, state) = look!(self, request, get_cluster);
        Ok(Response::new(self.info(&state)?))
    }

    async fn rotate_tunnel(&self, request: Request<v1::RotateTunnelRequest>) -> Answer<v1::TunnelEpochs> {
        let request = at_leader!(self, request, rotate_tunnel);
        let mut watch = self.store().watch();
        let state = self
            .write(|state| {
                let Some(cluster) = &state.cluster else { return Ok(Vec::new()) };
                let epochs = cluster.epochs;
                // Asked while it goes on: once is enough.
                if epochs.next.is_some() || epochs.retiring.is_some() {
                    return Ok(Vec::new());
                }
                let epochs = tunnel::begin(epochs, now());
                Ok(vec![Mutation::Update(Cluster { epochs, ..Cluster::clone(cluster) }.into())])
            })
            .await?;
        let of = |state: &Snapshot| state.cluster.as_ref().map(|c| c.epochs);
        let mut epochs = of(&state).ok_or_else(|| Status::unavailable("this manager is still starting"))?;
        let until = tokio::time::Instant::now() + ROTATION_LIMIT;
        while !request.detach && (epochs.next.is_some() || epochs.retiring.is_some()) {
            let late = !matches!(tokio::time::timeout_at(until, watch.changed()).await, Ok(Ok(())));
            let state = watch.borrow_and_update().clone();
            epochs = of(&state).unwrap_or(epochs);
            if late {
                return Err(Status::deadline_exceeded(tunnel::why_not_yet(&state)));
            }
        }
        Ok(Response::new(epochs.into()))
    }

    async fn get_replica(&self, _: Request<v1::GetReplicaRequest>) -> Answer<v1::Replica> {
        Ok(Response::new(stale::replica(self.store())))
    }

    async fn backup(&self, request: Request<v1::BackupRequest>) -> Answer<Self::BackupStream> {
        let state = match stale::asked(&request) {
            true => self.store().snapshot(),
            false => {
                at_leader!(self, request, stream backup);
                self.state().await?
            }
        };
        known(&state)?;
        let file = backup::write(&state, now()).map_err(|e| Status::internal(e.to_string()))?;
        let chunks: Vec<_> = file.chunks(CHUNK).map(|c| Ok(v1::BackupChunk { data: c.to_vec() })).collect();
        Ok(Response::new(Box::pin(futures::stream::iter(chunks))))
    }

    async fn update_service(&self, request: Request<v1::UpdateServiceRequest>) -> Answer<v1::Service> {
        let request = at_leader!(self, request, update_service);
        let spec = ServiceSpec::try_from(some("spec", request.spec)?)?;
        let seen = Version(request.version);
        let logins = Logins::from(request.logins.unwrap_or_default());
        self.changed(|state| {
            changes::update(state, &request.r#ref, Wish { spec: spec.clone(), seen, logins: logins.clone() }, now())
        })
        .await
    }

    async fn rebalance_service(&self, request: Request<v1::RebalanceServiceRequest>) -> Answer<v1::Service> {
        let request = at_leader!(self, request, rebalance_service);
        self.changed(|state| changes::rebalance(state, &request.r#ref, request.most)).await
    }

    async fn explain_service(&self, request: Request<v1::RefRequest>) -> Answer<v1::ServiceExplanation> {
        let (request, state) = look!(self, request, explain_service);
        let service = find::service(&state, &request.r#ref).map_err(ControlError::from)?;
        Ok(Response::new(explain::explanation(&state, &service, scheduler::explain::explain(&state, &service, now()))))
    }

    async fn plan_service(&self, request: Request<v1::UpdateServiceRequest>) -> Answer<v1::ServicePlan> {
        let request = at_leader!(self, request, plan_service);
        let spec = ServiceSpec::try_from(some("spec", request.spec)?)?;
        let state = self.state().await?;
        let wish =
            Wish { spec, seen: Version(request.version), logins: Logins::from(request.logins.unwrap_or_default()) };
        let change = changes::update(&state, &request.r#ref, wish, now())?;
        // One at a time, on a processor that the leader may need.
        let turn = REHEARSALS.acquire().await.map_err(|e| Status::internal(e.to_string()))?;
        let until = std::time::Instant::now() + REHEARSAL_LIMIT;
        let plan = move || {
            let _turn = turn;
            let go_on = || std::time::Instant::now() < until;
            let rehearsal = rehearsal::rehearse(&state, change.mutations, &change.id, now(), go_on)?;
            Ok(explain::plan(&state, rehearsal))
        };
        let plan: Result<_, WriteError> =
            tokio::task::spawn_blocking(plan).await.map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(plan.map_err(ControlError::from)?))
    }

    async fn rollback_service(&self, request: Request<v1::RefRequest>) -> Answer<v1::Service> {
        let request = at_leader!(self, request, rollback_service);
        self.changed(|state| changes::roll_back(state, &request.r#ref, now())).await
    }
}

/// Tells the nodes to stop when the reader hangs up.
struct Guard {
    id: String,
    logs: Arc<Logs>,
    senders: Vec<tokio::sync::mpsc::Sender<v1::ManagerMessage>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.logs.close(&self.id);
        for sender in &self.senders {
            let cancel = ToAgent::CancelLogs(v1::LogCancel { id: self.id.clone() });
            let _ = sender.try_send(v1::ManagerMessage { message: Some(cancel) });
        }
    }
}
