//! Making and removing links.

use super::{LinuxKernel, apply::EXISTS, apply::unless, netlink::io_error, space};
use crate::dataplane::{
    names,
    state::{Link, LinkKind, PortFlags, Space, Vxlan},
};
use heddle_model::net::IfName;
use rtnetlink::{
    LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan,
    packet_route::link::{InfoData, InfoVeth, VxlanDf},
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
        }
        self.socket(space).await?.forget_indices();
        if let Some(master) = &link.master {
            let index = self.socket(space).await?.index(master).await?;
            self.set(space, name, |b| b.controller(index)).await?;
            if link.port != PortFlags::default() {
                self.set_port(space, name, &link.port).await?;
            }
        }
        if link.up { self.set(space, name, |b| b.up()).await } else { Ok(()) }
    }

    async fn add_bridge(&self, space: &Space, name: &IfName, link: &Link) -> io::Result<()> {
        let socket = self.socket(space).await?;
        let mut builder = LinkBridge::new(name.as_str()).mcast_snooping(false).mtu(link.mtu.0.into());
        if let Some(mac) = link.mac {
            builder = builder.address(mac.0.to_vec());
        }
        unless(socket.handle.link().add(builder.build()).execute().await.map_err(io_error), EXISTS)
    }

    async fn add_vxlan(&self, space: &Space, name: &IfName, link: &Link, vxlan: &Vxlan) -> io::Result<()> {
        let host = self.socket(&Space::Host).await?;
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
            match host.handle.link().add(message.clone()).execute().await.map_err(io_error) {
                Err(e) if e.raw_os_error() == Some(nix::libc::EEXIST) && tries < VNI_TRIES => {
                    tokio::time::sleep(VNI_WAIT).await;
                }
                other => {
                    other?;
                    break;
                }
            }
        }
        host.forget_indices();
        let index = host.index(&staging).await?;
        let moved = match space {
            Space::Host => Ok(()),
            Space::Named(to) => {
                let file = File::open(space::path(to))?;
                let message = LinkMessageBuilder::<LinkUnspec>::new().index(index).setns_by_fd(file.as_raw_fd());
                let result = host.handle.link().set(message.build()).execute().await.map_err(io_error);
                host.forget_indices();
                result
            }
        };
        if let Err(e) = moved {
            let _ = host.handle.link().del(index).execute().await;
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
        let socket = self.socket(space).await?;
        let index = socket.index(name).await?;
        let result = socket.handle.link().del(index).execute().await.map_err(io_error);
        self.forget_all_indices().await;
        result
    }
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
