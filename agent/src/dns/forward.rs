//! Questions that are not ours go to the host's own resolvers, byte for byte.

use crate::{dataplane::state::Space, kernel::linux::space};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, UdpSocket},
};

const LIMIT: Duration = Duration::from_secs(2);
const CONFIG: &str = "/etc/resolv.conf";

/// Reads the host's list anew for every question: it may change while we run.
#[derive(Debug, Clone, Default)]
pub struct Upstream {
    /// Instead of the host's list.
    pub servers: Option<Vec<SocketAddr>>,
    /// The namespace that they are asked from; None: the host's.
    pub from: Option<Space>,
}

impl Upstream {
    fn servers(&self) -> Vec<SocketAddr> {
        let host = || {
            let text = std::fs::read_to_string(CONFIG).unwrap_or_default();
            let server = |line: &str| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok();
            text.lines().filter_map(server).map(|ip| SocketAddr::new(ip, 53)).collect()
        };
        self.servers.clone().unwrap_or_else(host)
    }

    /// The first answer that comes, from the servers in order.
    pub async fn ask(&self, question: &[u8], tcp: bool) -> io::Result<Vec<u8>> {
        let mut last = io::Error::other("the host has no resolver");
        for server in self.servers() {
            let answer = async {
                if tcp {
                    return over_tcp(self.from.as_ref(), server, question).await;
                }
                let answer = over_udp(self.from.as_ref(), server, question).await?;
                let truncated = answer.get(2).is_some_and(|flags| flags & 2 != 0);
                if truncated { over_tcp(self.from.as_ref(), server, question).await } else { Ok(answer) }
            };
            match tokio::time::timeout(LIMIT, answer).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(e)) => last = e,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }
}

async fn over_udp(from: Option<&Space>, server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = match from {
        None => UdpSocket::bind(any).await?,
        Some(space) => {
            space::inside(space, move || {
                let socket = std::net::UdpSocket::bind(any)?;
                socket.set_nonblocking(true)?;
                UdpSocket::from_std(socket)
            })
            .await?
        }
    };
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 65535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // The same id: an answer to this question.
        if buffer.get(..2) == question.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(from: Option<&Space>, server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let socket = move || if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = match from {
        None => socket()?,
        Some(space) => space::inside(space, socket).await?,
    };
    let mut stream = socket.connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
