//! IPVS by generic netlink, in any namespace. Services are known by a firewall mark or by address, protocol and port; what is
//! in the kernel is read back whole.

mod message;
pub mod probe;

pub use message::Message;

use super::space;
use crate::dataplane::{
    ipvs::{IpvsDestination, IpvsKey, IpvsService, IpvsTimeouts},
    state::Space,
    step::Step,
};
use message::{Destination, get_timeouts, list, read_destination, read_service, read_timeouts};
use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, ParseableParametrized,
};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_GENERIC};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::Path,
};

/// A generic netlink socket in a namespace, and the number that the kernel gave the family.
pub struct Ipvs {
    socket: TokioSocket,
    family: u16,
}

/// Whether IPVS is in the kernel now. Asking for its family would load it.
pub fn is_loaded() -> bool {
    Path::new("/proc/net/ip_vs").exists()
}

/// The one request that a step comes to. None: it is not about IPVS.
pub fn request(step: &Step) -> Option<Message> {
    Some(match step {
        Step::SetIpvsService { key, scheduler, new, .. } => message::set_service(key, *scheduler, *new),
        Step::RemoveIpvsService { key, .. } => message::delete_service(key),
        Step::SetIpvsDestination { key, at, to, new, .. } => message::set_destination(key, *at, *to, *new),
        Step::RemoveIpvsDestination { key, at, .. } => message::delete_destination(key, *at),
        Step::SetIpvsTimeouts { timeouts, .. } => message::set_timeouts(timeouts.unwrap_or(IpvsTimeouts::KERNEL)),
        _ => return None,
    })
}

/// Something is there already, or a destination or a service is not.
pub const KNOWN: [i32; 3] = [nix::libc::EEXIST, nix::libc::ENOENT, nix::libc::ESRCH];

/// What to ask for when what a step makes is there, or what it changes is not. None: that is all the step wanted.
pub fn instead(step: &Step) -> Option<Message> {
    let mut step = step.clone();
    match &mut step {
        Step::SetIpvsService { new, .. } | Step::SetIpvsDestination { new, .. } => *new = !*new,
        _ => return None,
    }
    request(&step)
}

fn socket() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_GENERIC)?;
    socket.socket_mut().bind_auto()?;
    Ok(socket)
}

impl Ipvs {
    /// None: this kernel has no IPVS. One that has it as a module loads it.
    pub async fn open(at: &Space) -> io::Result<Option<Self>> {
        Self::on(space::inside(at, socket).await?).await
    }

    /// In a namespace that ends with the value.
    async fn apart() -> io::Result<Option<Self>> {
        Self::on(space::apart(socket).await?).await
    }

    async fn on(socket: TokioSocket) -> io::Result<Option<Self>> {
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

    /// Those of the namespace. None: they are the kernel's own.
    pub async fn timeouts(&mut self) -> io::Result<Option<IpvsTimeouts>> {
        let mut message = GenlMessage::from_payload(get_timeouts());
        message.set_resolved_family_id(self.family);
        Ok(self.ask(message, NLM_F_ACK).await?.iter().find_map(read_timeouts))
    }

    /// Everything in the namespace: the whole of it is ours. One question for the services, and one for each.
    /// Also, which destinations drain and have no established connection.
    pub async fn observe(
        &mut self,
    ) -> io::Result<(BTreeMap<IpvsKey, IpvsService>, BTreeSet<(IpvsKey, (IpAddr, u16))>)> {
        let (mut services, mut idle) = (BTreeMap::new(), BTreeSet::new());
        for (key, scheduler) in self.dump(list(None)).await?.iter().filter_map(read_service) {
            let v6 = key.is_ipv6();
            let found = self.dump(list(Some(&key))).await?;
            let found: Vec<_> = found.iter().filter_map(|m| read_destination(m, v6)).collect();
            let none = |found: &&Destination| found.to == IpvsDestination::Weight(0) && found.connections == 0;
            idle.extend(found.iter().filter(none).map(|found| (key.clone(), found.at)));
            let destinations = found.into_iter().map(|found| (found.at, found.to)).collect();
            services.insert(key, IpvsService { scheduler, destinations });
        }
        Ok((services, idle))
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
