//! Asks one target, so many times, and counts who answered.

use super::WhoamiArgs;
use anyhow::{Result, bail};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    net::{TcpStream, UdpSocket, lookup_host},
    task::JoinHandle,
    time::{sleep, timeout},
};

const ASK_LIMIT: Duration = Duration::from_secs(5);

pub async fn run(target: &str, args: &WhoamiArgs) -> Result<()> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut failed: BTreeMap<String, u32> = BTreeMap::new();
    let (mut kept, mut socket) = (None, None);
    for number in 0..args.count {
        if number > 0 && args.every > 0 {
            sleep(Duration::from_millis(args.every)).await;
        }
        let once = async {
            match (args.udp, args.keep_alive) {
                (false, true) => ask_again(&mut kept, target).await,
                (false, false) => ask_tcp(find(target).await?, target).await,
                (true, keep) => {
                    let asked = match socket.take() {
                        Some(asked) => asked,
                        None => connect_udp(find(target).await?).await?,
                    };
                    let answer = ask_by(&asked).await;
                    socket = Some(asked).filter(|_| keep);
                    answer
                }
            }
        };
        let answered = timeout(ASK_LIMIT, once).await;
        let text = match answered {
            Ok(Ok(text)) => text,
            Ok(Err(e)) => {
                *failed.entry(format!("{:#}", anyhow::Error::from(e))).or_default() += 1;
                continue;
            }
            Err(_) => {
                kept = None;
                *failed.entry(format!("no answer within {} s", ASK_LIMIT.as_secs())).or_default() += 1;
                continue;
            }
        };
        if args.verbose {
            print!("{text}");
            continue;
        }
        let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let field = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let client = field("client").parse::<SocketAddr>().map(|a| a.ip().to_string()).unwrap_or_default();
        *seen.entry(format!("{} on {} sees {client}", field("task"), field("node"))).or_default() += 1;
    }
    for (who, count) in &seen {
        println!("{count:>5} x {who}");
    }
    let failures: u32 = failed.values().sum();
    if failures > 0 {
        let why = failed.iter().map(|(why, n)| format!("{n} x {why}")).collect::<Vec<_>>().join(", ");
        bail!("{failures} of {} requests to {target} failed: {why}", args.count);
    }
    Ok(())
}

async fn find(target: &str) -> io::Result<SocketAddr> {
    Ok(lookup_host(target).await?.next().ok_or(io::ErrorKind::NotFound)?)
}

/// One connection. It ends with the value.
struct Connection {
    sender: http1::SendRequest<String>,
    driver: JoinHandle<hyper::Result<()>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    async fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Self { sender, driver: tokio::spawn(connection) })
    }

    async fn ask(&mut self, host: &str) -> io::Result<String> {
        let request = Request::get("/").header("host", host).body(String::new()).map_err(io::Error::other)?;
        self.sender.ready().await.map_err(io::Error::other)?;
        let response = self.sender.send_request(request).await.map_err(io::Error::other)?;
        if !response.status().is_success() {
            return Err(io::Error::other(response.status().to_string()));
        }
        let body = http_body_util::BodyExt::collect(response.into_body()).await.map_err(io::Error::other)?;
        String::from_utf8(body.to_bytes().to_vec()).map_err(io::Error::other)
    }
}

pub async fn ask_tcp(addr: SocketAddr, host: &str) -> io::Result<String> {
    Connection::open(addr).await?.ask(host).await
}

/// On the connection that is kept. The other side may close it at any time, and a request that crosses that is sent once
/// more on a new one, as every client does (RFC 9110, section 9.2.2).
async fn ask_again(kept: &mut Option<Connection>, target: &str) -> io::Result<String> {
    if let Some(connection) = kept
        && let Ok(text) = connection.ask(target).await
    {
        return Ok(text);
    }
    *kept = None;
    let mut connection = Connection::open(find(target).await?).await?;
    let text = connection.ask(target).await?;
    *kept = Some(connection);
    Ok(text)
}

pub async fn ask_udp(addr: SocketAddr) -> io::Result<String> {
    ask_by(&connect_udp(addr).await?).await
}

async fn connect_udp(addr: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match addr {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(addr).await?;
    Ok(socket)
}

async fn ask_by(socket: &UdpSocket) -> io::Result<String> {
    socket.send(b"who").await?;
    let mut buffer = vec![0; 2048];
    let length = socket.recv(&mut buffer).await?;
    buffer.truncate(length);
    String::from_utf8(buffer).map_err(io::Error::other)
}
