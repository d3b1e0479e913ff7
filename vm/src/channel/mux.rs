//! Many streams over one port (Yamux: hashicorp/yamux `spec.md`), so that one that nobody reads holds up no other.

use super::exec;
use anyhow::Result;
use futures::future::poll_fn;
use std::{
    io,
    os::unix::net::UnixStream as StdStream,
    path::PathBuf,
    task::{Poll, ready},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{UnixListener, UnixStream},
    sync::mpsc,
};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, Mode};

type Stream = Compat<yamux::Stream>;

/// What a stream leads to, its first byte.
#[derive(Debug, Clone, Copy)]
pub enum Door {
    Exec = 1,
    Daemon = 2,
}

/// Outside: every connection to one of the sockets becomes a stream. Returns when the other side is gone.
pub async fn carry(port: StdStream, doors: Vec<(Door, UnixListener)>) -> Result<()> {
    port.set_nonblocking(true)?;
    let port = UnixStream::from_std(port)?;
    let (send, mut arrived) = mpsc::channel(16);
    for (door, listener) in doors {
        let send = send.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                if send.send((door, socket)).await.is_err() {
                    return;
                }
            }
        });
    }
    let mut connection = Connection::new(port.compat(), Config::default(), Mode::Client);
    let mut waits: Option<(Door, UnixStream)> = None;
    poll_fn(|cx| {
        loop {
            if waits.is_none()
                && let Poll::Ready(next) = arrived.poll_recv(cx)
            {
                waits = next;
            }
            if waits.is_some()
                && let Poll::Ready(stream) = connection.poll_new_outbound(cx)
            {
                if let Some((door, socket)) = waits.take() {
                    tokio::spawn(outside(stream?.compat(), door, socket));
                }
                continue;
            }
            match ready!(connection.poll_next_inbound(cx)) {
                // The guest opens none.
                Some(stream) => drop(stream?),
                None => return Poll::Ready(Ok(())),
            }
        }
    })
    .await
}

/// When one side is gone, so is the other: nobody is left to be told of an error.
async fn outside(mut stream: Stream, door: Door, mut socket: UnixStream) {
    if stream.write_all(&[door as u8]).await.is_ok() {
        let _ = copy_bidirectional(&mut stream, &mut socket).await;
    }
}

/// Inside: every stream goes to its door. Returns when the other side is gone.
pub async fn serve(port: StdStream, daemon: PathBuf) -> Result<()> {
    port.set_nonblocking(true)?;
    let port = UnixStream::from_std(port)?;
    let mut connection = Connection::new(port.compat(), Config::default(), Mode::Server);
    while let Some(stream) = poll_fn(|cx| connection.poll_next_inbound(cx)).await {
        tokio::spawn(inside(stream?.compat(), daemon.clone()));
    }
    Ok(())
}

async fn inside(mut stream: Stream, daemon: PathBuf) {
    let socket = match stream.read_u8().await {
        Ok(door) if door == Door::Exec as u8 => exec_door(),
        Ok(door) if door == Door::Daemon as u8 => UnixStream::connect(daemon).await,
        _ => return,
    };
    match socket {
        Ok(mut socket) => drop(copy_bidirectional(&mut stream, &mut socket).await),
        // Without a daemon the stream ends, as a connection does that is refused.
        Err(_) => drop(stream.shutdown().await),
    }
}

fn exec_door() -> io::Result<UnixStream> {
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    std::thread::spawn(move || {
        // Who asked is told by the stream's end.
        let _ = exec::serve(theirs);
    });
    UnixStream::from_std(ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::exec::{Request, ask};
    use std::{io::Read, path::Path, time::Duration};

    const LIMIT: Option<Duration> = Some(Duration::from_secs(30));

    fn run(socket: &Path, script: &str) -> (i32, String) {
        let command = ["sh", "-c", script].map(str::to_owned).into();
        let request = Request { command, directory: "/".into(), background: None };
        let mut out = Vec::new();
        let code = ask(socket, &request, io::empty(), &mut out, &mut io::sink(), LIMIT).unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    /// Everything but the machine between the two sides.
    #[test]
    fn many_streams_pass_at_once_and_one_that_nobody_reads_holds_up_none() {
        let folder = tempfile::tempdir().unwrap();
        let [exec, daemon, there] = ["exec", "daemon", "there"].map(|name| folder.path().join(name));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let entered = runtime.enter();
        let doors = [(Door::Exec, &exec), (Door::Daemon, &daemon)];
        let doors = doors.map(|(door, path)| (door, UnixListener::bind(path).unwrap())).into();
        drop(entered);
        let (outer, inner) = StdStream::pair().unwrap();
        let end = inner.try_clone().unwrap();
        let carried = runtime.spawn(carry(outer, doors));
        runtime.spawn(serve(inner, there.clone()));

        let mut unread = StdStream::connect(&exec).unwrap();
        let command = ["sh", "-c", "exec cat /dev/zero"].map(str::to_owned).into();
        let request = Request { command, directory: "/".into(), background: None };
        let json = serde_json::to_vec(&request).unwrap();
        super::super::frame::write(&mut unread, super::super::frame::Kind::Run, &json).unwrap();
        unread.read_exact(&mut [0]).unwrap();
        std::thread::scope(|scope| {
            for n in 0..20 {
                let exec = &exec;
                scope.spawn(move || {
                    let (code, out) = run(exec, &format!("seq {n} 20000; exit {n}"));
                    assert_eq!((code, out.lines().count()), (n, 20_001 - n as usize));
                });
            }
        });

        // Why a command cannot run is told, whatever comes that it would have read.
        let request = Request { command: vec!["no-such-program".into()], directory: "/".into(), background: None };
        for _ in 0..100 {
            let why = ask(&exec, &request, io::repeat(0), &mut io::sink(), &mut io::sink(), LIMIT).unwrap_err();
            assert!(why.to_string().starts_with("cannot run \"no-such-program\": No such file"), "{why:#}");
        }

        // No daemon, and then one.
        assert_eq!(StdStream::connect(&daemon).unwrap().read(&mut [0]).unwrap(), 0);
        let listener = std::os::unix::net::UnixListener::bind(&there).unwrap();
        let echo = std::thread::spawn(move || io::copy(&mut &listener.accept().unwrap().0, &mut io::sink()).unwrap());
        let mut client = StdStream::connect(&daemon).unwrap();
        io::Write::write_all(&mut client, b"to the daemon").unwrap();
        drop(client);
        assert_eq!(echo.join().unwrap(), 13);

        end.shutdown(std::net::Shutdown::Both).unwrap();
        let _ = runtime.block_on(carried).unwrap();
        assert!(unread.set_read_timeout(LIMIT).is_ok() && io::copy(&mut unread, &mut io::sink()).is_ok());
    }
}
