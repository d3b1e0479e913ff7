//! A daemon of a lab, asked by many at once on its own socket: for more calls than processes could make. Calls go on after the
//! daemon was killed in the middle of one, and hold what they asked for when they return.

use crate::Lab;
use heddle_plumbing::tls;
use heddle_proto::v1::{self, host_client::HostClient};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use tonic::{Code, Status, transport::Channel};

/// How long one call may be tried again.
const LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

pub struct Daemon {
    socket: PathBuf,
    /// Calls that were cut off.
    pub cut_off: AtomicU32,
}

/// What a call came to that was tried until it was answered.
type Answer = Result<(), Status>;

impl Daemon {
    pub fn of(lab: &Lab, host: &str) -> Self {
        let hosts = lab.hosts();
        let found = hosts.as_array().into_iter().flatten().find(|h| h["name"] == host);
        let socket = found.and_then(|h| h["socket"].as_str()).unwrap_or_else(|| panic!("{host} has no socket"));
        Daemon { socket: socket.into(), cut_off: AtomicU32::new(0) }
    }

    fn client(&self) -> HostClient<Channel> {
        HostClient::new(tls::dial_unix(self.socket.clone()))
    }

    /// `done`: words of the refusal that says that an earlier try, which was cut off, had done it.
    async fn hold<F: Future<Output = Answer>>(&self, done: &str, call: impl Fn(HostClient<Channel>) -> F) -> Answer {
        let begin = Instant::now();
        let mut cut_off = false;
        loop {
            match call(self.client()).await {
                Err(status) if status.message().contains(done) => return if cut_off { Ok(()) } else { Err(status) },
                Err(status) if is_cut_off(&status) && begin.elapsed() < LIMIT => {
                    cut_off = true;
                    self.cut_off.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    pub async fn connect(&self, target: &str, network: &str) -> Answer {
        self.hold("already", |mut client| async move {
            let wish = v1::NetworkWish { network: network.to_owned(), ..v1::NetworkWish::default() };
            let request = v1::ConnectNetworkRequest { target: target.to_owned(), wish: Some(wish) };
            client.connect_network(request).await.map(drop)
        })
        .await
    }

    pub async fn disconnect(&self, target: &str, network: &str) -> Answer {
        self.hold("is not connected to", |mut client| async move {
            let (target, network) = (target.to_owned(), network.to_owned());
            client.disconnect_network(v1::DisconnectNetworkRequest { target, network, force: false }).await.map(drop)
        })
        .await
    }

    pub async fn create_network(&self, spec: &v1::NetworkSpec) -> Answer {
        self.hold("exists", |mut client| async move {
            client.create_network(v1::CreateNetworkRequest { spec: Some(spec.clone()) }).await.map(drop)
        })
        .await
    }

    pub async fn remove_network(&self, name: &str) -> Answer {
        self.hold("no network is called", |mut client| async move {
            client.remove_network(v1::RefRequest { r#ref: name.to_owned() }).await.map(drop)
        })
        .await
    }
}

/// Nobody answered, or the daemon has begun anew and is not in touch with the managers yet.
fn is_cut_off(status: &Status) -> bool {
    let gone = matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown);
    let begins = ["no manager of the cluster", "no workload is called", "no network is called"];
    gone || begins.iter().any(|words| status.message().contains(words))
}
