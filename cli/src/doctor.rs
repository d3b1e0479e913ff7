//! What this host's kernel has, tried out in a namespace that ends with the try, and what is in the way.

mod firewall;

use crate::{
    client::Client,
    output::{self, Format},
};
use anyhow::{Result, bail};
use heddle_agent::kernel::linux::{ipvs::probe::probe, wireguard::Available};
use heddle_engine::{Engine, Settings};
use heddle_proto::v1;
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use std::{
    borrow::Cow,
    fs,
    io::Write,
    process::{Command, Stdio},
};

/// How bad it is if a check fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
    /// Wrong, if it fails, and nothing that the host lacks.
    Sound,
}

struct Check {
    name: Cow<'static, str>,
    need: Need,
    result: Result<String, String>,
    /// What else the JSON says.
    more: serde_json::Map<String, Value>,
}

fn check(name: impl Into<Cow<'static, str>>, need: Need, result: Result<String, String>) -> Check {
    Check { name: name.into(), need, result, more: Default::default() }
}

pub async fn run(client: &Client, format: Format) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("doctor tries things out in the kernel: run it as root");
    }
    let mut checks = checks();
    let ipvs = probe().await;
    checks.push(check("load balancer in use", Need::Optional, balancer(client, ipvs.is_ok()).await));
    checks.push(check("IPVS", Need::Optional, ipvs.map(|()| "works".into()).map_err(|e| e.to_string())));
    checks.push(check("WireGuard", Need::Optional, wireguard().await));
    checks.push(check("containerd, for images", Need::Optional, containerd().await));
    checks.extend(firewall::checks());
    checks.extend(data_path(client).await);
    let word = |c: &Check| match (&c.result, c.need) {
        (Ok(_), _) => "ok",
        (Err(_), Need::Required) => "MISSING",
        (Err(_), Need::Optional) => "no",
        (Err(_), Need::Sound) => "WRONG",
    };
    let text = |c: &Check| c.result.clone().unwrap_or_else(|e| e);
    let rows = checks.iter().map(|c| vec![c.name.to_string(), word(c).to_owned(), text(c)]).collect();
    let value = |c: &Check| {
        let required = c.need == Need::Required;
        let mut value = json!({ "check": c.name, "ok": c.result.is_ok(), "required": required, "text": text(c) });
        c.more.iter().for_each(|(name, v)| value[name] = v.clone());
        value
    };
    output::print(format, &["CHECK", "RESULT", ""], rows, checks.iter().map(value).collect());
    let missing = checks.iter().filter(|c| c.need == Need::Required && c.result.is_err()).count();
    if missing > 0 {
        bail!("{missing} of what Heddle needs is missing on this host");
    }
    Ok(())
}

fn checks() -> Vec<Check> {
    use Need::Required;
    let nft = |script: &'static str| inside(move || nft_check(script));
    let link = |args: &'static [&'static str]| inside(move || run_ip(args));
    vec![
        check("nft program", Required, version("nft", "--version")),
        check("network namespaces", Required, inside(|| Ok("can be made".into()))),
        check(
            "nftables NAT",
            Required,
            nft(
                "table inet t { chain c { type nat hook output priority -100; meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 192.0.2.1, 1 : 192.0.2.2 }; } }",
            ),
        ),
        check(
            "nftables hash",
            Required,
            nft(
                "table inet t { chain c { type nat hook prerouting priority -100; meta l4proto tcp dnat ip addr . port to jhash ip saddr . tcp sport mod 2 seed 0x1 map { 0 : 192.0.2.1 . 80, 1 : 192.0.2.2 . 80 }; } }",
            ),
        ),
        check(
            "nftables fib",
            Required,
            nft("table inet t { chain c { type nat hook prerouting priority -100; fib daddr type local accept; } }"),
        ),
        check(
            "replies to the entry host",
            Required,
            nft(
                "table netdev t { chain c { type filter hook egress device \"lo\" priority 0; ether daddr set 02:00:00:00:00:01; } }",
            ),
        ),
        check(
            "VXLAN",
            Required,
            link(&[
                "link",
                "add",
                "v",
                "type",
                "vxlan",
                "id",
                "1",
                "dstport",
                "4789",
                "local",
                "192.0.2.1",
                "nolearning",
                "proxy",
            ]),
        ),
        check("bridge", Required, link(&["link", "add", "name", "b", "type", "bridge"])),
        check("veth", Required, link(&["link", "add", "name", "a", "type", "veth", "peer", "name", "b"])),
        check(
            "IPv6",
            Required,
            fs::metadata("/proc/net/if_inet6").map(|_| "is on".into()).map_err(|_| "is switched off".into()),
        ),
    ]
}

/// Where a daemon looks for it that was not told otherwise.
async fn containerd() -> Result<String, String> {
    let engine = Engine::new(Settings::default()).map_err(|e| e.to_string())?;
    let version = engine.version().await.map_err(|e| e.to_string())?;
    Ok(format!("version {version}"))
}

/// Runs on a thread of its own in a new network namespace.
fn inside(f: impl FnOnce() -> Result<String, String> + Send + 'static) -> Result<String, String> {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| e.to_string())?;
        f()
    });
    thread.join().unwrap_or_else(|_| Err("the check failed".into()))
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    let (good, text) = match output.status.success() {
        true => (true, output.stdout),
        false => (false, output.stderr),
    };
    let text = String::from_utf8_lossy(&text).lines().next().unwrap_or("works").trim().to_owned();
    if good { Ok(text) } else { Err(text) }
}

fn version(program: &str, flag: &str) -> Result<String, String> {
    output(Command::new(program).arg(flag)).map_err(|e| format!("{e}: install the package nftables"))
}

fn run_ip(args: &[&str]) -> Result<String, String> {
    output(Command::new("ip").args(args)).map(|_| "can be made".into())
}

fn nft_check(script: &str) -> Result<String, String> {
    let spawned = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|e| e.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(script.replace("{ ", "{\n").replace("; ", "\n").replace(" }", "\n}").as_bytes())
            .map_err(|e| e.to_string())?;
    }
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    match output.status.success() {
        true => Ok("works".into()),
        false => Err(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("is refused").to_owned()),
    }
}

/// The daemon's, or what one would choose.
async fn balancer(client: &Client, has_ipvs: bool) -> Result<String, String> {
    let asked = async { client.local().ok()?.info(v1::InfoRequest {}).await.ok() };
    match (asked.await, has_ipvs) {
        (Some(info), _) => Ok(info.into_inner().load_balancer),
        (None, true) => Ok("no daemon runs here; it would take ipvs".into()),
        (None, false) => Ok("no daemon runs here; it would take nftables".into()),
    }
}

/// What the daemon finds below and in its data plane, if one runs.
async fn data_path(client: &Client) -> Vec<Check> {
    let asked = async { client.local().ok()?.diagnose(v1::DiagnoseRequest {}).await.ok() };
    let findings = asked.await.map(|a| a.into_inner().findings).unwrap_or_default();
    let result = |f: &v1::Finding| if f.ok { Ok(f.text.clone()) } else { Err(f.text.clone()) };
    findings.into_iter().map(|f| check(f.what.clone(), Need::Sound, result(&f))).collect()
}

/// What would encrypt here.
async fn wireguard() -> Result<String, String> {
    match Available::find().await.map_err(|e| e.to_string())? {
        Available { kernel: true, .. } => Ok("in the kernel".into()),
        Available { userspace: true, .. } => {
            Ok("in the daemon, by way of /dev/net/tun: the kernel has none, which would be faster".into())
        }
        Available { .. } => {
            Err("neither in this kernel nor, for lack of /dev/net/tun, in the daemon: load the module \
                                 wireguard or tun, or encrypted networks pass this host by"
                .into())
        }
    }
}
