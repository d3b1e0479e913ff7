//! A connection to a task's program, and a request on it.

use crate::{dataplane::state::Space, kernel::linux::space, worker::Outcome};
use heddle_model::{health::Probe, net::Port};
use hyper::{Request, StatusCode, Uri, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
};
use tokio::net::{TcpSocket, TcpStream};

pub async fn run(probe: &Probe, space: &Space, addrs: Vec<IpAddr>) -> Outcome {
    let Some(port) = probe.port() else { return Err("a command is no request".into()) };
    let stream = connect(space, addrs, port).await.map_err(|error| format!("port {port}: {error}"))?;
    let Probe::Http { path, .. } = probe else { return Ok(()) };
    let Ok(uri) = path.parse::<Uri>() else { return Err(format!("{path:?} is no path of a URL")) };
    match get(stream, port, uri).await {
        Ok(status) if status.is_success() || status.is_redirection() => Ok(()),
        Ok(status) => Err(format!("GET {path} at port {port}: {status}")),
        Err(error) => Err(format!("GET {path} at port {port}: {error}")),
    }
}

/// The first that accepts; the reason of the first that does not.
async fn connect(space: &Space, addrs: Vec<IpAddr>, port: Port) -> io::Result<TcpStream> {
    let make = move || {
        let socket = |addr: IpAddr| {
            let made = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
            Ok((SocketAddr::new(addr, port.get()), made?))
        };
        Ok(addrs.into_iter().map(socket).collect::<Vec<io::Result<_>>>())
    };
    let mut first = None;
    for socket in space::inside(space, make).await? {
        let connected = match socket {
            Ok((addr, socket)) => socket.connect(addr).await,
            // A kernel without this family.
            Err(error) => Err(error),
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    Err(first.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

async fn get(stream: TcpStream, port: Port, uri: Uri) -> Result<StatusCode, hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(String::new());
    *request.uri_mut() = uri;
    let headers = [(header::HOST, format!("localhost:{port}")), (header::USER_AGENT, "heddle".into())];
    for (name, value) in headers.into_iter().chain([(header::CONNECTION, "close".into())]) {
        request.headers_mut().extend(value.parse().map(|value| (name, value)));
    }
    let mut response = pin!(sender.send_request(request));
    let response = tokio::select! {
        biased;
        response = &mut response => response?,
        // The answer may have come with the end.
        _ = connection => response.await?,
    };
    Ok(response.status())
}
