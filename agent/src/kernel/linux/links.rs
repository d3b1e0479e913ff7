//! Making and removing links.

use super::{LinuxKernel, apply::EXISTS, apply::unless, fault::fault, netlink::io_error, space};
use crate::dataplane::{
    mode::{IpvlanFlag, IpvlanMode, MacvlanMode},
    names, own,
    state::{Link, LinkKind, PortFlags, Space, Vxlan},
};
use heddle_model::net::IfName;
use rtnetlink::{
    LinkBridge, LinkIpVlan, LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVlan, LinkVxlan,
    packet_route::link::{
        InfoData, InfoVeth, IpVlanFlags, IpVlanMode, LinkAttribute, LinkMessage, MacVlanMode, VxlanDf,
    },
};
use std::{fs::File, io, net::IpAddr, os::fd::AsRawFd, time::Duration};

/// The kernel frees a VNI some tens of milliseconds after its link is gone.
const VNI_TRIES: u32 = 40;
const VNI_WAIT: Duration = Duration::from_millis(25);

impl LinuxKernel {
    pub(super) async fn add_link(&self, space: &Space, name: &IfName, link: &Link) -> io::Result<()> {
        match &link.kind {
            LinkKind::Bridge => self.add_bridge(space, name, link).await?,
            LinkKind::Vxlan(vxlan) => self.add_vxlan(space, name, link, vxlan).await?,
            LinkKind::Veth { peer } => self.add_veth(space, name, link, peer).await?,
            LinkKind::Wireguard { by } => {
                self.add_wireguard(space, name, link, *by).await.map_err(|e| fault(&link.kind, e))?;
            }
            LinkKind::Macvlan { .. } | LinkKind::Ipvlan { .. } | LinkKind::Vlan { .. } | LinkKind::Tun => {
                self.add_child(space, name, link).await.map_err(|e| fault(&link.kind, e))?;
            }
        }
        self.socket(space).await?.forget_indices();
        if let Some(master) = &link.master {
            let index = self.socket(space).await?.index(master).await?;
            self.set(space, name, |b| b.controller(index)).await?;
            if link.port != PortFlags::default() {
                self.set_port(space, name, &link.port).await?;
            }
        }
        if link.up { self.set_up(space, name, true).await } else { Ok(()) }
    }

    pub(super) async fn set_up(&self, space: &Space, name: &IfName, up: bool) -> io::Result<()> {
        // A VLAN whose parent is down: the kernel brings it up with its parent.
        unless(self.set(space, name, |b| if up { b.up() } else { b.down() }).await, &[nix::libc::ENETDOWN])
    }

    async fn add_bridge(&self, space: &Space, name: &IfName, link: &Link) -> io::Result<()> {
        let socket = self.socket(space).await?;
        let chosen = *space == Space::Host && !own::host_name(name.as_str());
        let first = if chosen { names::staging(space, name) } else { name.clone() };
        // Down: before Linux 6.2 a link that is up cannot be renamed.
        let mut builder = LinkMessageBuilder::<LinkBridge>::new(first.as_str()).mcast_snooping(false);
        builder = builder.mtu(link.mtu.0.into());
        if let Some(mac) = link.mac {
            builder = builder.address(mac.0.to_vec());
        }
        if chosen {
            socket.handle.link().add(builder.build()).execute().await.map_err(io_error)?;
            return self.finish(space, &first, name, true).await.map_err(|e| fault(&link.kind, e));
        }
        unless(socket.handle.link().add(builder.build()).execute().await.map_err(io_error), EXISTS)
    }

    /// A link on a parent of the host's. One request makes it in its own space, under another name: up to Linux 6.14 the
    /// name is looked for in the space of the socket, and `eth0` is there.
    async fn add_child(&self, space: &Space, name: &IfName, link: &Link) -> io::Result<()> {
        let host = self.socket(&Space::Host).await?;
        // Others make and remove parents: an index that was known may be another link's by now.
        host.forget_indices();
        let staging = names::staging(space, name);
        let message = match &link.kind {
            LinkKind::Macvlan { parent, mode } => {
                let mode = macvlan_mode(*mode);
                let mut builder = LinkMacVlan::new(staging.as_str(), host.index(parent).await?, mode);
                if let Some(mac) = link.mac {
                    builder = builder.address(mac.0.to_vec());
                }
                builder.mtu(link.mtu.0.into()).build()
            }
            LinkKind::Ipvlan { parent, mode, flag } => {
                LinkIpVlan::new(staging.as_str(), host.index(parent).await?, ipvlan_mode(*mode))
                    .flag(ipvlan_flags(*flag))
                    .mtu(link.mtu.0.into())
                    .build()
            }
            LinkKind::Vlan { parent, id } => {
                LinkVlan::new(staging.as_str(), host.index(parent).await?, *id).mtu(link.mtu.0.into()).build()
            }
            LinkKind::Bridge
            | LinkKind::Vxlan(_)
            | LinkKind::Veth { .. }
            | LinkKind::Wireguard { .. }
            | LinkKind::Tun => {
                return Err(io::Error::from_raw_os_error(nix::libc::EINVAL));
            }
        };
        self.add_in(space, message).await?;
        self.finish(space, &staging, name, *space == Space::Host && !own::host_name(name.as_str())).await
    }

    /// Asks on the host's socket for a link in `space`.
    pub(super) async fn add_in(&self, space: &Space, mut message: LinkMessage) -> io::Result<()> {
        let host = self.socket(&Space::Host).await?;
        let file = match space {
            Space::Named(to) => Some(File::open(space::path(to))?),
            Space::Host => None,
        };
        message.attributes.extend(file.as_ref().map(|f| LinkAttribute::NetNsFd(f.as_raw_fd())));
        host.handle.link().add(message).execute().await.map_err(io_error)?;
        self.socket(space).await?.forget_indices();
        Ok(())
    }

    /// Gives a link its own name, and before that our alias if the name alone does not say that it is ours: what a crash
    /// leaves is recognised at every moment.
    pub(super) async fn finish(&self, space: &Space, staging: &IfName, name: &IfName, alias: bool) -> io::Result<()> {
        let socket = self.socket(space).await?;
        socket.forget_indices();
        let index = socket.index(staging).await?;
        let marked = if alias { self.set(space, staging, |b| b.alias(names::ALIAS)).await } else { Ok(()) };
        let result = match marked {
            Ok(()) => self.set(space, staging, |b| b.name(name.as_str())).await,
            failed => failed,
        };
        if result.is_err() {
            drop(socket.handle.link().del(index).execute().await);
        }
        socket.forget_indices();
        result
    }

    async fn add_vxlan(&self, space: &Space, name: &IfName, link: &Link, vxlan: &Vxlan) -> io::Result<()> {
        let birth = vxlan.socket.clone().ok_or_else(|| io::Error::from_raw_os_error(nix::libc::EINVAL))?;
        let first = self.socket(&birth).await?;
        let staging = names::vxlan_staging(vxlan.vni);
        let mut builder = LinkVxlan::new(staging.as_str(), vxlan.vni.get())
            .port(vxlan.port.get())
            .learning(false)
            .proxy(true)
            .mtu(link.mtu.0.into());
        builder = match vxlan.local {
            // DF is set on IPv4: a path that cannot carry a frame says so, instead of fragments that are dropped.
            IpAddr::V4(local) => builder.local(local).df(VxlanDf::Set),
            IpAddr::V6(local) => builder.local6(local),
        };
        if let Some(mac) = link.mac {
            builder = builder.address(mac.0.to_vec());
        }
        let message = builder.build();
        for tries in 1.. {
            match first.handle.link().add(message.clone()).execute().await.map_err(io_error) {
                Err(e) if e.raw_os_error() == Some(nix::libc::EEXIST) && tries < VNI_TRIES => {
                    tokio::time::sleep(VNI_WAIT).await;
                }
                other => {
                    other?;
                    break;
                }
            }
        }
        first.forget_indices();
        let index = first.index(&staging).await?;
        let moved = match space {
            to if *to == birth => Ok(()),
            Space::Host => Err(io::Error::from_raw_os_error(nix::libc::EINVAL)),
            Space::Named(to) => {
                let file = File::open(space::path(to))?;
                let message = LinkMessageBuilder::<LinkUnspec>::new().index(index).setns_by_fd(file.as_raw_fd());
                let result = first.handle.link().set(message.build()).execute().await.map_err(io_error);
                first.forget_indices();
                result
            }
        };
        if let Err(e) = moved {
            let _ = first.handle.link().del(index).execute().await;
            return Err(e);
        }
        let target = self.socket(space).await?;
        target.forget_indices();
        self.set(space, &staging, |b| b.name(name.as_str())).await?;
        target.forget_indices();
        Ok(())
    }

    async fn add_veth(&self, space: &Space, name: &IfName, link: &Link, peer: &(Space, IfName)) -> io::Result<()> {
        let (peer_space, peer_name) = peer;
        let mut inner = LinkMessageBuilder::<LinkUnspec>::new().name(peer_name.as_str()).mtu(link.mtu.0.into());
        let file = match peer_space {
            Space::Named(to) => File::open(space::path(to))?,
            Space::Host => File::open("/proc/self/ns/net")?,
        };
        inner = inner.setns_by_fd(file.as_raw_fd());
        let mut builder = LinkVeth::new(name.as_str(), "x")
            .set_info_data(InfoData::Veth(InfoVeth::Peer(inner.build())))
            .mtu(link.mtu.0.into());
        if let Some(mac) = link.mac {
            builder = builder.address(mac.0.to_vec());
        }
        let socket = self.socket(space).await?;
        socket.handle.link().add(builder.build()).execute().await.map_err(io_error)?;
        socket.forget_indices();
        self.socket(peer_space).await?.forget_indices();
        // Each end says where the other is, so that a later look at the kernel can tell pairs apart.
        self.set(space, name, |b| b.alias(alias(peer_space, peer_name))).await?;
        self.set(peer_space, peer_name, |b| b.alias(alias(space, name))).await
    }

    pub(super) async fn remove_link(&self, space: &Space, name: &IfName) -> io::Result<()> {
        // What this daemon runs behind a link goes first: it would keep the link, and the namespace.
        self.userspace.remove(space, name).await;
        let socket = self.socket(space).await?;
        socket.forget_indices();
        let index = socket.index(name).await?;
        let result = socket.handle.link().del(index).execute().await.map_err(io_error);
        self.forget_all_indices().await;
        result
    }
}

fn macvlan_mode(mode: MacvlanMode) -> MacVlanMode {
    match mode {
        MacvlanMode::Bridge => MacVlanMode::Bridge,
        MacvlanMode::Vepa => MacVlanMode::Vepa,
        MacvlanMode::Passthru => MacVlanMode::Passthrough,
        MacvlanMode::Private => MacVlanMode::Private,
    }
}

/// None: one that we never make.
pub fn macvlan_mode_of(mode: MacVlanMode) -> Option<MacvlanMode> {
    MacvlanMode::ALL.into_iter().find(|m| macvlan_mode(*m) == mode)
}

fn ipvlan_mode(mode: IpvlanMode) -> IpVlanMode {
    match mode {
        IpvlanMode::L2 => IpVlanMode::L2,
        IpvlanMode::L3 => IpVlanMode::L3,
        IpvlanMode::L3s => IpVlanMode::L3S,
    }
}

pub fn ipvlan_mode_of(mode: IpVlanMode) -> Option<IpvlanMode> {
    IpvlanMode::ALL.into_iter().find(|m| ipvlan_mode(*m) == mode)
}

fn ipvlan_flags(flag: IpvlanFlag) -> IpVlanFlags {
    match flag {
        IpvlanFlag::Bridge => IpVlanFlags::empty(),
        IpvlanFlag::Private => IpVlanFlags::Private,
        IpvlanFlag::Vepa => IpVlanFlags::Vepa,
    }
}

pub fn ipvlan_flag_of(flags: IpVlanFlags) -> Option<IpvlanFlag> {
    IpvlanFlag::ALL.into_iter().find(|f| ipvlan_flags(*f) == flags)
}

/// Alias of a veth: where its other end is.
fn alias(space: &Space, name: &IfName) -> String {
    format!("peer {space}/{name}")
}

/// The other end, from an alias.
pub fn peer_of(alias: &str) -> Option<(Space, IfName)> {
    let (space, name) = alias.strip_prefix("peer ")?.split_once('/')?;
    let space = if space == "host" { Space::Host } else { Space::Named(space.to_owned()) };
    Some((space, name.parse().ok()?))
}
