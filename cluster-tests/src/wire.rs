//! What goes over a host's cable, and what somebody on it can send; and to be in a namespace.

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
            sockopt::{RcvBufForce, ReceiveTimeout},
        },
        time::{TimeVal, TimeValLike},
    },
};
use std::{
    collections::BTreeSet,
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

const ETHERNET: usize = 14;
const IPV4: [u8; 2] = [8, 0];
const TCP: u8 = 6;
const UDP: u8 = 17;
const WHOAMI: u16 = 80;
/// Of frames that are still to be looked at. What does not fit is not seen.
const BACKLOG: usize = 32 << 20;
pub const VXLAN: u16 = 4789;

/// Runs on a thread in a network namespace.
pub fn within<T: Send + 'static>(space: &Path, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let file = File::open(space).unwrap_or_else(|e| panic!("{}: {e}", space.display()));
    std::thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).expect("a test may enter a namespace");
        f()
    })
}

/// What was seen: every frame once on each link.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Frames with the words that were looked for.
    pub words: u32,
    pub vxlan: u32,
    /// Networks that these were of.
    pub vnis: BTreeSet<u64>,
    /// TCP to or from a `whoami` that is in no tunnel.
    pub plain: u32,
    /// Of either epoch.
    pub tunnel: u32,
    pub fragments: u32,
}

impl Seen {
    fn take(&mut self, frame: &[u8], words: &[u8]) {
        self.words += u32::from(frame.windows(words.len()).any(|w| w == words));
        let Some(header) = frame.get(ETHERNET..).filter(|h| frame[12..ETHERNET] == IPV4 && h.len() >= 20) else {
            return;
        };
        self.fragments += u32::from(u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0);
        let Some(inner) = header.get(usize::from(header[0] & 15) * 4..).filter(|u| u.len() >= 16) else { return };
        let ports = [[inner[0], inner[1]], [inner[2], inner[3]]].map(u16::from_be_bytes);
        match (header[9], ports[1]) {
            (UDP, VXLAN) => {
                self.vxlan += 1;
                self.vnis.insert(u32::from_be_bytes([0, inner[12], inner[13], inner[14]]).into());
            }
            (UDP, 51820 | 51821) => self.tunnel += 1,
            (TCP, _) if ports.contains(&WHOAMI) => self.plain += 1,
            _ => {}
        }
    }
}

/// Looks at every frame on the links of a namespace: a host's own, or, of a host that is a machine, the one that has all
/// cables.
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Capture {
    pub fn start(space: &Path, words: &'static [u8]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let (begun, begin) = std::sync::mpsc::channel();
        let thread = within(space, move || {
            let all = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll);
            let all = all.expect("root may capture");
            setsockopt(&all, RcvBufForce, &BACKLOG).expect("root may have as much");
            setsockopt(&all, ReceiveTimeout, &TimeVal::milliseconds(20)).expect("every socket has a limit");
            begun.send(()).expect("somebody waits");
            let (mut seen, mut frame) = (Seen::default(), vec![0; 65536]);
            loop {
                match recv(all.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                    Ok(n) => seen.take(&frame[..n], words),
                    // All that was there before it was stopped has been looked at.
                    Err(Errno::EAGAIN) if ended.load(Ordering::Relaxed) => return seen,
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(e) => panic!("{e}"),
                }
            }
        });
        begin.recv().expect("the capture begins");
        Self { stop, thread }
    }

    pub fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the capture ends well")
    }
}

/// The next datagram. A socket with a time limit is interrupted when a child of this process ends: that is not the limit.
pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.recv(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            received => return received,
        }
    }
}

/// One end of an overlay, as the other side addresses it.
#[derive(Debug, Clone)]
pub struct Leg {
    pub mac: [u8; 6],
    pub v4: Ipv4Addr,
}

fn ipv4(source: Ipv4Addr, target: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, UDP, 0, 0];
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header.extend(source.octets().iter().chain(&target.octets()));
    let total: u32 = header.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    let sum = !((total >> 16) + (total & 0xffff)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&header[..], payload].concat()
}

/// Without a checksum, which IPv4 allows.
fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let words = [from, to, length, 0].map(u16::to_be_bytes).concat();
    [&words[..], payload].concat()
}

/// What looks like a datagram of an overlay from one of its members to another on `host`.
pub struct Forgery {
    pub vni: u32,
    pub from: Leg,
    pub to: Leg,
    pub port: u16,
    pub host: Ipv4Addr,
}

impl Forgery {
    /// Sends it in the name of `source`.
    pub fn send(&self, space: &Path, source: Ipv4Addr) {
        let inner = ipv4(self.from.v4, self.to.v4, &udp(self.port, self.port, b"forged"));
        let frame = [&self.to.mac[..], &self.from.mac, &IPV4, &inner].concat();
        let vxlan = [&[8, 0, 0, 0][..], &(self.vni << 8).to_be_bytes(), &frame].concat();
        let packet = ipv4(source, self.host, &udp(50000, VXLAN, &vxlan));
        let to = SockaddrIn::from(SocketAddrV4::new(self.host, 0));
        let send = move || {
            let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw);
            sendto(raw?.as_raw_fd(), &packet, &to, MsgFlags::empty())
        };
        within(space, send).join().expect("sending does not panic").expect("root may send anything");
    }
}

/// How long the headers of a datagram to this address are.
pub fn headers(addr: IpAddr) -> usize {
    if addr.is_ipv4() { 28 } else { 48 }
}
