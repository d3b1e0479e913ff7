//! A copy of this program that nobody can change, for where a stranger's programs can reach it through /proc: one that is written
//! to there must not be the one that the host runs next.

use anyhow::{Context, Result};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
    unistd::fexecve,
};
use std::{
    ffi::{CString, OsString},
    fs::File,
    io,
    os::unix::ffi::OsStringExt,
};

const SELF: &str = "/proc/self/exe";
/// As the kernel shows where a file in memory is.
const IN_MEMORY: &str = "/memfd:";

/// Goes on as such a copy, from the beginning, if this is none yet.
pub fn go_on() -> Result<()> {
    if std::fs::read_link(SELF).is_ok_and(|path| path.to_string_lossy().starts_with(IN_MEMORY)) {
        return Ok(());
    }
    let copy = memfd_create("heddle", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut copy = File::from(copy);
    io::copy(&mut File::open(SELF)?, &mut copy).context("cannot copy this program into memory")?;
    let all = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(all))?;
    let texts =
        |all: Vec<OsString>| all.into_iter().map(|text| CString::new(text.into_vec())).collect::<Result<Vec<_>, _>>();
    let variable = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        name
    };
    let (args, env) = (texts(std::env::args_os().collect())?, texts(std::env::vars_os().map(variable).collect())?);
    match fexecve(&copy, &args, &env)? {}
}
