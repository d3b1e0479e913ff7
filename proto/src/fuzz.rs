//! Every message that comes from outside: it is read or refused, and what the model accepts survives the way back.

use crate::{DESCRIPTORS, v1};
use heddle_fuzz::{Memory, Messages, run};
use heddle_model::{
    assignment::{Item, Key, NodeView},
    connection::Connection,
    container::Container,
    endpoint::{Attachment, PortConfig, VirtualIp},
    health::HealthCheck,
    net::Pool,
    network::{Network, NetworkSpec},
    node::{Node, NodeDescription, NodeReport},
    service::{Service, ServiceSpec, TaskSpec},
    task::{Task, TaskStatus},
    tunnel::{Epochs, TunnelEnd},
    update::{UpdateConfig, UpdateStatus},
    workload::{NetworkWish, PublishWish, WorkloadSpec},
};
use prost::Message;
use std::{cell::Cell, fmt::Debug};

fn words(message: &str, field: &str) -> &'static [&'static str] {
    const ADDRS: &[&str] = &["10.1.0.5", "fd00::5", "192.0.2.1"];
    match (message, field) {
        ("DualAddr", "v4") | ("NetworkWish", "ip") => &["10.1.0.5", "255.255.255.255"],
        ("DualAddr", "v6") | ("NetworkWish", "ip6") => &["fd00::5", "::"],
        ("DualSubnet", "v4") => &["10.1.0.0/24", "0.0.0.0/0", "10.1.0.7/32"],
        ("DualSubnet", "v6") => &["fd00::/64", "::/0", "fd00::7/128"],
        ("Pool", "gateway") | ("AuxEntry", "value") | ("ExtraHost", "addr") => ADDRS,
        ("ManagerStatus" | "ManagerAddr" | "ManagerHealth", "addr") => &["192.0.2.1:2377", "[fd00::1]:2377"],
        ("KeysEntry", "value") => {
            &["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA="]
        }
        (_, "id" | "node" | "service" | "task" | "peer" | "cluster" | "workload" | "payload" | "logins") => {
            &["0123456789abcdefghijklmno", "1123456789abcdefghijklmno"]
        }
        ("NetworkWish", "network") => &["net", "0123456789abcdefghijklmno"],
        (_, "network") => &["0123456789abcdefghijklmno"],
        ("Container", "user") => &["web", "1000:1000", ""],
        ("Container", "cap_add" | "cap_drop") => &["NET_ADMIN", "ALL"],
        ("Container", "stop_signal") => &["SIGQUIT", ""],
        ("Ulimit", "name") => &["nofile", "core"],
        ("PayloadFile", "path") => &["/run/secrets/key", "/etc/app.conf"],
        (_, "mac") => &["02:42:0a:01:00:05", "00:00:00:00:00:00"],
        (_, "subnet" | "range" | "host_subnets") => &["10.1.0.0/24", "fd00:1::/64"],
        (_, "data_path_addr" | "servers" | "host_ip") => ADDRS,
        _ => &["web", "a=b", "node.role==worker", "true", ""],
    }
}

fn messages() -> Messages {
    Messages::new(DESCRIPTORS, words)
}

/// Some must be accepted, else nothing is tried.
fn accepted_of(name: &str, parse: impl Fn(&[u8]) -> bool) {
    let (messages, accepted) = (messages(), Cell::new(0));
    let name = format!("heddle.v1.{name}");
    run(
        Memory::USUAL,
        |random| messages.random(&name, random),
        |bytes| accepted.set(accepted.get() + usize::from(parse(bytes))),
    );
    assert!(accepted.get() > 0, "no {name} was accepted");
}

fn is_kept<W, M>(bytes: &[u8]) -> bool
where
    W: Message + Default + From<M>,
    M: TryFrom<W, Error: Debug> + Clone + PartialEq + Debug,
{
    let Ok(Ok(model)) = W::decode(bytes).map(M::try_from) else { return false };
    let again = W::from(model.clone()).encode_to_vec();
    assert_eq!(M::try_from(W::decode(again.as_slice()).unwrap()).unwrap(), model);
    true
}

macro_rules! kept {
    ($($name:ident: $wire:ident = $model:ty),+ $(,)?) => {$(
        #[test]
        fn $name() {
            accepted_of(stringify!($wire), is_kept::<v1::$wire, $model>);
        }
    )+};
}

kept! {
    node: Node = Node,
    node_description: NodeDescription = NodeDescription,
    node_report: NodeReport = NodeReport,
    tunnel_end: TunnelEnd = TunnelEnd,
    tunnel_epochs: TunnelEpochs = Epochs,
    network: Network = Network,
    network_spec: NetworkSpec = NetworkSpec,
    pool: Pool = Pool,
    service: Service = Service,
    service_spec: ServiceSpec = ServiceSpec,
    task_spec: TaskSpec = TaskSpec,
    health_check: HealthCheck = HealthCheck,
    container: Container = Container,
    task: Task = Task,
    task_status: TaskStatus = TaskStatus,
    attachment: Attachment = Attachment,
    port_config: PortConfig = PortConfig,
    virtual_ip: VirtualIp = VirtualIp,
    update_config: UpdateConfig = UpdateConfig,
    update_status: UpdateStatus = UpdateStatus,
    connection: Connection = Connection,
    workload_spec: WorkloadSpec = WorkloadSpec,
    network_wish: NetworkWish = NetworkWish,
    publish_wish: PublishWish = PublishWish,
    assigned: Assigned = Item,
    assigned_key: AssignedKey = Key,
}

/// As an agent takes them over, on disk or from a session.
#[test]
fn assignments() {
    accepted_of("Assignments", |bytes| {
        let changes = v1::Assignments::decode(bytes).map(v1::Assignments::into_changes);
        let Ok(Ok(changes)) = changes else { return false };
        let mut view = NodeView::empty(changes.cluster.clone());
        view.apply(changes);
        let again = v1::Assignments::complete(7, view.clone()).encode_to_vec();
        let mut read = NodeView::empty(view.cluster.clone());
        read.apply(v1::Assignments::decode(again.as_slice()).unwrap().into_changes().unwrap());
        assert_eq!(read, view);
        true
    });
}

fn is_read<W: Message + Default + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(message) = W::decode(bytes) else { return false };
    assert_eq!(W::decode(message.encode_to_vec().as_slice()).unwrap(), message);
    true
}

macro_rules! read {
    ($($wire:ident),+ $(,)?) => {
        /// Requests that services take as they are, and what is sent within streams.
        #[test]
        fn requests() {
            $(accepted_of(stringify!($wire), is_read::<v1::$wire>);)+
        }
    };
}

read! {
    AddUserRequest, AgentMessage, AttachRequest, BackupChunk, ConnectNetworkRequest, CreateNetworkRequest,
    CreateServiceRequest, DetachRequest, DisconnectNetworkRequest, GetJoinTokenRequest, InitRequest, IssueRequest,
    JoinRequest, LeaveRequest, ListTasksRequest, LogBatch, ManagerMessage, RaftJoinRequest, RaftLeaveRequest, RaftMessage,
    RaftMovedRequest, RefRequest, RemoveNodeRequest, RemoveUserRequest, RemoveWorkloadRequest, RenewRequest, RestoreChunk,
    RotateTunnelRequest, RunWorkloadRequest, ScaleServiceRequest, ServiceLogsRequest, SnapshotChunk, StopWorkloadRequest,
    UpdateNodeRequest, UpdateServiceRequest, WatchEventsRequest,
}
