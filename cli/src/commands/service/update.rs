//! The flags of `service update` as changes to a spec.

use super::{
    EndArgs,
    container::ContainerChanges,
    resources::preference,
    settings::{Settings, config, network, port, secret},
};
use crate::{
    client::{Client, Control, said},
    commands::{
        pair::{key_value, resource},
        registry,
        run::env,
    },
};
use anyhow::{Result, anyhow, bail};
use clap::Args;
use heddle_model::{
    endpoint::PortConfig,
    image::ImageName,
    login::Logins,
    net::{Port, Protocol},
    network::Network,
    payload::{PayloadFile, PayloadKind},
    service::{NetworkTarget, Runtime, Service, ServiceSpec},
};
use heddle_proto::v1;
use std::collections::BTreeMap;
use tonic::Code;

/// New readings of the service where others write it, too.
const TRIES: usize = 20;

#[derive(Debug, Args)]
pub struct UpdateArgs {
    #[command(flatten)]
    pub changes: Changes,
    #[command(flatten)]
    pub end: EndArgs,
}

/// What is to be another.
#[derive(Debug, Args)]
pub struct Changes {
    /// Id, name, or beginning of an id
    pub service: String,
    /// Run another image
    #[arg(long)]
    image: Option<ImageName>,
    /// Do not ask the registry which digest the image has now
    #[arg(long)]
    no_resolve_image: bool,
    /// Show this user's login to the image's registry from now on
    #[arg(long)]
    with_registry_auth: bool,
    /// Publish another port: [PUBLISHED:]TARGET[/tcp|/udp], or as `service create --publish` takes it
    #[arg(long, value_parser = port, value_name = "PORT")]
    publish_add: Vec<PortConfig>,
    /// Publish a port no more, by the port of the task: TARGET[/tcp|/udp]
    #[arg(long, value_parser = target_port, value_name = "PORT")]
    publish_rm: Vec<(Port, Protocol)>,
    /// Join a network: NAME, or name=NAME,alias=ALIAS
    #[arg(long, value_parser = network, value_name = "NETWORK")]
    network_add: Vec<NetworkTarget>,
    /// Leave a network
    #[arg(long, value_name = "NETWORK")]
    network_rm: Vec<String>,
    /// Have another secret: NAME, or as `service create --secret` takes it
    #[arg(long, value_parser = secret, value_name = "SECRET")]
    secret_add: Vec<PayloadFile>,
    /// Have a secret no more
    #[arg(long, value_name = "SECRET")]
    secret_rm: Vec<String>,
    /// Have another config: NAME, or as `service create --config` takes it
    #[arg(long, value_parser = config, value_name = "CONFIG")]
    config_add: Vec<PayloadFile>,
    /// Have a config no more
    #[arg(long, value_name = "CONFIG")]
    config_rm: Vec<String>,
    /// Set a variable of the environment: NAME=VALUE, or NAME to take it from here
    #[arg(long, value_name = "NAME[=VALUE]")]
    env_add: Vec<String>,
    /// Take a variable away: KEY
    #[arg(long, value_name = "KEY")]
    env_rm: Vec<String>,
    /// Restrict further where tasks may run, such as node.role==worker
    #[arg(long, value_name = "CONSTRAINT")]
    constraint_add: Vec<String>,
    /// Take a restriction away
    #[arg(long, value_name = "CONSTRAINT")]
    constraint_rm: Vec<String>,
    /// Spread tasks evenly over one thing more: spread=node.labels.zone
    #[arg(long, value_name = "PREFERENCE", value_parser = preference)]
    placement_pref_add: Vec<String>,
    /// Spread tasks over something no more
    #[arg(long, value_name = "PREFERENCE", value_parser = preference)]
    placement_pref_rm: Vec<String>,
    /// Reserve something else of a node: NAME=COUNT
    #[arg(long, value_name = "NAME=COUNT", value_parser = resource)]
    generic_resource_add: Vec<(String, u64)>,
    /// Reserve something no more: NAME
    #[arg(long, value_name = "NAME")]
    generic_resource_rm: Vec<String>,
    /// Set a label: KEY=VALUE
    #[arg(long, value_parser = key_value, value_name = "KEY=VALUE")]
    label_add: Vec<(String, String)>,
    /// Take a label away: KEY
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    #[command(flatten)]
    container: ContainerChanges,
    /// Replace the tasks although nothing else changes
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    settings: Settings,
    /// The program and its arguments, instead of those before
    #[arg(last = true)]
    command: Vec<String>,
}

fn target_port(text: &str) -> Result<(Port, Protocol), String> {
    let wanted = port(text)?;
    if wanted.published.is_some() || text.contains('=') {
        return Err("use the port of the task: TARGET, TARGET/tcp or TARGET/udp".into());
    }
    Ok((wanted.target, wanted.protocol))
}

/// A request for an update, with the spec as it is and as it would be.
pub struct Wish {
    pub before: ServiceSpec,
    pub after: ServiceSpec,
    pub request: v1::UpdateServiceRequest,
}

impl Changes {
    pub async fn pin(&mut self, client: &Client) -> Result<()> {
        match &mut self.image {
            Some(image) if !self.no_resolve_image => {
                let login = self.with_registry_auth.then(|| registry::login(image)).transpose()?;
                super::pin(client, image, &Logins(login.into_iter().collect())).await
            }
            _ => Ok(()),
        }
    }
}

/// Reads the service and changes what is asked.
pub async fn wish(client: &Client, control: &mut Control, args: &Changes) -> Result<Wish> {
    let names = names(client, control, args).await?;
    wish_with(control, args, &names).await
}

/// The cluster's networks, secrets and configs that the changes may name, by id.
async fn names(client: &Client, control: &mut Control, args: &Changes) -> Result<BTreeMap<String, String>> {
    let networks = control.list_networks(v1::ListNetworksRequest {}).await.map_err(said)?.into_inner().networks;
    let networks = networks.into_iter().map(Network::try_from).collect::<Result<Vec<_>, _>>()?;
    let mut names: BTreeMap<String, String> =
        networks.into_iter().map(|n| (n.id.to_string(), n.spec.annotations.name)).collect();
    for (kind, gone) in [(v1::PayloadKind::Secret, &args.secret_rm), (v1::PayloadKind::Config, &args.config_rm)] {
        if gone.is_empty() {
            continue;
        }
        let request = v1::ListPayloadsRequest { kind: kind.into() };
        let all = client.payloads()?.list_payloads(request).await.map_err(said)?.into_inner().payloads;
        names.extend(all.into_iter().map(|p| (p.id, p.annotations.unwrap_or_default().name)));
    }
    Ok(names)
}

async fn wish_with(control: &mut Control, args: &Changes, names: &BTreeMap<String, String>) -> Result<Wish> {
    let request = v1::RefRequest { r#ref: args.service.clone() };
    let service = Service::try_from(control.get_service(request).await.map_err(said)?.into_inner())?;
    let after = edit(service.spec.clone(), args, names)?;
    let request = v1::UpdateServiceRequest {
        r#ref: service.id.to_string(),
        version: service.meta.version.0,
        spec: Some(after.clone().into()),
        logins: Some(super::logins(&after, args.with_registry_auth)?.into()),
    };
    Ok(Wish { before: service.spec, after, request })
}

/// Writes what is asked, again if somebody wrote in between.
pub async fn update(client: &Client, control: &mut Control, args: &Changes) -> Result<v1::Service> {
    let names = names(client, control, args).await?;
    for _ in 0..TRIES {
        let wish = wish_with(control, args, &names).await?;
        match control.update_service(wish.request).await {
            Ok(updated) => return Ok(updated.into_inner()),
            Err(status) if status.code() == Code::Aborted => {}
            Err(status) => return Err(said(status)),
        }
    }
    bail!("service {}: it is changed by somebody else all the time, run the command again", args.service)
}

pub(super) fn missing(what: &str, named: &str) -> anyhow::Error {
    anyhow!("{what} {named:?}: the service has none, see `heddle service inspect`")
}

/// Takes what `is` says out of the list; refuses if there is nothing.
pub(super) fn take<T>(list: &mut Vec<T>, what: &str, named: &str, is: impl Fn(&T) -> bool) -> Result<()> {
    let before = list.len();
    list.retain(|item| !is(item));
    if list.len() == before { Err(missing(what, named)) } else { Ok(()) }
}

pub(super) fn take_key<T>(map: &mut BTreeMap<String, T>, what: &str, key: &str) -> Result<()> {
    map.remove(key).map(drop).ok_or_else(|| missing(what, key))
}

/// `names` are those of the cluster's networks, secrets and configs by id.
fn edit(mut spec: ServiceSpec, args: &Changes, names: &BTreeMap<String, String>) -> Result<ServiceSpec> {
    args.settings.apply(&mut spec)?;
    for key in &args.label_rm {
        take_key(&mut spec.annotations.labels, "--label-rm", key)?;
    }
    spec.annotations.labels.extend(args.label_add.iter().cloned());
    for (port, protocol) in &args.publish_rm {
        let named = format!("{port}/{protocol}");
        let is = |p: &PortConfig| (p.target, p.protocol) == (*port, *protocol);
        take(&mut spec.endpoint.ports, "--publish-rm", &named, is)?;
    }
    spec.endpoint.ports.extend(args.publish_add.iter().cloned());
    let task = &mut spec.task;
    for name in &args.network_rm {
        let is = |t: &NetworkTarget| t.target == *name || names.get(&t.target) == Some(name);
        take(&mut task.networks, "--network-rm", name, is)?;
    }
    task.networks.extend(args.network_add.iter().cloned());
    for (kind, flag, gone) in
        [(PayloadKind::Secret, "--secret-rm", &args.secret_rm), (PayloadKind::Config, "--config-rm", &args.config_rm)]
    {
        for name in gone {
            let is = |f: &PayloadFile| f.kind == kind && (f.source == *name || names.get(&f.source) == Some(name));
            take(&mut task.files, flag, name, is)?;
        }
    }
    task.files.extend(args.secret_add.iter().chain(&args.config_add).cloned());
    for constraint in &args.constraint_rm {
        let plain = |c: &str| c.split_whitespace().collect::<String>();
        let is = |c: &String| plain(c) == plain(constraint);
        take(&mut task.placement.constraints, "--constraint-rm", constraint, is)?;
    }
    task.placement.constraints.extend(args.constraint_add.iter().cloned());
    for key in &args.placement_pref_rm {
        take(&mut task.placement.spread, "--placement-pref-rm", &format!("spread={key}"), |s| s == key)?;
    }
    task.placement.spread.extend(args.placement_pref_add.iter().cloned());
    for name in &args.generic_resource_rm {
        take_key(&mut task.resources.reserved.generic, "--generic-resource-rm", name)?;
    }
    task.resources.reserved.generic.extend(args.generic_resource_add.iter().cloned());
    args.container.apply(&mut task.container)?;
    if let Some(wanted) = &args.image {
        let Runtime::Image(image) = &mut task.runtime else {
            bail!("--image {wanted}: the service runs a program of the hosts, and no image");
        };
        image.image = wanted.clone();
    }
    let process = task.runtime.program_mut();
    for key in &args.env_rm {
        take_key(&mut process.env, "--env-rm", key)?;
    }
    process.env.extend(env::all("--env-add", &args.env_add, &[])?);
    if !args.command.is_empty() {
        process.command.clone_from(&args.command);
    }
    task.force_update += u64::from(args.force);
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::service::create::{self, CreateArgs};

    #[derive(Debug, clap::Parser)]
    enum Line {
        Create(Box<CreateArgs>),
        Update(Box<UpdateArgs>),
    }

    fn line(args: &[&str]) -> Line {
        let args = std::iter::once("service").chain(args.iter().copied());
        <Line as clap::Parser>::try_parse_from(args).unwrap()
    }

    fn created() -> ServiceSpec {
        let network = ["--network", "front", "-p", "8080:80", "-e", "A=1", "-l", "x=y", "--constraint", "node.id==a"];
        let head = ["create", "--process", "--name", "web", "--replicas", "2", "--update-order", "start-first"];
        let Line::Create(args) = line(&[&head[..], &network, &["--", "true"]].concat()) else { unreachable!() };
        create::spec(&args).unwrap()
    }

    fn changed(more: &[&str]) -> Result<ServiceSpec> {
        changed_from(created(), more)
    }

    fn changed_from(spec: ServiceSpec, more: &[&str]) -> Result<ServiceSpec> {
        let Line::Update(args) = line(&[&["update", "web"], more].concat()) else { unreachable!() };
        edit(spec, &args.changes, &BTreeMap::from([("front".to_owned(), "called".to_owned())]))
    }

    #[test]
    fn what_is_not_named_stays() {
        assert_eq!(changed(&[]).unwrap(), created());
        let spec = changed(&["--replicas", "3", "--rollback-delay", "5s", "--update-deadline", "0s"]).unwrap();
        let process = spec.task.runtime.program();
        assert_eq!(spec.mode, heddle_model::service::Mode::Replicated { replicas: 3 });
        assert_eq!((process.command.as_slice(), process.env["A"].as_str()), (&["true".to_owned()][..], "1"));
        assert_eq!(spec.update.order, heddle_model::update::Order::StartFirst);
        assert_eq!((spec.rollback.delay.as_secs(), spec.update.deadline.as_secs()), (5, 0));
        assert_eq!(changed(&["--force"]).unwrap().task.force_update, 1);
    }

    #[test]
    fn lists_grow_and_shrink() {
        let gone = ["--env-rm", "A", "--label-rm", "x", "--publish-rm", "80", "--network-rm", "called"];
        let more = ["--constraint-rm", "node.id == a", "--env-add", "B=2", "--publish-add", "9090:90"];
        let spec = changed(&[&gone[..], &more, &["--network-add", "back", "--", "false", "x"]].concat()).unwrap();
        let process = spec.task.runtime.program();
        assert_eq!(process.env, BTreeMap::from([("B".to_owned(), "2".to_owned())]));
        assert_eq!(process.command, ["false", "x"]);
        assert_eq!(spec.endpoint.ports.iter().map(|p| p.target.get()).collect::<Vec<_>>(), [90]);
        assert_eq!(spec.task.networks.iter().map(|t| t.target.as_str()).collect::<Vec<_>>(), ["back"]);
        assert!(spec.annotations.labels.is_empty() && spec.task.placement.constraints.is_empty());
    }

    #[test]
    fn what_a_container_has_grows_and_shrinks() {
        let set = |spec: &ServiceSpec| spec.task.container.clone();
        let more =
            ["--mount-add", "type=tmpfs,target=/a", "--mount-add", "type=tmpfs,target=/b", "--ulimit-add", "nofile=5"];
        let others = [
            "--group-add",
            "7",
            "--dns-add",
            "192.0.2.5",
            "--dns-search-add",
            "example.org",
            "--dns-option-add",
            "ndots:2",
        ];
        let last =
            ["--host-add", "db:192.0.2.9", "--container-label-add", "a=b", "--user", "web", "--stop-signal", "QUIT"];
        let caps = ["--cap-add", "NET_ADMIN", "--cap-drop", "ALL", "--read-only", "--log-opt", "max-file=5"];
        let full = changed_from(created(), &[&more[..], &others, &last, &caps].concat()).unwrap();
        let has = set(&full);
        assert_eq!(
            (has.mounts.len(), has.ulimits.len(), has.groups.len(), has.hosts.len(), has.labels.len()),
            (2, 1, 1, 1, 1)
        );
        assert_eq!((has.dns.servers.len(), has.dns.search.len(), has.dns.options.len()), (1, 1, 1));
        assert!(has.read_only && has.user.is_some() && has.stop_signal.is_some() && has.log.max_files == 5);
        assert_eq!((has.cap_add.len(), has.cap_drop.len()), (1, 1));
        let gone = [
            "--mount-rm",
            "/a",
            "--mount-rm",
            "/b",
            "--ulimit-rm",
            "nofile",
            "--group-rm",
            "7",
            "--dns-rm",
            "192.0.2.5",
        ];
        let others = ["--dns-search-rm", "example.org", "--dns-option-rm", "ndots:2", "--host-rm", "db:192.0.2.9"];
        let last = ["--container-label-rm", "a", "--user", "", "--stop-signal", "", "--read-only=false"];
        // What undoes the other is as at first.
        let caps = ["--cap-drop", "NET_ADMIN", "--cap-add", "ALL", "--log-opt", "max-file=2"];
        let empty = changed_from(full, &[&gone[..], &others, &last, &caps].concat()).unwrap();
        assert_eq!(set(&empty), set(&created()));
        let ruled = changed(&["--rebalance-every", "10m", "--rebalance-max", "2"]).unwrap().rebalance;
        assert_eq!((ruled.every.as_secs(), ruled.most), (600, 2));
    }

    #[test]
    fn what_is_not_there_cannot_be_taken_away() {
        let rest = "the service has none, see `heddle service inspect`";
        for (flag, value, named) in [
            ("--env-rm", "Z", "\"Z\""),
            ("--label-rm", "z", "\"z\""),
            ("--publish-rm", "81/udp", "\"81/udp\""),
            ("--network-rm", "back", "\"back\""),
            ("--constraint-rm", "node.id==b", "\"node.id==b\""),
            ("--mount-rm", "/a", "\"/a\""),
            ("--ulimit-rm", "nofile", "\"nofile\""),
            ("--host-rm", "db:192.0.2.9", "\"db:192.0.2.9\""),
            ("--container-label-rm", "a", "\"a\""),
        ] {
            let said = changed(&[flag, value]).unwrap_err().to_string();
            assert_eq!(said, format!("{flag} {named}: {rest}"));
        }
    }
}
