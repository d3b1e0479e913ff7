//! Whether this kernel has all of IPVS that we use, tried out in a namespace that ends with the try.

use super::{
    Ipvs,
    message::{delete_service, set_service},
};
use crate::{
    dataplane::ipvs::{IpvsKey, Scheduler},
    kernel::linux::space,
};
use std::{
    io,
    path::Path,
    process::{Command, Stdio},
};

/// Virtual addresses, and published ports.
const USED: [Scheduler; 2] = [Scheduler::Rr, Scheduler::Mh { ports: true }];
const MODULES: [&str; 5] = ["ip_vs", "ip_vs_rr", "ip_vs_wrr", "ip_vs_lc", "ip_vs_mh"];

/// What is missing.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    #[error("this kernel has no module ip_vs")]
    Ipvs,
    #[error("this kernel has ip_vs, but no module ip_vs_{0}")]
    Scheduler(&'static str),
    #[error("this kernel's module ip_vs is made without {0}")]
    Option(&'static str),
    #[error("module ip_vs cannot be tried out")]
    Failed(#[from] io::Error),
}

/// Loads what can be loaded, and tries it.
pub async fn probe() -> Result<(), Missing> {
    // A kernel that has them inside needs no program for it, and in a container there may be none.
    let modprobe = |name: &str| Command::new("modprobe").args(["-q", name]).stderr(Stdio::null()).status();
    if MODULES.iter().any(|name| !Path::new("/sys/module").join(name).exists()) {
        MODULES.iter().for_each(|name| drop(modprobe(name)));
    }
    let mut ipvs = Ipvs::apart().await?.ok_or(Missing::Ipvs)?;
    for v6 in [false, true] {
        for scheduler in USED {
            try_out(&mut ipvs, v6, scheduler).await?;
        }
    }
    let conntrack = space::apart(|| Ok(Path::new("/proc/sys/net/ipv4/vs/conntrack").exists())).await?;
    if conntrack { Ok(()) } else { Err(Missing::Option("CONFIG_IP_VS_NFCT")) }
}

async fn try_out(ipvs: &mut Ipvs, v6: bool, scheduler: Scheduler) -> Result<(), Missing> {
    let key = IpvsKey::Mark { v6, mark: 1 };
    match ipvs.send(set_service(&key, scheduler, true)).await.map_err(|e| (e.raw_os_error(), e)) {
        Ok(()) => Ok(ipvs.send(delete_service(&key)).await?),
        Err((Some(nix::libc::ENOENT), _)) => Err(Missing::Scheduler(scheduler.name().unwrap_or_default())),
        Err((Some(nix::libc::EAFNOSUPPORT), _)) if v6 => Err(Missing::Option("CONFIG_IP_VS_IPV6")),
        Err((_, error)) => Err(error.into()),
    }
}
