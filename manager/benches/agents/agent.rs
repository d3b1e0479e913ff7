//! Agents that do what they are told, but to nothing.

use super::stage;
use futures::StreamExt;
use heddle_model::{NodeId, cluster::Cluster};
use heddle_plumbing::tls::{self, Credentials};
use heddle_proto::v1::{
    self, agent_message::Message as FromAgent, assigned::Item, assigned_key::Key, assignments::Type,
    dispatcher_client::DispatcherClient, manager_message::Message as ToAgent,
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// Those that shake hands or wait for their first assignments: on one machine with the manager, more would only take the
/// processor from it.
static JOINING: Semaphore = Semaphore::const_new(64);

#[derive(serde::Deserialize)]
struct Told {
    addr: SocketAddr,
    cluster: Cluster,
    nodes: Vec<(NodeId, IpAddr)>,
}

/// Reads from stdin who they are, and ends with it.
pub fn main() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let told: Told = serde_json::from_str(&line).unwrap();
    // Whoever started them has ended, whichever way.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let agents = told.nodes.into_iter().map(|(node, addr)| {
        let credentials = stage::certificate(&told.cluster, &node, heddle_model::cluster::Role::Worker);
        runtime.spawn(run(told.addr, credentials, addr))
    });
    let agents: Vec<_> = agents.collect();
    for agent in agents {
        runtime.block_on(agent).unwrap();
    }
}

/// Sessions, one after the other.
async fn run(manager: SocketAddr, credentials: Credentials, addr: IpAddr) {
    loop {
        session(manager, &credentials, addr).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

fn status(task: &str, state: v1::TaskState) -> v1::TaskReport {
    let status = v1::TaskStatus { state: state.into(), ..v1::TaskStatus::default() };
    v1::TaskReport { task: task.to_owned(), status: Some(status) }
}

struct Held {
    state: v1::TaskState,
    stop: bool,
}

async fn session(manager: SocketAddr, credentials: &Credentials, addr: IpAddr) -> Option<()> {
    let mut joining = Some(JOINING.acquire().await.unwrap());
    let mut client = DispatcherClient::new(tls::dial_session(manager, credentials));
    client = client.max_decoding_message_size(64 << 20);
    let (speak, spoken) = mpsc::channel(64);
    let say = |message| speak.send(v1::AgentMessage { message: Some(message) });
    let description = v1::NodeDescription {
        hostname: format!("h-{addr}"),
        executors: vec!["process".into()],
        ..v1::NodeDescription::default()
    };
    let data_path_addr = addr.to_string();
    say(FromAgent::Hello(v1::Hello { description: Some(description), data_path_addr, tasks: Vec::new() }))
        .await
        .ok()?;
    let mut heard = client.session(ReceiverStream::new(spoken)).await.ok()?.into_inner();
    let mut period = Duration::from_millis(300);
    let mut beat = tokio::time::interval(period);
    let mut silent = 0;
    let mut tasks: BTreeMap<String, Held> = BTreeMap::new();
    loop {
        let message = tokio::select! {
            message = heard.next() => message?.ok()?.message?,
            _ = beat.tick() => {
                // As agents do: an answer is asked for once half of their patience is over.
                silent += 1;
                let answer = period * silent >= Duration::from_secs(2).max(period * 3 / 2);
                say(FromAgent::Heartbeat(v1::Heartbeat { answer })).await.ok()?;
                continue;
            }
        };
        silent = 0;
        let assignments = match message {
            ToAgent::Assignments(assignments) => assignments,
            ToAgent::Session(info) => {
                period = Duration::from_millis(info.heartbeat_ms.into());
                beat = tokio::time::interval(period);
                continue;
            }
            _ => continue,
        };
        drop(joining.take());
        let (complete, revision) = (assignments.r#type() == Type::Complete, assignments.results_in);
        if complete {
            tasks.clear();
        }
        for item in assignments.update.into_iter().filter_map(|u| u.item) {
            if let Item::Task(task) = item {
                tasks.entry(task.id).or_insert(Held { state: v1::TaskState::Assigned, stop: false }).stop = task.stop;
            }
        }
        for key in assignments.remove.into_iter().filter_map(|r| r.key) {
            if let Key::Task(task) = key {
                tasks.remove(&task);
            }
        }
        for next in [v1::TaskState::Accepted, v1::TaskState::Running, v1::TaskState::Shutdown] {
            let behind = tasks
                .iter_mut()
                .filter(|(_, held)| held.state < next && held.stop == (next == v1::TaskState::Shutdown));
            let reports: Vec<_> = behind
                .map(|(id, held)| {
                    held.state = next;
                    status(id, next)
                })
                .collect();
            if !reports.is_empty() {
                say(FromAgent::Status(v1::TaskStatusUpdate { tasks: reports })).await.ok()?;
            }
        }
        say(FromAgent::Ack(v1::Ack { revision })).await.ok()?;
    }
}
