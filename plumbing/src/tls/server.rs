//! Incoming connections as tonic wants them: a stream of handshaken connections, each knowing its caller.

use super::{Credentials, identity_of, user_of};
use crate::caller::Caller;
use futures::Stream;
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream, UnixListener},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// A stranger gets this long to finish the handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted, unless the kernel allows fewer.
const CALLERS: u32 = 4096;
/// Handshaken connections that wait for the server.
const BACKLOG: usize = 128;

/// A connection and who is at its other end.
pub struct Conn<S> {
    stream: S,
    caller: Caller,
    /// Ready when whoever serves it ends. None: it ends by itself.
    ends: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl<S> Connected for Conn<S> {
    type ConnectInfo = Caller;
    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Conn<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(ends) = &mut self.ends
            && ends.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Conn<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

/// Listens so that all agents of a large cluster may call at once: after a leader has changed, they do.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(CALLERS)
}

/// Accepts and shakes hands, each in a task of its own so that a slow stranger delays nobody, and by what the credentials are
/// then. Ends when the stream is dropped; connections end when `ends` is cancelled: whoever is at the other end finds who serves next.
pub fn incoming(
    listener: TcpListener,
    credentials: &Credentials,
    ends: CancellationToken,
) -> impl Stream<Item = io::Result<Conn<TlsStream>>> + use<> {
    let credentials = credentials.clone();
    let (tx, rx) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = tx.closed() => return,
            };
            match accepted {
                Ok((tcp, _)) => {
                    let acceptor = credentials.server_config().into();
                    drop(tokio::spawn(shake(acceptor, tcp, tx.clone(), ends.clone())));
                }
                Err(error) => {
                    // Out of descriptors, most likely: give the others time to end.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    ReceiverStream::new(rx)
}

async fn shake(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    to: mpsc::Sender<io::Result<Conn<TlsStream>>>,
    ends: CancellationToken,
) {
    let _ = tcp.set_nodelay(true);
    let peer = tcp.peer_addr();
    match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(tcp)).await {
        Ok(Ok(stream)) => {
            let caller = match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
                Some(cert) => {
                    let person = || user_of(cert).map(Caller::User);
                    identity_of(cert).map(Caller::Node).or_else(person).unwrap_or(Caller::Anonymous)
                }
                None => Caller::Anonymous,
            };
            let _ = to.send(Ok(Conn { stream, caller, ends: Some(Box::pin(ends.cancelled_owned())) })).await;
        }
        Ok(Err(error)) => tracing::debug!(?peer, %error, "handshake refused"),
        Err(_) => tracing::debug!(?peer, "handshake took too long"),
    }
}

/// Connections to the root-only socket.
pub fn incoming_unix(listener: UnixListener) -> impl Stream<Item = io::Result<Conn<tokio::net::UnixStream>>> {
    use tokio_stream::StreamExt;
    UnixListenerStream::new(listener).map(|s| s.map(|stream| Conn { stream, caller: Caller::Local, ends: None }))
}
