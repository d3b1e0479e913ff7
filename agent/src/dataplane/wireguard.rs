//! What WireGuard links know, as values, and what turns one such value into another.

use heddle_model::{net::Port, tunnel::PublicKey};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

/// What a WireGuard link knows. Private keys are no part of any state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    pub public_key: PublicKey,
    pub port: Port,
    pub peers: BTreeMap<PublicKey, TunnelPeer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelPeer {
    /// None: observed only.
    pub endpoint: Option<SocketAddr>,
    /// Addresses that it may send from and is sent to.
    pub allowed: BTreeSet<IpNet>,
}

/// What went by a WireGuard link to and from one peer, and when they last shook hands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    pub endpoint: Option<SocketAddr>,
    /// How long ago. None: there was none yet, or what came of it has expired.
    pub last_handshake: Option<Duration>,
    /// Bytes.
    pub sent: u64,
    pub received: u64,
}

/// The difference between what a WireGuard link knows and what it should. Sessions of peers that are not named go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TunnelChange {
    pub public_key: Option<PublicKey>,
    pub port: Option<Port>,
    pub set: BTreeMap<PublicKey, TunnelPeer>,
    pub remove: BTreeSet<PublicKey>,
    /// What it knew is not known: all peers but those of `set` go.
    pub anew: bool,
}

impl Tunnel {
    /// What makes this of what is there.
    pub fn change(&self, have: Option<&Tunnel>) -> TunnelChange {
        let Some(have) = have else {
            let (public_key, port) = (Some(self.public_key), Some(self.port));
            return TunnelChange { public_key, port, set: self.peers.clone(), anew: true, ..TunnelChange::default() };
        };
        let changed = self.peers.iter().filter(|(key, peer)| have.peers.get(key) != Some(peer));
        TunnelChange {
            public_key: Some(self.public_key).filter(|key| *key != have.public_key),
            port: Some(self.port).filter(|port| *port != have.port),
            set: changed.map(|(key, peer)| (*key, peer.clone())).collect(),
            remove: have.peers.keys().filter(|key| !self.peers.contains_key(key)).copied().collect(),
            anew: false,
        }
    }

    /// What it is after a change that was made of what was there. None: it would have no key, or no port.
    pub fn changed(have: Option<&Tunnel>, change: &TunnelChange) -> Option<Self> {
        let mut peers = have.filter(|_| !change.anew).map(|h| h.peers.clone()).unwrap_or_default();
        peers.retain(|key, _| !change.remove.contains(key));
        peers.extend(change.set.iter().map(|(key, peer)| (*key, peer.clone())));
        let public_key = change.public_key.or(have.map(|h| h.public_key))?;
        Some(Self { public_key, port: change.port.or(have.map(|h| h.port))?, peers })
    }
}
