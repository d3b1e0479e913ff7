//! Images, a registry that has them, and a containerd to run them, all of this machine's own making.

use crate::Lab;
use nix::sched::{CloneFlags, setns};
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol, Config, ImageLayer},
    secrets::RegistryAuth,
};
use serde_json::json;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LIMIT: Duration = Duration::from_secs(30);
/// Commands that are links to busybox in an image.
const COMMANDS: [&str; 17] = [
    "sh", "sleep", "echo", "cat", "id", "ls", "env", "hostname", "httpd", "nc", "wget", "true", "false", "touch",
    "kill", "pwd", "tty",
];

/// Where the registry of a lab is.
pub const REGISTRY: &str = "10.77.0.1:5000";

/// The same registry with the same images, for whoever is `me` with the password `hunter2`.
pub const PRIVATE: &str = "10.77.0.1:5001";
/// The password as bcrypt keeps it.
const HASHED: &str = "$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.";

/// Gives hosts of a lab a containerd each, and node1 a registry. They end with the lab.
pub fn equip(lab: &Lab, hosts: &[&str]) {
    for host in hosts {
        containerd_on(lab, host);
    }
    lab.sh("node1", &format!("mkdir -p /run/registry && echo 'me:{HASHED}' > /run/registry/users"));
    let users = "auth: {htpasswd: {realm: a, path: /run/registry/users}}";
    for (name, addr, auth) in [("open", REGISTRY, ""), ("private", PRIVATE, users)] {
        let script = format!(
            r#"cd /run/registry && cat > {name}.yml <<X
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: /run/registry/images}}}}
http: {{addr: "{addr}"}}
{auth}
X
setsid docker-registry serve {name}.yml > {name}.log 2>&1 < /dev/null &"#
        );
        lab.sh("node1", &script);
        lab.wait("the registry answers", || {
            let asked = lab.exec("node1", &["nc", "-z", "10.77.0.1", &addr[addr.len() - 4..]]);
            if asked.status.success() { Ok(()) } else { Err(format!("{asked:?}")) }
        });
    }
}

/// Starts containerd where heddle looks for it, and says where images come from.
pub fn containerd_on(lab: &Lab, host: &str) {
    let script = format!(
        r#"set -e
mkdir -p /run/ctd
if ! [ -e /run/ctd/config.toml ]; then
mount -t tmpfs tmpfs /etc/containerd
for registry in {REGISTRY} {PRIVATE}; do
mkdir -p /etc/containerd/certs.d/$registry
echo "server = \"http://$registry\"" > /etc/containerd/certs.d/$registry/hosts.toml
done
cat > /run/ctd/config.toml <<X
version = 2
root = "/run/ctd/root"
state = "/run/ctd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/containerd/containerd.sock"
X
fi
setsid containerd -c /run/ctd/config.toml >> /run/ctd/log 2>&1 < /dev/null &
echo $! > /run/ctd/pid"#
    );
    lab.sh(host, &script);
}

/// Puts an image into the registry of a lab: its name.
pub fn push(lab: &Lab, name: &str, root: &Root, program: serde_json::Value) -> String {
    let name = format!("{REGISTRY}/{name}");
    let space = fs::File::open(lab.netns("node1")).expect("the host's network namespace");
    std::thread::scope(|scope| {
        let push = scope.spawn(|| {
            // Of this thread alone.
            setns(space, CloneFlags::CLONE_NEWNET).expect("the host's network namespace");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(root.push(&name, program))
        });
        push.join().expect("a registry that takes it")
    });
    name
}

/// A program that ends with this, and with whatever it has mounted.
pub struct Server {
    child: Child,
    pub dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM: it has things of its own to end.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(dir: tempfile::TempDir, command: &mut Command) -> Self {
        let log = fs::File::create(dir.path().join("log")).expect("a log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { child, dir }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn until(&mut self, what: &str, mut ready: impl FnMut(&Path) -> bool) {
        let end = Instant::now() + LIMIT;
        while !ready(self.dir.path()) {
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none() && Instant::now() < end, "{what} does not come up: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A registry that keeps its images in a directory of its own.
pub fn registry(addr: SocketAddr) -> Server {
    let dir = tempfile::tempdir().expect("a directory");
    let images = dir.path().join("images");
    serve(dir, &images, json!({"addr": addr.to_string()}), addr)
}

/// One that gives the images of another, and is asked over TLS. Its certificate, in PEM, is in its directory as `ca.pem`.
pub fn registry_with_tls(addr: SocketAddr, other: &Server) -> Server {
    let dir = tempfile::tempdir().expect("a directory");
    let own = rcgen::generate_simple_self_signed([addr.ip().to_string()]).expect("a certificate");
    let [certificate, key] = ["ca.pem", "key.pem"].map(|name| dir.path().join(name));
    fs::write(&certificate, own.cert.pem()).expect("a file");
    fs::write(&key, own.signing_key.serialize_pem()).expect("a file");
    let http = json!({"addr": addr.to_string(), "tls": {"certificate": certificate, "key": key}});
    serve(dir, &other.dir.path().join("images"), http, addr)
}

fn serve(dir: tempfile::TempDir, images: &Path, http: serde_json::Value, addr: SocketAddr) -> Server {
    let config = json!({
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": images}},
        "http": http,
    });
    let path = dir.path().join("config.yml");
    fs::write(&path, config.to_string()).expect("its configuration");
    let mut server = Server::start(dir, Command::new("docker-registry").arg("serve").arg(path));
    server.until("the registry", |_| std::net::TcpStream::connect(addr).is_ok());
    server
}

/// Where a containerd below `dir` is asked.
pub fn socket(dir: &Path) -> PathBuf {
    dir.join("containerd.sock")
}

/// Writes a configuration of containerd with which it has everything below `dir`.
pub fn containerd_config(dir: &Path) -> PathBuf {
    let quoted = |name: &str| format!("{:?}", dir.join(name).display().to_string());
    let text = format!(
        "version = 2\nroot = {}\nstate = {}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {}\n",
        quoted("root"),
        quoted("state"),
        quoted("containerd.sock"),
    );
    let path = dir.join("containerd.toml");
    fs::write(&path, text).expect("its configuration");
    path
}

pub fn containerd() -> Server {
    containerd_with(|_| "true".into())
}

/// The same with a disk of so many MiB, which is gone when it ends.
pub fn containerd_on_disk(mib: u32) -> Server {
    containerd_with(|dir| {
        let root = dir.join("root");
        format!("mkdir {0} && mount -t tmpfs -o size={mib}m none {0}", root.display())
    })
}

/// With what is done first, in a mount namespace of its own.
fn containerd_with(first: impl FnOnce(&Path) -> String) -> Server {
    let dir = tempfile::tempdir().expect("a directory");
    let config = containerd_config(dir.path());
    let script = format!("{} && exec containerd -c {}", first(dir.path()), config.display());
    let mut server = Server::start(dir, Command::new("unshare").args(["-m", "sh", "-c", &script]));
    server.until("containerd", |dir| socket(dir).exists());
    server
}

/// Says that a registry is asked without encryption.
pub fn plain(hosts: &Path, registry: &str) {
    hosts_toml(hosts, registry, &format!("server = \"http://{registry}\"\n"));
}

/// Says how a registry is asked.
pub fn hosts_toml(hosts: &Path, registry: &str, text: &str) {
    let dir = hosts.join(registry);
    fs::create_dir_all(&dir).expect("a directory");
    fs::write(dir.join("hosts.toml"), text).expect("hosts.toml");
}

/// A file system that becomes an image.
pub struct Root {
    dir: tempfile::TempDir,
    architecture: &'static str,
    /// Layers of a file each above the first.
    more: u32,
}

impl Root {
    /// With busybox as most of its commands, and users.
    pub fn busybox() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path();
        for name in ["bin", "etc", "tmp", "srv", "root", "proc", "sys", "dev", "run", "var"] {
            fs::create_dir_all(root.join(name)).expect("a directory");
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox: install busybox-static");
        for name in COMMANDS {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("a link");
        }
        let root = Self { dir, architecture: heddle_engine::image::architecture(), more: 0 };
        root.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/srv:/bin/sh\n");
        root.write("etc/group", "root:x:0:\nwww:x:33:\nadm:x:4:www\n");
        root
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    /// A program of this machine, with all that it is linked with.
    pub fn program(&self, program: &Path, target: &str) {
        let copy = |from: &Path, to: &str| {
            let to = self.dir.path().join(to.trim_start_matches('/'));
            fs::create_dir_all(to.parent().expect("a parent")).expect("a directory");
            fs::copy(from, &to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        };
        copy(program, target);
        let linked = Command::new("ldd").arg(program).output().expect("ldd");
        let linked = String::from_utf8_lossy(&linked.stdout).into_owned();
        for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
            copy(Path::new(library), library);
        }
    }

    /// Debian's nginx, which says on every page what it is, and which tells its log who asks.
    pub fn nginx(page: &str) -> Self {
        let root = Self::busybox();
        root.program(Path::new("/usr/sbin/nginx"), "/usr/sbin/nginx");
        root.write("srv/index.html", page);
        root.write(
            "etc/nginx/nginx.conf",
            "daemon off; user root; error_log /dev/stderr; pid /tmp/nginx.pid; events {}
             http { access_log /dev/stdout; client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy;
             fastcgi_temp_path /tmp/fastcgi; uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
             server { listen 80; listen [::]:80; root /srv; } }",
        );
        root.write("var/log/nginx/error.log", "");
        fs::create_dir_all(root.path().join("var/lib/nginx")).expect("a directory");
        root
    }

    /// The program under test, for its `whoami`.
    pub fn whoami() -> Self {
        let root = Self::busybox();
        root.program(&crate::program(), "/bin/heddle");
        // Nobody debugs it there.
        let stripped = Command::new("strip").arg(root.path().join("bin/heddle")).status().expect("strip");
        assert!(stripped.success());
        root
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn layers(&self) -> Vec<ImageLayer> {
        let more = (0..self.more).map(|number| {
            let dir = tempfile::tempdir().expect("a directory");
            fs::create_dir(dir.path().join("layers")).expect("a directory");
            fs::write(dir.path().join(format!("layers/{number}")), "").expect("a file");
            archive(dir.path())
        });
        let layers = std::iter::once(archive(self.path())).chain(more);
        layers.map(|layer| ImageLayer::new(layer, LAYER.to_owned(), None)).collect()
    }

    /// Says that it is for another processor, as images name them.
    pub fn for_processor(self, architecture: &'static str) -> Self {
        Self { architecture, ..self }
    }

    /// Has so many layers more, each with a file of its own in `/layers`.
    pub fn with_layers(self, more: u32) -> Self {
        Self { more, ..self }
    }

    /// Puts the image into a registry; `program` is the `config` of its configuration. Its digest.
    pub async fn push(&self, name: &str, program: serde_json::Value) -> String {
        // Somebody may have done so before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
        let layers = self.layers();
        let digests: Vec<_> = layers.iter().map(ImageLayer::sha256_digest).collect();
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": program,
            "rootfs": {"type": "layers", "diff_ids": digests},
        });
        let config = Config::new(config.to_string().into_bytes(), CONFIG.to_owned(), None);
        let name: Reference = name.parse().expect("the name of an image");
        client.push(&name, &layers, config, &RegistryAuth::Anonymous, None).await.expect("a registry that takes it");
        client.fetch_manifest_digest(&name, &RegistryAuth::Anonymous).await.expect("its digest")
    }
}

fn archive(dir: &Path) -> Vec<u8> {
    let archived = Command::new("tar").arg("-C").arg(dir).args(["--owner=0", "--group=0", "-c", "."]).output();
    let archived = archived.expect("tar");
    assert!(archived.status.success(), "{archived:?}");
    archived.stdout
}
