//! Answers who it is and whom it sees, until it is asked to stop: then it ends what it has begun.

use super::WhoamiArgs;
use anyhow::{Context, Result};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    time::Duration,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{mpsc, watch},
    task::JoinSet,
};

/// Connections that are open after that are cut.
const END_LIMIT: Duration = Duration::from_secs(5);

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

/// Where to listen: one choice after another for each pair of sockets.
fn places(args: &WhoamiArgs) -> Vec<Vec<SocketAddr>> {
    if args.bind.is_empty() {
        let any: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
        return vec![any.map(|a| (a, args.port).into()).to_vec()];
    }
    args.bind.iter().map(|a| vec![(*a, args.port).into()]).collect()
}

pub async fn run(args: &WhoamiArgs) -> Result<()> {
    let port = args.port;
    let mut servers = JoinSet::new();
    let (stop, stopping) = watch::channel(false);
    let (open, mut closed) = mpsc::channel::<()>(1);
    for place in places(args) {
        let taken = || format!("cannot listen at {place:?}");
        let tcp = TcpListener::bind(place.as_slice()).await.with_context(taken)?;
        let udp = UdpSocket::bind(place.as_slice()).await.with_context(taken)?;
        servers.spawn(serve_tcp(tcp, stopping.clone(), open.clone()));
        servers.spawn(serve_udp(udp));
    }
    println!("listening on port {port}, tcp and udp");
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        Some(ended) = servers.join_next() => ended??,
        _ = term.recv() => println!("asked to stop"),
        _ = tokio::signal::ctrl_c() => return Ok(()),
    }
    // Nobody new is let in; who is being answered is answered.
    servers.abort_all();
    stop.send_replace(true);
    drop(open);
    let _ = tokio::time::timeout(END_LIMIT, closed.recv()).await;
    Ok(())
}

async fn serve_tcp(listener: TcpListener, stopping: watch::Receiver<bool>, open: mpsc::Sender<()>) -> io::Result<()> {
    loop {
        let Ok((stream, client)) = listener.accept().await else { continue };
        let Ok(local) = stream.local_addr() else { continue };
        let (mut stopping, open) = (stopping.clone(), open.clone());
        tokio::spawn(async move {
            let _open = open;
            let service = service_fn(move |_: Request<Incoming>| async move {
                let mut response = Response::new(answer(local, client, "tcp"));
                let json = hyper::header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
                Ok::<_, Infallible>(response)
            });
            let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = stopping.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
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
