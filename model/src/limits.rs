//! How large that may be which an operator asks for. Every manager keeps all of it in memory, and each task has a copy of its
//! spec: what is too large for that is refused before it is written.

use crate::{
    Annotations,
    container::{Container, Mount},
    health::Probe,
    network::NetworkSpec,
    node::NodeDescription,
    service::{ImageSpec, ProcessSpec, ServiceSpec, TaskSpec},
    workload::{DnsConfig, NetworkWish, WorkloadSpec},
};
use std::{collections::BTreeMap, net::IpAddr};

/// Labels of one object, options of one network.
const LABELS: usize = 256;
/// Bytes of a label's key, of its value.
const KEY: usize = 256;
const VALUE: usize = 4 << 10;
/// Variables of one program.
const VARIABLES: usize = 1024;
/// Bytes of all arguments, or of all variables, of one program.
const PROGRAM: usize = 64 << 10;
/// PATH_MAX, with the zero at its end (linux/limits.h).
const PATH: usize = 4095;
/// HOST_NAME_MAX (linux/limits.h).
const HOSTNAME: usize = 64;
const CONSTRAINTS: usize = 64;
const CONSTRAINT: usize = 1 << 10;
const PREFERENCES: usize = 8;
const NETWORKS: usize = 64;
const ALIASES: usize = 64;
const PORTS: usize = 1024;
/// Bytes of a health check's command, or of its path.
const CHECK: usize = 4 << 10;
/// Secrets and configs of one task.
const FILES: usize = 64;
const MOUNTS: usize = 64;
const GROUPS: usize = 64;
/// Addresses of a network that are in use by others.
const AUX: usize = 1024;
/// Name servers, search domains, options of a resolver; further lines of /etc/hosts.
const DNS: usize = 64;
const HOSTS: usize = 1024;
const NAME: usize = 255;
/// Routes of a host, kinds of tasks, ports below the ephemeral ones by either protocol, epochs of keys.
const SUBNETS: usize = 4096;
const EXECUTORS: usize = 64;
const LISTENING: usize = 2 << 15;
const KEYS: usize = 16;
const ROOTS: usize = 8;
/// Bytes of the specs of all tasks of a service.
const TASKS: u64 = 16 << 20;
/// Bytes of a value that are shown.
const SHOWN: usize = 40;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("{field}: {found} are too many, use at most {most}")]
    Many { field: &'static str, found: usize, most: usize },
    #[error("{field} {begins:?} is {found} bytes long: use at most {most}")]
    Long { field: &'static str, begins: String, found: usize, most: usize },
    #[error("{field}: {found} bytes together are too many, use at most {most}")]
    Together { field: &'static str, found: usize, most: usize },
    #[error("{field} {begins:?} has a zero byte in it, which no program can be given: leave it out")]
    Zero { field: &'static str, begins: String },
    #[error("variable {begins:?}: a name is not empty and has no '=' in it")]
    Variable { begins: String },
    #[error(
        "replicas {replicas}: with {size} bytes each, the specs of the tasks take more than {TASKS} bytes together; use fewer \
         replicas or a smaller spec"
    )]
    Tasks { replicas: u64, size: u64 },
}

type Result = std::result::Result<(), LimitError>;

/// The beginning of a text that may be long.
fn begins(text: &str) -> String {
    match text.floor_char_boundary(SHOWN) {
        end if end < text.len() => format!("{}...", &text[..end]),
        _ => text.to_owned(),
    }
}

fn many(field: &'static str, found: usize, most: usize) -> Result {
    if found > most { Err(LimitError::Many { field, found, most }) } else { Ok(()) }
}

fn long(field: &'static str, text: &str, most: usize) -> Result {
    match text.len() {
        found if found > most => Err(LimitError::Long { field, begins: begins(text), found, most }),
        _ => Ok(()),
    }
}

fn together(field: &'static str, found: usize, most: usize) -> Result {
    if found > most { Err(LimitError::Together { field, found, most }) } else { Ok(()) }
}

/// What the kernel takes ends at the first zero byte.
fn whole(field: &'static str, text: &str) -> Result {
    if text.contains('\0') { Err(LimitError::Zero { field, begins: begins(text) }) } else { Ok(()) }
}

/// Keys and values that an operator chooses: labels, options.
fn pairs(field: &'static str, pairs: &BTreeMap<String, String>) -> Result {
    many(field, pairs.len(), LABELS)?;
    for (key, value) in pairs {
        long(field, key, KEY)?;
        long(field, value, VALUE)?;
    }
    Ok(())
}

pub fn labels(all: &BTreeMap<String, String>) -> Result {
    pairs("label", all)
}

/// The name has rules of its own.
fn annotations(annotations: &Annotations) -> Result {
    labels(&annotations.labels)
}

fn process(process: &ProcessSpec) -> Result {
    together("command", process.command.iter().map(String::len).sum(), PROGRAM)?;
    process.command.iter().try_for_each(|argument| whole("argument", argument))?;
    many("variables", process.env.len(), VARIABLES)?;
    together("variables", process.env.iter().map(|(name, value)| name.len() + value.len()).sum(), PROGRAM)?;
    for (name, value) in &process.env {
        if name.is_empty() || name.contains('=') {
            return Err(LimitError::Variable { begins: begins(name) });
        }
        whole("variable", name)?;
        whole("variable", value)?;
    }
    for (field, value, most) in [("directory", &process.dir, PATH), ("host name", &process.hostname, HOSTNAME)] {
        if let Some(value) = value {
            long(field, value, most)?;
            whole(field, value)?;
        }
    }
    Ok(())
}

/// All but its program.
fn image(image: &ImageSpec) -> Result {
    long("image", image.image.as_str(), CONSTRAINT)?;
    for word in image.entrypoint.iter().flatten() {
        long("entry point", word, CONSTRAINT)?;
        whole("entry point", word)?;
    }
    many("words of the entry point", image.entrypoint.as_ref().map_or(0, Vec::len), MOUNTS)
}

fn names<'a>(field: &'static str, all: impl ExactSizeIterator<Item = &'a String>, most: usize) -> Result {
    many(field, all.len(), most)?;
    all.into_iter().try_for_each(|name| long(field, name, NAME))
}

fn task(task: &TaskSpec) -> Result {
    process(task.runtime.program())?;
    task.runtime.image().map_or(Ok(()), image)?;
    many("constraints", task.placement.constraints.len(), CONSTRAINTS)?;
    task.placement.constraints.iter().try_for_each(|c| long("constraint", c, CONSTRAINT))?;
    names("spread preferences", task.placement.spread.iter(), PREFERENCES)?;
    names("resources", task.resources.reserved.generic.keys(), LABELS)?;
    many("networks", task.networks.len(), NETWORKS)?;
    for network in &task.networks {
        long("network", &network.target, NAME)?;
        names("aliases", network.aliases.iter(), ALIASES)?;
    }
    match task.health.as_ref().map(|health| &health.probe) {
        Some(Probe::Command(command)) => {
            long("health command", command, CHECK)?;
            whole("health command", command)?;
        }
        Some(Probe::Exec(args)) => {
            many("words of the health command", args.len(), MOUNTS)?;
            for word in args {
                long("health command", word, CHECK)?;
                whole("health command", word)?;
            }
        }
        Some(Probe::Http { path, .. }) => long("health path", path, CHECK)?,
        Some(Probe::Tcp(_)) | None => {}
    }
    many("secrets and configs", task.files.len(), FILES)?;
    task.files.iter().try_for_each(|file| long("secret or config", &file.source, NAME))?;
    container(&task.container)
}

fn container(container: &Container) -> Result {
    names("groups", container.groups.iter(), GROUPS)?;
    mounts(&container.mounts)?;
    resolver(&container.dns)?;
    lines(&container.hosts)?;
    pairs("container label", &container.labels)
}

fn mounts(all: &[Mount]) -> Result {
    many("mounts", all.len(), MOUNTS)?;
    for text in all.iter().flat_map(|mount| mount.source.text().into_iter().chain([mount.target.as_str()])) {
        long("mount", text, PATH)?;
        whole("mount", text)?;
    }
    Ok(())
}

fn resolver(dns: &DnsConfig) -> Result {
    many("name servers", dns.servers.len(), DNS)?;
    names("search domains", dns.search.iter(), DNS)?;
    names("options of the resolver", dns.options.iter(), DNS)
}

/// Of /etc/hosts.
fn lines(hosts: &[(String, IpAddr)]) -> Result {
    many("further hosts", hosts.len(), HOSTS)?;
    hosts.iter().try_for_each(|(name, _)| long("further host", name, NAME))
}

/// Bytes of the texts of a task's spec.
pub fn size(task: &TaskSpec) -> u64 {
    let program = task.runtime.program();
    let image = task.runtime.image().map(|i| (i.image.as_str(), i.entrypoint.iter().flatten()));
    let image = image.map_or(0, |(name, words)| name.len() + words.map(String::len).sum::<usize>());
    let variables = program.env.iter().map(|(name, value)| name.len() + value.len());
    let placed = task.placement.constraints.iter().chain(&task.placement.spread);
    let placed = placed.chain(task.resources.reserved.generic.keys());
    let aliases = task.networks.iter().flat_map(|n| &n.aliases);
    let texts = program.command.iter().chain(placed).chain(aliases).map(String::len);
    let files = task.files.iter().map(|file| file.source.len() + file.path.as_path().as_os_str().len());
    let container = &task.container;
    let own = container.groups.iter().chain(&container.dns.search).chain(&container.dns.options).map(String::len);
    let own = own.chain(container.hosts.iter().map(|(name, _)| name.len()));
    let own = own.chain(container.labels.iter().map(|(key, value)| key.len() + value.len()));
    let mounts = container.mounts.iter();
    let mounts = mounts.map(|mount| mount.source.text().map_or(0, str::len) + mount.target.len());
    let check = match task.health.as_ref().map(|health| &health.probe) {
        Some(Probe::Command(text) | Probe::Http { path: text, .. }) => text.len(),
        Some(Probe::Exec(args)) => args.iter().map(String::len).sum(),
        Some(Probe::Tcp(_)) | None => 0,
    };
    (texts.chain(variables).chain(files).chain(own).chain(mounts).sum::<usize>() + check + image) as u64
}

pub fn service(spec: &ServiceSpec) -> Result {
    annotations(&spec.annotations)?;
    task(&spec.task)?;
    many("ports", spec.endpoint.ports.len(), PORTS)
}

/// Whether a service may have so many replicas of the tasks that it has.
pub fn tasks(spec: &ServiceSpec, replicas: u64) -> Result {
    match size(&spec.task) {
        size if size.saturating_mul(replicas) > TASKS => Err(LimitError::Tasks { replicas, size }),
        _ => Ok(()),
    }
}

pub fn network(spec: &NetworkSpec) -> Result {
    annotations(&spec.annotations)?;
    pairs("option", &spec.options)?;
    spec.pools.iter().try_for_each(|pool| names("auxiliary addresses", pool.aux.keys(), AUX))
}

pub fn wish(wish: &NetworkWish) -> Result {
    long("network", &wish.network, NAME)?;
    names("aliases", wish.aliases.iter(), ALIASES)
}

/// Leaves out of what a node says of its host what is too much to keep of its lists. True: something was left out.
pub fn shorten(host: &mut NodeDescription) -> bool {
    let whole = host.host_subnets.len() <= SUBNETS && host.listening.len() <= LISTENING;
    host.host_subnets.truncate(SUBNETS);
    host.listening.truncate(LISTENING);
    !whole
}

/// What a node says of its host, which every manager keeps.
pub fn description(host: &NodeDescription) -> Result {
    for (field, text) in [
        ("host name", &host.hostname),
        ("operating system", &host.os),
        ("architecture", &host.arch),
        ("version", &host.version),
    ] {
        long(field, text, NAME)?;
    }
    many("subnets of the host", host.host_subnets.len(), SUBNETS)?;
    names("executors", host.executors.iter(), EXECUTORS)?;
    many("ports of the host", host.listening.len(), LISTENING)?;
    many("keys of the tunnel", host.tunnel.as_ref().map_or(0, |end| end.keys.len()), KEYS)?;
    labels(&host.labels)?;
    names("resources of the host", host.generic.keys(), LABELS)?;
    long("signer of the certificate", &host.trust.signer, NAME)?;
    names("trusted roots", host.trust.roots.iter(), ROOTS)
}

pub fn workload(spec: &WorkloadSpec) -> Result {
    annotations(&spec.annotations)?;
    process(spec.program())?;
    spec.image.as_deref().map_or(Ok(()), image)?;
    many("networks", spec.networks.len(), NETWORKS)?;
    spec.networks.iter().try_for_each(wish)?;
    many("ports", spec.ports.len(), PORTS)?;
    resolver(&spec.dns)?;
    lines(&spec.extra_hosts)?;
    mounts(&spec.mounts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{Mode, NetworkTarget, Runtime};

    fn said(change: impl FnOnce(&mut WorkloadSpec)) -> String {
        let mut spec = WorkloadSpec::default();
        change(&mut spec);
        workload(&spec).map_or_else(|e| e.to_string(), |()| "accepted".into())
    }

    fn numbered(count: usize) -> BTreeMap<String, String> {
        (0..count).map(|n| (format!("K{n}"), String::new())).collect()
    }

    #[test]
    fn what_is_too_large_is_named_with_its_limit() {
        let long = "x".repeat(1 << 20);
        assert_eq!(said(|s| s.annotations.labels = numbered(256)), "accepted");
        assert_eq!(said(|s| s.annotations.labels = numbered(10_000)), "label: 10000 are too many, use at most 256");
        assert_eq!(said(|s| s.process.env = numbered(1_000_000)), "variables: 1000000 are too many, use at most 1024");
        let shown = format!("{:?}", format!("{}...", "x".repeat(SHOWN)));
        assert_eq!(
            said(|s| drop(s.annotations.labels.insert(long.clone(), String::new()))),
            format!("label {shown} is 1048576 bytes long: use at most 256")
        );
        assert_eq!(
            said(|s| s.process.command = vec![long.clone()]),
            "command: 1048576 bytes together are too many, use at most 65536"
        );
        assert_eq!(
            said(|s| s.process.hostname = Some(long.clone())),
            format!("host name {shown} is 1048576 bytes long: use at most 64")
        );
        assert_eq!(said(|s| s.dns.search = vec!["x".into(); 65]), "search domains: 65 are too many, use at most 64");
    }

    #[test]
    fn what_no_program_can_be_given_is_refused() {
        let variable =
            |name: &str, value: &str| said(|s| s.process.env = BTreeMap::from([(name.into(), value.into())]));
        assert_eq!(variable("A", "b"), "accepted");
        for name in ["", "A=B"] {
            assert_eq!(variable(name, ""), format!("variable {name:?}: a name is not empty and has no '=' in it"));
        }
        let zero = "has a zero byte in it, which no program can be given: leave it out";
        assert_eq!(variable("A", "b\0c"), format!("variable \"b\\0c\" {zero}"));
        assert_eq!(said(|s| s.process.command = vec!["a\0".into()]), format!("argument \"a\\0\" {zero}"));
    }

    #[test]
    fn many_replicas_have_small_specs() {
        let program = ProcessSpec { command: vec!["x".repeat(64 << 10)], ..ProcessSpec::default() };
        let spec = ServiceSpec {
            annotations: Annotations::default(),
            mode: Mode::Replicated { replicas: 1 },
            task: TaskSpec {
                runtime: Runtime::Process(program),
                networks: vec![NetworkTarget { target: "n".into(), aliases: vec![] }],
                ..TaskSpec::default()
            }
            .into(),
            endpoint: Default::default(),
            update: Default::default(),
            rollback: Default::default(),
            rebalance: Default::default(),
        };
        assert_eq!((service(&spec), tasks(&spec, 256)), (Ok(()), Ok(())));
        assert_eq!(tasks(&spec, 257), Err(LimitError::Tasks { replicas: 257, size: 64 << 10 }));
    }

    #[test]
    fn a_text_is_not_cut_within_a_character() {
        assert_eq!(begins(&"\u{e9}".repeat(30)), format!("{}...", "\u{e9}".repeat(20)));
        assert_eq!(begins("short"), "short");
    }
}
