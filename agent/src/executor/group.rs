//! A task's control groups: what its kernel lets it have (cgroups(7)), of both versions.
//!
//! A task for which nothing is reserved and nothing limited stays in its daemon's groups.

use bytesize::ByteSize;
use heddle_engine::spec::Groups;
use heddle_model::placement::{NanoCpus, Resources};
use nix::{
    errno::Errno,
    sys::signal::Signal,
    unistd::{UnlinkatFlags, unlinkat},
};
use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// Holds one group for each task, below the root of a hierarchy.
const PARENT: &str = "heddle";
const PROCS: &str = "cgroup.procs";
/// Microseconds after which a task has its processor time anew.
const PERIOD: u64 = 100_000;
const MOUNTS: &str = "/proc/self/mounts";
/// Tries to remove a group whose last process has just ended.
const TRIES: u32 = 50;
const BETWEEN: std::time::Duration = std::time::Duration::from_millis(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A file of a controller, by version, and what is written there.
struct Setting {
    controller: &'static str,
    one: Vec<(&'static str, String)>,
    two: Vec<(&'static str, String)>,
}

/// Limits of swap, which not every kernel has.
const IF_THERE: [&str; 2] = ["memory.memsw.limit_in_bytes", "memory.swap.max"];

fn settings(resources: &Resources) -> Vec<Setting> {
    let (reserved, limit) = (&resources.reserved, &resources.limit);
    let mut all = Vec::new();
    if limit.cpu.0 > 0 {
        let quota = quota(limit.cpu);
        let one = vec![("cpu.cfs_period_us", PERIOD.to_string()), ("cpu.cfs_quota_us", quota.to_string())];
        all.push(Setting { controller: "cpu", one, two: vec![("cpu.max", format!("{quota} {PERIOD}"))] });
    }
    if reserved.cpu.0 > 0 {
        let shares = shares(reserved.cpu);
        let (one, two) = (vec![("cpu.shares", shares.to_string())], vec![("cpu.weight", weight(shares).to_string())]);
        all.push(Setting { controller: "cpu", one, two });
    }
    if limit.memory > 0 {
        let most = limit.memory.to_string();
        // Else a task would go on in swap, as slow as a disk.
        let one = vec![("memory.limit_in_bytes", most.clone()), ("memory.memsw.limit_in_bytes", most.clone())];
        all.push(Setting {
            controller: "memory",
            one,
            two: vec![("memory.max", most), ("memory.swap.max", "0".into())],
        });
    }
    if reserved.memory > 0 {
        let least = reserved.memory.to_string();
        let one = vec![("memory.soft_limit_in_bytes", least.clone())];
        all.push(Setting { controller: "memory", one, two: vec![("memory.low", least)] });
    }
    if limit.pids > 0 {
        let most = vec![("pids.max", limit.pids.to_string())];
        all.push(Setting { controller: "pids", one: most.clone(), two: most });
    }
    all
}

/// Microseconds of each period.
fn quota(cpu: NanoCpus) -> u64 {
    cpu.0 / (1_000_000_000 / PERIOD)
}

/// Beside others that want all they can get: 1,024 for each processor, of 2 to 262,144 (cpu.rst).
fn shares(cpu: NanoCpus) -> u64 {
    (u128::from(cpu.0) * 1024 / 1_000_000_000).clamp(2, 262_144) as u64
}

/// The same in version 2, of 1 to 10,000, as runc has it.
fn weight(shares: u64) -> u64 {
    1 + (shares - 2) * 9_999 / 262_142
}

/// What is written to the parent of all groups: without it none of them would have what is reserved for it, as the kernel protects
/// no more below than above. All tasks together weigh as much as the host has processors.
fn above(controller: &str, version: Version) -> Option<(&'static str, String)> {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let all = shares(NanoCpus::whole(cpus));
    match (controller, version) {
        ("memory", Version::Two) => Some(("memory.low", "max".into())),
        ("cpu", Version::Two) => Some(("cpu.weight", weight(all).to_string())),
        ("cpu", Version::One) => Some(("cpu.shares", all.to_string())),
        _ => None,
    }
}

/// Where a controller's groups are. Version 1 has it if both could.
fn hierarchy(mounts: &str, controller: &str) -> Option<(Version, PathBuf)> {
    let mounted = |line: &str| {
        let mut fields = line.split(' ');
        let (place, kind, options) = (fields.nth(1)?.to_owned(), fields.next()?, fields.next()?);
        match kind {
            "cgroup" if options.split(',').any(|o| o == controller) => Some((Version::One, PathBuf::from(place))),
            "cgroup2" => Some((Version::Two, PathBuf::from(place))),
            _ => None,
        }
    };
    let found: Vec<_> = mounts.lines().filter_map(mounted).collect();
    let one = found.iter().find(|(version, _)| *version == Version::One);
    let has = |root: &Path| {
        let all = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        all.split_whitespace().any(|name| name == controller)
    };
    one.or_else(|| found.iter().find(|(version, root)| *version == Version::Two && has(root))).cloned()
}

fn at<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    at(path, fs::write(path, text))
}

/// The groups of one task.
#[derive(Debug)]
pub struct Group {
    name: String,
    dirs: Vec<PathBuf>,
    /// Open from before there is a task's view of the host, which its shim has too, and in which they are read-only.
    roots: Vec<OwnedFd>,
}

impl Group {
    /// Nothing is made yet.
    pub fn of(name: &str) -> Self {
        let mounts = fs::read_to_string(MOUNTS).unwrap_or_default();
        Self { name: name.to_owned(), dirs: Vec::new(), roots: open(&mounts) }
    }

    /// What somebody else has made for a task, as far as memory goes.
    pub fn made(name: &str) -> Self {
        let mounts = fs::read_to_string(MOUNTS).unwrap_or_default();
        let memory = hierarchy(&mounts, "memory").map(|(_, root)| root.join(PARENT).join(name));
        Self { dirs: memory.into_iter().collect(), ..Self::of(name) }
    }

    /// Makes those that the resources take, with their settings, and puts a process in, with all that it begins from now on. None of
    /// them is left if one cannot be made.
    pub fn hold(&mut self, pid: u32, resources: &Resources) -> io::Result<()> {
        let held = self.make(resources).and_then(|()| self.add(pid));
        if held.is_err() {
            self.remove();
        }
        held
    }

    fn make(&mut self, resources: &Resources) -> io::Result<()> {
        let mounts = fs::read_to_string(MOUNTS)?;
        settings(resources).into_iter().try_for_each(|setting| self.set(&mounts, setting))
    }

    fn set(&mut self, mounts: &str, Setting { controller, one, two }: Setting) -> io::Result<()> {
        let missing =
            || io::Error::other(format!("this host has no control groups for {controller}: reserve and limit none"));
        let (version, root) = hierarchy(mounts, controller).ok_or_else(missing)?;
        let dir = root.join(PARENT).join(&self.name);
        make_dir(&dir)?;
        if version == Version::Two {
            for above in [&root, &root.join(PARENT)] {
                write(&above.join("cgroup.subtree_control"), &format!("+{controller}"))?;
            }
        }
        if let Some((file, value)) = above(controller, version) {
            write(&root.join(PARENT).join(file), &value)?;
        }
        for (file, value) in if version == Version::One { one } else { two } {
            match write(&dir.join(file), &value) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && IF_THERE.contains(&file) => {}
                other => other?,
            }
        }
        if !self.dirs.contains(&dir) {
            self.dirs.push(dir);
        }
        Ok(())
    }

    fn add(&self, pid: u32) -> io::Result<()> {
        self.dirs.iter().try_for_each(|dir| write(&dir.join(PROCS), &pid.to_string()))
    }

    /// Why a program ended with this code, if the kernel has killed a process of it for its limit, in bytes.
    pub fn out_of_memory(&self, code: i32, limit: u64) -> Option<String> {
        const KILLED: i32 = 128 + Signal::SIGKILL as i32;
        let limit = ByteSize::b(limit);
        let said = match code {
            KILLED => format!("killed by the kernel: its memory limit of {limit} was reached"),
            code => format!(
                "exit code {code}; the kernel has killed a process of it: its memory limit of {limit} was reached"
            ),
        };
        self.was_out_of_memory().then_some(said)
    }

    /// Whether the kernel has killed a process, and not because the host itself was short.
    fn was_out_of_memory(&self) -> bool {
        let text = |file: PathBuf| fs::read_to_string(file).unwrap_or_default();
        let counted =
            |file: PathBuf, key: &str| text(file).lines().any(|l| l.strip_prefix(key).is_some_and(|n| n.trim() != "0"));
        let bytes = |file: PathBuf| text(file).trim().parse::<u64>().ok();
        self.dirs.iter().any(|dir| {
            // Version 1 does not count how often the limit was reached on every kernel.
            let (most, limit) =
                (bytes(dir.join("memory.max_usage_in_bytes")), bytes(dir.join("memory.limit_in_bytes")));
            let reached = most.zip(limit).is_some_and(|(most, limit)| most >= limit / 10 * 9);
            (reached && counted(dir.join("memory.oom_control"), "oom_kill "))
                || ["oom_kill ", "oom "].iter().all(|key| counted(dir.join("memory.events"), key))
        })
    }

    /// Its processes have ended.
    pub fn remove(&self) {
        let group = Path::new(PARENT).join(&self.name);
        for root in &self.roots {
            for _ in 0..TRIES {
                match unlinkat(root, &group, UnlinkatFlags::RemoveDir) {
                    // The last process is on its way out.
                    Err(Errno::EBUSY) => std::thread::sleep(BETWEEN),
                    _ => break,
                }
            }
            // Fails while there are others.
            let _ = unlinkat(root, PARENT, UnlinkatFlags::RemoveDir);
        }
    }
}

/// Makes the parent of groups as it has to be where others make the groups themselves, so that what they reserve counts.
pub fn prepare(resources: &Resources) -> io::Result<()> {
    let mounts = fs::read_to_string(MOUNTS)?;
    for Setting { controller, .. } in settings(resources) {
        let Some((version, root)) = hierarchy(&mounts, controller) else { continue };
        make_dir(&root.join(PARENT))?;
        if version == Version::Two {
            write(&root.join("cgroup.subtree_control"), &format!("+{controller}"))?;
        }
        if let Some((file, value)) = above(controller, version) {
            write(&root.join(PARENT).join(file), &value)?;
        }
    }
    Ok(())
}

/// What this host's groups can do.
pub fn facts() -> Groups {
    let mounts = fs::read_to_string(MOUNTS).unwrap_or_default();
    let found = hierarchy(&mounts, "memory");
    let unified = !mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup"));
    let swap = found.is_some_and(|(version, root)| version == Version::Two || root.join(IF_THERE[0]).exists());
    Groups { unified, swap }
}

/// The parent may be taken away meanwhile, by whoever removes its last group.
fn make_dir(dir: &Path) -> io::Result<()> {
    for _ in 0..TRIES {
        match fs::create_dir_all(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return at(dir, other),
        }
    }
    at(dir, fs::create_dir_all(dir))
}

/// The roots of all hierarchies: a container has groups in each.
fn open(mounts: &str) -> Vec<OwnedFd> {
    let mounted = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?.to_owned(), fields.next()?);
        ["cgroup", "cgroup2"].contains(&kind).then_some(place)
    };
    mounts.lines().filter_map(mounted).filter_map(|root| Some(fs::File::open(root).ok()?.into())).collect()
}

/// Takes a task's groups away, if it has some left. Its processes have ended.
pub fn remove(name: &str) {
    Group::of(name).remove();
}

/// Puts this process into the groups of another, where they are not its own.
pub fn join(pid: u32) -> io::Result<()> {
    let groups = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let (own, mounts) = (groups("self"), fs::read_to_string(MOUNTS)?);
    for line in groups(&pid.to_string()).lines().filter(|line| !own.lines().any(|l| l == *line)) {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let root = match controllers.split(',').next().unwrap_or_default() {
            "" => mounts
                .lines()
                .find_map(|l| l.contains(" cgroup2 ").then(|| l.split(' ').nth(1)).flatten().map(PathBuf::from)),
            controller => hierarchy(&mounts, controller).map(|(_, root)| root),
        };
        // Nobody has mounted them here.
        let Some(root) = root else { continue };
        write(&root.join(path.trim_start_matches('/')).join(PROCS), "0")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_model::placement::{Amounts, Limits};

    #[test]
    fn amounts_are_in_the_kernels_units() {
        assert_eq!(
            (quota(NanoCpus(500_000_000)), quota(NanoCpus::whole(2)), quota(NanoCpus::LEAST)),
            (50_000, 200_000, 1_000)
        );
        assert_eq!(
            (shares(NanoCpus::whole(1)), shares(NanoCpus(1)), shares(NanoCpus::whole(4096))),
            (1024, 2, 262_144)
        );
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }

    #[test]
    fn version_one_has_a_controller_before_version_two() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n";
        assert_eq!(hierarchy(mounts, "cpu"), Some((Version::One, "/sys/fs/cgroup/cpu,cpuacct".into())));
        assert_eq!(hierarchy("cgroup2 /no/such/place cgroup2 rw 0 0\n", "cpu"), None);
    }

    #[test]
    fn what_the_kernel_refuses_is_said_and_leaves_nothing() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("REQUIRE").is_none(), "REQUIRE is set and this needs root");
            println!("SKIPPED: root");
            return;
        }
        let name = format!("t{}", std::process::id());
        let limit = Limits { memory: 64 << 20, pids: u64::MAX, ..Limits::default() };
        let mut group = Group::of(&name);
        let said =
            group.hold(std::process::id(), &Resources { limit, ..Resources::default() }).unwrap_err().to_string();
        assert!(said.contains("pids.max") || said.contains("no control groups"), "{said}");
        let mounts = fs::read_to_string(MOUNTS).unwrap();
        for controller in ["cpu", "memory", "pids"] {
            let left = hierarchy(&mounts, controller).map(|(_, root)| root.join(PARENT).join(&name));
            assert!(left.is_none_or(|dir| !dir.exists()), "{controller}");
        }
    }

    #[test]
    fn nothing_asked_for_is_no_group() {
        assert!(settings(&Resources::default()).is_empty());
        let some = Resources {
            reserved: Amounts { cpu: NanoCpus::whole(1), memory: 1 << 20, ..Amounts::default() },
            limit: Limits { cpu: NanoCpus::whole(1), memory: 64 << 20, pids: 10 },
        };
        let files: Vec<_> = settings(&some).into_iter().flat_map(|s| s.two).map(|(file, _)| file).collect();
        assert_eq!(files, ["cpu.max", "cpu.weight", "memory.max", "memory.swap.max", "memory.low", "pids.max"]);
    }
}
