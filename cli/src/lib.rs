//! The `heddle` program.
//!
//! ```text
//! args ─> commands (clients of a daemon)    node (the daemon)    lab (a cluster on one machine)
//!         whoami, doctor                    config, backend      output, client
//! ```

pub mod args;
mod backend;
pub mod client;
pub mod commands;
pub mod config;
pub mod doctor;
#[cfg(test)]
mod fuzz;
pub mod lab;
pub mod node;
pub mod output;
pub mod signals;
pub mod whoami;

use anyhow::{Context, Result};
use args::{Cli, ClusterCommand, Command};
use clap::CommandFactory;
use client::Client;
use heddle_agent::executor;
use heddle_model::payload::PayloadKind;
use std::{path::PathBuf, process::ExitCode};

/// As docker's `run` says that the workload itself is not to blame.
const NOT_THE_PROGRAM: u8 = 125;

/// Runs one command line.
pub fn run(cli: Cli) -> Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    // These change the namespaces of their process, which must have one thread for that.
    match cli.command {
        Command::TaskShim { dir } => Ok(executor::run_shim(&dir).map(|_| done(()))?),
        Command::TaskLog { dir } => Ok(executor::keep_log(&dir).map(done)?),
        Command::TaskCheck { dir, command } => Ok(executor::check_in_task(&dir, &command)?.into()),
        Command::TaskCheckRun { command } => Ok(executor::run_check(&command)?.into()),
        Command::LabHost { spec } => lab::run_host(&spec).map(done),
        Command::LabDaemon => lab::print_daemon().map(done),
        Command::VmInit => heddle_vm::guest::main(),
        Command::VmAgent => heddle_vm::guest::agent().map(done),
        Command::Lab(command) => lab::run(command).map(done),
        Command::Exec(_) if cli.user.is_some() => anyhow::bail!(client::ABOUT_THE_HOST),
        Command::Exec(args) => commands::exec::run(&cli.socket, args).map(ExitCode::from),
        command => {
            let mut builder = match command {
                Command::Daemon(_) => tokio::runtime::Builder::new_multi_thread(),
                _ => {
                    signals::end_quietly();
                    tokio::runtime::Builder::new_current_thread()
                }
            };
            let client = Client::new(&cli.socket).with_user(cli.user).with_stale(cli.stale);
            builder.enable_all().build()?.block_on(dispatch(command, &client, cli.socket.clone()))
        }
    }
}

async fn dispatch(command: Command, client: &Client, socket: PathBuf) -> Result<ExitCode> {
    if !matches!(command, Command::Daemon(_)) {
        client.tell_staleness().await?;
    }
    match command {
        Command::Run(args) => match commands::run::run(client, args.from(std::env::args_os())).await {
            Ok(code) => return Ok(code.into()),
            Err(error) => {
                eprintln!("heddle: {error:#}");
                return Ok(NOT_THE_PROGRAM.into());
            }
        },
        Command::Daemon(args) => {
            heddle_plumbing::telemetry::init(&args.log, args.log_json);
            if !nix::unistd::geteuid().is_root() {
                anyhow::bail!("the daemon makes namespaces and links: run it as root");
            }
            // It has keys and secrets in memory: a crash leaves no core behind. Programs that it starts are as any other.
            nix::sys::prctl::set_dumpable(false)?;
            let (lb_backend, wireguard) = (args.lb_backend, args.wireguard.into());
            let (state_dir, metrics_addr) = (args.state_dir, args.metrics_addr);
            let (advertise_addr, data_path_addr) = (args.advertise_addr, args.data_path_addr);
            let endowment = heddle_agent::agent::Endowment {
                labels: args.label.into_iter().collect(),
                generic: args.generic_resource.into_iter().collect(),
            };
            let images = heddle_engine::Settings {
                socket: args.containerd,
                hosts: args.registry_hosts,
                runtime: args.oci_runtime,
                ..heddle_engine::Settings::default()
            };
            node::run(node::Config {
                state_dir,
                socket,
                lb_backend,
                wireguard,
                endowment,
                images,
                advertise_addr,
                data_path_addr,
                metrics_addr,
            })
            .await
        }
        Command::Init(args) => commands::cluster::init(client, args).await,
        Command::JoinToken(args) => commands::cluster::join_token(client, args).await,
        Command::Join(args) => commands::cluster::join(client, args).await,
        Command::Leave(args) => commands::cluster::leave(client, args).await,
        Command::Unlock => commands::autolock::unlock(client).await,
        Command::Info(args) => commands::cluster::info(client, args.format).await,
        Command::Cluster(ClusterCommand::Status(args)) => commands::status::run(client, args.format).await,
        Command::Cluster(ClusterCommand::Update(args)) => commands::cluster::update(client, args).await,
        Command::Cluster(ClusterCommand::UnlockKey(args)) => commands::autolock::unlock_key(client, args).await,
        Command::Cluster(ClusterCommand::Ca(args)) => commands::ca::run(client, args).await,
        Command::Cluster(ClusterCommand::User(command)) => commands::user::run(client, command).await,
        Command::Cluster(ClusterCommand::Backup(args)) => commands::backup::back_up(client, &args).await,
        Command::Cluster(ClusterCommand::Restore(args)) => commands::backup::restore(client, args).await,
        Command::Events(args) => commands::events::run(client, args).await,
        Command::Node(command) => commands::node::run(client, command).await,
        Command::Ps(args) => commands::ps::run(client, args).await,
        Command::Logs(args) => commands::logs::run(client, args).await,
        Command::Start(args) => commands::start::run(client, args).await,
        Command::Stop(args) => commands::stop::run(client, args).await,
        Command::Wait(args) => commands::wait::run(client, args).await,
        Command::Rm(args) => commands::rm::run(client, args).await,
        Command::Inspect(args) => commands::inspect::run(client, args).await,
        Command::Network(command) => commands::network::run(client, command).await,
        Command::Image(command) => commands::image::run(client, command).await,
        Command::Tunnel(command) => commands::tunnel::run(client, command).await,
        Command::Service(command) => commands::service::run(client, command).await,
        Command::Secret(command) => commands::payload::run(client, PayloadKind::Secret, command).await,
        Command::Config(command) => commands::payload::run(client, PayloadKind::Config, command).await,
        Command::Registry(command) => commands::registry::run(command),
        Command::Volume(command) => commands::volume::run(client, command).await,
        Command::Doctor(args) => doctor::run(client, args.format).await,
        Command::Whoami(args) => whoami::run(args).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "heddle", &mut script);
            std::io::Write::write_all(&mut std::io::stdout(), &script)?;
            Ok(())
        }
        Command::ManPages { dir } => clap_mangen::generate_to(Cli::command(), &dir)
            .with_context(|| format!("cannot write manual pages to {}", dir.display())),
        Command::TaskShim { .. }
        | Command::TaskLog { .. }
        | Command::TaskCheck { .. }
        | Command::TaskCheckRun { .. }
        | Command::LabHost { .. }
        | Command::LabDaemon
        | Command::VmInit
        | Command::VmAgent
        | Command::Lab(_)
        | Command::Exec(_) => Ok(()),
    }?;
    Ok(ExitCode::SUCCESS)
}
