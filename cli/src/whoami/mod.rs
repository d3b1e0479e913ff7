//! The sample workload: answers who it is and whom it sees, over HTTP and as UDP datagrams; and a client for it.
//!
//! ```text
//! answer <── ask: one target, so many times      probe: many targets, each once
//! ```

mod probe;

use anyhow::{Context, Result, bail};
use clap::Args;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
};

const ASK_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct WhoamiArgs {
    /// TCP and UDP port to answer on
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// Address to answer at; a host that has several answers datagrams from the one that it was asked at only if it is
    /// named here [default: all]
    #[arg(long, value_name = "ADDRESS")]
    bind: Vec<IpAddr>,
    /// Be the client: ask HOST:PORT instead of answering
    #[arg(long, value_name = "HOST:PORT")]
    ask: Option<String>,
    /// Ask by UDP
    #[arg(long, requires = "ask")]
    udp: bool,
    /// How often to ask, each time on a new connection
    #[arg(long, requires = "ask", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Print the answers as they are, not counted
    #[arg(long, requires = "ask")]
    verbose: bool,
    /// Be the client: ask tcp4:HOST:PORT, tcp6:, udp4: or udp6:, all such targets at once, and print which answer
    #[arg(long, value_name = "TARGET", conflicts_with = "ask")]
    probe: Vec<probe::Target>,
    /// Milliseconds in which a target must answer
    #[arg(long, requires = "probe", default_value_t = 1000)]
    within: u64,
}

/// One answer.
#[derive(Debug, Serialize)]
struct Answer {
    task: String,
    service: String,
    node: String,
    hostname: String,
    local: SocketAddr,
    client: SocketAddr,
    protocol: &'static str,
}

fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn answer(local: SocketAddr, client: SocketAddr, protocol: &'static str) -> String {
    let env = |name| std::env::var(name).unwrap_or_default();
    let answer = Answer {
        task: env("HEDDLE_TASK"),
        service: env("HEDDLE_SERVICE"),
        node: env("HEDDLE_NODE"),
        hostname: nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned(),
        local: plain(local),
        client: plain(client),
        protocol,
    };
    serde_json::to_string(&answer).unwrap_or_default() + "\n"
}

pub async fn run(args: WhoamiArgs) -> Result<()> {
    if !args.probe.is_empty() {
        probe::run(&args.probe, Duration::from_millis(args.within)).await;
        return Ok(());
    }
    match &args.ask {
        Some(target) => ask(target, &args).await,
        None => serve(&args).await,
    }
}

/// Where to listen: one choice after another for each pair of sockets.
fn places(args: &WhoamiArgs) -> Vec<Vec<SocketAddr>> {
    if args.bind.is_empty() {
        let any: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
        return vec![any.map(|a| (a, args.port).into()).to_vec()];
    }
    args.bind.iter().map(|a| vec![(*a, args.port).into()]).collect()
}

async fn serve(args: &WhoamiArgs) -> Result<()> {
    let port = args.port;
    let mut servers = JoinSet::new();
    for place in places(args) {
        let taken = || format!("cannot listen at {place:?}");
        let tcp = TcpListener::bind(place.as_slice()).await.with_context(taken)?;
        let udp = UdpSocket::bind(place.as_slice()).await.with_context(taken)?;
        servers.spawn(serve_tcp(tcp));
        servers.spawn(serve_udp(udp));
    }
    println!("listening on port {port}, tcp and udp");
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        Some(ended) = servers.join_next() => ended??,
        _ = term.recv() => println!("asked to stop"),
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}

async fn serve_tcp(listener: TcpListener) -> io::Result<()> {
    loop {
        let Ok((stream, client)) = listener.accept().await else { continue };
        let Ok(local) = stream.local_addr() else { continue };
        tokio::spawn(async move {
            let service = service_fn(move |_: Request<Incoming>| async move {
                let mut response = Response::new(answer(local, client, "tcp"));
                let json = hyper::header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
                Ok::<_, Infallible>(response)
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn serve_udp(socket: UdpSocket) -> io::Result<()> {
    let mut buffer = [0; 2048];
    loop {
        let Ok((_, client)) = socket.recv_from(&mut buffer).await else { continue };
        let local = socket.local_addr()?;
        let _ = socket.send_to(answer(local, client, "udp").as_bytes(), client).await;
    }
}

async fn ask(target: &str, args: &WhoamiArgs) -> Result<()> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut failed: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..args.count {
        let once = async {
            let addr = tokio::net::lookup_host(target).await?.next().ok_or(io::ErrorKind::NotFound)?;
            if args.udp { ask_udp(addr).await } else { ask_tcp(addr, target).await }
        };
        let text = match tokio::time::timeout(ASK_LIMIT, once).await {
            Ok(Ok(text)) => text,
            Ok(Err(e)) => {
                *failed.entry(e.to_string()).or_default() += 1;
                continue;
            }
            Err(_) => {
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

async fn ask_tcp(addr: SocketAddr, host: &str) -> io::Result<String> {
    let stream = TcpStream::connect(addr).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let driver = tokio::spawn(connection);
    let request = Request::get("/").header("host", host).body(String::new()).map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    if !response.status().is_success() {
        return Err(io::Error::other(response.status().to_string()));
    }
    let body = http_body_util::BodyExt::collect(response.into_body()).await.map_err(io::Error::other)?;
    driver.abort();
    String::from_utf8(body.to_bytes().to_vec()).map_err(io::Error::other)
}

async fn ask_udp(addr: SocketAddr) -> io::Result<String> {
    let any: SocketAddr = match addr {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(addr).await?;
    socket.send(b"who").await?;
    let mut buffer = vec![0; 2048];
    let length = socket.recv(&mut buffer).await?;
    buffer.truncate(length);
    String::from_utf8(buffer).map_err(io::Error::other)
}
