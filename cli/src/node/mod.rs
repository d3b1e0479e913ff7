//! The daemon of one host: an agent, a manager where the role says so, and the sockets they are reached by.
//!
//! ```text
//! unix socket (root) ── Local: init, join, leave, info        state   what is on disk
//!                   └── Control, Observe, Users ─> manager    member  the running halves
//! tcp 2377 (mTLS)   ── these, Dispatcher, NodeCa, Raft        addr    which addresses to use
//!                                                             first   the first objects of a cluster
//!                                                             remote  joining and leaving, as managers hear it
//!                                                             renewal the certificate, before it ends
//!                                                             serving the cluster's port
//! tcp, if asked     ── /metrics, /healthz, /readyz            http    numbers          ready   what has to hold
//!                                                             recovery a cluster that begins anew
//!                                                             place   addresses, after a start with others
//!                                                             locked  a manager that waits for its unlock key
//! ```

pub(crate) mod addr;
mod control;
mod first;
mod http;
mod local;
mod locked;
mod member;
mod place;
mod ready;
mod recovery;
mod remote;
mod renewal;
mod serving;
pub(crate) mod state;

use crate::backend::LbBackend;
use anyhow::{Context, Result, bail};
use control::Dynamic;
use heddle_agent::{agent::Endowment, kernel::linux::wireguard::Choice};
use heddle_plumbing::{access, metrics, tls};
use heddle_proto::v1::{
    control_server::ControlServer, host_server::HostServer, local_server::LocalServer, observe_server::ObserveServer,
    payloads_server::PayloadsServer, roots_server::RootsServer, users_server::UsersServer,
};
use local::LocalService;
use sd_notify::NotifyState;
use std::{
    fs::{self, File, TryLockError},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::net::UnixListener;

#[derive(Clone)]
pub struct Config {
    pub state_dir: PathBuf,
    pub socket: PathBuf,
    pub lb_backend: LbBackend,
    /// What encrypts between hosts.
    pub wireguard: Choice,
    /// What the operator says that this host is and has.
    pub endowment: Endowment,
    /// Where others reach this host from now on; empty: where they did.
    pub advertise_addr: String,
    /// Where the data path is from now on; empty: where it was.
    pub data_path_addr: String,
    /// Where containerd is, and where it is told about registries.
    pub images: heddle_engine::Settings,
    /// Where numbers and readiness are told over HTTP; None: nowhere.
    pub metrics_addr: Option<SocketAddr>,
}

/// How long a daemon that was killed a moment ago may take to be gone.
const LAST_BREATH: Duration = Duration::from_secs(3);

/// The state directory's lock, which ends with this process however it ends.
async fn alone(state_dir: &Path) -> Result<File> {
    fs::create_dir_all(state_dir).with_context(|| format!("cannot make {}", state_dir.display()))?;
    let path = state_dir.join("daemon.lock");
    let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    let until = tokio::time::Instant::now() + LAST_BREATH;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(TryLockError::WouldBlock) => bail!("a daemon is running already with {}", state_dir.display()),
            Err(TryLockError::Error(e)) => return Err(e).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

/// Runs until SIGTERM or SIGINT. Tasks and kernel objects stay: the next daemon takes them over.
pub async fn run(config: Config) -> Result<()> {
    // Before anything is touched: two agents on one host would undo each other's work.
    let _alone = alone(&config.state_dir).await?;
    let recorded = config.metrics_addr.and_then(|_| metrics::record());
    let daemon = Arc::new(member::Daemon::open(&config).await?);
    let told = match config.metrics_addr.zip(recorded) {
        Some((addr, recorded)) => Some(tokio::spawn(http::serve(addr, daemon.clone(), recorded).await?)),
        None => None,
    };
    let dir = config.socket.parent().context("the socket's path has no directory")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    if tokio::net::UnixStream::connect(&config.socket).await.is_ok() {
        bail!("a daemon is running already at {}", config.socket.display());
    }
    let _ = fs::remove_file(&config.socket);
    let listener =
        UnixListener::bind(&config.socket).with_context(|| format!("cannot listen at {}", config.socket.display()))?;
    let server = access::server(Arc::new(|_, _| Ok(())))
        .add_service(LocalServer::new(LocalService { daemon: daemon.clone() }))
        .add_service(HostServer::new(daemon.agent.host.clone()))
        .add_service(Dynamic::<ControlServer<_>>::new(daemon.clone()))
        .add_service(Dynamic::<ObserveServer<_>>::new(daemon.clone()))
        .add_service(Dynamic::<PayloadsServer<_>>::new(daemon.clone()))
        .add_service(Dynamic::<RootsServer<_>>::new(daemon.clone()))
        .add_service(Dynamic::<UsersServer<_>>::new(daemon.clone()))
        .serve_with_incoming(tls::incoming_unix(listener));
    let follow = tokio::spawn(daemon.clone().follow_roles());
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tracing::info!(socket = %config.socket.display(), "daemon started");
    // Without a service manager that waits for it there is nobody to tell.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    tokio::select! {
        served = server => served.context("the local socket failed")?,
        _ = term.recv() => tracing::info!("daemon stops; tasks go on"),
        _ = tokio::signal::ctrl_c() => tracing::info!("daemon stops; tasks go on"),
    }
    follow.abort();
    told.iter().for_each(|t| t.abort());
    let _ = fs::remove_file(&config.socket);
    daemon.stop().await;
    Ok(())
}
