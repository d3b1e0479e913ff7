//! WireGuard in this process, for kernels that have none. It has threads of its own: what it encrypts must not keep the agent
//! waiting. Its links are TUN links, which go when the daemon ends; the next daemon makes them again, and hosts shake hands
//! anew.

use super::Fault;
use crate::{
    dataplane::{
        state::Space,
        wireguard::{Traffic, Tunnel, TunnelChange, TunnelPeer},
    },
    kernel::linux::space,
    keyring::Keyring,
};
use futures::FutureExt;
use gotatun::{
    device::{
        Device, DeviceBuilder, Error, Peer,
        configure::{DeviceWrite, PeerStats},
    },
    tun::tun_async_device::TunDevice,
    udp::socket::UdpSocketFactory,
    x25519,
};
use heddle_model::{
    net::{IfName, Port},
    tunnel::PublicKey,
};
use ipnet::IpNet;
use std::{collections::BTreeMap, future::Future, io, net::SocketAddr};
use tokio::{
    runtime::{self, Runtime},
    sync::Mutex,
};

const TUN: &str = "/dev/net/tun";
/// A burst must not overrun the socket while it is being encrypted.
const SOCKET_BUFFER: usize = 4 << 20;

type Transports = (UdpSocketFactory, TunDevice, TunDevice);

struct Running {
    tun: TunDevice,
    /// None: it has no key and no port yet.
    device: Option<Device<Transports>>,
}

/// What runs in this process, by its link. Ends with the value.
#[derive(Default)]
pub struct Userspace {
    running: Mutex<BTreeMap<(Space, IfName), Running>>,
    /// Made when it is first needed.
    runtime: std::sync::OnceLock<Threads>,
}

struct Threads(Option<Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

pub fn is_there() -> bool {
    std::fs::OpenOptions::new().read(true).write(true).open(TUN).is_ok()
}

fn library(error: Error) -> io::Error {
    match error {
        Error::Bind(source, _) => source,
        other => io::Error::other(Fault::Library(other)),
    }
}

impl Userspace {
    /// On threads that are in the host's namespace, like whoever calls: sockets that are made there are the host's.
    async fn on_threads<T: Send + 'static>(&self, f: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        let make =
            || runtime::Builder::new_multi_thread().worker_threads(2).thread_name("wireguard").enable_all().build();
        let threads = match self.runtime.get() {
            Some(threads) => threads,
            None => {
                let made = Threads(Some(make()?));
                self.runtime.get_or_init(|| made)
            }
        };
        let runtime = threads.0.as_ref().ok_or_else(|| io::Error::other("the threads have ended"))?;
        runtime.spawn(f).await.map_err(io::Error::other)
    }

    pub async fn has(&self, space: &Space, name: &IfName) -> bool {
        self.running.lock().await.contains_key(&(space.clone(), name.clone()))
    }

    /// A TUN link in the space. What it carries is dropped until it has a key.
    pub async fn add(&self, space: &Space, name: &IfName) -> io::Result<()> {
        self.remove(space, name).await;
        let (at, called) = (space.clone(), name.to_string());
        let make = move || TunDevice::from_name(&called).map_err(io::Error::other);
        let made = self.on_threads(async move { space::inside(&at, make).await }).await?;
        let tun = match made {
            Err(source) if !is_there() => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, Fault::NoTun { source }));
            }
            made => made?,
        };
        self.running.lock().await.insert((space.clone(), name.clone()), Running { tun, device: None });
        Ok(())
    }

    pub async fn remove(&self, space: &Space, name: &IfName) {
        let ended = self.running.lock().await.remove(&(space.clone(), name.clone()));
        self.stop(ended).await;
    }

    pub async fn retain(&self, there: impl Fn(&Space, &IfName) -> bool) {
        let mut running = self.running.lock().await;
        let gone: Vec<_> = running.keys().filter(|(space, name)| !there(space, name)).cloned().collect();
        let ended: Vec<_> = gone.iter().filter_map(|key| running.remove(key)).collect();
        drop(running);
        self.stop(ended).await;
    }

    async fn stop(&self, ended: impl IntoIterator<Item = Running>) {
        for running in ended {
            let stopped = self.on_threads(async move {
                if let Some(device) = running.device {
                    device.stop().await;
                }
                drop(running.tun);
            });
            if let Err(error) = stopped.await {
                tracing::warn!(%error, "a tunnel did not end well");
            }
        }
    }

    pub async fn change(&self, space: &Space, name: &IfName, change: &TunnelChange, keys: &Keyring) -> io::Result<()> {
        let gone = || io::Error::from_raw_os_error(nix::libc::ENODEV);
        let mut running = self.running.lock().await;
        let there = running.get_mut(&(space.clone(), name.clone())).ok_or_else(gone)?;
        let device = there.device.take();
        let in_place = change.public_key.is_none() && change.port.is_none() && !change.anew;
        if let Some(device) = device {
            if in_place {
                let change = change.clone();
                let (device, result) = self.on_threads(async move { peers(device, change).await }).await?;
                there.device = Some(device);
                return result;
            }
            // With another key or port nothing of it can go on.
            let had = observe(&device).await;
            let tunnel = Tunnel::changed(had.as_ref(), change).ok_or_else(gone)?;
            self.on_threads(device.stop()).await?;
            there.device = Some(self.build(&there.tun, tunnel, keys).await?);
            return Ok(());
        }
        let tunnel = Tunnel::changed(None, change).ok_or_else(gone)?;
        there.device = Some(self.build(&there.tun, tunnel, keys).await?);
        Ok(())
    }

    async fn build(&self, tun: &TunDevice, tunnel: Tunnel, keys: &Keyring) -> io::Result<Device<Transports>> {
        let no_key = || io::Error::other(Fault::NoKey { key: tunnel.public_key });
        let secret = keys.secret(&tunnel.public_key).ok_or_else(no_key)?;
        let builder = DeviceBuilder::new()
            .with_default_udp()
            .udp_recv_buffer_size(SOCKET_BUFFER)
            .udp_send_buffer_size(SOCKET_BUFFER)
            .with_ip(tun.clone())
            .with_private_key(secret)
            .with_listen_port(tunnel.port.get())
            .with_peers(tunnel.peers.iter().map(|(key, peer)| peer_of(key, peer)));
        let alone = tunnel.peers.is_empty();
        let started = async move {
            let device = builder.build().await?;
            if alone {
                // Without a peer it has opened no socket, and would not when one comes; this has it open one.
                device.clear_peers().await?;
            }
            Ok(device)
        };
        self.on_threads(started).await?.map_err(library)
    }

    /// None: it is not there, it has failed, or it knows no key of its own yet.
    pub async fn observe(&self, space: &Space, name: &IfName) -> Option<Tunnel> {
        let mut running = self.running.lock().await;
        let device = running.get_mut(&(space.clone(), name.clone()))?.device.as_mut()?;
        // Such as after somebody set the link down: what it is told then leads nowhere.
        let failed = device.wait().now_or_never().is_some();
        if failed { None } else { observe(device).await }
    }

    pub async fn traffic(&self, space: &Space, name: &IfName) -> BTreeMap<PublicKey, Traffic> {
        let running = self.running.lock().await;
        let device = running.get(&(space.clone(), name.clone())).and_then(|r| r.device.as_ref());
        let Some(device) = device else { return BTreeMap::new() };
        let peers = device.read(async |read| read.peers().await).await;
        let traffic = |p: &PeerStats| Traffic {
            endpoint: p.peer.endpoint.map(plain),
            last_handshake: p.stats.last_handshake,
            sent: p.stats.tx_bytes as u64,
            received: p.stats.rx_bytes as u64,
        };
        peers.iter().map(|p| (PublicKey(p.peer.public_key.to_bytes()), traffic(p))).collect()
    }
}

fn plain(endpoint: SocketAddr) -> SocketAddr {
    SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port())
}

fn peer_of(key: &PublicKey, peer: &TunnelPeer) -> Peer {
    let nets = peer.allowed.iter().filter_map(|net| net.to_string().parse().ok());
    let made = Peer::new(x25519::PublicKey::from(key.0)).with_allowed_ips(nets);
    match peer.endpoint {
        Some(endpoint) => made.with_endpoint(endpoint),
        None => made,
    }
}

async fn peers(device: Device<Transports>, change: TunnelChange) -> (Device<Transports>, io::Result<()>) {
    let apply = async |write: &mut DeviceWrite<'_, Transports>| {
        for key in &change.remove {
            write.remove_peer(&x25519::PublicKey::from(key.0)).await;
        }
        for (key, peer) in &change.set {
            write.add_or_update_peer(peer_of(key, peer)).await;
        }
    };
    let result = device.write(apply).await.map_err(library);
    (device, result)
}

async fn observe(device: &Device<Transports>) -> Option<Tunnel> {
    let (public, port, peers) = device
        .read(async |read| (read.private_key().map(x25519::PublicKey::from), read.listen_port(), read.peers().await))
        .await;
    let peer = |p: Peer| {
        let endpoint = p.endpoint.map(plain);
        let allowed = p.allowed_ips.iter().filter_map(|n| IpNet::new(n.ip(), n.prefix()).ok()).collect();
        (PublicKey(p.public_key.to_bytes()), TunnelPeer { endpoint, allowed })
    };
    let peers = peers.into_iter().map(|p| peer(p.peer)).collect();
    Some(Tunnel { public_key: PublicKey(public?.to_bytes()), port: Port::try_from(port).ok()?, peers })
}
