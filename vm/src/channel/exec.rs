//! One command in the machine: its standard streams and how it ends. Both sides, and neither knows what carries the stream.

use super::frame::{self, End, Kind};
use anyhow::{Context, Result, bail, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub command: Vec<String>,
    /// The root folder, where the machine has no such folder.
    pub directory: PathBuf,
    /// The command is left running, and its output appended to this file.
    pub background: Option<PathBuf>,
}

/// What a pipe can hold at most that was not made larger.
const PIPE: usize = 64 << 10;
const CHUNK: usize = 16 << 10;

/// Outside: runs the command, with what is read as its standard input, and returns its exit code. The limit is for each
/// answer; with none it is as patient as the command is slow.
pub fn ask(
    socket: &Path,
    request: &Request,
    stdin: impl Read + Send + 'static,
    out: &mut impl Write,
    err: &mut impl Write,
    limit: Option<Duration>,
) -> Result<i32> {
    let mut stream = UnixStream::connect(socket).context("the machine is not running")?;
    stream.set_read_timeout(limit)?;
    frame::write(&mut stream, Kind::Run, &serde_json::to_vec(request)?)?;
    let to = stream.try_clone()?;
    // It may wait for a terminal when the command has long ended, and so ends with this process.
    std::thread::spawn(move || send(stdin, to));
    let end = hear(&mut stream, out, err);
    // The sender holds the stream too: closing ours would not tell the machine.
    let _ = stream.shutdown(Shutdown::Both);
    end
}

fn hear(stream: &mut UnixStream, out: &mut impl Write, err: &mut impl Write) -> Result<i32> {
    loop {
        let answer = frame::read(stream).context("the machine does not answer")?;
        match answer.context("the machine ended, and the command with it")? {
            (Kind::Stdout, bytes) => out.write_all(&bytes).and_then(|()| out.flush())?,
            (Kind::Stderr, bytes) => err.write_all(&bytes).and_then(|()| err.flush())?,
            (Kind::End, bytes) => match serde_json::from_slice(&bytes)? {
                End::Code(code) => return Ok(code),
                End::NotRun(why) => bail!("{why}"),
            },
            (kind, _) => bail!("the machine answers with {kind:?}"),
        }
    }
}

fn send(mut stdin: impl Read, mut to: UnixStream) -> io::Result<()> {
    let mut bytes = vec![0; CHUNK];
    loop {
        match stdin.read(&mut bytes)? {
            0 => return frame::write(&mut to, Kind::StdinEnd, &[]),
            n => frame::write(&mut to, Kind::Stdin, &bytes[..n])?,
        }
    }
}

/// Inside: answers one request. Whoever asked and is gone takes the command along.
pub fn serve(mut stream: UnixStream) -> Result<()> {
    let Some((Kind::Run, request)) = frame::read(&mut stream)? else { bail!("no request came") };
    let request: Request = serde_json::from_slice(&request)?;
    let end = match start(&request) {
        Err(why) => End::NotRun(format!("{why:#}")),
        Ok(mut child) if request.background.is_some() => {
            std::thread::spawn(move || child.wait());
            End::Code(0)
        }
        Ok(child) => End::Code(attend(child, &stream)?),
    };
    frame::write(&mut stream, Kind::End, &serde_json::to_vec(&end)?)?;
    // Who asked closes first: a socket that is closed with something unread breaks, and the last frame may be lost.
    io::copy(&mut stream, &mut io::sink())?;
    Ok(())
}

fn start(request: &Request) -> Result<Child> {
    let (program, args) = request.command.split_first().context("no command is named")?;
    let mut command = Command::new(program);
    let directory = Some(request.directory.as_path()).filter(|d| d.is_dir()).unwrap_or(Path::new("/"));
    command.args(args).process_group(0).current_dir(directory);
    match &request.background {
        None => command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()),
        Some(path) => {
            path.parent().map(fs::create_dir_all).transpose()?;
            let log = File::options().create(true).append(true).open(path);
            let log = log.with_context(|| path.display().to_string())?;
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log)
        }
    };
    command.spawn().with_context(|| format!("cannot run {program:?}"))
}

fn attend(mut child: Child, stream: &UnixStream) -> Result<i32> {
    let stdin = child.stdin.take();
    let (out, err) = (child.stdout.take().context("a pipe")?, child.stderr.take().context("a pipe")?);
    let running = Arc::new(Mutex::new(Some(Pid::from_raw(i32::try_from(child.id())?))));
    let (input, group) = (stream.try_clone()?, running.clone());
    // It ends with the stream, and so after the command.
    std::thread::spawn(move || {
        let _ = feed(input, stdin);
        if let Some(group) = *lock(&group) {
            let _ = killpg(group, Signal::SIGKILL);
        }
    });
    let to = Mutex::new(stream.try_clone()?);
    let (ended, end) = nix::unistd::pipe()?;
    let status = std::thread::scope(|scope| {
        // An error is that nobody reads any more.
        scope.spawn(|| pump(out, &ended, Kind::Stdout, &to));
        scope.spawn(|| pump(err, &ended, Kind::Stderr, &to));
        let status = child.wait();
        *lock(&running) = None;
        drop(end);
        status
    });
    Ok(code(status?))
}

fn code(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|s| 128 + s)).unwrap_or(1)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Passes on what the command is to read, until whoever asked is gone.
fn feed(mut from: UnixStream, mut stdin: Option<impl Write>) -> Result<()> {
    while let Some((kind, bytes)) = frame::read(&mut from)? {
        match kind {
            // A command that reads no more says nothing about those who write.
            Kind::Stdin if stdin.as_mut().is_some_and(|pipe| pipe.write_all(&bytes).is_err()) => stdin = None,
            Kind::Stdin => {}
            _ => {
                ensure!(kind == Kind::StdinEnd, "{kind:?} is not for a command");
                stdin = None;
            }
        }
    }
    Ok(())
}

/// Passes on what the command writes until it has ended and the pipe is empty: not until the pipe is closed, which those
/// may hold open whom it left behind.
fn pump(mut from: impl Read + AsFd, ended: &OwnedFd, kind: Kind, to: &Mutex<UnixStream>) -> io::Result<()> {
    let mut bytes = vec![0; CHUNK];
    let mut left = PIPE;
    loop {
        let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN), PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE)?;
        let [more, over] = fds.map(|fd| fd.any().unwrap_or_default());
        if over && (!more || left == 0) {
            return Ok(());
        }
        let n = from.read(&mut bytes)?;
        if n == 0 {
            return Ok(());
        }
        if over {
            left = left.saturating_sub(n);
        }
        frame::write(&mut *lock(to), kind, &bytes[..n])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// Everything but the machine between the two sides.
    fn run(script: &str, stdin: &'static [u8]) -> (Result<i32>, String, String) {
        request(&["sh", "-c", script], None, stdin)
    }

    fn request(command: &[&str], background: Option<PathBuf>, stdin: &'static [u8]) -> (Result<i32>, String, String) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("exec");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || serve(listener.accept().unwrap().0).unwrap());
        let command = command.iter().map(|c| (*c).to_owned()).collect();
        let request = Request { command, directory: "/no/such/folder".into(), background };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = ask(&socket, &request, stdin, &mut out, &mut err, Some(Duration::from_secs(30)));
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn streams_and_codes_come_back_whole() {
        let (code, out, err) = run("pwd; cat; echo no >&2; exit 3", b"some input");
        assert_eq!((code.unwrap(), out.as_str(), err.as_str()), (3, "/\nsome input", "no\n"));
        let (code, out, _) = run("seq 200000", b"");
        assert_eq!((code.unwrap(), out.lines().count()), (0, 200_000));
        assert_eq!(run("kill -9 $$", b"").0.unwrap(), 137);
        let why = request(&["no-such-program"], None, b"").0.unwrap_err().to_string();
        assert!(why.starts_with("cannot run \"no-such-program\": No such file"), "{why}");
    }

    #[test]
    fn who_is_left_behind_holds_nothing_up() {
        let (code, out, _) = run("sleep 1000 & echo $!", b"");
        assert_eq!(code.unwrap(), 0);
        // It runs on.
        let left = Pid::from_raw(out.trim().parse().unwrap());
        nix::sys::signal::kill(left, Signal::SIGKILL).unwrap();
    }

    #[test]
    fn a_command_in_the_background_writes_to_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a/log");
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = format!("cat {}; echo done", fifo.display());
        assert_eq!(request(&["sh", "-c", &script], Some(log.clone()), b"").0.unwrap(), 0);
        fs::write(&fifo, "word ").unwrap();
        let start = std::time::Instant::now();
        while fs::read_to_string(&log).unwrap() != "word done\n" {
            assert!(start.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_command_ends_with_who_asked_for_it() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let served = std::thread::spawn(move || serve(there));
        let command = ["sh", "-c", "echo begun; sleep 1000"].map(str::to_owned).into();
        let request = Request { command, directory: "/".into(), background: None };
        frame::write(&mut here, Kind::Run, &serde_json::to_vec(&request).unwrap()).unwrap();
        assert_eq!(frame::read(&mut here).unwrap(), Some((Kind::Stdout, b"begun\n".to_vec())));
        drop(here);
        // Its last word finds nobody.
        assert!(served.join().unwrap().is_err());
    }
}
