//! IPVS by generic netlink, in any namespace. Services are known by a firewall mark or by address, protocol and port; what is
//! in the kernel is read back whole.

mod message;

pub use message::{Message, changes, delete_service};

use super::space;
use crate::dataplane::state::{IpvsKey, IpvsService, Space};
use message::{list, read_destination, read_service};
use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, ParseableParametrized,
};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_GENERIC};
use std::{collections::BTreeMap, io};

/// A generic netlink socket in a namespace, and the number that the kernel gave the family.
pub struct Ipvs {
    socket: TokioSocket,
    family: u16,
}

impl Ipvs {
    /// None: this kernel has no IPVS.
    pub async fn open(at: &Space) -> io::Result<Option<Self>> {
        let socket = space::inside(at, || {
            let mut socket = TokioSocket::new(NETLINK_GENERIC)?;
            socket.socket_mut().bind_auto()?;
            Ok(socket)
        })
        .await?;
        let mut ipvs = Self { socket, family: 0 };
        let wish = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![GenlCtrlAttrs::FamilyName("IPVS".into())] };
        let answers = match ipvs.ask(GenlMessage::from_payload(wish), NLM_F_ACK).await {
            Err(e) if e.raw_os_error() == Some(nix::libc::ENOENT) => return Ok(None),
            answers => answers?,
        };
        let id = answers.iter().flat_map(|a| &a.nlas).find_map(|a| match a {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
        ipvs.family = id.ok_or_else(|| io::Error::other("the kernel names no number for IPVS"))?;
        Ok(Some(ipvs))
    }

    /// Sends a request and collects what is answered until the kernel says it is done.
    async fn ask<F>(&mut self, mut message: GenlMessage<F>, flags: u16) -> io::Result<Vec<F>>
    where
        F: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Clone + std::fmt::Debug,
    {
        message.finalize();
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = 1;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0)).await?;
        let mut answers = Vec::new();
        loop {
            let (received, _) = self.socket.recv_from_full().await?;
            let mut at = 0;
            while at < received.len() {
                let answer = NetlinkMessage::<GenlMessage<F>>::deserialize(&received[at..]);
                let answer = answer.map_err(io::Error::other)?;
                at += (answer.header.length as usize).max(1).next_multiple_of(4);
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner.into_parts().1),
                    NetlinkPayload::Error(e) if e.code.is_some() => return Err(e.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }

    pub async fn send(&mut self, message: Message) -> io::Result<()> {
        let family = self.family;
        let mut message = GenlMessage::from_payload(message);
        message.set_resolved_family_id(family);
        self.ask(message, NLM_F_ACK).await.map(|_| ())
    }

    /// Everything in the namespace: the whole of it is ours.
    pub async fn observe(&mut self) -> io::Result<BTreeMap<IpvsKey, IpvsService>> {
        let mut services = BTreeMap::new();
        for (key, scheduler) in self.dump(list(None)).await?.iter().filter_map(read_service) {
            let v6 = match &key {
                IpvsKey::Mark { v6, .. } => *v6,
                IpvsKey::Addr { addr, .. } => addr.is_ipv6(),
            };
            let found = self.dump(list(Some(&key))).await?;
            let destinations = found.iter().filter_map(|m| read_destination(m, v6)).collect();
            services.insert(key, IpvsService { scheduler, destinations });
        }
        Ok(services)
    }

    async fn dump(&mut self, message: Message) -> io::Result<Vec<Message>> {
        let mut message = GenlMessage::from_payload(message);
        message.set_resolved_family_id(self.family);
        self.ask(message, NLM_F_DUMP).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a kernel with IPVS a service is made and found; on one without, that is said.
    #[tokio::test]
    async fn the_kernel_says_whether_it_has_ipvs() {
        let there = std::path::Path::new("/proc/net/ip_vs").exists();
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("REQUIRE").is_none(), "REQUIRE is set and this needs root");
            println!("SKIPPED: root");
            return;
        }
        assert_eq!(Ipvs::open(&Space::Host).await.unwrap().is_some(), there);
    }
}
