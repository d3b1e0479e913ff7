//! The Linux kernel through netlink, nft and /proc/sys.
//!
//! ```text
//! observe  our objects as values      apply  steps as requests     links  making and removing them     fault  why not
//! netlink  a socket per namespace     space  namespaces     nft  tables     ipvs  virtual services
//! genl     families of generic netlink          wireguard  the tunnel between hosts
//! conntrack  flows that are known      datagrams  leading them anew
//! firewall  rules of others, and ours among them     watch  what others change
//! ```

mod apply;
pub mod conntrack;
pub mod datagrams;
mod fault;
pub mod firewall;
pub(crate) mod genl;
pub mod ipvs;
mod links;
mod netlink;
pub(crate) mod nft;
mod observe;
pub mod space;
#[cfg(test)]
mod tests;
pub mod watch;
pub mod wireguard;

pub use apply::describe;
pub use links::{ipvlan_flag_of, ipvlan_mode_of};

use super::{Kernel, KernelError};
use crate::{
    dataplane::{
        state::{KernelState, Space, SpaceState},
        step::Step,
    },
    keyring::Keyring,
};
use netlink::Socket;
use std::{collections::HashMap, io, sync::Arc};
use tokio::sync::Mutex;
use wireguard::Userspace;

#[derive(Default)]
pub struct LinuxKernel {
    sockets: Mutex<HashMap<Space, Arc<Socket>>>,
    keys: Arc<Keyring>,
    userspace: Userspace,
}

impl LinuxKernel {
    pub fn new() -> Self {
        Self::default()
    }

    /// One that can set tunnels with these keys.
    pub fn with_keys(keys: Arc<Keyring>) -> Self {
        Self { keys, ..Self::default() }
    }

    async fn socket(&self, space: &Space) -> io::Result<Arc<Socket>> {
        let mut sockets = self.sockets.lock().await;
        if let Some(socket) = sockets.get(space) {
            return Ok(socket.clone());
        }
        let socket = Arc::new(Socket::open(space).await?);
        sockets.insert(space.clone(), socket.clone());
        Ok(socket)
    }

    async fn forget(&self, space: &Space) {
        self.sockets.lock().await.remove(space);
    }

    async fn forget_all_indices(&self) {
        self.sockets.lock().await.values().for_each(|s| s.forget_indices());
    }
}

impl Kernel for LinuxKernel {
    async fn observe(&self) -> Result<KernelState, KernelError> {
        let failed = |space: &Space, operation, source| KernelError {
            operation,
            object: "namespace".into(),
            space: space.clone(),
            source,
        };
        // Somebody may have removed or replaced a namespace behind our back.
        self.sockets.lock().await.clear();
        let mut state = KernelState::default();
        let names = space::list().map_err(|e| failed(&Space::Host, "list", e))?;
        let (whole, broken): (Vec<_>, Vec<_>) = names.into_iter().partition(|n| space::is_whole(n));
        for name in broken {
            space::remove(&name).await.map_err(|e| failed(&Space::Named(name), "remove broken", e))?;
        }
        let host = self.socket(&Space::Host).await.map_err(|e| failed(&Space::Host, "look at", e))?;
        for space in std::iter::once(Space::Host).chain(whole.into_iter().map(Space::Named)) {
            let found = self.observe_space(&space, &host).await.map_err(|e| failed(&space, "look at", e))?;
            state.spaces.insert(space, found);
        }
        let there = |space: &Space, name: &_| state.spaces.get(space).is_some_and(|s| s.links.contains_key(name));
        self.tidy_userspace(there).await;
        Ok(state)
    }

    async fn observe_host(&self) -> Result<SpaceState, KernelError> {
        self.forget(&Space::Host).await;
        let failed =
            |source| KernelError { operation: "look at", object: "namespace".into(), space: Space::Host, source };
        let host = self.socket(&Space::Host).await.map_err(failed)?;
        self.observe_space(&Space::Host, &host).await.map_err(failed)
    }

    async fn apply(&self, steps: &[Step]) -> Result<(), (usize, KernelError)> {
        let mut at = 0;
        while at < steps.len() {
            let (count, result) = match &steps[at] {
                Step::SetTable { space, .. } => {
                    let scripts = tables(&steps[at..]);
                    (scripts.len(), nft::run(space, scripts.concat()).await)
                }
                Step::SetSysctl { space, .. } => {
                    let values = sysctls(&steps[at..]);
                    let count = values.len();
                    match apply::set_sysctls(space, values).await {
                        Ok(()) => (count, Ok(())),
                        Err((done, source)) => {
                            at += done;
                            (1, Err(source))
                        }
                    }
                }
                step => (1, self.step(step).await),
            };
            if let Err(source) = result {
                let step = &steps[at];
                let (operation, object, space) = apply::describe(step);
                if !matches!(step, Step::AddPass { .. } | Step::RemovePass { .. }) {
                    return Err((at, KernelError { operation, object, space, source }));
                }
                tracing::warn!(error = %source, "cannot {operation} {object}");
            }
            at += count;
        }
        Ok(())
    }
}

/// The scripts of neighbouring steps that set tables of one namespace: one transaction, one run of nft.
fn tables(steps: &[Step]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut first = None;
    for step in steps {
        match step {
            Step::SetTable { space, script, .. } if first.is_none_or(|f| f == space) => {
                first = Some(space);
                out.push(script.clone());
            }
            _ => break,
        }
    }
    out
}

/// Neighbouring steps that set sysctls of one namespace: one thread enters it for all.
fn sysctls(steps: &[Step]) -> Vec<(String, String)> {
    let Some(Step::SetSysctl { space: first, .. }) = steps.first() else { return Vec::new() };
    let same = |step: &Step| match step {
        Step::SetSysctl { space, key, value } if space == first => Some((key.clone(), value.clone())),
        _ => None,
    };
    steps.iter().map_while(same).collect()
}
