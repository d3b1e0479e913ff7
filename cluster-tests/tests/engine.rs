//! Images and containers with a containerd and a registry of this test's own, without the rest of the program.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{
    images::{self, Root, Server, socket},
    vm,
};
use heddle_engine::{
    Engine, EngineError, Reference, RegistryAuth, Settings,
    container::State,
    image::Image,
    pull::Progress,
    spec::{Groups, Run, Volume},
};
use heddle_model::{
    container::{Bound, Container, Mount, MountSource, Rlimit, Ulimit},
    placement::Resources,
};
use serde_json::json;
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::watch;

fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn which(program: &str) -> PathBuf {
    heddle_vm::programs::which(program).unwrap_or_else(|| panic!("{program} is missing: run scripts/prepare"))
}

struct Stage {
    containerd: Server,
    registry: Server,
    addr: SocketAddr,
    engine: Engine,
}

impl Stage {
    fn new() -> Self {
        Self::with(images::containerd())
    }

    fn with(containerd: Server) -> Self {
        let free = free();
        let registry = images::registry(free);
        let hosts = containerd.dir.path().join("certs.d");
        images::plain(&hosts, &free.to_string());
        let settings = Settings { socket: socket(containerd.dir.path()), hosts, ..Settings::default() };
        Self { engine: Engine::new(settings).unwrap(), containerd, registry, addr: free }
    }

    /// The same containerd with another program that makes containers.
    fn made_by(self, runtime: &str) -> Self {
        let settings = Settings { runtime: Some(which(runtime)), ..self.engine.settings().clone() };
        Self { engine: Engine::new(settings).unwrap(), ..self }
    }

    fn hosts(&self) -> &Path {
        &self.engine.settings().hosts
    }

    fn name(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.addr).parse().unwrap()
    }

    async fn pull(&self, rest: &str) -> Result<Image, EngineError> {
        let (progress, _) = watch::channel(Progress::default());
        self.engine.pull(&self.name(rest), RegistryAuth::Anonymous, &progress).await
    }

    async fn remove(&self, image: &Image) {
        self.engine.remove_image(self.engine.alone(&image.name).unwrap()).await.unwrap();
    }

    async fn names(&self) -> Vec<String> {
        self.engine.images().await.unwrap().into_iter().map(|image| image.name).collect()
    }

    fn ctr(&self, args: &[&str]) -> String {
        let address = socket(self.containerd.dir.path()).display().to_string();
        let output =
            std::process::Command::new("ctr").args(["-a", &address, "-n", "heddle"]).args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn output(&self, id: &str) -> PathBuf {
        self.containerd.dir.path().join(format!("{id}.log"))
    }

    /// Runs a program to its end: its exit code, and what it printed.
    async fn run(&self, id: &str, image: &Image, run: &Run) -> Result<(u32, String), EngineError> {
        let path = self.output(id);
        let run = Run { cgroup: format!("/heddle-test-{id}"), ..run.clone() };
        self.engine.start(id, image, &run, &format!("file://{}", path.display()), |_| Ok(())).await?;
        let end = tokio::time::timeout(Duration::from_secs(30), self.engine.wait(id)).await.unwrap()?;
        self.engine.remove(id).await?;
        Ok((end.code, std::fs::read_to_string(path).unwrap_or_default()))
    }
}

fn sh(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_and_runs_as_it_says() {
    let stage = Stage::new();
    let config = json!({"Cmd": ["sh", "-c", "id; pwd; echo $COLOUR"], "Env": ["COLOUR=red"], "User": "www", "WorkingDir": "/srv"});
    let name = format!("{}/busybox:1", stage.addr);
    let digest = Root::busybox().push(&name, config).await;
    assert_eq!(stage.engine.resolve(&stage.name("busybox:1"), RegistryAuth::Anonymous).await.unwrap().digest, digest);
    assert!(!stage.engine.version().await.unwrap().is_empty());
    assert!(stage.engine.image(&stage.name("busybox:1")).await.unwrap().is_none());
    let image = stage.pull("busybox:1").await.unwrap();
    assert_eq!(image.digest, digest);
    assert_eq!(stage.engine.image(&stage.name("busybox:1")).await.unwrap(), Some(image.clone()));
    let (code, said) = stage.run("as-it-says", &image, &Run::default()).await.unwrap();
    assert_eq!((code, said.as_str()), (0, "uid=33(www) gid=33(www) groups=4(adm)\n/srv\nred\n"));
    let args = sh("hostname; exit 7");
    let run = Run { args, hostname: "seven".into(), ..Run::default() };
    assert_eq!(stage.run("otherwise", &image, &run).await.unwrap(), (7, "seven\n".into()));
    // What cannot be run says so, and nothing of it is left.
    let run = Run { args: vec!["no-such-program".into()], ..Run::default() };
    let said = stage.run("nothing", &image, &run).await.unwrap_err().to_string();
    assert!(said.contains("no-such-program"), "{said}");
    assert_eq!(stage.engine.state("nothing").await.unwrap(), State::Absent);
    assert_eq!(stage.engine.list().await.unwrap(), Vec::<String>::new());
    stage.remove(&image).await;
    assert!(stage.engine.image(&stage.name("busybox:1")).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_held_to_what_was_asked() {
    // crun refuses hosts that have control groups of both versions at once, which this one may.
    is_held(&["runc"]).await;
}

/// Each runtime makes the same of it.
async fn is_held(runtimes: &[&str]) {
    let mut stage = Stage::new();
    Root::busybox().push(&format!("{}/busybox:1", stage.addr), json!({"Cmd": ["sh"]})).await;
    let image = stage.pull("busybox:1").await.unwrap();
    // Of the program, as the kernel tells it: what it may, its filter, its limits, its memory, its file systems.
    let script = "busybox grep -E '^(CapBnd|CapEff|Seccomp):' /proc/self/status
        busybox awk '/Max open files/ { print $4, $5 }' /proc/self/limits
        echo $(cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null)
        echo $(cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null)
        for dir in / /scratch /proc/sys/kernel; do busybox mktemp $dir/XXXXXX >/dev/null 2>&1 && echo $dir is written to; done
        busybox dd if=/dev/zero of=/scratch/file bs=64k count=2 2>&1 | grep -o 'No space left.*'
        busybox unshare -m true 2>&1 | grep -o 'not permitted'
        echo end";
    let script = script.replace("| grep", "| busybox grep");
    let asked = Container {
        mounts: vec!["type=tmpfs,target=/scratch,tmpfs-size=64k".parse().unwrap()],
        read_only: true,
        cap_drop: ["CHOWN".parse().unwrap()].into(),
        ulimits: [(Rlimit::Nofile, Ulimit { soft: Bound(100), hard: Bound(200) })].into(),
        ..Container::default()
    };
    let mut limits = Resources::default();
    limits.limit.memory = 64 << 20;
    limits.limit.pids = 50;
    let groups = Groups { unified: !Path::new("/sys/fs/cgroup/memory").exists(), swap: false };
    let run = Run { args: sh(&script), container: asked, resources: limits, groups, ..Run::default() };
    for runtime in runtimes {
        stage = stage.made_by(runtime);
        let (code, said) = stage.run(runtime, &image, &run).await.unwrap();
        println!("{runtime}: {said}");
        // All that docker gives but chown, which is the first.
        let want = "CapEff:\t00000000a80425fa\nCapBnd:\t00000000a80425fa\nSeccomp:\t2\n100 200\n67108864\n50\n\
            /scratch is written to\nNo space left on device\nnot permitted\nend\n";
        assert_eq!((code, said.as_str()), (0, want), "{runtime}");
        let wrong = Run { args: vec!["no-such-program".into()], ..Run::default() };
        let said = stage.run("nothing", &image, &wrong).await.unwrap_err().to_string();
        assert!(said.contains("no-such-program") && said.lines().count() == 1, "{runtime}: {said}");
        assert_eq!(stage.engine.list().await.unwrap(), Vec::<String>::new());
    }
    let said = stage.made_by("true").run("nothing", &image, &run).await.unwrap_err().to_string();
    println!("{said}");
    assert!(said.starts_with("containerd cannot "), "{said}");
}

/// Their names alone are more than mount(2) takes as options.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_may_have_a_hundred_layers() {
    let stage = Stage::new();
    let config = json!({"Cmd": ["sh", "-c", "id -un; ls /layers | busybox wc -l"], "User": "www"});
    Root::busybox().with_layers(99).push(&format!("{}/many:1", stage.addr), config).await;
    let image = stage.pull("many:1").await.unwrap();
    assert_eq!(stage.run("many", &image, &Run::default()).await.unwrap(), (0, "www\n99\n".into()));
    stage.remove(&image).await;
    assert_eq!(scraps(&stage), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_host_can_run_is_refused_by_its_name() {
    let stage = Stage::new();
    let own = heddle_engine::image::architecture();
    let other = if own == "s390x" { "amd64" } else { "s390x" };
    Root::busybox().for_processor(other).push(&format!("{}/other:1", stage.addr), json!({"Cmd": ["sh"]})).await;
    let said = stage.pull("other:1").await.unwrap_err().to_string();
    assert!(said.ends_with(&format!("other:1\": it is for linux/{other}, and this host is linux/{own}")), "{said}");
    assert_eq!((scraps(&stage), stage.ctr(&["content", "ls", "-q"])), ("0".into(), String::new()));
    Root::busybox().push(&format!("{}/bare:1", stage.addr), json!({})).await;
    let image = stage.pull("bare:1").await.unwrap();
    let said = stage.run("bare", &image, &Run::default()).await.unwrap_err().to_string();
    assert_eq!(said, "the image names no program: give a command or an entry point");
}

/// As containerd's hosts.toml says it: no registry is believed that shows another certificate, and mirrors come first.
#[tokio::test(flavor = "multi_thread")]
async fn registries_are_asked_where_and_how_hosts_toml_says() {
    let stage = Stage::new();
    let digest = Root::busybox().push(&format!("{}/busybox:1", stage.addr), json!({"Cmd": ["sh"]})).await;
    let addr = free();
    let secure = images::registry_with_tls(addr, &stage.registry);
    let ca = stage.containerd.dir.path().join("ca.pem");
    fs::copy(secure.dir.path().join("ca.pem"), &ca).unwrap();
    let name: Reference = format!("{addr}/busybox:1").parse().unwrap();
    let ask = async |name: &Reference| {
        let resolved = stage.engine.resolve(name, RegistryAuth::Anonymous).await;
        resolved.map(|resolved| resolved.digest).map_err(|e| e.to_string())
    };
    // Nobody has vouched for it.
    let said = ask(&name).await.unwrap_err();
    println!("{said}");
    assert!(said.contains("certificate") && said.lines().count() == 1, "{said}");
    let server = format!("server = \"https://{addr}\"\n");
    images::hosts_toml(stage.hosts(), &addr.to_string(), &format!("{server}ca = {:?}", ca.display().to_string()));
    assert_eq!(ask(&name).await.as_ref(), Ok(&digest));
    let (progress, _) = watch::channel(Progress::default());
    let image = stage.engine.pull(&name, RegistryAuth::Anonymous, &progress).await.unwrap();
    assert_eq!(image.digest, digest);
    stage.remove(&image).await;
    images::hosts_toml(stage.hosts(), &addr.to_string(), &format!("{server}skip_verify = true"));
    assert_eq!(ask(&name).await.as_ref(), Ok(&digest));
    images::hosts_toml(stage.hosts(), &addr.to_string(), &format!("{server}ca = \"/no/such/file\""));
    assert_eq!(ask(&name).await.unwrap_err(), "/no/such/file: No such file or directory (os error 2)");

    // A name that nobody answers to, which two mirrors have: the first does not answer either.
    let mirrors = format!(
        "server = \"https://registry.invalid\"\n[host.\"http://127.0.0.1:1\"]\n[host.\"https://{addr}\"]\nca = {:?}\n",
        ca.display().to_string()
    );
    images::hosts_toml(stage.hosts(), "registry.invalid", &mirrors);
    let name: Reference = "registry.invalid/busybox:1".parse().unwrap();
    let image = stage.engine.pull(&name, RegistryAuth::Anonymous, &progress).await.unwrap();
    assert_eq!((image.digest.as_str(), image.name.as_str()), (digest.as_str(), "registry.invalid/busybox:1"));
    stage.remove(&image).await;
    // With nobody left, the last one's answer counts.
    drop(secure);
    let said = ask(&name).await.unwrap_err();
    println!("{said}");
    assert!(said.starts_with("image \"registry.invalid/busybox:1\": ") && said.lines().count() == 1, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_listed_and_nothing_is_left_of_those_that_are_removed() {
    let stage = Stage::new();
    assert_eq!(stage.names().await, Vec::<String>::new(), "before there is a namespace");
    let config = json!({"Cmd": ["sh"], "Healthcheck": {"Test": ["CMD", "true"], "Retries": 2}});
    let digest = Root::busybox().push(&format!("{}/busybox:1", stage.addr), config).await;
    let image = stage.pull("busybox:1").await.unwrap();
    assert_eq!(image.config.config.health_check().map(|check| check.retries), Some(2));
    let bare = stage.pull(&format!("busybox@{digest}")).await.unwrap();
    let all = stage.engine.images().await.unwrap();
    assert_eq!(all.iter().map(|i| &i.name).collect::<Vec<_>>(), [&image.name, &bare.name]);
    assert!(all.iter().all(|i| i.digest == digest && i.blobs == all[0].blobs && i.blobs.len() == 3));
    assert!(all[0].size() > 1 << 20 && !all[0].created.is_zero(), "{:?}", all[0]);
    assert_eq!(all[0].config["config"]["Cmd"], json!(["sh"]));

    // Whoever removes is alone with it: who pulls waits, and brings it again.
    let alone = stage.engine.alone(&bare.name).unwrap();
    assert!(stage.engine.alone(&bare.name).is_none());
    let name = stage.name(&format!("busybox@{digest}"));
    let mut pull = Box::pin(stage.engine.pull_telling(&name, RegistryAuth::Anonymous, |_| ()));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut pull).await.is_err());
    stage.engine.remove_image(alone).await.unwrap();
    assert_eq!(pull.await.unwrap(), bare);
    assert_eq!(stage.names().await.len(), 2);

    // A container goes on without the names of its image.
    let run = Run { args: sh("sleep 1000"), cgroup: "/heddle-test-goes-on".into(), ..Run::default() };
    let log = format!("file://{}", stage.output("goes-on").display());
    let pid = stage.engine.start("goes-on", &image, &run, &log, |_| Ok(())).await.unwrap();
    assert_eq!(stage.engine.users().await.unwrap(), [("goes-on".to_owned(), image.name.clone())]);
    stage.remove(&image).await;
    stage.remove(&bare).await;
    assert_eq!(stage.engine.state("goes-on").await.unwrap(), State::Running { pid });
    assert!(std::fs::exists(format!("/proc/{pid}/root/bin/busybox")).unwrap());
    stage.engine.remove("goes-on").await.unwrap();
    assert_eq!(stage.names().await, Vec::<String>::new());
    // What the container held goes with the next collection.
    let other = stage.pull("busybox:1").await.unwrap();
    stage.remove(&other).await;
    assert_eq!(stage.ctr(&["content", "ls", "-q"]), "");
    assert_eq!(stage.ctr(&["snapshots", "ls"]).lines().count(), 1, "only the headings");
    assert_eq!(scraps(&stage), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_volume_begins_with_what_the_image_has() {
    let stage = Stage::new();
    let root = Root::busybox();
    root.write("srv/data/dir/file", "first\n");
    symlink("/srv/data", root.path().join("link")).unwrap();
    fs::set_permissions(root.path().join("srv/data/dir"), fs::Permissions::from_mode(0o2751)).unwrap();
    root.push(&format!("{}/data:1", stage.addr), json!({"Volumes": {"/srv/data": {}}})).await;
    let image = stage.pull("data:1").await.unwrap();
    assert_eq!(image.config.config.open_volumes(&[]), ["/srv/data".to_owned()].into());

    let host = tempfile::tempdir().unwrap();
    let data = host.path().join("data");
    fs::create_dir(&data).unwrap();
    let run = |target: &str, script: &str| {
        let source = MountSource::Bind(data.display().to_string());
        let mounts = vec![Mount { source, target: target.into(), read_only: false }];
        let volumes = vec![Volume { data: data.clone(), target: target.into() }];
        Run { args: sh(script), container: Container { mounts, ..Container::default() }, volumes, ..Run::default() }
    };
    // Where the image has nothing, it stays empty.
    let said = stage.run("none", &image, &run("/new", "ls -a /new")).await.unwrap();
    assert_eq!(said, (0, ".\n..\n".into()));
    let said = stage.run("first", &image, &run("/link", "cat /srv/data/dir/file; echo second > /link/dir/file")).await;
    assert_eq!(said.unwrap(), (0, "first\n".into()));
    assert_eq!(fs::metadata(data.join("dir")).unwrap().mode() & 0o7777, 0o2751);
    let said = stage.run("second", &image, &run("/srv/data", "cat /srv/data/dir/file")).await.unwrap();
    assert_eq!(said, (0, "second\n".into()), "what is written stays");
}

/// What a registry does to one who pulls a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It ends in the middle, so often.
    Breaks(u32),
    Lies,
    Refuses,
    Silent,
}

/// A registry in front of another, which does something to every layer.
fn faulty(behind: SocketAddr, fault: Fault) -> SocketAddr {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let left = std::sync::atomic::AtomicU32::new(if let Fault::Breaks(times) = fault { times } else { u32::MAX });
    let serve = move |mut client: std::net::TcpStream| -> std::io::Result<()> {
        let mut request = vec![0; 16 << 10];
        let read = client.read(&mut request)?;
        let text = String::from_utf8_lossy(&request[..read]).replace("Connection: ", "X-Connection: ");
        let (first, rest) = text.split_once("\r\n").unwrap_or_default();
        let mut server = std::net::TcpStream::connect(behind)?;
        server.write_all(format!("{first}\r\nConnection: close\r\n{rest}").as_bytes())?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        // Only layers are large.
        let large = answer.len() > 1 << 20;
        let more = large
            && left
                .fetch_update(std::sync::atomic::Ordering::Relaxed, std::sync::atomic::Ordering::Relaxed, |n| {
                    n.checked_sub(1)
                })
                .is_ok();
        match fault {
            Fault::Breaks(_) if more => answer.truncate(300_000),
            Fault::Lies if large => *answer.last_mut().unwrap() ^= 1,
            Fault::Refuses => answer = b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec(),
            Fault::Silent if large => {
                client.write_all(&answer[..answer.len() / 2])?;
                std::thread::sleep(Duration::from_secs(3));
                return client.write_all(&answer[answer.len() / 2..]);
            }
            _ => {}
        }
        client.write_all(&answer)?;
        // Who closes with something unread takes back what was not read there either.
        client.shutdown(std::net::Shutdown::Write)?;
        client.set_read_timeout(Some(Duration::from_secs(1)))?;
        std::io::copy(&mut client, &mut std::io::sink()).map(drop)
    };
    std::thread::spawn(move || {
        // So many are asked for by no test.
        for client in listener.incoming().take(200) {
            let _ = serve(client.unwrap());
        }
    });
    addr
}

/// What is left in containerd beside images: leases, half of a blob, file systems that are being made.
fn scraps(stage: &Stage) -> String {
    let active = stage.ctr(&["snapshots", "ls"]).lines().filter(|line| line.contains("Active")).count();
    format!(
        "{}{}{active}",
        stage.ctr(&["leases", "ls", "-q"]),
        stage.ctr(&["content", "active"]).lines().skip(1).collect::<String>()
    )
}

/// It may fill with a layer as it comes, or with what is unpacked of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_a_pull_and_leaves_nothing() {
    for mib in [12, 36] {
        let stage = Stage::with(images::containerd_on_disk(mib));
        let (large, small) = (Root::busybox(), Root::busybox());
        large.write("srv/data", &"0123456789abcdef".repeat(24 << 16));
        large.push(&format!("{}/large:1", stage.addr), json!({"Cmd": ["sh"]})).await;
        small.push(&format!("{}/small:1", stage.addr), json!({"Cmd": ["sh"]})).await;
        let said = stage.pull("large:1").await.unwrap_err().to_string();
        println!("{mib} MiB: {said}");
        assert!(said.contains("no space left on device") && said.lines().count() == 1, "{mib} MiB: {said}");
        assert_eq!((scraps(&stage), stage.ctr(&["content", "ls", "-q"])), ("0".into(), String::new()), "{mib} MiB");
        // There is room for another one.
        let small = stage.pull("small:1").await.unwrap();
        stage.remove(&small).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_fails_is_gone_on_with_or_told_of_and_leaves_nothing() {
    let stage = Stage::new();
    let root = Root::busybox();
    root.write("srv/data", &"0123456789abcdef".repeat(1 << 17));
    root.push(&format!("{}/large:1", stage.addr), json!({"Cmd": ["sh"]})).await;
    for (fault, want) in [
        (Fault::Lies, "the registry gives something else"),
        (Fault::Refuses, "the registry answers with status 503"),
        (Fault::Breaks(u32::MAX), "the registry broke off"),
        (Fault::Breaks(2), "ok"),
        (Fault::Silent, "ok"),
    ] {
        let addr = faulty(stage.addr, fault);
        images::plain(&stage.containerd.dir.path().join("certs.d"), &addr.to_string());
        let (progress, _) = watch::channel(Progress::default());
        let name: Reference = format!("{addr}/large:1").parse().unwrap();
        let pulled = stage.engine.pull(&name, RegistryAuth::Anonymous, &progress).await;
        println!("{fault:?}: {:?}", pulled.as_ref().map(|i| &i.digest).map_err(ToString::to_string));
        match (&pulled, want) {
            (Ok(image), "ok") => stage.remove(image).await,
            (Err(error), want) if want != "ok" => {
                let said = error.to_string();
                assert!(said.contains(want) && said.starts_with("image "), "{fault:?}: {said}");
            }
            (other, _) => panic!("{fault:?}: {other:?}"),
        }
        assert!(stage.engine.image(&name).await.unwrap().is_none());
        assert_eq!(scraps(&stage), "0", "{fault:?}");
    }
    // Who stops waiting leaves nothing either.
    let addr = faulty(stage.addr, Fault::Silent);
    images::plain(&stage.containerd.dir.path().join("certs.d"), &addr.to_string());
    let name: Reference = format!("{addr}/large:1").parse().unwrap();
    let pull = stage.engine.pull_telling(&name, RegistryAuth::Anonymous, |_| ());
    assert!(tokio::time::timeout(Duration::from_secs(1), pull).await.is_err());
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while scraps(&stage) != "0" {
        assert!(std::time::Instant::now() < end, "{}", scraps(&stage));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(stage.ctr(&["content", "ls", "-q"]), "");
    // No host: who has none of that name, and one that does not listen.
    let said = stage.pull("no-such:1").await.unwrap_err().to_string();
    assert!(said.ends_with("no-such:1\": the registry has no such image"), "{said}");
    let nobody: Reference = "127.0.0.1:1/x:1".parse().unwrap();
    images::plain(&stage.containerd.dir.path().join("certs.d"), "127.0.0.1:1");
    let said = stage.engine.resolve(&nobody, RegistryAuth::Anonymous).await.unwrap_err().to_string();
    assert!(said.contains("onnection refused"), "{said}");
}

mod emulated {
    use super::{is_held, vm};

    /// Whoever asks a registry has some, whatever it believes.
    const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
    const PROGRAMS: [&str; 9] =
        ["containerd", "containerd-shim-runc-v2", "ctr", "runc", "crun", "docker-registry", "tar", "unshare", "mount"];

    #[test]
    fn runc_and_crun_hold_it_by_control_groups_of_version_2_too() {
        let test = "runc_and_crun_hold_it_by_control_groups_of_version_2_too";
        let machine = |vm: vm::Vm| {
            let vm = vm.modules(&["overlay"]).tools(&PROGRAMS).memory_mib(2048);
            vm.file(AUTHORITIES, AUTHORITIES)
        };
        if vm::skipped() || vm::ran_in(test, machine) {
            return;
        }
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(is_held(&["runc", "crun"]));
    }
}
