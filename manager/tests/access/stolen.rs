//! What somebody can do who has a copy of a worker's key and certificate: what that worker can, and nothing else.

use crate::stage::{Stage, hello};
use futures::StreamExt;
use heddle_manager::store::{Mutation, Snapshot, Store};
use heddle_model::{
    Annotations, Meta, NetworkId, NodeId, ServiceId, TaskId,
    cluster::Role,
    endpoint::EndpointSpec,
    network::{Network, NetworkSpec},
    node::NodeState,
    service::{Mode, ProcessSpec, Runtime, Service, ServiceSpec, TaskSpec},
    task::TaskState,
};
use heddle_plumbing::tls::{self, Credentials};
use heddle_proto::v1::{
    self, agent_message::Message as Say, dispatcher_client::DispatcherClient, manager_message::Message as Hear,
    node_ca_client::NodeCaClient,
};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

const LIMIT: Duration = Duration::from_secs(10);

/// A victim and a worker whose certificate was stolen, each with a session and one task of a service.
struct Theft {
    stage: Stage,
    thief: Credentials,
    victim: Credentials,
    thiefs_task: TaskId,
    victims_task: TaskId,
    /// The sessions of the thief and of the victim.
    talks: [Talk; 2],
}

fn service() -> Service {
    let process = ProcessSpec { command: vec!["true".into()], ..ProcessSpec::default() };
    let spec = ServiceSpec {
        annotations: Annotations { name: "s".into(), ..Annotations::default() },
        mode: Mode::Replicated { replicas: 2 },
        task: TaskSpec {
            runtime: Runtime::Process(process),
            stop_grace: LIMIT,
            linger: Duration::ZERO,
            ..TaskSpec::default()
        }
        .into(),
        endpoint: EndpointSpec::default(),
        update: Default::default(),
        rollback: Default::default(),
        rebalance: Default::default(),
    };
    Service::new(ServiceId::from_random([9; 16]), spec)
}

struct Talk {
    say: mpsc::Sender<v1::AgentMessage>,
    hear: Streaming<v1::ManagerMessage>,
}

impl Talk {
    async fn open(stage: &Stage, who: &Credentials, n: u8) -> Self {
        let (say, said) = mpsc::channel(16);
        say.send(hello(who, n)).await.unwrap();
        let session = DispatcherClient::new(stage.dial(who)).session(ReceiverStream::new(said)).await;
        Self { say, hear: session.unwrap().into_inner() }
    }

    async fn say(&self, message: Say) {
        self.say.send(v1::AgentMessage { message: Some(message) }).await.unwrap();
    }

    /// The first complete assignment.
    async fn assigned(&mut self) -> v1::Assignments {
        let find = async {
            loop {
                let heard = self.hear.next().await.unwrap().unwrap();
                if let Some(Hear::Assignments(all)) = heard.message {
                    return all;
                }
            }
        };
        tokio::time::timeout(LIMIT, find).await.unwrap()
    }
}

impl Theft {
    async fn commit() -> Self {
        let stage = Stage::set().await;
        let (thief, victim) = (stage.joined(Role::Worker, 5).await, stage.joined(Role::Worker, 6).await);
        let talks = [Talk::open(&stage, &thief, 5).await, Talk::open(&stage, &victim, 6).await];
        let store = &stage.manager.store;
        let [thiefs, victims] = [&thief, &victim].map(|who| who.identity().node);
        let ready = |s: &Snapshot| [&thiefs, &victims].iter().all(|n| s.nodes[*n].status.state == NodeState::Ready);
        until(store, "both are ready", ready).await;
        store.write(vec![Mutation::Create(service().into())]).await.unwrap();
        let task = |s: &Snapshot, n: &NodeId| s.tasks_on_node(n).next().map(|t| t.id.clone());
        until(store, "each has a task", |s| task(s, &thiefs).is_some() && task(s, &victims).is_some()).await;
        let [thiefs_task, victims_task] = [&thiefs, &victims].map(|n| task(&store.snapshot(), n).unwrap());
        Self { stage, thief, victim, thiefs_task, victims_task, talks }
    }

    fn dispatcher(&self) -> DispatcherClient<tonic::transport::Channel> {
        DispatcherClient::new(self.stage.dial(&self.thief))
    }
}

/// Until the store is so.
async fn until(store: &Store, what: &str, holds: impl Fn(&Snapshot) -> bool) {
    let mut states = store.watch();
    let wait = states.wait_for(|state| holds(state));
    assert!(tokio::time::timeout(LIMIT, wait).await.is_ok(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reads_what_is_assigned_to_that_worker_alone() {
    let theft = Theft::commit().await;
    // On a new session, all anew.
    let all = Talk::open(&theft.stage, &theft.thief, 5).await.assigned().await;
    let tasks = all.update.iter().filter_map(|a| match &a.item {
        Some(v1::assigned::Item::Task(t)) => Some(t.id.clone()),
        _ => None,
    });
    let tasks: Vec<_> = tasks.collect();
    assert_eq!(tasks, [theft.thiefs_task.to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_describes_and_reports_nothing_of_another_node() {
    let theft = Theft::commit().await;
    let (thief, victim) = (theft.thief.identity().node, theft.victim.identity().node);
    let store = &theft.stage.manager.store;
    let before = store.snapshot().nodes[&victim].clone();
    assert_eq!(before.description.hostname, format!("h-{victim}"));

    // It says that it is at the victim's address, and that tasks of both have failed.
    let talk = Talk::open(&theft.stage, &theft.thief, 6).await;
    let failed = |task: &TaskId| v1::TaskReport {
        task: task.to_string(),
        status: Some(v1::TaskStatus { state: v1::TaskState::Failed.into(), ..v1::TaskStatus::default() }),
    };
    let tasks = vec![failed(&theft.victims_task), failed(&theft.thiefs_task)];
    talk.say(Say::Status(v1::TaskStatusUpdate { tasks })).await;
    talk.say(Say::Ack(v1::Ack { revision: u64::MAX })).await;
    // Reports are written in order: when this one is there, the others would be.
    let own = theft.thiefs_task.clone();
    until(store, "its own task", move |s| s.tasks[&own].status.state == TaskState::Failed).await;
    let state = store.snapshot();
    assert_eq!(state.tasks[&theft.victims_task].status.state, TaskState::Assigned);
    assert_eq!(state.nodes[&victim], before, "its session, description and keys are its own");
    assert_eq!(state.nodes[&thief].data_path_addr.to_string(), "127.0.0.5", "the address is the victim's");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_takes_and_gives_up_no_place_of_another_node() {
    let theft = Theft::commit().await;
    let annotations = Annotations { name: "open".into(), ..Annotations::default() };
    let spec = NetworkSpec { annotations, attachable: true, ..NetworkSpec::default() };
    let network = Network { id: NetworkId::from_random([7; 16]), meta: Meta::default(), spec, allocation: None };
    let store = &theft.stage.manager.store;
    store.write(vec![Mutation::Create(network.into())]).await.unwrap();
    until(store, "the network has subnets", |s| s.network_named("open").is_some_and(|n| n.allocation.is_some())).await;

    let attach = |workload: &TaskId| v1::AttachRequest {
        workload: workload.to_string(),
        name: "w".into(),
        wish: Some(v1::NetworkWish { network: "open".into(), ..v1::NetworkWish::default() }),
    };
    let workload = TaskId::from_random([8; 16]);
    let mut victim = DispatcherClient::new(theft.stage.dial(&theft.victim));
    victim.attach(attach(&workload)).await.unwrap();
    let mut thief = theft.dispatcher();
    let said = thief.attach(attach(&theft.victims_task)).await.unwrap_err();
    assert!(said.message().contains("does not run on this host"), "{said}");
    assert_eq!(thief.attach(attach(&workload)).await.unwrap_err().code(), Code::AlreadyExists);
    thief.detach(v1::DetachRequest { workload: workload.to_string(), network: "open".into() }).await.unwrap();
    let held = store.snapshot();
    let held: Vec<_> = held.connections.values().map(|c| (c.node.clone(), c.released)).collect();
    assert_eq!(held, [(theft.victim.identity().node, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_gets_no_other_certificate_and_takes_no_other_node_away() {
    let theft = Theft::commit().await;
    let (_, csr) = tls::new_key_and_csr().unwrap();
    let renew = |node: String| v1::RenewRequest { csr_pem: csr.clone(), node, ..v1::RenewRequest::default() };
    let mut ca = NodeCaClient::new(theft.stage.dial(&theft.thief));
    let said = ca.renew(renew(theft.victim.identity().node.to_string())).await.unwrap_err();
    assert_eq!(said.code(), Code::PermissionDenied);
    let renewed = ca.renew(renew(String::new())).await.unwrap().into_inner();
    let own = Credentials::new(theft.thief.key_pem(), renewed.cert_pem.clone(), renewed.roots_pem);
    assert!(own.is_err(), "the new certificate is for the key of the request");
    let says = tls::identity_of(pem::parse(&renewed.cert_pem).unwrap().contents()).unwrap();
    assert_eq!((says.node, says.role), (theft.thief.identity().node, Role::Worker));

    theft.dispatcher().leave(v1::LeaveNodeRequest {}).await.unwrap();
    let state = theft.stage.manager.store.snapshot();
    assert!(state.nodes.contains_key(&theft.victim.identity().node));
    assert!(!state.nodes.contains_key(&theft.thief.identity().node));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_writes_no_line_of_anothers_task() {
    let mut theft = Theft::commit().await;
    // The operator reads the victim's task: only the victim is asked, under a name that the thief does not know. But even
    // if it did.
    let manager = &theft.stage.credentials;
    let mut control = v1::control_client::ControlClient::new(theft.stage.dial(manager));
    let asked = v1::ServiceLogsRequest { r#ref: theft.victims_task.to_string(), follow: true, ..Default::default() };
    let mut lines = control.service_logs(asked).await.unwrap().into_inner();
    let victim = &mut theft.talks[1].hear;
    let request = tokio::time::timeout(LIMIT, async {
        loop {
            if let Some(Hear::Logs(request)) = victim.next().await.unwrap().unwrap().message {
                return request;
            }
        }
    });
    let request = request.await.unwrap();
    assert_eq!(request.tasks, [theft.victims_task.to_string()]);
    let batch = |text: &str| v1::LogBatch {
        id: request.id.clone(),
        lines: vec![v1::LogLine { task: theft.victims_task.to_string(), line: text.into(), ..Default::default() }],
    };
    for (who, text) in [(&theft.thief, "forged"), (&theft.victim, "true")] {
        let mut client = DispatcherClient::new(theft.stage.dial(who));
        client.publish_logs(tokio_stream::once(batch(text))).await.unwrap();
    }
    let mut all = Vec::new();
    while let Some(line) = tokio::time::timeout(LIMIT, lines.next()).await.unwrap() {
        all.push(String::from_utf8(line.unwrap().line).unwrap());
    }
    assert_eq!(all, ["true"]);
}

/// What it says too fast ends its session, and what is no news is not written.
#[tokio::test(flavor = "multi_thread")]
async fn it_makes_no_work_by_saying_the_same_again() {
    let theft = Theft::commit().await;
    let store = &theft.stage.manager.store;
    let report = |state: v1::TaskState| {
        let status = Some(v1::TaskStatus { state: state.into(), ..v1::TaskStatus::default() });
        let tasks = vec![v1::TaskReport { task: theft.thiefs_task.to_string(), status }];
        v1::AgentMessage { message: Some(Say::Status(v1::TaskStatusUpdate { tasks })) }
    };
    let state_of = |s: &Snapshot| s.tasks[&theft.thiefs_task].status.state;
    let say = &theft.talks[0].say;
    say.send(report(v1::TaskState::Preparing)).await.unwrap();
    until(store, "it prepares", |s| state_of(s) == TaskState::Preparing).await;
    let before = store.snapshot().version.0;
    for _ in 0..2000 {
        for message in [report(v1::TaskState::Preparing), hello(&theft.thief, 5)] {
            if say.send(message).await.is_err() {
                break;
            }
        }
    }
    let again = Talk::open(&theft.stage, &theft.thief, 5).await;
    again.say.send(report(v1::TaskState::Starting)).await.unwrap();
    until(store, "it starts", |s| state_of(s) == TaskState::Starting).await;
    let written = store.snapshot().version.0 - before;
    assert!(written < 20, "{written} transactions");
}
