//! Keeps the host's state: one writer, on disk before anybody sees it, published as snapshots.

use super::state::HostState;
use serde::Serialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

const FILE: &str = "host.json";

#[derive(Debug, thiserror::Error)]
#[error("cannot keep this host's networks and workloads in {path}")]
pub struct StoreError {
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

pub struct Store {
    path: PathBuf,
    writer: Mutex<()>,
    newest: watch::Sender<Arc<HostState>>,
}

/// Written whole and durable, or not at all.
fn write_whole(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let draft = path.with_extension("new");
    fs::write(&draft, serde_json::to_vec(value)?)?;
    fs::File::open(&draft)?.sync_all()?;
    fs::rename(&draft, path)
}

impl Store {
    /// What an earlier daemon kept, or `first`.
    pub fn open(dir: &Path, first: impl FnOnce() -> io::Result<HostState>) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let read = || -> io::Result<HostState> {
            fs::create_dir_all(dir)?;
            match fs::read(&path) {
                Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let state = first()?;
                    write_whole(&path, &state)?;
                    Ok(state)
                }
                Err(e) => Err(e),
            }
        };
        match read() {
            Ok(state) => Ok(Self { path, writer: Mutex::default(), newest: watch::channel(Arc::new(state)).0 }),
            Err(source) => Err(StoreError { path, source }),
        }
    }

    pub fn snapshot(&self) -> Arc<HostState> {
        self.newest.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Arc<HostState>> {
        self.newest.subscribe()
    }

    /// One change. What `change` refuses changes nothing; what changes nothing is not written.
    pub fn update<T, E: From<StoreError>>(&self, change: impl FnOnce(&mut HostState) -> Result<T, E>) -> Result<T, E> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot();
        let mut state = HostState::clone(&before);
        let answer = change(&mut state)?;
        if state != *before {
            state.revision = before.revision + 1;
            let failed = |source| StoreError { path: self.path.clone(), source };
            write_whole(&self.path, &state).map_err(failed)?;
            self.newest.send_replace(Arc::new(state));
        }
        Ok(answer)
    }
}
