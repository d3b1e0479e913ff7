//! The way from a command to the daemon of this host, or, for a user, to the cluster's port.

pub mod user;

use anyhow::{Result, anyhow, bail};
use heddle_plumbing::tls;
use heddle_proto::v1::{
    control_client::ControlClient, host_client::HostClient, local_client::LocalClient, observe_client::ObserveClient,
    users_client::UsersClient,
};
use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};
use tonic::transport::Channel;

/// What a user hears of commands that are not for the cluster.
pub const ABOUT_THE_HOST: &str = "this command is about the host that it runs on: run it there as root, without --as";
const MAX_MESSAGE: usize = 64 << 20;

pub struct Client {
    socket: PathBuf,
    /// The files of the user who asks the cluster itself.
    user: Option<PathBuf>,
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
        Self { socket: socket.to_owned(), user: None }
    }

    /// As the user whose files are in a directory, if there is one.
    pub fn with_user(self, user: Option<PathBuf>) -> Self {
        Self { user, ..self }
    }

    pub fn is_user(&self) -> bool {
        self.user.is_some()
    }

    fn cluster(&self) -> Result<Channel> {
        self.user.as_deref().map_or_else(|| self.channel(), user::dial)
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

    pub fn control(&self) -> Result<ControlClient<Channel>> {
        Ok(ControlClient::new(self.cluster()?).max_decoding_message_size(MAX_MESSAGE))
    }

    pub fn observe(&self) -> Result<ObserveClient<Channel>> {
        Ok(ObserveClient::new(self.cluster()?).max_decoding_message_size(MAX_MESSAGE))
    }

    pub fn users(&self) -> Result<UsersClient<Channel>> {
        Ok(UsersClient::new(self.cluster()?))
    }

    pub fn host(&self) -> Result<HostClient<Channel>> {
        Ok(HostClient::new(self.channel()?).max_decoding_message_size(MAX_MESSAGE))
    }
}
