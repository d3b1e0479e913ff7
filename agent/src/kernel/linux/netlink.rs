//! The netlink sockets of a namespace, and what every request for routes and links has in common.

use super::{ipvs::Ipvs, space};
use crate::dataplane::state::Space;
use futures::{StreamExt, TryStreamExt};
use heddle_model::net::IfName;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_sys::{AsyncSocket, TokioSocket, protocols::NETLINK_ROUTE};
use rtnetlink::{
    Handle,
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage},
        nsid::{NsidAttribute, NsidMessage},
    },
};
use std::{collections::HashMap, fs::File, io, os::fd::AsRawFd, sync::Mutex};

/// Requests of one namespace. Indices of links are looked up once and forgotten when links change.
pub struct Socket {
    pub handle: Handle,
    indices: Mutex<HashMap<IfName, u32>>,
    /// Opened when it is first needed.
    pub ipvs: tokio::sync::Mutex<Option<Ipvs>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `errno` of a netlink answer, as an I/O error.
pub fn io_error(e: rtnetlink::Error) -> io::Error {
    match e {
        rtnetlink::Error::NetlinkError(m) => m.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

impl Socket {
    pub async fn open(space: &Space) -> io::Result<Self> {
        let socket = space::inside(space, || {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind_auto()?;
            Ok(socket)
        })
        .await?;
        let (connection, handle, _) = rtnetlink::from_socket(socket);
        let task = tokio::spawn(connection);
        Ok(Self { handle, indices: Mutex::default(), ipvs: Default::default(), task })
    }

    pub async fn links(&self) -> io::Result<Vec<LinkMessage>> {
        self.handle.link().get().execute().try_collect().await.map_err(io_error)
    }

    pub async fn index(&self, name: &IfName) -> io::Result<u32> {
        let known = self.indices.lock().map(|m| m.get(name).copied()).unwrap_or_default();
        if let Some(index) = known {
            return Ok(index);
        }
        let mut found = None;
        for link in self.links().await? {
            if let Some(link_name) = name_of(&link) {
                if link_name == name.as_str() {
                    found = Some(link.header.index);
                }
                if let (Ok(parsed), Ok(mut indices)) = (link_name.parse(), self.indices.lock()) {
                    indices.insert(parsed, link.header.index);
                }
            }
        }
        found.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::ENODEV))
    }

    /// The name of the link with this index, asked of the kernel if it is not known. None: there is none.
    pub async fn name(&self, index: u32) -> io::Result<Option<IfName>> {
        let known = self.indices.lock().ok().and_then(|m| Some(m.iter().find(|(_, i)| **i == index)?.0.clone()));
        if known.is_some() {
            return Ok(known);
        }
        let mut found = None;
        for link in self.links().await? {
            if let (Some(Ok(name)), Ok(mut indices)) = (name_of(&link).map(str::parse), self.indices.lock()) {
                found = if link.header.index == index { Some(IfName::clone(&name)) } else { found };
                indices.insert(name, link.header.index);
            }
        }
        Ok(found)
    }

    /// The number by which links of this namespace speak of another. None: it has none, or the namespace is not there.
    pub async fn id_of(&self, space: &Space) -> io::Result<Option<i32>> {
        let file = match space {
            Space::Host => File::open("/proc/self/ns/net"),
            Space::Named(name) => File::open(space::path(name)),
        };
        let file = match file {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(file.as_raw_fd() as u32));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
        request.header.flags = NLM_F_REQUEST;
        let mut answers = self.handle.clone().request(request).map_err(io_error)?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(m)) => {
                    return Ok(m.attributes.iter().find_map(|a| match a {
                        NsidAttribute::Id(id) => Some(*id).filter(|id| *id >= 0),
                        _ => None,
                    }));
                }
                NetlinkPayload::Error(e) if e.code.is_some() => return Err(e.to_io()),
                _ => {}
            }
        }
        Ok(None)
    }

    pub fn forget_indices(&self) {
        if let Ok(mut indices) = self.indices.lock() {
            indices.clear();
        }
    }
}

pub fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// IFLA_IFALIAS.
pub fn alias_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfAlias(text) => Some(text.as_str()),
        _ => None,
    })
}
