//! The way from a command to the daemon of this host, or, for a user, to the cluster's port.

pub mod user;

use anyhow::{Result, anyhow, bail};
use heddle_manager::control::STALE_HEADER;
use heddle_plumbing::tls;
use heddle_proto::v1::{
    self, control_client::ControlClient, host_client::HostClient, local_client::LocalClient,
    observe_client::ObserveClient, payloads_client::PayloadsClient, roots_client::RootsClient,
    users_client::UsersClient,
};
use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};
use tonic::{
    Request,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

/// What a user hears of commands that are not for the cluster.
pub const ABOUT_THE_HOST: &str = "this command is about the host that it runs on: run it there as root, without --as";
const MAX_MESSAGE: usize = 64 << 20;

pub struct Client {
    socket: PathBuf,
    /// The files of the user who asks the cluster itself.
    user: Option<PathBuf>,
    stale: bool,
}

/// The way to the cluster's services, which are asked as the command line says.
type Asking = InterceptedService<Channel, Freshness>;
pub type Control = ControlClient<Asking>;

/// Marks requests that a manager may answer by itself.
#[derive(Debug, Clone, Copy)]
pub struct Freshness {
    stale: bool,
}

impl Interceptor for Freshness {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, tonic::Status> {
        if self.stale {
            request.metadata_mut().insert(STALE_HEADER, MetadataValue::from_static("1"));
        }
        Ok(request)
    }
}

/// How old the state is that answers, in one line.
fn staleness(replica: &v1::Replica) -> String {
    let leader = match replica.leader.as_str() {
        "" => "no leader".to_owned(),
        name => format!("leader {name}"),
    };
    format!("stale: as of revision {}, {:.1} s ago, {leader}", replica.revision, replica.heard_ms_ago as f64 / 1000.0)
}

/// The one sentence of a refusal.
pub fn said(status: tonic::Status) -> anyhow::Error {
    match status.message() {
        "" => anyhow!("the daemon answers with {}", status.code()),
        text => anyhow!("{text}"),
    }
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), user: None, stale: false }
    }

    /// As the user whose files are in a directory, if there is one.
    pub fn with_user(self, user: Option<PathBuf>) -> Self {
        Self { user, ..self }
    }

    /// Content with what one manager has itself, which may be old.
    pub fn with_stale(self, stale: bool) -> Self {
        Self { stale, ..self }
    }

    pub fn is_user(&self) -> bool {
        self.user.is_some()
    }

    /// Says on the error output how old the answer to come is, if it need not be new.
    pub async fn tell_staleness(&self) -> Result<()> {
        if self.stale {
            let replica = self.control()?.get_replica(v1::GetReplicaRequest {}).await.map_err(said)?;
            eprintln!("{}", staleness(&replica.into_inner()));
        }
        Ok(())
    }

    fn cluster(&self) -> Result<Asking> {
        let channel = self.user.as_deref().map_or_else(|| self.channel(), user::dial)?;
        Ok(InterceptedService::new(channel, Freshness { stale: self.stale }))
    }

    fn channel(&self) -> Result<Channel> {
        if self.user.is_some() {
            bail!(ABOUT_THE_HOST);
        }
        let at = self.socket.display();
        match UnixStream::connect(&self.socket) {
            Ok(_) => Ok(tls::dial_unix(self.socket.clone())),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                bail!("the daemon's socket {at} is for root only: run the command as root")
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                bail!("no daemon is running at {at}: start it with `heddle daemon`")
            }
            Err(e) => bail!("cannot reach the daemon at {at}: {e}"),
        }
    }

    pub fn local(&self) -> Result<LocalClient<Channel>> {
        Ok(LocalClient::new(self.channel()?))
    }

    pub fn control(&self) -> Result<Control> {
        Ok(ControlClient::new(self.cluster()?).max_decoding_message_size(MAX_MESSAGE))
    }

    pub fn observe(&self) -> Result<ObserveClient<Asking>> {
        Ok(ObserveClient::new(self.cluster()?).max_decoding_message_size(MAX_MESSAGE))
    }

    pub fn payloads(&self) -> Result<PayloadsClient<Asking>> {
        Ok(PayloadsClient::new(self.cluster()?).max_decoding_message_size(MAX_MESSAGE))
    }

    pub fn roots(&self) -> Result<RootsClient<Asking>> {
        Ok(RootsClient::new(self.cluster()?))
    }

    pub fn users(&self) -> Result<UsersClient<Asking>> {
        Ok(UsersClient::new(self.cluster()?))
    }

    pub fn host(&self) -> Result<HostClient<Channel>> {
        Ok(HostClient::new(self.channel()?).max_decoding_message_size(MAX_MESSAGE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[tokio::test]
    async fn who_has_no_daemon_hears_how_to_start_one() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let said = || Client::new(&socket).local().unwrap_err().to_string();
        let wanted = format!("no daemon is running at {}: start it with `heddle daemon`", socket.display());
        assert_eq!(said(), wanted, "never started");
        drop(UnixListener::bind(&socket).unwrap());
        assert_eq!(said(), wanted, "it was killed, and left its socket");
        let _listener = UnixListener::bind(dir.path().join("other")).unwrap();
        std::fs::rename(dir.path().join("other"), &socket).unwrap();
        assert!(Client::new(&socket).channel().is_ok());
    }

    #[test]
    fn staleness_is_one_line() {
        let replica = v1::Replica { revision: 42, heard_ms_ago: 12_340, leader: String::new() };
        assert_eq!(staleness(&replica), "stale: as of revision 42, 12.3 s ago, no leader");
        let replica = v1::Replica { heard_ms_ago: 40, leader: "node1".into(), ..replica };
        assert_eq!(staleness(&replica), "stale: as of revision 42, 0.0 s ago, leader node1");
    }
}
