//! `heddle exec` in real namespaces, with and without a terminal. The daemon is a fake that names a process to enter.
// What helps a test is part of it.
#![allow(clippy::unwrap_used)]

use heddle_proto::v1;
use nix::{
    pty::{OpenptyResult, openpty},
    sys::{
        signal::{Signal, kill},
        termios::tcgetattr,
    },
    unistd::Pid,
};
use rustix::termios::{Winsize, tcsetwinsize};
use std::{
    fs::File,
    io::{Read, Write},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

mod client {
    pub use heddle::client::*;
}
#[allow(dead_code)]
#[path = "../src/commands/fake.rs"]
mod fake;

/// True: the test should end, since it cannot be run here. With `REQUIRE` set, that is a failure.
fn skipped() -> bool {
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    assert!(std::env::var_os("REQUIRE").is_none(), "REQUIRE is set and this needs root");
    println!("SKIPPED: root");
    true
}

/// A process in namespaces of its own; ends with the value.
struct Workload {
    unshare: Child,
    pid: u32,
}

impl Workload {
    fn start() -> Self {
        let args = ["-n", "-m", "-p", "-u", "-i", "--fork", "--mount-proc", "--kill-child", "sh", "-c"];
        let script = "hostname workload && echo up && exec sleep 1000";
        let mut command = Command::new("unshare");
        let mut unshare = command.args(args).arg(script).stdout(Stdio::piped()).spawn().unwrap();
        // It is inside of all of them once it speaks.
        unshare.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let pid = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
        Self { unshare, pid }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

struct Host {
    workload: Workload,
    fake: fake::Fake,
    _runtime: tokio::runtime::Runtime,
}

impl Host {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let workload = Workload::start();
        let fake = {
            let _inside = runtime.enter();
            fake::Fake::start(|daemon| {
                daemon.target = Some(v1::ExecTarget {
                    container: None,
                    id: "w1".into(),
                    pid: workload.pid,
                    env: [("TASK".to_owned(), "web".to_owned())].into(),
                    dir: "/tmp".into(),
                    image: false,
                });
            })
        };
        Self { workload, fake, _runtime: runtime }
    }

    fn exec(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heddle"));
        command.arg("--socket").arg(self.fake.socket()).arg("exec").args(args);
        command
    }

    fn output(&self, args: &[&str], input: &str) -> (i32, String, String) {
        let mut command = self.exec(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A program without -i does not read it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        (status.code().unwrap(), text(stdout), text(stderr))
    }
}

#[test]
fn a_program_runs_in_the_workloads_namespaces() {
    if skipped() {
        return;
    }
    let host = Host::start();
    for space in ["ipc", "uts", "net", "pid", "mnt"] {
        let theirs = std::fs::read_link(format!("/proc/{}/ns/{space}", host.workload.pid)).unwrap();
        assert_ne!(theirs, std::fs::read_link(format!("/proc/self/ns/{space}")).unwrap());
        let (code, out, err) = host.output(&["w1", "readlink", &format!("/proc/self/ns/{space}")], "");
        assert_eq!((code, PathBuf::from(out)), (0, theirs), "{space}: {err}");
    }
    assert_eq!(host.output(&["w1", "sh", "-c", "echo $TASK; pwd; hostname"], "").1, "web\n/tmp\nworkload");
    assert_eq!(host.output(&["-e", "TASK=x", "-w", "/", "w1", "sh", "-c", "echo $TASK; pwd"], "").1, "x\n/");
    assert_eq!(host.output(&["w1", "heddle", "--version"], "").1, format!("heddle {}", env!("CARGO_PKG_VERSION")));
    // Input only if asked for.
    assert_eq!(host.output(&["w1", "cat"], "typed").1, "");
    assert_eq!(host.output(&["-i", "w1", "cat"], "typed").1, "typed");
    assert_eq!(host.output(&["w1", "sh", "-c", "echo out; echo err >&2; exit 7"], ""), (7, "out".into(), "err".into()));
    assert_eq!(host.output(&["w1", "sh", "-c", "kill -9 $$"], "").0, 137);
    for (program, want) in [("/no/such", 127), ("no-such-program", 127), ("/etc/passwd", 126)] {
        for args in [vec!["w1", program], vec!["-t", "w1", program]] {
            let (code, out, err) = host.output(&args, "");
            assert_eq!(code, want, "{args:?}: {out} {err}");
            assert!(format!("{out}{err}").contains(&format!("cannot run {program:?}")), "{args:?}: {out} {err}");
        }
    }
    let (code, _, err) = host.output(&["-it", "w1", "sh"], "");
    assert_eq!((code, err.as_str()), (1, "heddle: the input device is not a TTY"));
}

/// Reads a terminal until it shows the text; on a time-out panics with what it last showed.
fn until(terminal: &mut File, seen: &mut String, text: &str) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let start = Instant::now();
    while !seen.contains(text) {
        assert!(start.elapsed() < Duration::from_secs(20), "{text:?} does not show; last seen: {seen:?}");
        let mut wait = [PollFd::new(terminal.as_fd(), PollFlags::POLLIN)];
        if poll(&mut wait, PollTimeout::from(200u16)).unwrap() == 0 {
            continue;
        }
        let mut buffer = [0; 4096];
        let count = terminal.read(&mut buffer).unwrap();
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    *seen = seen.split_off(seen.find(text).unwrap() + text.len());
}

#[test]
fn a_terminal_is_passed_through_and_given_back() {
    if skipped() {
        return;
    }
    let host = Host::start();
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    let size = |rows, columns| Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&master, size(40, 100)).unwrap();
    let before = tcgetattr(&slave).unwrap();
    // By a shell that ignores Ctrl-C, as it does for what it runs in the background: no matter to what runs inside.
    let exec = host.exec(&["-it", "w1", "sh"]);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' INT; exec \"$@\"", "sh"]).arg(exec.get_program()).args(exec.get_args());
    let fd = || Stdio::from(slave.try_clone().unwrap());
    let mut child = command.stdin(fd()).stdout(fd()).stderr(fd()).spawn().unwrap();
    let (mut terminal, mut seen) = (File::from(master.try_clone().unwrap()), String::new());
    let say = |terminal: &mut File, line: &str| terminal.write_all(format!("{line}\n").as_bytes()).unwrap();
    say(&mut terminal, "echo size=$(stty size) tty=$(tty | cut -d/ -f1-3)");
    until(&mut terminal, &mut seen, "size=40 100 tty=/dev/pts");
    // Ours passes every key on while it lasts.
    assert_ne!(tcgetattr(&slave).unwrap(), before);
    tcsetwinsize(&master, size(50, 120)).unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGWINCH).unwrap();
    say(&mut terminal, "until [ \"$(stty size)\" = '50 120' ]; do :; done; echo now=$(stty size)");
    until(&mut terminal, &mut seen, "now=50 120");
    // Ctrl-C goes to the program inside, which is the terminal's foreground job.
    // Once shown by the terminal and once by the job itself: before that it may not have the terminal yet. It is no shell, which
    // loses a Ctrl-C that comes as it becomes another program.
    say(&mut terminal, "cat");
    say(&mut terminal, "begun");
    until(&mut terminal, &mut seen, "begun");
    until(&mut terminal, &mut seen, "begun");
    terminal.write_all(b"\x03").unwrap();
    // The shell's prompt: what comes before it the job might still read.
    until(&mut terminal, &mut seen, "# ");
    say(&mut terminal, "echo code=$?");
    until(&mut terminal, &mut seen, "code=130");
    say(&mut terminal, "exit 5");
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert_eq!(tcgetattr(&slave).unwrap(), before, "the terminal is as it was");
}
