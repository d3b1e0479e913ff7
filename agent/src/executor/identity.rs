//! As whom a program runs, and what it may do.
#![allow(unsafe_code)]

use heddle_model::container::{Bound, Capability, Container, Rlimit};
use nix::{
    sys::{
        prctl,
        resource::{Resource, rlim_t, setrlimit},
    },
    unistd::{Gid, Group, Uid, User, fchown, getgrouplist, setgid, setgroups, setuid},
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities,
};
use std::{
    collections::BTreeSet,
    ffi::CString,
    fs, io,
    os::{fd::BorrowedFd, unix::process::CommandExt},
    path::PathBuf,
    process::Command,
};

/// Files that any process of the host may have open at most.
const NR_OPEN: &str = "/proc/sys/fs/nr_open";

/// Looked up on the host before the program is there.
#[derive(Debug)]
pub struct Identity {
    user: Option<Account>,
    /// None: those of the daemon.
    groups: Option<Vec<Gid>>,
    /// Taken from it.
    dropped: CapabilitySet,
    /// Those that it keeps although it is not root.
    kept: CapabilitySet,
    limits: Vec<(Resource, rlim_t, rlim_t)>,
}

#[derive(Debug)]
struct Account {
    uid: Uid,
    gid: Gid,
    home: PathBuf,
}

fn unknown(kind: &str, name: &str) -> io::Error {
    let text = format!("{kind} {name:?}: the host has none of that name, make it there or use a number");
    io::Error::new(io::ErrorKind::NotFound, text)
}

fn group(name: &str) -> io::Result<Gid> {
    match name.parse() {
        Ok(number) => Ok(Gid::from_raw(number)),
        Err(_) => Ok(Group::from_name(name)?.ok_or_else(|| unknown("group", name))?.gid),
    }
}

/// Those of `all` that are meant.
fn set(which: impl Fn(&&str) -> bool) -> CapabilitySet {
    let bits = Capability::NAMES.iter().enumerate().filter(|(_, name)| which(name)).map(|(number, _)| 1 << number);
    CapabilitySet::from_bits_retain(bits.sum())
}

fn resource(limit: Rlimit) -> Resource {
    match limit {
        Rlimit::Core => Resource::RLIMIT_CORE,
        Rlimit::Cpu => Resource::RLIMIT_CPU,
        Rlimit::Data => Resource::RLIMIT_DATA,
        Rlimit::Fsize => Resource::RLIMIT_FSIZE,
        Rlimit::Locks => Resource::RLIMIT_LOCKS,
        Rlimit::Memlock => Resource::RLIMIT_MEMLOCK,
        Rlimit::Msgqueue => Resource::RLIMIT_MSGQUEUE,
        Rlimit::Nice => Resource::RLIMIT_NICE,
        Rlimit::Nofile => Resource::RLIMIT_NOFILE,
        Rlimit::Nproc => Resource::RLIMIT_NPROC,
        Rlimit::Rss => Resource::RLIMIT_RSS,
        Rlimit::Rtprio => Resource::RLIMIT_RTPRIO,
        Rlimit::Rttime => Resource::RLIMIT_RTTIME,
        Rlimit::Sigpending => Resource::RLIMIT_SIGPENDING,
        Rlimit::Stack => Resource::RLIMIT_STACK,
    }
}

impl Identity {
    /// # Errors
    /// A user or group that this host does not know, or a limit that its kernel does not give.
    pub fn of(container: &Container) -> io::Result<Self> {
        let (mut user, mut groups) = (None, None);
        if let Some(wanted) = &container.user {
            let known = match wanted.name.parse() {
                Ok(number) => User::from_uid(Uid::from_raw(number))?.ok_or(number),
                Err(_) => Ok(User::from_name(&wanted.name)?.ok_or_else(|| unknown("user", &wanted.name))?),
            };
            let of_known = known.as_ref().map_or(Gid::from_raw(0), |user| user.gid);
            let gid = wanted.group.as_deref().map_or(Ok(of_known), group)?;
            groups = Some(match &known {
                // As docker: whoever names a group wants no others.
                Ok(user) if wanted.group.is_none() => getgrouplist(&CString::new(user.name.as_str())?, gid)?,
                _ => vec![gid],
            });
            user = Some(match known {
                Ok(User { uid, dir: home, .. }) => Account { uid, gid, home },
                Err(number) => Account { uid: Uid::from_raw(number), gid, home: "/".into() },
            });
        }
        for name in &container.groups {
            groups.get_or_insert_default().push(group(name)?);
        }
        if let Some(limit) = container.ulimits.get(&Rlimit::Nofile) {
            let most = Bound(fs::read_to_string(NR_OPEN)?.trim().parse().map_err(io::Error::other)?);
            if limit.hard > most {
                return Err(io::Error::other(format!(
                    "ulimit nofile={}:{}: the host gives at most {most} (fs.nr_open)",
                    limit.soft, limit.hard
                )));
            }
        }
        let allowed = container.capabilities(&Capability::NAMES);
        let added: BTreeSet<&str> = container.cap_add.iter().map(Capability::as_str).collect();
        let is_added = |name: &str| added.contains(name) || added.contains(Capability::ALL);
        Ok(Self {
            user,
            groups,
            dropped: set(|name| !allowed.contains(name)),
            kept: set(|name| allowed.contains(name) && is_added(name)),
            // No limit is the same number in both.
            limits: container.ulimits.iter().map(|(n, l)| (resource(*n), l.soft.0, l.hard.0)).collect(),
        })
    }

    /// Takes over what the program writes to, so that it may open it by its name.
    pub fn own(&self, outputs: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Some(user) = &self.user else { return Ok(()) };
        outputs.iter().try_for_each(|output| Ok(fchown(output, Some(user.uid), None)?))
    }

    /// Has the program begin as this one.
    pub fn give(self, command: &mut Command) {
        if let Some(user) = self.user.as_ref().filter(|_| !command.get_envs().any(|(name, _)| name == "HOME")) {
            command.env("HOME", &user.home);
        }
        // SAFETY: runs between fork and exec in a process whose parent has one thread, so nobody holds a lock that it could
        // wait for; it makes system calls, and memory for the text of an error alone.
        unsafe { command.pre_exec(move || self.take_on()) };
    }

    /// This process becomes it.
    fn take_on(&self) -> io::Result<()> {
        for (resource, soft, hard) in &self.limits {
            setrlimit(*resource, *soft, *hard)?;
        }
        for capability in self.dropped {
            // Of kernels before it was there, too.
            match remove_capability_from_bounding_set(capability) {
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !self.dropped.is_empty() {
            clear_ambient_capability_set()?;
            let now = capabilities(None)?;
            set_capabilities(None, CapabilitySets { inheritable: now.inheritable - self.dropped, ..now })?;
        }
        if let Some(groups) = &self.groups {
            setgroups(groups)?;
        }
        let Some(user) = &self.user else { return Ok(()) };
        let keeps = !user.uid.is_root() && !self.kept.is_empty();
        if keeps {
            prctl::set_keepcaps(true)?;
        }
        setgid(user.gid)?;
        setuid(user.uid)?;
        if keeps {
            // What the kernel does not have it cannot give.
            let kept = self.kept & capabilities(None)?.permitted;
            set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })?;
            kept.iter().try_for_each(|one| configure_capability_in_ambient_set(one, true))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(user: &str) -> Container {
        Container { user: Some(user.parse().unwrap()), ..Container::default() }
    }

    #[test]
    fn users_are_those_of_the_host() {
        let ids = |user: &str| {
            let identity = Identity::of(&container(user))?;
            let account = identity.user.unwrap();
            io::Result::Ok((account.uid.as_raw(), account.gid.as_raw(), identity.groups.unwrap().len()))
        };
        assert_eq!(ids("root").unwrap().0, 0);
        assert_eq!(ids("4242").unwrap(), (4242, 0, 1));
        assert_eq!(ids("4242:77").unwrap(), (4242, 77, 1));
        assert_eq!(ids("daemon:root").unwrap().1, 0);
        let said = ids("no-such-user").unwrap_err().to_string();
        assert_eq!(said, "user \"no-such-user\": the host has none of that name, make it there or use a number");
        let said = ids("root:no-such-group").unwrap_err().to_string();
        assert!(said.starts_with("group \"no-such-group\""), "{said}");
    }

    #[test]
    fn what_is_not_said_stays() {
        let identity = Identity::of(&Container::default()).unwrap();
        assert!(identity.user.is_none() && identity.groups.is_none());
        assert!(identity.dropped.is_empty() && identity.limits.is_empty());
        // Its `all` has the bits of those that no kernel knows yet, too.
        let known: CapabilitySet = CapabilitySet::all().iter_names().map(|(_, one)| one).collect();
        assert_eq!(set(|_| true), known, "every capability has a name");
    }
}
