//! exec: a further program in a running workload.
//!
//! ```text
//! GetExecTarget ─> enter (its namespaces) ─┬─> plain: the program with our own input and output
//!                                          └─> terminal: the program on a pseudo terminal, with ours passed through
//! ```
//!
//! The daemon's socket is root's, and so are the namespaces, so the command enters them itself.

mod enter;
mod plain;
mod sealed;
mod terminal;

use super::pair::key_value;
use crate::client::{Client, said};
use anyhow::{Result, bail};
use clap::Args;
use heddle_agent::executor::Identity;
use heddle_model::container::Container;
use heddle_proto::v1;
use std::{io::IsTerminal, path::Path, process::Command};

/// As a shell says it.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Give the program our input
    #[arg(short, long)]
    interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    tty: bool,
    /// NAME=VALUE in the program's environment
    #[arg(short, long, value_parser = key_value)]
    env: Vec<(String, String)>,
    /// Working directory [default: the workload's]
    #[arg(short, long)]
    workdir: Option<String>,
    /// An id, a name, or the beginning of an id
    workload: String,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Must be called while the process has one thread. Returns the program's exit code.
pub fn run(socket: &Path, args: ExecArgs) -> Result<u8> {
    if args.interactive && args.tty && !std::io::stdin().is_terminal() {
        bail!("the input device is not a TTY");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let target = runtime.block_on(target(&Client::new(socket), &args.workload))?;
    drop(runtime);
    if target.image {
        sealed::go_on()?;
    }
    // As whom is looked up on the host, not in what the workload has mounted.
    let container = Container::try_from(target.container.clone().unwrap_or_default())?;
    let identity = Identity::of(&container)?;
    enter::enter(target.pid)?;
    let outcome = match args.tty {
        true => terminal::run(&target, &args, identity),
        false => plain::run(&target, &args, identity),
    };
    match outcome {
        Ok(code) => Ok(code),
        Err(error) => {
            let program = args.command.first().map_or("", String::as_str);
            eprintln!("heddle: cannot run {program:?}: {error}");
            Ok(refusal(&error))
        }
    }
}

async fn target(client: &Client, workload: &str) -> Result<v1::ExecTarget> {
    let request = v1::RefRequest { r#ref: workload.to_owned() };
    Ok(client.host()?.get_exec_target(request).await.map_err(said)?.into_inner())
}

fn refusal(error: &std::io::Error) -> u8 {
    if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN }
}

/// Our own binary goes by its name, as in a service's command.
fn program(name: &str) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = match name {
        // Read by the new process, which sees itself there.
        "heddle" => Command::new("/proc/self/exe"),
        other => Command::new(other),
    };
    command.arg0(name);
    command
}

/// The workload's environment and directory, and what was asked for beside them.
fn furnish(command: &mut Command, target: &v1::ExecTarget, args: &ExecArgs) {
    // What docker gives to a program whose image says nothing.
    const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    command.env_clear().env("PATH", PATH);
    if args.tty {
        command.env("TERM", std::env::var_os("TERM").unwrap_or_else(|| "xterm".into()));
    }
    command.envs(&target.env).envs(args.env.iter().cloned());
    let directory = args.workdir.as_deref().unwrap_or(&target.dir);
    command.current_dir(if directory.is_empty() { "/" } else { directory });
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        exec: ExecArgs,
    }

    fn parsed(line: &str) -> ExecArgs {
        Line::try_parse_from(["exec"].into_iter().chain(line.split(' '))).unwrap().exec
    }

    #[test]
    fn what_follows_the_workload_is_the_programs() {
        for line in ["-it web sh -c x", "-i -t web sh -c x"] {
            let args = parsed(line);
            assert!(args.interactive && args.tty, "{line}");
            assert_eq!((args.workload.as_str(), args.command.join(" ").as_str()), ("web", "sh -c x"), "{line}");
        }
        assert_eq!(parsed("-e A=1 web env -i").command, ["env", "-i"]);
    }

    #[test]
    fn the_environment_is_the_workloads_with_ours_on_top() {
        let target = v1::ExecTarget {
            env: [("A", "1"), ("B", "2"), ("PATH", "/bin")].map(|(k, v)| (k.into(), v.into())).into(),
            dir: String::new(),
            ..v1::ExecTarget::default()
        };
        let args = parsed("-e B=3 web env");
        let mut command = program("env");
        furnish(&mut command, &target, &args);
        let all: Vec<_> = command.get_envs().map(|(k, v)| format!("{k:?}={:?}", v.unwrap_or_default())).collect();
        assert_eq!(all, [r#""A"="1""#, r#""B"="3""#, r#""PATH"="/bin""#]);
        assert_eq!(command.get_current_dir(), Some(Path::new("/")));
    }

    #[test]
    fn exit_codes_are_a_shells() {
        assert_eq!(refusal(&std::io::ErrorKind::NotFound.into()), 127);
        assert_eq!(refusal(&std::io::ErrorKind::PermissionDenied.into()), 126);
    }
}
