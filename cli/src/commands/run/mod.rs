//! run: one program as a workload of this host.
//!
//! ```text
//! flags ─> spec (publish, wish, env) ─> RunWorkload ─> detached: its id    else foreground: its output and exit code
//! ```

pub(crate) mod env;
mod foreground;
pub(crate) mod publish;
pub mod wish;

use super::{image::pull, mount::MountFlags, pair::key, service::settings::entrypoint as entrypoint_words};
use crate::client::{Client, said};
use anyhow::{Result, bail};
use clap::Args;
use heddle_model::{
    Annotations,
    container::host_line,
    net::Mac,
    network::{HOST, NONE},
    service::{ImageSpec, ProcessSpec},
    workload::{DnsConfig, NetworkWish, PublishWish, WorkloadSpec},
};
use heddle_proto::v1;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Name of the workload, by which others find it [default: a name of the daemon's choice]
    #[arg(long)]
    name: Option<String>,
    /// A network to join: NAME, or name=NAME,alias=ALIAS,ip=IP,ip6=IP,mac-address=MAC,gw-priority=N [default: bridge]
    #[arg(long, visible_alias = "net", value_parser = wish::parse)]
    network: Vec<NetworkWish>,
    /// A further name on the first network
    #[arg(long, visible_alias = "net-alias")]
    network_alias: Vec<String>,
    /// IPv4 address on the first network
    #[arg(long)]
    ip: Option<Ipv4Addr>,
    /// IPv6 address on the first network
    #[arg(long)]
    ip6: Option<Ipv6Addr>,
    /// MAC address on the first network
    #[arg(long)]
    mac_address: Option<Mac>,
    /// [IP:][HOST:]TARGET[/tcp|/udp]; HOST and TARGET may be ranges such as 8000-8010. Discarded with a warning where
    /// no network of the workload leads through this host: host, none, macvlan, ipvlan, --internal
    #[arg(short, long, value_parser = publish::parse)]
    publish: Vec<PublishWish>,
    /// A name server to ask instead of the host's
    #[arg(long)]
    dns: Vec<IpAddr>,
    /// A domain in which short names are looked up
    #[arg(long)]
    dns_search: Vec<String>,
    /// An option for resolv.conf
    #[arg(long, visible_alias = "dns-opt")]
    dns_option: Vec<String>,
    /// Host name that the workload sees
    #[arg(long)]
    hostname: Option<String>,
    /// A line for /etc/hosts: NAME:ADDRESS
    #[arg(long, value_parser = host_line)]
    add_host: Vec<(String, IpAddr)>,
    #[command(flatten)]
    mounts: MountFlags,
    /// NAME=VALUE in the workload's environment, or NAME to take it from here
    #[arg(short, long)]
    env: Vec<String>,
    /// A file with one such variable a line
    #[arg(long)]
    env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long)]
    workdir: Option<String>,
    /// KEY or KEY=VALUE
    #[arg(short, long, value_parser = key)]
    label: Vec<(String, String)>,
    /// Print the id and leave it running
    #[arg(short, long)]
    detach: bool,
    /// Remove the workload when it has ended
    #[arg(long)]
    rm: bool,
    /// Seconds between the stop signal and the kill
    #[arg(long, default_value_t = 10)]
    stop_timeout: u32,
    /// Run this instead of the image's entry point: words as a shell reads them
    #[arg(long)]
    entrypoint: Option<String>,
    /// When the image is asked of its registry
    #[arg(long, value_enum, default_value_t)]
    pull: Pull,
    /// An image, such as nginx:1.27, and what its entry point is given; after --, a program of the host and its arguments
    #[arg(value_name = "IMAGE|-- PROGRAM", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
    /// Whether they come after `--`.
    #[arg(skip)]
    of_host: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Pull {
    /// If this host has none of that name
    #[default]
    Missing,
    Always,
}

impl RunArgs {
    /// With what clap does not tell of the line that they were made from.
    pub fn from(mut self, line: impl DoubleEndedIterator<Item = OsString>) -> Self {
        self.of_host = line.rev().nth(self.words.len()).is_some_and(|word| word == "--");
        self
    }
}

/// What of it there is: a program of the host's, or an image.
fn program(args: &RunArgs, env: BTreeMap<String, String>) -> Result<(ProcessSpec, Option<Box<ImageSpec>>)> {
    let program = |command: &[String]| ProcessSpec {
        command: command.into(),
        env,
        dir: args.workdir.clone(),
        hostname: args.hostname.clone(),
    };
    match (args.words.split_first(), &args.entrypoint) {
        (Some(_), Some(entrypoint)) if args.of_host => {
            bail!("--entrypoint {entrypoint:?}: only an image has one, and this is a program of the host")
        }
        (Some((word, _)), _) if !args.of_host && word.starts_with('-') => {
            bail!("{word}: no flag of this command, and no image; put flags before the image, or see --help")
        }
        (Some((image, arguments)), entrypoint) if !args.of_host => {
            let entrypoint = entrypoint.as_deref().map(entrypoint_words).transpose()?.flatten();
            let spec = ImageSpec { image: image.parse()?, entrypoint, program: program(arguments) };
            Ok((ProcessSpec::default(), Some(Box::new(spec))))
        }
        _ => Ok((program(&args.words), None)),
    }
}

/// The spec, and what to warn of.
fn spec(args: &RunArgs) -> Result<(WorkloadSpec, Vec<String>)> {
    let (process, image) = program(args, env::all("--env", &args.env, &args.env_file)?)?;
    let flags = wish::Flags { aliases: args.network_alias.clone(), ip: args.ip, ip6: args.ip6, mac: args.mac_address };
    let networks = wish::join(args.network.clone(), flags)?;
    let (mut ports, mut warnings) = (args.publish.clone(), Vec::new());
    let unpublished = networks.iter().find(|w| w.network == HOST || w.network == NONE);
    if let Some(wish) = unpublished.filter(|_| !ports.is_empty()) {
        ports.clear();
        warnings.push(format!("Published ports are discarded when using {} network mode", wish.network));
    }
    let spec = WorkloadSpec {
        annotations: Annotations {
            name: args.name.clone().unwrap_or_default(),
            labels: args.label.iter().cloned().collect(),
        },
        process,
        image,
        networks,
        ports,
        dns: DnsConfig { servers: args.dns.clone(), search: args.dns_search.clone(), options: args.dns_option.clone() },
        extra_hosts: args.add_host.clone(),
        mounts: args.mounts.made(),
        // In the foreground its output and exit code are needed once more after its end, so we remove it then.
        auto_remove: args.rm && args.detach,
        stop_grace: Duration::from_secs(args.stop_timeout.into()),
    };
    Ok((spec, warnings))
}

/// The exit code: the program's own in the foreground, 0 for a detached one.
pub async fn run(client: &Client, args: RunArgs) -> Result<u8> {
    if args.name.as_deref() == Some("") {
        bail!("--name \"\": use a name, or leave it out");
    }
    let (spec, warnings) = spec(&args)?;
    let mut host = client.host()?;
    warnings.iter().for_each(|w| eprintln!("WARNING: {w}"));
    match &spec.image {
        Some(image) if args.pull == Pull::Always => drop(pull::pull(client, &image.image).await?),
        Some(image) => pull::fetch(client, &image.image).await?,
        None => {}
    }
    // Before there is anything that they could leave behind.
    let interrupts = foreground::Interrupts::new()?;
    let request = v1::RunWorkloadRequest { spec: Some(spec.into()) };
    let made = host.run_workload(request).await.map_err(said)?.into_inner();
    made.warnings.iter().for_each(|w| eprintln!("WARNING: {w}"));
    if args.detach {
        println!("{}", made.id);
        return Ok(0);
    }
    let ended = foreground::attend(&mut host, &made.id, interrupts).await;
    if args.rm {
        let request = v1::RemoveWorkloadRequest { r#ref: made.id, force: false };
        host.remove_workload(request).await.map_err(said)?;
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fake::Fake;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    fn args(line: &str) -> Result<RunArgs> {
        let args = Line::try_parse_from(["run"].into_iter().chain(line.split(' ')))?.run;
        Ok(args.from(line.split(' ').map(OsString::from)))
    }

    fn parsed(line: &str) -> Result<(WorkloadSpec, Vec<String>)> {
        spec(&args(line)?)
    }

    #[test]
    fn flags_make_the_spec() {
        let (spec, warnings) = parsed(
            "--name web --network front --network name=back,gw-priority=5 --network-alias www --ip 10.1.0.9 -p 8080:80 \
             --dns 9.9.9.9 --dns-search example.org --dns-option ndots:2 --hostname h --add-host db:10.0.0.5 \
             --add-host six=[fd00::5] -e A=1 -v data:/data --mount type=tmpfs,target=/scratch -w /tmp -l tier=front -l plain -d --rm --stop-timeout 3 \
             -- heddle whoami --port 80",
        )
        .unwrap();
        assert!(warnings.is_empty());
        assert_eq!(spec.annotations.name, "web");
        assert_eq!(spec.annotations.labels["plain"], "");
        assert_eq!(spec.process.command, ["heddle", "whoami", "--port", "80"]);
        assert_eq!(spec.process.env["A"], "1");
        assert_eq!((spec.process.dir.as_deref(), spec.process.hostname.as_deref()), (Some("/tmp"), Some("h")));
        let networks: Vec<_> =
            spec.networks.iter().map(|w| (w.network.as_str(), w.ip.is_some(), w.gateway_priority)).collect();
        assert_eq!(networks, [("front", true, 0), ("back", false, 5)]);
        assert_eq!(spec.networks[0].aliases, ["www"]);
        assert_eq!(spec.ports.len(), 1);
        assert_eq!(spec.dns.options, ["ndots:2"]);
        assert_eq!(spec.extra_hosts[1], ("six".into(), "fd00::5".parse().unwrap()));
        let mounts: Vec<_> = spec.mounts.iter().map(ToString::to_string).collect();
        assert_eq!(mounts, ["type=tmpfs,target=/scratch,tmpfs-mode=1777", "type=volume,source=data,target=/data"]);
        assert_eq!((spec.auto_remove, spec.stop_grace), (true, Duration::from_secs(3)));
    }

    #[test]
    fn the_foreground_removes_by_itself() {
        let (spec, _) = parsed("--rm -- true").unwrap();
        assert!(!spec.auto_remove);
        assert_eq!(spec.networks[0].network, "bridge");
    }

    #[test]
    fn ports_are_discarded_where_nothing_leads_to_them() {
        for network in ["host", "none"] {
            let (spec, warnings) = parsed(&format!("--network {network} -p 80:80 -- true")).unwrap();
            assert!(spec.ports.is_empty());
            assert_eq!(warnings, [format!("Published ports are discarded when using {network} network mode")]);
            assert!(parsed(&format!("--network {network} -- true")).unwrap().1.is_empty());
        }
    }

    #[tokio::test]
    async fn what_ran_in_the_foreground_is_removed_after_its_end() {
        for (line, asked) in [("--rm -- true", vec!["logs", "remove w1"]), ("-- true", vec!["logs"])] {
            let fake = Fake::start(|daemon| {
                daemon.ends = Some(v1::WaitWorkloadResponse { exit_code: 3, error: String::new() });
            });
            assert_eq!(run(&fake.client(), args(line).unwrap()).await.unwrap(), 3);
            assert_eq!(fake.state().asked, asked, "{line}");
            assert_eq!(fake.state().spec.as_ref().unwrap().stop_grace_ms, 10_000);
        }
    }

    #[test]
    fn what_runs_is_an_image_or_a_program_of_the_host() {
        let (spec, _) = parsed("-e A=1 -w /srv --entrypoint sh nginx:1 -c -- x").unwrap();
        let image = spec.image.unwrap();
        assert_eq!((image.image.as_str(), image.program.command.join(" ").as_str()), ("nginx:1", "-c -- x"));
        assert_eq!((image.entrypoint.unwrap(), image.program.dir.as_deref()), (vec!["sh".into()], Some("/srv")));
        assert_eq!((image.program.env["A"].as_str(), spec.process), ("1", ProcessSpec::default()));
        for (line, want) in [
            ("--rmm nginx", "--rmm: no flag of this command, and no image"),
            ("NGINX", "image \"NGINX\": "),
            ("--entrypoint a -- b", "--entrypoint \"a\": only an image has one"),
            ("--entrypoint ' nginx", "--entrypoint \"'\": a quote is not closed"),
        ] {
            let said = parsed(line).unwrap_err().to_string();
            assert!(said.starts_with(want), "{line}: {said}");
        }
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for line in
            ["", "--network a", "-p x -- true", "-e =1 -- true", "--ip fd00::1 -- true", "--add-host db -- true"]
        {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
