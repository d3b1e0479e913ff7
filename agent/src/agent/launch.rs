//! What a program is started with: its environment, and files of its own in its view of the host.

use crate::{dataplane::desired::Sandbox, executor::MemoryFile, worker::Job};
use heddle_model::{
    NodeId, PayloadId,
    assignment::NodeView,
    container::{Container, Mount, MountSource},
    payload::{Content, PayloadFile},
    task::Task,
    template::{Values, render},
    volume::VolumeName,
    workload::DnsConfig,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::IpAddr,
};

const RESOLVER: &str = "127.0.0.11";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// All that the executor needs beside the program.
#[derive(Debug, PartialEq, Eq)]
pub struct Launch {
    pub hostname: String,
    pub env: BTreeMap<String, String>,
    /// Path to content.
    pub files: BTreeMap<String, String>,
    pub container: Container,
}

/// Where it runs: the host's own name, and its id in the cluster.
pub struct Place<'a> {
    pub host: &'a str,
    pub node: Option<&'a NodeId>,
}

/// None as `sandbox`: the program runs in the host's network namespace.
pub fn launch(job: &Job, sandbox: Option<&Sandbox>, at: &Place<'_>) -> Launch {
    let values = job.task().map(|task| values(task, at));
    // What an operator runs on one host says what it means.
    let own = |text: &str| values.as_ref().map_or_else(|| text.to_owned(), |values| render(text, values));
    let container = Container { mounts: mounts(job, own), ..job.container().cloned().unwrap_or_default() };
    let default = if sandbox.is_some() { job.id().short() } else { at.host };
    let hostname = job.process().hostname.as_deref().map_or_else(|| default.to_owned(), own);
    let mut env = BTreeMap::from([
        ("HOSTNAME".into(), hostname.clone()),
        ("HEDDLE_TASK".into(), job.name()),
        ("HEDDLE_NODE".into(), at.host.to_owned()),
    ]);
    // An image knows these itself.
    if job.image().is_none() {
        env.insert("PATH".to_owned(), PATH.to_owned());
        if container.user.is_none() {
            env.insert("HOME".into(), "/root".into());
        }
    }
    if let Some(task) = job.task() {
        env.extend(of_service(task));
    }
    for (name, value) in &job.process().env {
        env.insert(name.clone(), own(value));
    }
    let files = sandbox.map(|sandbox| files(job, sandbox, &hostname)).unwrap_or_default();
    Launch { hostname, env, files, container }
}

/// What the templates of a task's spec stand for.
fn values(task: &Task, at: &Place<'_>) -> Values {
    Values {
        service_id: task.service.to_string(),
        service_name: task.service_name.clone(),
        node_id: at.node.map(ToString::to_string).unwrap_or_default(),
        node_hostname: at.host.to_owned(),
        task_id: task.id.to_string(),
        task_name: task.name(),
        task_slot: task.slot.to_string(),
    }
}

fn mounts(job: &Job, own: impl Fn(&str) -> String) -> Vec<Mount> {
    let mut mounts = job.mounts().to_vec();
    for mount in &mut mounts {
        mount.target = own(&mount.target);
        if let Some(text) = mount.source.text_mut() {
            *text = own(text);
        }
    }
    mounts
}

/// The volumes that it has by name.
pub fn volumes(job: &Job, at: &Place<'_>) -> BTreeSet<VolumeName> {
    let values = job.task().map(|task| values(task, at));
    let named = job.mounts().iter().filter_map(|mount| match &mount.source {
        MountSource::Volume(name) => name.as_deref(),
        MountSource::Bind(_) | MountSource::Tmpfs { .. } => None,
    });
    let named = named.map(|name| values.as_ref().map_or_else(|| name.to_owned(), |values| render(name, values)));
    named.filter_map(|name| name.parse().ok()).collect()
}

fn secrets(job: &Job) -> &[PayloadFile] {
    job.task().map_or(&[], |task| &task.spec.files)
}

fn content<'a>(file: &PayloadFile, view: Option<&'a NodeView>) -> Option<&'a Content> {
    view?.payloads.get(&file.source.parse::<PayloadId>().ok()?)
}

/// Whether its secrets and configs are known here: after a restart only a manager tells them.
pub fn knows_secrets(job: &Job, view: Option<&NodeView>) -> bool {
    secrets(job).iter().all(|file| content(file, view).is_some())
}

/// Its secrets and configs, as files.
pub fn memory_files(job: &Job, view: Option<&NodeView>) -> Vec<MemoryFile> {
    let file = |file: &PayloadFile| {
        Some(MemoryFile {
            path: file.path.as_path().to_owned(),
            uid: file.uid,
            gid: file.gid,
            mode: file.mode.get(),
            content: content(file, view)?.clone(),
        })
    };
    secrets(job).iter().filter_map(file).collect()
}

fn of_service(task: &Task) -> [(String, String); 2] {
    [("HEDDLE_SERVICE".into(), task.service_name.clone()), ("HEDDLE_SLOT".into(), task.slot.to_string())]
}

fn files(job: &Job, sandbox: &Sandbox, hostname: &str) -> BTreeMap<String, String> {
    let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    for addr in sandbox.legs.iter().flat_map(|l| &l.addrs) {
        line(&mut hosts, *addr, hostname);
    }
    for (name, addr) in job.extra_hosts() {
        line(&mut hosts, *addr, name);
    }
    let mut files = BTreeMap::from([("/etc/hosts".to_owned(), hosts)]);
    // Who is on no network has no resolver either, and keeps the host's list as docker has it.
    if !sandbox.legs.is_empty() || sandbox.gateway.is_some() {
        files.insert("/etc/resolv.conf".into(), resolv_conf(job.dns()));
    }
    files
}

fn line(hosts: &mut String, addr: IpAddr, name: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(hosts, "{addr} {name}");
}

fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = format!("nameserver {RESOLVER}\n");
    if !dns.search.is_empty() {
        text.push_str(&format!("search {}\n", dns.search.join(" ")));
    }
    let given = |option: &str| dns.options.iter().any(|o| o.split(':').next() == option.split(':').next());
    let defaults = if dns.options.is_empty() { &["ndots:0"][..] } else { &[] };
    // What was asked while the daemon was being restarted is asked again soon.
    let again = ["timeout:3", "attempts:3"].into_iter().filter(|option| !given(option));
    let options = defaults.iter().copied().chain(dns.options.iter().map(String::as_str)).chain(again);
    text.push_str(&format!("options {}\n", options.collect::<Vec<_>>().join(" ")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_model::{
        Annotations, ClusterId, Meta, ServiceId, TaskId, Timestamp, Version,
        assignment::ClusterView,
        net::Port,
        payload::{FileMode, FilePath, PayloadKind},
        service::{ProcessSpec, Runtime, TaskSpec},
        task::{TaskState, TaskStatus},
        workload::{Workload, WorkloadSpec},
    };

    fn workload(process: ProcessSpec, dns: DnsConfig) -> Job {
        let annotations = Annotations { name: "db".into(), ..Annotations::default() };
        let extra_hosts = vec![("outside".to_owned(), IpAddr::from([192, 0, 2, 9]))];
        Job::Workload(Box::new(Workload {
            id: TaskId::from_random([1; 16]),
            created_at: Timestamp(0),
            spec: WorkloadSpec { annotations, process, dns, extra_hosts, ..WorkloadSpec::default() },
            ports: vec![],
            wanted: true,
            runs: 0,
            stop_grace: None,
            status: TaskStatus::default(),
        }))
    }

    fn cluster() -> ClusterView {
        ClusterView {
            id: ClusterId::from_random([1; 16]),
            ingress_seed: 1,
            data_path_port: Port::try_from(4789).unwrap(),
            tunnel_port: Port::try_from(51820).unwrap(),
            epochs: Default::default(),
        }
    }

    fn task(files: Vec<PayloadFile>) -> Task {
        Task {
            id: TaskId::from_random([1; 16]),
            meta: Meta::default(),
            service: ServiceId::from_random([2; 16]),
            service_name: "web".into(),
            slot: 1,
            spec: TaskSpec { files, stop_grace: std::time::Duration::ZERO, ..TaskSpec::default() }.into(),
            spec_version: Version(1),
            node: None,
            bound: None,
            choice: None,
            attachments: vec![],
            host_ports: vec![],
            desired: TaskState::Running,
            stop: false,
            started: None,
            not_before: Timestamp(0),
            status: TaskStatus::default(),
        }
    }

    #[test]
    fn a_task_is_not_started_before_its_secrets_are_known() {
        let file = PayloadFile {
            kind: PayloadKind::Secret,
            source: PayloadId::from_random([3; 16]).to_string(),
            path: FilePath::of(PayloadKind::Secret, "key").unwrap(),
            uid: 7,
            gid: 8,
            mode: FileMode::READABLE,
        };
        let job = Job::Task(Box::new(task(vec![file.clone()])));
        let mut view = NodeView::empty(cluster());
        assert!(!knows_secrets(&job, None) && !knows_secrets(&job, Some(&view)));
        assert!(knows_secrets(&Job::Task(Box::new(task(vec![]))), None));
        let content = Content(b"word"[..].into());
        view.payloads.insert(file.source.parse().unwrap(), content.clone());
        assert!(knows_secrets(&job, Some(&view)));
        let want = MemoryFile { path: "/run/secrets/key".into(), uid: 7, gid: 8, mode: 0o444, content };
        assert_eq!(memory_files(&job, Some(&view)), [want]);
    }

    #[test]
    fn templates_of_a_task_say_what_is_its_own() {
        let mut task = task(vec![]);
        let env = [("SLOT".to_owned(), "{{.Task.Slot}}".to_owned()), ("HEDDLE_NODE".into(), "mine".into())].into();
        let hostname = Some("{{.Service.Name}}-{{.Node.Hostname}}".into());
        task.spec.runtime = Runtime::Process(ProcessSpec { env, hostname, ..ProcessSpec::default() });
        let mounts = ["type=bind,source=/srv/{{.Task.Slot}},target=/{{.Node.ID}}", "source=s{{.Task.Slot}},target=/a"];
        let mounts = mounts.map(|mount| mount.parse().unwrap()).to_vec();
        task.spec.container = Container { user: Some("1000".parse().unwrap()), mounts, ..Default::default() };
        let node = NodeId::from_random([4; 16]);
        let (job, at) = (Job::Task(Box::new(task)), Place { host: "host", node: Some(&node) });
        let launched = launch(&job, None, &at);
        assert_eq!((launched.hostname.as_str(), launched.env["SLOT"].as_str()), ("web-host", "1"));
        assert_eq!(launched.env["HEDDLE_NODE"], "mine", "what is asked for counts");
        assert!(!launched.env.contains_key("HOME"), "that is its user's");
        assert_eq!(launched.container.mounts[0].to_string(), format!("type=bind,source=/srv/1,target=/{node}"));
        assert_eq!(launched.container.mounts[1].to_string(), "type=volume,source=s1,target=/a");
        assert_eq!(volumes(&job, &at), ["s1".parse().unwrap()].into());
    }

    #[test]
    fn a_workload_has_files_of_its_own_and_the_host_keeps_its_own() {
        let options = vec!["ndots:2".into(), "timeout:1".into()];
        let dns = DnsConfig { search: vec!["example.org".into()], options, servers: vec![] };
        let job = workload(ProcessSpec { hostname: Some("h".into()), ..ProcessSpec::default() }, dns);
        let mut sandbox =
            Sandbox { id: job.id().clone(), name: job.name(), legs: vec![], gateway: None, ports: vec![] };
        let at = Place { host: "host", node: None };
        let none = launch(&job, Some(&sandbox), &at);
        assert!(!none.files.contains_key("/etc/resolv.conf") && none.hostname == "h");
        sandbox.gateway = Some((
            "eth0".parse().unwrap(),
            heddle_model::net::DualAddr { v4: [172, 18, 0, 2].into(), v6: std::net::Ipv6Addr::LOCALHOST },
        ));
        let some = launch(&job, Some(&sandbox), &at);
        let want = "nameserver 127.0.0.11\nsearch example.org\noptions ndots:2 timeout:1 attempts:3\n";
        assert_eq!(some.files["/etc/resolv.conf"], want);
        assert!(some.files["/etc/hosts"].ends_with("192.0.2.9 outside\n"));
        let on_host = launch(&workload(ProcessSpec::default(), DnsConfig::default()), None, &at);
        assert_eq!((on_host.hostname.as_str(), on_host.files.len()), ("host", 0));
    }
}
