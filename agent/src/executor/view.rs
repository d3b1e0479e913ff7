//! What a task sees of the host's files: its own mounts, in a mount namespace of its own.
#![allow(unsafe_code)]

use super::{
    memory::{self, MemoryFile},
    record::ShimSpec,
};
use heddle_model::container::{Container, Mount, MountSource};
use nix::{
    libc,
    mount::{MsFlags, mount},
    unistd::{UnlinkatFlags, sethostname, unlinkat},
};
use rustix::{
    fs::CWD,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};
use std::{
    collections::BTreeSet,
    ffi::CString,
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Where control groups are, by convention.
const GROUPS: &str = "/sys/fs/cgroup";
/// Of the task's own, and empty but for what it makes.
const MEMORY: &str = "/dev/shm";
const SYSFS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
/// Of a mount that there is.
const READ_ONLY: MsFlags = MsFlags::MS_BIND.union(MsFlags::MS_REMOUNT).union(MsFlags::MS_RDONLY);

/// Makes the view of the process that calls, which has a mount namespace of its own: what is closed comes first, then what every
/// task has for itself, then what this one asked for, and over all that the files that are only its own.
pub fn prepare(spec: &ShimSpec, secret: &[MemoryFile]) -> io::Result<()> {
    let none: Option<&str> = None;
    // Slave: what the host unmounts goes here too, so that no removed namespace is kept alive.
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?;
    let mounts = sources(&spec.container)?;
    if spec.container.read_only {
        set_read_only(CWD, "/", 0)?;
    }
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, none)?;
    sethostname(&spec.hostname)?;
    mount(Some("tmpfs"), MEMORY, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, none)?;
    if !spec.is_on_host() {
        own_sysfs()?;
    }
    let groups = Path::new(GROUPS);
    if groups.is_dir() {
        // Each hierarchy is a mount of its own, and a task does not set its own limits.
        for place in mounts_in(groups)? {
            mount(none, &place, none, SYSFS | READ_ONLY, none)?;
        }
    }
    let memory = fs::File::open(MEMORY)?;
    let files = spec.files.iter().enumerate().map(|(number, (path, content))| {
        let name = format!(".heddle-{number}");
        let draft = Path::new(MEMORY).join(&name);
        fs::write(&draft, content)?;
        Ok((path, name, tree(&draft)?))
    });
    let files = files.collect::<io::Result<Vec<_>>>()?;
    for (wanted, source) in mounts {
        show(wanted, source).map_err(|e| because(wanted, &e))?;
    }
    for (path, draft, file) in files {
        // A file of our own on top of the host's, in this task's view only. It may be a symbolic link there.
        attach(file.as_fd(), &fs::canonicalize(path)?)?;
        // What has no name cannot be attached.
        unlinkat(&memory, draft.as_str(), UnlinkatFlags::NoRemoveDir)?;
    }
    memory::show(secret)
}

/// The host's sysfs shows the host's links, and lets root change them. One of our own, made in our network namespace, shows
/// ours. It holds no reference that keeps the namespace alive, and goes with our mount namespace.
fn own_sysfs() -> io::Result<()> {
    let none: Option<&str> = None;
    let groups = Path::new(GROUPS);
    let kept = Path::new("/dev/shm/.heddle-cgroup");
    // Programs look there for the limits of their memory and CPU.
    let has_groups = groups.is_dir();
    if has_groups {
        fs::create_dir(kept)?;
        mount(Some(groups), kept, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    }
    mount(Some("sysfs"), "/sys", Some("sysfs"), SYSFS, none)?;
    // Only this view of it is read-only: the kernel has one file system for all who mount it in this network namespace.
    mount(none, "/sys", none, SYSFS | READ_ONLY, none)?;
    if has_groups {
        mount(Some(kept), groups, none, MsFlags::MS_MOVE, none)?;
        fs::remove_dir(kept)?;
    }
    Ok(())
}

/// The mount at this path, and those in it.
fn mounts_in(path: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let places = fs::read_to_string("/proc/self/mounts")?;
    let places = places.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    Ok(places.filter(|place| place.starts_with(path)).collect())
}

/// What is to be shown, the places that others lie in first. Sources are those of the host, whatever is mounted later.
fn sources(container: &Container) -> io::Result<Vec<(&Mount, Option<OwnedFd>)>> {
    let open = |wanted: &Mount| match &wanted.source {
        MountSource::Bind(path) => tree(Path::new(path)).map(Some).map_err(|e| because(wanted, &e)),
        MountSource::Tmpfs { .. } => Ok(None),
        // They are bind mounts of their directories by now.
        MountSource::Volume(_) => Err(because(wanted, &io::Error::other("the volume has no directory"))),
    };
    let mounts = container.mounts.iter().map(|wanted| Ok((wanted, open(wanted)?)));
    let mut mounts: Vec<_> = mounts.collect::<io::Result<_>>()?;
    mounts.sort_by_key(|(wanted, _)| Path::new(&wanted.target).components().count());
    Ok(mounts)
}

fn because(wanted: &Mount, error: &io::Error) -> io::Error {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "the host has no such path, make it there first".into(),
        io::ErrorKind::NotADirectory => "a file can only be shown at a file, and a directory at a directory".into(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("mount {wanted}: {why}"))
}

/// A copy of the mounts at a path, which are nowhere yet.
fn tree(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, path, flags)?)
}

fn attach(tree: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    Ok(move_mount(tree, "", CWD, target, flags)?)
}

fn show(wanted: &Mount, source: Option<OwnedFd>) -> io::Result<()> {
    let target = Path::new(&wanted.target);
    if let Some(source) = source {
        if wanted.read_only {
            set_read_only(source.as_fd(), "", libc::AT_EMPTY_PATH)?;
        }
        return attach(source.as_fd(), target);
    }
    let MountSource::Tmpfs { size, mode } = wanted.source else { return Ok(()) };
    let options = format!("mode={mode:o}{}", if size > 0 { format!(",size={size}") } else { String::new() });
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    flags.set(MsFlags::MS_RDONLY, wanted.read_only);
    Ok(mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options.as_str()))?)
}

/// A mount and all below it, of which other attributes stay as they are.
fn set_read_only(at: BorrowedFd<'_>, path: &str, flags: libc::c_int) -> io::Result<()> {
    let path = CString::new(path.as_bytes())?;
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path ends with a zero and the attributes are a structure of the size that is named; the kernel keeps neither.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at.as_raw_fd(),
            path.as_ptr(),
            libc::AT_RECURSIVE | flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    match done {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOSYS) => {
                Err(io::Error::other("this kernel cannot make many mounts read-only at once: it takes Linux 5.12"))
            }
            error => Err(error),
        },
    }
}
