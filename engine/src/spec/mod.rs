//! What a container is, in the OCI's words (config.md of its runtime specification): docker's defaults, and what was asked for.

mod seccomp;

use crate::{
    EngineError,
    image::{Config, Program},
};
use heddle_model::{
    container::{Capability, Container, MountSource, Rlimit, Ulimit},
    placement::Resources,
};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// Those that docker lets a container have.
const CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What of the host's kernel a container does not see, and what it does not change.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Microseconds after which a container has its processor time anew.
const PERIOD: u64 = 100_000;

/// What of an image is to run, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// None: the image's.
    pub entrypoint: Option<Vec<String>>,
    /// Empty: the image's, unless there is another entry point.
    pub args: Vec<String>,
    /// Beside those of the image.
    pub env: BTreeMap<String, String>,
    /// None: the image's.
    pub dir: Option<String>,
    pub hostname: String,
    /// None: the host's own.
    pub netns: Option<PathBuf>,
    /// Files and directories of the host, each with where it is in the container: read-only.
    pub files: Vec<(PathBuf, String)>,
    pub container: Container,
    /// Those of its bind mounts that begin with what the image has at their target, if they are empty.
    pub volumes: Vec<Volume>,
    pub resources: Resources,
    /// Below the root of each hierarchy.
    pub cgroup: String,
    /// What the host's control groups can do.
    pub groups: Groups,
}

/// A directory of the host for what is written at a path of the image. Beside it lies nothing of anybody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub data: PathBuf,
    pub target: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Groups {
    /// All of them are of version 2: as with docker, a container sees its own alone.
    pub unified: bool,
    /// They limit swap.
    pub swap: bool,
}

/// Whom a user is in the image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

impl Run {
    /// Program and arguments.
    ///
    /// # Errors
    /// Neither the image nor who runs it names a program.
    pub fn command(&self, image: &Program) -> Result<Vec<String>, EngineError> {
        let (entrypoint, own) = match &self.entrypoint {
            // As docker: what the image says after its own entry point is of no use to another one.
            Some(entrypoint) => (entrypoint, &Vec::new()),
            None => (&image.entrypoint, &image.cmd),
        };
        let args = if self.args.is_empty() { own } else { &self.args };
        let command: Vec<_> = entrypoint.iter().chain(args).cloned().collect();
        if command.first().is_none_or(String::is_empty) { Err(EngineError::NoProgram) } else { Ok(command) }
    }

    /// The environment of its program.
    pub fn variables(&self, image: &Program, ids: &Ids) -> BTreeMap<String, String> {
        let mut env: BTreeMap<&str, &str> = [("PATH", PATH), ("HOSTNAME", &self.hostname), ("HOME", &ids.home)].into();
        env.extend(image.env.iter().filter_map(|line| line.split_once('=')));
        env.extend(self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Capabilities that its program has not.
    pub fn denied(&self) -> BTreeSet<Capability> {
        let allowed = self.capabilities();
        Capability::NAMES.iter().filter(|name| !allowed.contains(*name)).filter_map(|name| name.parse().ok()).collect()
    }

    pub fn user(&self, image: &Program) -> Option<String> {
        let asked = self.container.user.as_ref().map(ToString::to_string);
        asked.or_else(|| Some(image.user.clone()).filter(|user| !user.is_empty()))
    }

    fn capabilities(&self) -> BTreeSet<&str> {
        self.container.capabilities(&CAPABILITIES)
    }

    fn process(&self, args: &[String], image: &Program, ids: &Ids) -> Value {
        let prefixed: Vec<_> = self.capabilities().iter().map(|name| format!("CAP_{name}")).collect();
        let held = if ids.uid == 0 { prefixed.clone() } else { self.kept() };
        let rlimit = |(name, limit): (&Rlimit, &Ulimit)| {
            let name = format!("RLIMIT_{}", name.as_str().to_uppercase());
            // No limit is the same number there.
            json!({"type": name, "soft": limit.soft.0, "hard": limit.hard.0})
        };
        let rlimits: Vec<_> = self.container.ulimits.iter().map(rlimit).collect();
        let dir = self.dir.as_deref().or(Some(image.working_dir.as_str())).filter(|dir| !dir.is_empty());
        json!({
            "terminal": false,
            "user": {"uid": ids.uid, "gid": ids.gid, "additionalGids": ids.groups},
            "args": args,
            "env": self.variables(image, ids).iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
            "cwd": dir.unwrap_or("/"),
            "capabilities": {
                "bounding": prefixed, "effective": held, "permitted": held,
                "inheritable": self.kept_if(ids), "ambient": self.kept_if(ids),
            },
            "rlimits": rlimits,
            "noNewPrivileges": false,
        })
    }

    /// What was asked for by name, which who is not root keeps.
    fn kept(&self) -> Vec<String> {
        let asked =
            |name: &&&str| self.container.cap_add.iter().any(|add| [**name, Capability::ALL].contains(&add.as_str()));
        self.capabilities().iter().filter(asked).map(|name| format!("CAP_{name}")).collect()
    }

    fn kept_if(&self, ids: &Ids) -> Vec<String> {
        if ids.uid == 0 { Vec::new() } else { self.kept() }
    }

    fn mounts(&self) -> Vec<Value> {
        let mount = |kind: &str, target: &str, options: &[&str]| json!({"type": kind, "source": kind, "destination": target, "options": options});
        let mut mounts = vec![
            mount("proc", "/proc", &["nosuid", "noexec", "nodev"]),
            mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
            mount("cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
            mount("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
            mount("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ];
        let bind = |source: String, target: &str, read_only: bool| {
            let access = if read_only { "ro" } else { "rw" };
            json!({"type": "bind", "source": source, "destination": target, "options": ["rbind", "rprivate", access]})
        };
        let files = self.files.iter().map(|(source, target)| bind(source.display().to_string(), target, true));
        let asked = self.container.mounts.iter().filter_map(|one| match &one.source {
            MountSource::Bind(source) => Some(bind(source.clone(), &one.target, one.read_only)),
            // They are bind mounts of their directories by now.
            MountSource::Volume(_) => None,
            MountSource::Tmpfs { size, mode } => {
                let mut options = vec!["nosuid".to_owned(), "nodev".into(), "noexec".into(), format!("mode={mode:o}")];
                options.extend((*size > 0).then(|| format!("size={size}")));
                options.extend(one.read_only.then(|| "ro".into()));
                Some(json!({"type": "tmpfs", "source": "tmpfs", "destination": one.target, "options": options}))
            }
        });
        // What lies within another is mounted after it.
        let mut all: Vec<Value> = files.chain(asked).collect();
        let depth =
            |mount: &Value| mount["destination"].as_str().map(|at| at.trim_end_matches('/').matches('/').count());
        all.sort_by_key(depth);
        mounts.extend(all);
        mounts
    }

    fn resources(&self) -> Value {
        let (reserved, limit) = (&self.resources.reserved, &self.resources.limit);
        let mut all = Map::new();
        let mut cpu = Map::new();
        if limit.cpu.0 > 0 {
            cpu.insert("quota".into(), json!(limit.cpu.0 / (1_000_000_000 / PERIOD)));
            cpu.insert("period".into(), json!(PERIOD));
        }
        if reserved.cpu.0 > 0 {
            let shares = (u128::from(reserved.cpu.0) * 1024 / 1_000_000_000).clamp(2, 262_144);
            cpu.insert("shares".into(), json!(shares as u64));
        }
        let mut memory = Map::new();
        if limit.memory > 0 {
            memory.insert("limit".into(), json!(limit.memory));
            // Else it would go on in swap, as slow as a disk.
            memory.extend(self.groups.swap.then(|| ("swap".to_owned(), json!(limit.memory))));
        }
        if reserved.memory > 0 {
            memory.insert("reservation".into(), json!(reserved.memory));
        }
        all.extend((!cpu.is_empty()).then(|| ("cpu".to_owned(), cpu.into())));
        all.extend((!memory.is_empty()).then(|| ("memory".to_owned(), memory.into())));
        all.extend((limit.pids > 0).then(|| ("pids".to_owned(), json!({"limit": limit.pids}))));
        all.insert("devices".into(), devices());
        all.into()
    }
}

/// None but those that every program needs, which the runtime makes.
fn devices() -> Value {
    let allow = |kind: &str, major: u32, minor: Option<u32>, access: &str| {
        let mut device = json!({"allow": true, "type": kind, "major": major, "access": access});
        if let (Some(minor), Some(device)) = (minor, device.as_object_mut()) {
            device.insert("minor".into(), json!(minor));
        }
        device
    };
    let mut all = vec![json!({"allow": false, "access": "rwm"})];
    // null, zero, full, random, urandom; tty, ptmx, and what is below pts.
    all.extend([3, 5, 7, 8, 9].map(|minor| allow("c", 1, Some(minor), "rwm")));
    all.extend([0, 2].map(|minor| allow("c", 5, Some(minor), "rwm")));
    all.push(allow("c", 136, None, "rwm"));
    // Whoever may make device files may make any, and open none of them.
    all.extend(["c", "b"].map(|kind| json!({"allow": true, "type": kind, "access": "m"})));
    all.into()
}

/// The whole of it.
///
/// # Errors
/// There is no program.
pub fn spec(run: &Run, image: &Config, ids: &Ids) -> Result<Value, EngineError> {
    let args = run.command(&image.config)?;
    let spaces = ["pid", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
    let mut spaces = Vec::from(spaces);
    spaces.extend(run.groups.unified.then(|| json!({"type": "cgroup"})));
    spaces.extend(run.netns.as_ref().map(|path| json!({"type": "network", "path": path})));
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": run.process(&args, &image.config, ids),
        "root": {"path": "rootfs", "readonly": run.container.read_only},
        "hostname": run.hostname,
        "mounts": run.mounts(),
        "linux": {
            "cgroupsPath": run.cgroup,
            "namespaces": spaces,
            "resources": run.resources(),
            "seccomp": seccomp::profile(&run.capabilities()),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_model::container::Bound;
    use oci_spec::runtime::Spec;

    fn image() -> Config {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/entry"],"Cmd":["a","b"],
            "Env":["PATH=/own","COLOUR=red"],"WorkingDir":"/srv","User":"www"},"rootfs":{"diff_ids":["sha256:a"]}}"#;
        serde_json::from_str(text).unwrap()
    }

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn what_runs_is_as_docker_has_it() {
        let image = image().config;
        let command = |entrypoint: Option<&[&str]>, args: &[&str]| {
            let run = Run { entrypoint: entrypoint.map(strings), args: strings(args), ..Run::default() };
            run.command(&image)
        };
        assert_eq!(command(None, &[]).unwrap(), strings(&["/entry", "a", "b"]));
        assert_eq!(command(None, &["x"]).unwrap(), strings(&["/entry", "x"]));
        assert_eq!(command(Some(&["/other"]), &[]).unwrap(), strings(&["/other"]));
        assert_eq!(command(Some(&["/other"]), &["x"]).unwrap(), strings(&["/other", "x"]));
        assert!(matches!(command(Some(&[]), &[]), Err(EngineError::NoProgram)));
        assert!(Run::default().command(&Program::default()).is_err());
    }

    #[test]
    fn what_is_asked_for_counts_more_than_what_the_image_says() {
        let env = [("COLOUR".to_owned(), "green".to_owned())].into();
        let run = Run { env, hostname: "h".into(), ..Run::default() };
        let ids = Ids { uid: 33, gid: 33, groups: vec![4], home: "/var/www".into() };
        let process = run.process(&strings(&["/x"]), &image().config, &ids);
        assert_eq!(process["env"], json!(["COLOUR=green", "HOME=/var/www", "HOSTNAME=h", "PATH=/own"]));
        assert_eq!((&process["cwd"], &process["user"]["uid"]), (&json!("/srv"), &json!(33)));
        assert_eq!(process["capabilities"]["effective"], json!([]), "who is not root has none");
        assert_eq!(process["capabilities"]["bounding"].as_array().unwrap().len(), CAPABILITIES.len());
        assert_eq!(run.user(&image().config).as_deref(), Some("www"));
        let asked = Container { user: Some("7".parse().unwrap()), ..Container::default() };
        assert_eq!(Run { container: asked, ..run }.user(&image().config).as_deref(), Some("7"));
    }

    /// A field that the specification does not know would silently do nothing.
    #[test]
    fn it_is_all_in_the_words_of_the_specification() {
        let container = Container {
            user: Some("7".parse().unwrap()),
            read_only: true,
            mounts: vec![
                "type=tmpfs,target=/data/x,tmpfs-size=1m".parse().unwrap(),
                "type=bind,source=/srv,target=/data,readonly".parse().unwrap(),
            ],
            cap_add: ["NET_ADMIN".parse().unwrap()].into(),
            ulimits: [(Rlimit::Nofile, Ulimit { soft: Bound(1024), hard: Bound(2048) })].into(),
            ..Container::default()
        };
        let resources = Resources {
            reserved: heddle_model::placement::Amounts {
                cpu: heddle_model::placement::NanoCpus::whole(1),
                memory: 8 << 20,
                ..Default::default()
            },
            limit: heddle_model::placement::Limits {
                cpu: heddle_model::placement::NanoCpus::whole(2),
                memory: 64 << 20,
                pids: 9,
            },
        };
        let files = vec![("/run/x/hosts".into(), "/etc/hosts".to_owned())];
        let run = Run { container, resources, files, cgroup: "/heddle/x".into(), ..Run::default() };
        let written = spec(&run, &image(), &Ids { uid: 7, ..Ids::default() }).unwrap();
        let read: Spec = serde_json::from_value(written.clone()).unwrap();
        let again = serde_json::to_value(&read).unwrap();
        let lost = lost(&written, &again, "");
        assert!(lost.is_empty(), "{lost:?}");
        let targets: Vec<_> = written["mounts"].as_array().unwrap().iter().map(|m| &m["destination"]).collect();
        assert_eq!(targets[targets.len() - 3..], [&json!("/data"), &json!("/etc/hosts"), &json!("/data/x")]);
        assert_eq!(written["process"]["capabilities"]["ambient"], json!(["CAP_NET_ADMIN"]));
        assert_eq!(written["linux"]["resources"]["cpu"]["quota"], json!(200_000));
    }

    #[test]
    fn what_lies_within_another_mount_comes_after_it() {
        let mounts = ["type=tmpfs,target=/run/", "type=bind,source=/a,target=/run/own/dir"];
        let mounts = mounts.map(|text| text.parse().unwrap()).into();
        let files = vec![("/s".into(), "/run/secrets/key".into()), ("/h".into(), "/etc/hosts".into())];
        let run = Run { files, container: Container { mounts, ..Container::default() }, ..Run::default() };
        let written = run.mounts();
        let own: Vec<_> = written.iter().skip(7).map(|mount| mount["destination"].as_str().unwrap()).collect();
        assert_eq!(own, ["/run/", "/etc/hosts", "/run/secrets/key", "/run/own/dir"]);
    }

    /// What one has that the other has not; what is empty or false need not be said.
    fn lost(written: &Value, read: &Value, at: &str) -> Vec<String> {
        match written {
            Value::Object(fields) => {
                fields.iter().flat_map(|(name, value)| lost(value, &read[name], &format!("{at}.{name}"))).collect()
            }
            // Sets have no order.
            Value::Array(items) if items.iter().all(Value::is_string) && at.contains("capabilities") => {
                let missing = items.iter().filter(|item| !read.as_array().is_some_and(|all| all.contains(item)));
                missing.map(|item| format!("{at}: {item} is lost")).collect()
            }
            Value::Array(items) => {
                items.iter().enumerate().flat_map(|(n, value)| lost(value, &read[n], &format!("{at}.{n}"))).collect()
            }
            _ if written == read || (read.is_null() && (written == &json!(false) || written == &json!(0))) => vec![],
            _ => vec![format!("{at}: {written} became {read}")],
        }
    }
}
