//! Tells when somebody else changes the host's firewall, or takes a link or an address away. Says that, not what to do.
//!
//! The kernel announces each transaction of nf_tables with the port of the socket that asked for it (NFT_MSG_NEWGEN; see
//! nf_tables_gen_notify). A program's first netlink socket has its pid as the port, and the programs that we start have no
//! second one: so ours are known. Legacy iptables announces nothing; only that its tables were loaded can be seen, by asking.

use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket, protocols};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage, address::AddressAttribute, link::LinkAttribute};
use std::{
    collections::{BTreeSet, VecDeque},
    io,
    net::IpAddr,
    sync::Mutex,
    time::Duration,
};
use tokio::{sync::mpsc, task::AbortHandle, time::Instant};

/// linux/netfilter/nfnetlink.h: NFNLGRP_NFTABLES, NFNL_SUBSYS_NFTABLES; nf_tables.h: NFT_MSG_NEWGEN.
const NFNLGRP_NFTABLES: u32 = 7;
const NEWGEN: u16 = 10 << 8 | 15;
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
/// What comes in one burst is told once.
const QUIET: Duration = Duration::from_millis(50);
/// A firewall that is changed all the time is looked at no oftener.
const REST: Duration = Duration::from_secs(1);
/// Programs of ours whose announcements may still be on the way.
const REMEMBERED: usize = 256;

static STARTED: Mutex<VecDeque<(u32, std::time::Instant)>> = Mutex::new(VecDeque::new());

/// A program of ours that may change the firewall runs under this pid.
pub fn started(pid: u32) {
    if let Ok(mut started) = STARTED.lock() {
        started.push_back((pid, std::time::Instant::now()));
        while started.len() > REMEMBERED {
            started.pop_front();
        }
    }
}

/// Pids come again, but not within seconds.
fn is_ours(port: u32) -> bool {
    const RECENT: Duration = Duration::from_secs(20);
    STARTED.lock().is_ok_and(|s| s.iter().any(|(pid, at)| *pid == port && at.elapsed() < RECENT))
}

/// What changed in the host's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Somebody else changed nf_tables.
    pub firewall: bool,
    /// Links that went, whoever removed them.
    pub links: BTreeSet<String>,
    /// Addresses that went, with the index of their link.
    pub addresses: BTreeSet<IpAddr>,
}

impl Change {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Ends with the value.
pub struct Watch {
    changes: mpsc::Receiver<Change>,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Of the namespace of the calling thread.
    pub fn start() -> io::Result<Self> {
        let firewall = subscribe(protocols::NETLINK_NETFILTER, &[NFNLGRP_NFTABLES])?;
        let groups = [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR];
        let route = subscribe(protocols::NETLINK_ROUTE, &groups)?;
        let (tell, changes) = mpsc::channel(1);
        let task = tokio::spawn(follow(firewall, route, tell)).abort_handle();
        Ok(Self { changes, task })
    }

    /// Waits for the next change. May be dropped and called again: nothing is lost.
    pub async fn changed(&mut self) -> Change {
        match self.changes.recv().await {
            Some(change) => change,
            // The socket failed, which was logged; the look that comes now and then remains.
            None => std::future::pending().await,
        }
    }
}

fn subscribe(protocol: isize, groups: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind_auto()?;
    for group in groups {
        socket.socket_mut().add_membership(*group)?;
    }
    Ok(socket)
}

/// Gathers what comes until it is quiet, and passes it on.
async fn follow(mut firewall: TokioSocket, mut route: TokioSocket, tell: mpsc::Sender<Change>) {
    let mut heard = Heard::default();
    let mut firewall_at = Instant::now();
    let mut legacy = legacy_tables();
    let mut ask = tokio::time::interval(REST);
    loop {
        let quiet = heard.since.map(|since| since + QUIET);
        let result = tokio::select! {
            () = tokio::time::sleep_until(quiet.unwrap_or_else(Instant::now)), if quiet.is_some() => {
                let change = heard.take(firewall_at);
                if change.firewall {
                    firewall_at = Instant::now() + REST;
                }
                if !change.is_nothing() && tell.send(change).await.is_err() {
                    return;
                }
                continue;
            }
            _ = ask.tick() => {
                let before = std::mem::replace(&mut legacy, legacy_tables());
                if before != legacy {
                    heard.firewall(None);
                }
                Ok(())
            }
            result = receive(&mut firewall) => result.map(|bytes| heard.firewall(bytes.as_deref())),
            result = receive(&mut route) => result.map(|bytes| heard.route(bytes.as_deref())),
        };
        if let Err(error) = result {
            tracing::warn!(%error, "changes by others are no longer heard of at once");
            return;
        }
    }
}

/// Names of the legacy tables that are loaded; what cannot be read is none.
fn legacy_tables() -> String {
    let read = |file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    ["ip_tables_names", "ip6_tables_names"].map(read).join("\n")
}

/// None: so much came that the kernel dropped some.
async fn receive(socket: &mut TokioSocket) -> io::Result<Option<Vec<u8>>> {
    match socket.recv_from_full().await {
        Ok((bytes, _)) => Ok(Some(bytes.to_vec())),
        Err(e) if e.raw_os_error() == Some(nix::libc::ENOBUFS) => Ok(None),
        Err(e) => Err(e),
    }
}

/// What came since the last word.
#[derive(Default)]
struct Heard {
    /// Ports of those who changed the firewall.
    ports: BTreeSet<u32>,
    /// More changed than was told.
    lost: bool,
    change: Change,
    since: Option<Instant>,
}

impl Heard {
    fn firewall(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => {
                self.ports.extend(messages(bytes).filter(|(h, _)| h.message_type == NEWGEN).map(|(h, _)| h.port_number))
            }
            None => self.lost = true,
        }
        if self.lost || !self.ports.is_empty() {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    fn route(&mut self, bytes: Option<&[u8]>) {
        let Some(bytes) = bytes else {
            self.lost = true;
            self.since.get_or_insert_with(Instant::now);
            return;
        };
        for (_, message) in messages(bytes) {
            let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) else { continue };
            let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
            if self.gone(&message) {
                self.since.get_or_insert_with(Instant::now);
            }
        }
    }

    fn gone(&mut self, message: &RouteNetlinkMessage) -> bool {
        match message {
            // Of the bridge family: a port left its bridge, and is still there.
            RouteNetlinkMessage::DelLink(link) if link.header.interface_family == AddressFamily::Unspec => {
                let name = link.attributes.iter().find_map(|a| match a {
                    LinkAttribute::IfName(name) => Some(name.clone()),
                    _ => None,
                });
                name.is_some_and(|name| self.change.links.insert(name))
            }
            RouteNetlinkMessage::DelAddress(address) => {
                let addr = address.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Address(addr) => Some(*addr),
                    _ => None,
                });
                addr.is_some_and(|addr| self.change.addresses.insert(addr))
            }
            _ => false,
        }
    }

    /// What to tell now; the firewall not before `firewall_at`, but then.
    fn take(&mut self, firewall_at: Instant) -> Change {
        self.ports.retain(|port| !is_ours(*port));
        let mut change = std::mem::take(&mut self.change);
        change.firewall = self.lost || !self.ports.is_empty();
        self.since = None;
        if change.firewall && Instant::now() < firewall_at {
            change.firewall = false;
            self.since = Some(firewall_at);
            return change;
        }
        self.ports.clear();
        self.lost = false;
        change
    }
}

/// The messages in a datagram: header, and the whole message.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (NetlinkHeader, &[u8])> {
    const HEADER: usize = 16;
    std::iter::from_fn(move || {
        let head = bytes.get(..HEADER)?;
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let length = word(0) as usize;
        let message = bytes.get(..length).filter(|_| length >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let mut header = NetlinkHeader::default();
        header.length = word(0);
        header.message_type = u16::from_ne_bytes([head[4], head[5]]);
        header.flags = u16::from_ne_bytes([head[6], head[7]]);
        header.sequence_number = word(8);
        header.port_number = word(12);
        Some((header, message))
    })
}
