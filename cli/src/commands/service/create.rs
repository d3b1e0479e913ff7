//! The flags of `service create` as a spec.

use super::{
    WaitArgs,
    container::ContainerLists,
    resources::preference,
    settings::{Settings, config, mode, network, port, secret},
};
use crate::commands::{
    pair::{key_value, resource},
    run::env,
};
use anyhow::{Result, bail};
use clap::Args;
use heddle_model::{
    Annotations,
    endpoint::{EndpointMode, EndpointSpec, PortConfig},
    image::ImageName,
    network::HOST,
    payload::PayloadFile,
    placement::{Amounts, Placement, Resources},
    service::{
        ImageSpec, Mode, NetworkTarget, ProcessSpec, Rebalance, RestartCondition, RestartPolicy, Runtime, ServiceSpec,
        TaskSpec,
    },
    update::UpdateConfig,
};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct CreateArgs {
    #[arg(long)]
    pub name: String,
    /// replicated; global: one task on every node that takes it; replicated-job and global-job: tasks that run to their end
    #[arg(long, value_parser = mode, default_value = "replicated")]
    mode: Mode,
    /// Run a program of the hosts, in namespaces of its own
    #[arg(long)]
    process: bool,
    /// [PUBLISHED:]TARGET[/tcp|/udp], or published=N,target=N,protocol=tcp|udp,mode=ingress|host
    #[arg(short, long, value_parser = port)]
    publish: Vec<PortConfig>,
    /// A network to join: NAME, or name=NAME,alias=ALIAS
    #[arg(long, value_parser = network)]
    network: Vec<NetworkTarget>,
    /// A secret that tasks have as a file in /run/secrets: NAME, or source=NAME,target=PATH,uid=N,gid=N,mode=0444
    #[arg(long, value_parser = secret, value_name = "SECRET")]
    secret: Vec<PayloadFile>,
    /// The same with a config, in /run/configs
    #[arg(long, value_parser = config, value_name = "CONFIG")]
    config: Vec<PayloadFile>,
    /// NAME=VALUE in the task's environment, or NAME to take it from here
    #[arg(short, long)]
    env: Vec<String>,
    /// A file of such lines
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Where tasks may run: node.role==worker, node.hostname!=web-*, node.labels.zone in (a, b)
    #[arg(long)]
    constraint: Vec<String>,
    /// What tasks are spread evenly over, the first above all: spread=node.labels.zone
    #[arg(long, value_name = "PREFERENCE", value_parser = preference)]
    placement_pref: Vec<String>,
    /// What a node must have free for a task besides: NAME=COUNT, such as gpu=1
    #[arg(long, value_name = "NAME=COUNT", value_parser = resource)]
    generic_resource: Vec<(String, u64)>,
    /// KEY=VALUE
    #[arg(short, long, value_parser = key_value)]
    label: Vec<(String, String)>,
    #[command(flatten)]
    container: ContainerLists,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    pub wait: WaitArgs,
    /// Do not ask the registry which digest the image has now: each node takes what it is given under the name
    #[arg(long)]
    pub no_resolve_image: bool,
    /// Show this user's login to the image's registry, here and on each node that runs it: see `heddle registry login`
    #[arg(long)]
    pub with_registry_auth: bool,
    /// An image, such as nginx:1.27, and what its entry point is given; with --process, a program of the hosts and its arguments
    #[arg(value_name = "IMAGE|PROGRAM", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Whether tasks share their host's network, which no published port leads into.
fn on_host_network(args: &CreateArgs) -> bool {
    args.network.iter().any(|n| n.target == HOST)
}

/// What the operator should know although it is no error.
pub fn warning(args: &CreateArgs) -> Option<&'static str> {
    let dropped = on_host_network(args) && !args.publish.is_empty();
    dropped.then_some("published ports are ignored in host network mode")
}

pub fn spec(args: &CreateArgs) -> Result<ServiceSpec> {
    let env = env::all("--env", &args.env, &args.env_file)?;
    let program = |command: &[String]| ProcessSpec { command: command.into(), env, ..ProcessSpec::default() };
    let runtime = match args.words.split_first() {
        None if args.process => bail!("--process: give a program of the hosts after it, as `-- PROGRAM [ARGUMENT]...`"),
        None => bail!("give an image, such as nginx:1.27, or --process and a program of the hosts"),
        Some((word, _)) if word.starts_with('-') => {
            bail!(
                "{word}: no flag of this command, and neither an image nor a program; put flags before the image, or see --help"
            )
        }
        Some(_) if args.process => Runtime::Process(program(&args.words)),
        Some((image, arguments)) => {
            let image = image.parse::<ImageName>()?;
            Runtime::Image(Box::new(ImageSpec { image, entrypoint: None, program: program(arguments) }))
        }
    };
    let mut restart = RestartPolicy::default();
    if args.mode.is_job() {
        restart.condition = RestartCondition::OnFailure;
    }
    let mut spec = ServiceSpec {
        annotations: Annotations { name: args.name.clone(), labels: args.label.iter().cloned().collect() },
        mode: args.mode.clone(),
        task: TaskSpec {
            runtime,
            restart,
            placement: Placement {
                constraints: args.constraint.clone(),
                spread: args.placement_pref.clone(),
                ..Placement::default()
            },
            networks: args.network.clone(),
            files: args.secret.iter().chain(&args.config).cloned().collect(),
            resources: Resources {
                reserved: Amounts { generic: args.generic_resource.iter().cloned().collect(), ..Amounts::default() },
                ..Resources::default()
            },
            container: args.container.made(),
            ..TaskSpec::default()
        }
        .into(),
        endpoint: EndpointSpec {
            mode: EndpointMode::Vip,
            ports: if on_host_network(args) { Vec::new() } else { args.publish.clone() },
        },
        update: UpdateConfig::default(),
        rollback: UpdateConfig::default(),
        rebalance: Rebalance::default(),
    };
    args.settings.apply(&mut spec)?;
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        create: CreateArgs,
    }

    fn made(more: &[&str]) -> Result<ServiceSpec> {
        let line = ["create", "--name", "x"].iter().chain(more);
        spec(&<Line as clap::Parser>::try_parse_from(line)?.create)
    }

    #[test]
    fn what_runs_is_an_image_or_a_program_of_the_hosts() {
        let of_image = made(&["-e", "A=1", "--entrypoint", "sh -c 'a b'", "nginx:1", "-g", "--", "x"]).unwrap();
        let image = of_image.task.runtime.image().unwrap();
        assert_eq!((image.image.as_str(), image.program.env["A"].as_str()), ("nginx:1", "1"));
        assert_eq!(image.entrypoint.as_deref().unwrap(), ["sh", "-c", "a b"]);
        assert_eq!(image.program.command, ["-g", "--", "x"]);
        let process = made(&["--process", "--", "sleep", "-v"]).unwrap();
        assert_eq!(process.task.runtime.program().command, ["sleep", "-v"]);
        assert!(process.task.runtime.image().is_none());
        for (line, want) in [
            (&["NGINX"][..], "image \"NGINX\": "),
            (&[], "give an image, such as nginx:1.27, or --process"),
            (&["--replcas", "3", "nginx"], "--replcas: no flag of this command"),
            (&["--process"], "--process: give a program of the hosts"),
            (&["--process", "--entrypoint", "a", "--", "b"], "--entrypoint \"a\": only a service of an image has one"),
            (&["--entrypoint", "a 'b", "nginx"], "--entrypoint \"a 'b\": a quote is not closed"),
        ] {
            let said = made(line).unwrap_err().to_string();
            assert!(said.starts_with(want), "{line:?}: {said}");
        }
    }

    #[test]
    fn ports_are_dropped_with_a_warning_on_the_hosts_network() {
        for (network, ports, warned) in [("host", 0, true), ("front", 1, false)] {
            let line = ["create", "--process", "--name", "x", "--network", network, "-p", "80:80", "--", "true"];
            let args = <Line as clap::Parser>::try_parse_from(line).unwrap().create;
            assert_eq!((spec(&args).unwrap().endpoint.ports.len(), warning(&args).is_some()), (ports, warned));
        }
    }
}
