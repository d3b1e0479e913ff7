//! Generic netlink in any namespace: one socket, one family, requests one after the other.

use super::space;
use crate::dataplane::state::Space;
use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, ParseableParametrized,
};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_GENERIC};
use std::{fmt::Debug, io, marker::PhantomData, panic::catch_unwind};

/// Messages of a family.
pub trait Family: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Clone + Debug {}

impl<F: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Clone + Debug> Family for F {}

pub struct Socket<F> {
    socket: TokioSocket,
    /// The number that the kernel gave the family.
    family: u16,
    of: PhantomData<fn() -> F>,
}

impl<F: Family> Socket<F> {
    /// None: this kernel has no such family. Asking loads its module, where modules can be loaded.
    pub async fn open(at: &Space) -> io::Result<Option<Self>> {
        Self::on(space::inside(at, socket).await?).await
    }

    /// In a namespace that ends with the value.
    pub async fn apart() -> io::Result<Option<Self>> {
        Self::on(space::apart(socket).await?).await
    }

    async fn on(mut socket: TokioSocket) -> io::Result<Option<Self>> {
        let name = F::family_name();
        let wish = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![GenlCtrlAttrs::FamilyName(name.into())] };
        let answers = match ask(&mut socket, GenlMessage::from_payload(wish), NLM_F_ACK).await {
            Err(e) if e.raw_os_error() == Some(nix::libc::ENOENT) => return Ok(None),
            answers => answers?,
        };
        let id = answers.iter().flat_map(|a| &a.nlas).find_map(|a| match a {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
        let family = id.ok_or_else(|| io::Error::other(format!("the kernel names no number for {name}")))?;
        Ok(Some(Self { socket, family, of: PhantomData }))
    }

    fn message(&self, message: F) -> GenlMessage<F> {
        let mut message = GenlMessage::from_payload(message);
        message.set_resolved_family_id(self.family);
        message
    }

    pub async fn send(&mut self, message: F) -> io::Result<()> {
        self.ask(message).await.map(|_| ())
    }

    /// What is answered to one request.
    pub async fn ask(&mut self, message: F) -> io::Result<Vec<F>> {
        let message = self.message(message);
        ask(&mut self.socket, message, NLM_F_ACK).await
    }

    pub async fn dump(&mut self, message: F) -> io::Result<Vec<F>> {
        let message = self.message(message);
        ask(&mut self.socket, message, NLM_F_DUMP).await
    }
}

fn socket() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_GENERIC)?;
    socket.socket_mut().bind_auto()?;
    Ok(socket)
}

/// The first message of an answer. Parsers of some families take the length of an attribute on trust: what they panic at is an
/// error as others are.
pub(crate) fn read<F: Family>(bytes: &[u8]) -> io::Result<NetlinkMessage<GenlMessage<F>>> {
    let parsed = catch_unwind(|| NetlinkMessage::<GenlMessage<F>>::deserialize(bytes));
    let garbled = || io::Error::new(io::ErrorKind::InvalidData, "an attribute is shorter than it should be");
    parsed.map_err(|_| garbled())?.map_err(io::Error::other)
}

/// Sends a request and collects what is answered until the kernel says it is done.
async fn ask<F: Family>(socket: &mut TokioSocket, mut message: GenlMessage<F>, flags: u16) -> io::Result<Vec<F>> {
    message.finalize();
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    request.header.sequence_number = 1;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0)).await?;
    let mut answers = Vec::new();
    loop {
        let (received, _) = socket.recv_from_full().await?;
        let mut at = 0;
        while at < received.len() {
            let answer = read::<F>(&received[at..])?;
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
