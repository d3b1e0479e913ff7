//! The `heddle` program.
//!
//! ```text
//! args ─> commands (clients of a daemon)    node (the daemon)    lab (a cluster on one machine)
//!         whoami, doctor                    output, client
//! ```

pub mod args;
pub mod client;
pub mod commands;
pub mod doctor;
pub mod lab;
pub mod node;
pub mod output;
mod pipe;
pub mod whoami;

use anyhow::Result;
use args::{Cli, Command};
use clap::CommandFactory;
use client::Client;
use heddle_agent::executor;

/// Runs one command line.
pub fn run(cli: Cli) -> Result<()> {
    // These change the namespaces of their process, which must have one thread for that.
    match cli.command {
        Command::TaskShim { dir } => Ok(executor::run_shim(&dir).map(|_| ())?),
        Command::LabHost { spec } => lab::run_host(&spec),
        Command::Lab(command) => lab::run(command),
        command => {
            let mut builder = match command {
                Command::Daemon(_) => tokio::runtime::Builder::new_multi_thread(),
                _ => {
                    pipe::end_quietly();
                    tokio::runtime::Builder::new_current_thread()
                }
            };
            let client = Client::new(&cli.socket);
            builder.enable_all().build()?.block_on(dispatch(command, &client, cli.socket.clone()))
        }
    }
}

async fn dispatch(command: Command, client: &Client, socket: std::path::PathBuf) -> Result<()> {
    match command {
        Command::Daemon(args) => {
            heddle_plumbing::telemetry::init(&args.log, args.log_json);
            if !nix::unistd::geteuid().is_root() {
                anyhow::bail!("the daemon makes namespaces and links: run it as root");
            }
            node::run(node::Config { state_dir: args.state_dir, socket }).await
        }
        Command::Init(args) => commands::cluster::init(client, args).await,
        Command::JoinToken(args) => commands::cluster::join_token(client, args).await,
        Command::Join(args) => commands::cluster::join(client, args).await,
        Command::Leave(args) => commands::cluster::leave(client, args).await,
        Command::Info(args) => commands::cluster::info(client, args.format).await,
        Command::Node(command) => commands::node::run(client, command).await,
        Command::Network(command) => commands::network::run(client, command).await,
        Command::Service(command) => commands::service::run(client, command).await,
        Command::Doctor(args) => doctor::run(args.format),
        Command::Whoami(args) => whoami::run(args).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "heddle", &mut std::io::stdout());
            Ok(())
        }
        Command::TaskShim { .. } | Command::LabHost { .. } | Command::Lab(_) => Ok(()),
    }
}
