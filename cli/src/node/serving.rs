//! The cluster's port, on a manager.

use super::state::NodeState;
use anyhow::{Result, anyhow, bail};
use heddle_manager::manager::Manager;
use heddle_plumbing::tls::{self, Credentials};
use std::net::SocketAddr;
use tokio::{net::TcpListener, task::AbortHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Whoever serves the cluster's port. When dropped, nobody does, and its connections end: they would lead to a manager that is none
/// any more.
pub struct Serving {
    accepting: AbortHandle,
    _ends: DropGuard,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves the cluster's port.
pub async fn serve(state: &NodeState, credentials: &Credentials, manager: &Manager) -> Result<Serving> {
    let listener = listen(&state.listen)?;
    let ends = CancellationToken::new();
    let incoming = tls::incoming(listener, credentials, ends.clone());
    let server = manager.server().serve_with_incoming(incoming);
    let accepting = tokio::spawn(async move { drop(server.await) }).abort_handle();
    Ok(Serving { accepting, _ends: ends.drop_guard() })
}

/// The first address that can be listened at: a host without IPv6 has no `[::]`.
fn listen(addrs: &[SocketAddr]) -> Result<TcpListener> {
    let mut last = anyhow!("no address to listen at");
    for addr in addrs {
        match tls::listen(*addr) {
            Ok(listener) => return Ok(listener),
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
                bail!("port {} is in use: stop what listens there, or use another --listen-addr", addr.port());
            }
            Err(e) => last = anyhow!(e).context(format!("cannot listen at {addr}")),
        }
    }
    Err(last)
}
