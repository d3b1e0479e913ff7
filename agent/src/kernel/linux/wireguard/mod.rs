//! WireGuard links: made and changed by what does the encryption on this host.
//!
//! ```text
//! choice     which of the two                   fault  why not
//! netlink    the kernel's own
//! userspace  a library here, over a TUN link: it ends with the daemon and is made again by the next one
//! ```
//!
//! Whatever does it, the UDP socket is in the host's namespace and the link is where it is wanted.

mod choice;
mod fault;
pub(crate) mod netlink;
mod userspace;

pub use choice::{Choice, Missing, choose};
pub use userspace::Userspace;

use super::LinuxKernel;
use crate::dataplane::{
    names,
    state::{Link, LinkKind, Space, SpaceState},
    wireguard::{Traffic, Tunnel, TunnelChange},
};
use fault::{Fault, explained};
use heddle_model::{
    net::IfName,
    tunnel::{Backend, PublicKey},
};
use rtnetlink::LinkWireguard;
use std::{collections::BTreeMap, io};

/// What this host can encrypt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    pub kernel: bool,
    pub userspace: bool,
}

impl Available {
    /// Asks the kernel, which loads what it has as modules.
    pub async fn find() -> io::Result<Self> {
        Ok(Self { kernel: netlink::is_there().await?, userspace: userspace::is_there() })
    }
}

impl LinuxKernel {
    pub(super) async fn add_wireguard(&self, space: &Space, name: &IfName, link: &Link, by: Backend) -> io::Result<()> {
        match by {
            Backend::Kernel => {
                let staging = names::staging(space, name);
                let message = LinkWireguard::new(staging.as_str()).mtu(link.mtu.0.into()).build();
                self.add_in(space, message).await?;
                self.finish(space, &staging, name, false).await
            }
            Backend::Userspace => {
                self.userspace.add(space, name).await?;
                let socket = self.socket(space).await?;
                socket.forget_indices();
                self.set(space, name, |b| b.mtu(link.mtu.0.into())).await
            }
        }
    }

    pub(super) async fn set_tunnel(&self, space: &Space, name: &IfName, change: &TunnelChange) -> io::Result<()> {
        let secret = match change.public_key {
            Some(key) => Some(self.keys.secret(&key).ok_or_else(|| io::Error::other(Fault::NoKey { key }))?),
            None => None,
        };
        let result = if self.userspace.has(space, name).await {
            self.userspace.change(space, name, change, &self.keys).await
        } else {
            netlink::change(space, name, change, secret.as_ref()).await
        };
        result.map_err(|e| explained(e, change.port))
    }

    /// What the links of this kind know.
    pub(super) async fn tunnels(&self, space: &Space, state: &mut SpaceState) -> io::Result<()> {
        for (name, link) in &state.links {
            let LinkKind::Wireguard { by } = link.kind else { continue };
            let found: Option<Tunnel> = match by {
                Backend::Kernel => netlink::observe(space, name).await?,
                Backend::Userspace => self.userspace.observe(space, name).await,
            };
            state.tunnels.extend(found.map(|tunnel| (name.clone(), tunnel)));
        }
        Ok(())
    }

    /// What went by a link of this kind, by the key of the peer. It is no part of what the link should be.
    pub async fn traffic(&self, space: &Space, name: &IfName) -> io::Result<BTreeMap<PublicKey, Traffic>> {
        if self.userspace.has(space, name).await {
            return Ok(self.userspace.traffic(space, name).await);
        }
        netlink::traffic(space, name).await
    }

    /// Ends what runs in this daemon behind links that are not there any more.
    pub(super) async fn tidy_userspace(&self, there: impl Fn(&Space, &IfName) -> bool) {
        self.userspace.retain(there).await;
    }
}
