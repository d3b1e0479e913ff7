//! Programs of this machine that make and run a virtual machine, and the Debian packages that have them.

use std::path::PathBuf;
use thiserror::Error;

/// What every machine is made with.
const ALL: [(&str, &str); 8] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("setpriv", "util-linux"),
    ("strip", "binutils"),
    ("ldd", "libc-bin"),
    ("dpkg", "dpkg"),
    ("apt-get", "apt"),
];

#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "virtual machines need {programs}, which this machine lacks: `apt-get install {packages}` brings what is missing"
)]
pub struct Missing {
    programs: String,
    packages: String,
}

/// An error if one of these, or of what every machine is made with, is not in the `PATH`.
pub fn check(more: &[(&'static str, &'static str)]) -> Result<(), Missing> {
    missing(more, |name| which(name).is_some())
}

fn missing(more: &[(&'static str, &'static str)], has: impl Fn(&str) -> bool) -> Result<(), Missing> {
    let lacking: Vec<_> = ALL.iter().chain(more).filter(|(program, _)| !has(program)).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let programs: Vec<_> = lacking.iter().map(|(program, _)| *program).collect();
    let mut packages: Vec<_> = lacking.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    Err(Missing { programs: programs.join(" and "), packages: packages.join(" ") })
}

/// Where a program is, also for those whose `PATH` lacks the administrator's folders.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    let folders = std::env::join_paths(folders).ok()?;
    which::which_in(name, Some(folders), "/").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sentence_names_the_packages() {
        assert_eq!(missing(&[("nft", "nftables")], |_| true), Ok(()));
        let said = missing(&[("nft", "nftables")], |name| name != "nft" && !name.starts_with("qemu")).unwrap_err();
        assert_eq!(
            said.to_string(),
            "virtual machines need qemu-system-x86_64 and nft, which this machine lacks: \
             `apt-get install qemu-system-x86 nftables` brings what is missing"
        );
    }
}
