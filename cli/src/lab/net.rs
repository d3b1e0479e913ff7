//! The lab's underlay: a bridge, a cable to every host, and scissors.

use super::state::{Host, Lab};
use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::link::{InfoData, InfoVeth, LinkAttribute},
};
use std::{
    fs::File,
    io::Write,
    os::fd::AsRawFd,
    process::{Command, Stdio},
};

const BRIDGE: &str = "br0";
const CABLE: &str = "eth0";
const CUTS: &str = "cuts";

/// A netlink socket in a host's network namespace.
async fn handle(host: &Host) -> Result<Handle> {
    let file = File::open(format!("/proc/{}/ns/net", host.pid))?;
    let runtime = tokio::runtime::Handle::current();
    let thread = std::thread::spawn(move || -> Result<_> {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        let _entered = runtime.enter();
        Ok(rtnetlink::new_connection()?)
    });
    let (connection, handle, _) = thread.join().map_err(|_| anyhow!("cannot enter {}", host.name))??;
    tokio::spawn(connection);
    Ok(handle)
}

async fn index(handle: &Handle, name: &str) -> Result<Option<u32>> {
    use futures::TryStreamExt;
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        if link.attributes.iter().any(|a| matches!(a, LinkAttribute::IfName(n) if n == name)) {
            return Ok(Some(link.header.index));
        }
    }
    Ok(None)
}

async fn must(handle: &Handle, name: &str) -> Result<u32> {
    index(handle, name).await?.with_context(|| format!("link {name} is gone"))
}

fn underlay(lab: &Lab) -> Result<&Host> {
    lab.underlay.as_ref().context("the lab has no underlay")
}

pub async fn make_bridge(lab: &Lab) -> Result<()> {
    let handle = handle(underlay(lab)?).await?;
    handle.link().add(LinkBridge::new(BRIDGE).mcast_snooping(false).up().build()).execute().await?;
    // Frames between hosts are not the business of this machine's firewall modules.
    for key in ["iptables", "ip6tables", "arptables"] {
        let script = format!("echo 0 > /proc/sys/net/bridge/bridge-nf-call-{key} 2>/dev/null || true");
        in_underlay(lab, &["sh", "-c", &script], "")?;
    }
    Ok(())
}

/// A cable from the bridge to the host, with the host's addresses at its end.
pub async fn plug(lab: &Lab, host: &Host) -> Result<()> {
    let here = handle(underlay(lab)?).await?;
    let there = handle(host).await?;
    let file = File::open(format!("/proc/{}/ns/net", host.pid))?;
    let end = LinkMessageBuilder::<LinkUnspec>::new().name(CABLE).setns_by_fd(file.as_raw_fd()).build();
    let bridge = must(&here, BRIDGE).await?;
    let cable = LinkVeth::new(&host.name, "x").set_info_data(InfoData::Veth(InfoVeth::Peer(end)));
    here.link().add(cable.controller(bridge).up().build()).execute().await?;
    let lo = must(&there, "lo").await?;
    let eth0 = must(&there, CABLE).await?;
    for link in [lo, eth0] {
        let up = LinkMessageBuilder::<LinkUnspec>::new().index(link).up().build();
        there.link().set(up).execute().await?;
    }
    there.address().add(eth0, host.v4().into(), 24).execute().await?;
    let mut v6 = there.address().add(eth0, host.v6().into(), 64);
    v6.message_mut().header.flags |= rtnetlink::packet_route::address::AddressHeaderFlags::Nodad;
    v6.execute().await?;
    Ok(())
}

/// A cable whose other end a virtual machine will take.
pub async fn make_tap(lab: &Lab, name: &str) -> Result<()> {
    // Rtnetlink cannot make these.
    in_underlay(lab, &["ip", "tuntap", "add", "dev", name, "mode", "tap"], "")?;
    let here = handle(underlay(lab)?).await?;
    let (tap, bridge) = (must(&here, name).await?, must(&here, BRIDGE).await?);
    let message = LinkMessageBuilder::<LinkUnspec>::new().index(tap).controller(bridge).up().build();
    here.link().set(message).execute().await?;
    Ok(())
}

/// What may be left of a killed host's cable: the kernel takes a namespace apart in its own time.
pub async fn unplug(lab: &Lab, host: &Host) -> Result<()> {
    let here = handle(underlay(lab)?).await?;
    if let Some(index) = index(&here, &host.name).await? {
        // It may go by itself at the same moment.
        let _ = here.link().del(index).execute().await;
    }
    Ok(())
}

pub async fn cable(lab: &Lab, host: &Host, up: bool) -> Result<()> {
    let here = handle(underlay(lab)?).await?;
    let builder = LinkMessageBuilder::<LinkUnspec>::new().index(must(&here, &host.name).await?);
    let message = if up { builder.up() } else { builder.down() };
    here.link().set(message.build()).execute().await?;
    Ok(())
}

pub async fn cut_between(lab: &Lab, a: &Host, b: &Host) -> Result<()> {
    let (a, b) = (&a.name, &b.name);
    let script = format!(
        "add table bridge {CUTS}\n\
         add chain bridge {CUTS} forward {{ type filter hook forward priority 0; }}\n\
         add rule bridge {CUTS} forward iifname \"{a}\" oifname \"{b}\" drop\n\
         add rule bridge {CUTS} forward iifname \"{b}\" oifname \"{a}\" drop\n"
    );
    in_underlay(lab, &["nft", "-f", "-"], &script)
}

pub async fn heal(lab: &Lab, target: Option<&str>) -> Result<()> {
    let hosts: Vec<&Host> = match target {
        Some(name) => vec![lab.host(name)?],
        None => lab.hosts.iter().filter(|h| h.is_alive()).collect(),
    };
    for host in hosts {
        cable(lab, host, true).await?;
    }
    let script = format!("table bridge {CUTS} {{ }}\ndelete table bridge {CUTS}\n");
    if target.is_none() { in_underlay(lab, &["nft", "-f", "-"], &script) } else { Ok(()) }
}

fn in_underlay(lab: &Lab, command: &[&str], input: &str) -> Result<()> {
    let file = File::open(format!("/proc/{}/ns/net", underlay(lab)?.pid))?;
    let (command, input): (Vec<String>, _) = (command.iter().map(|s| s.to_string()).collect(), input.to_owned());
    let thread = std::thread::spawn(move || -> Result<()> {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        let mut child = Command::new(&command[0]).args(&command[1..]).stdin(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        if child.wait()?.success() { Ok(()) } else { bail!("{} failed", command[0]) }
    });
    thread.join().map_err(|_| anyhow!("cannot enter the underlay"))?
}
