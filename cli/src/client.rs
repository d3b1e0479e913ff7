//! The way from a command to the daemon of this host.

use anyhow::{Result, anyhow, bail};
use heddle_plumbing::tls;
use heddle_proto::v1::{
    control_client::ControlClient, host_client::HostClient, local_client::LocalClient, observe_client::ObserveClient,
};
use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};
use tonic::transport::Channel;

const MAX_MESSAGE: usize = 64 << 20;

pub struct Client {
    socket: PathBuf,
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
        Self { socket: socket.to_owned() }
    }

    fn channel(&self) -> Result<Channel> {
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
        Ok(ControlClient::new(self.channel()?).max_decoding_message_size(MAX_MESSAGE))
    }

    pub fn observe(&self) -> Result<ObserveClient<Channel>> {
        Ok(ObserveClient::new(self.channel()?).max_decoding_message_size(MAX_MESSAGE))
    }

    pub fn host(&self) -> Result<HostClient<Channel>> {
        Ok(HostClient::new(self.channel()?).max_decoding_message_size(MAX_MESSAGE))
    }
}
