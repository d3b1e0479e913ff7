//! Secrets and configs in a task's view of the host: files of file systems in memory that it alone sees. What they hold reaches
//! the shim by its standard input, and no disk; where the kernel can (6.4), nor its swap. They go with the task; the daemon has them as long.
//!
//! Those in `/run/secrets` and `/run/configs` lie in a file system of their own there. Any other lies over a file of the host, for
//! as long as nobody puts another file in its place there.
//!
//! A container is given each as a mount of its own, wherever it is to lie ([`Drafts`]).

use heddle_model::payload::{Content, FilePath, PayloadKind};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, umask},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

/// Where they lie by themselves.
pub const PLACES: [&str; 2] = [PayloadKind::Secret.dir(), PayloadKind::Config.dir()];
/// In the task's own /dev/shm, for those that lie elsewhere.
const DRAFTS: &str = "/dev/shm/.heddle-files";

/// Makes a mount read-only, and not what is mounted: kernels from 6.4 to 6.12 refuse that of a file system that may not be swapped.
const CLOSED: MsFlags = MsFlags::MS_BIND
    .union(MsFlags::MS_REMOUNT)
    .union(MsFlags::MS_RDONLY)
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryFile {
    pub path: PathBuf,
    pub uid: u32,
    pub gid: u32,
    /// Permissions.
    pub mode: u32,
    pub content: Content,
}

impl MemoryFile {
    /// Whether the file lies in the place that has a file system of its own.
    pub fn is_in(&self, place: &str) -> bool {
        self.path.starts_with(place)
    }

    fn write(&self, at: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(at)?;
        file.write_all(&self.content.0)?;
        chown(at, Some(self.uid), Some(self.gid))?;
        fs::set_permissions(at, Permissions::from_mode(self.mode))
    }
}

/// Shows the files to this process and those that it starts. It has a mount namespace and a /dev/shm of its own.
pub fn show(files: &[MemoryFile]) -> io::Result<()> {
    // Whoever a file is for reaches it, however the daemon was started.
    let before = umask(Mode::from_bits_truncate(0o022));
    let shown = PLACES.iter().try_for_each(|place| show_in(place, files)).and_then(|()| show_over(files));
    umask(before);
    shown
}

/// The files of a container, in a file system in memory on the host. It is gone with this value, and each file with what it lies over.
pub struct Drafts {
    at: PathBuf,
}

impl Drafts {
    /// Each with where it is to lie in the container. What an earlier daemon left there is gone.
    pub fn make(at: PathBuf, files: &[MemoryFile]) -> io::Result<(Self, Vec<(PathBuf, String)>)> {
        clear(&at);
        fs::create_dir_all(&at)?;
        let drafts = Self { at };
        mount_memory(&drafts.at, MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC)?;
        let mut made = Vec::with_capacity(files.len());
        for (number, file) in files.iter().enumerate() {
            let draft = drafts.at.join(number.to_string());
            file.write(&draft)?;
            made.push((draft, file.path.display().to_string()));
        }
        Ok((drafts, made))
    }
}

impl Drop for Drafts {
    fn drop(&mut self) {
        clear(&self.at);
    }
}

/// Takes such a file system away, if there is one.
pub fn clear(at: &Path) {
    let _ = umount2(at, MntFlags::MNT_DETACH);
    let _ = fs::remove_dir(at);
}

/// An empty file system in memory.
fn mount_memory(at: impl AsRef<Path>, flags: MsFlags) -> io::Result<()> {
    let of = |options: &str| mount(Some("tmpfs"), at.as_ref(), Some("tmpfs"), flags, Some(options));
    match of("mode=0755,noswap") {
        Err(nix::errno::Errno::EINVAL) => Ok(of("mode=0755")?),
        mounted => Ok(mounted?),
    }
}

fn show_in(place: &str, files: &[MemoryFile]) -> io::Result<()> {
    let mut here = files.iter().filter(|f| f.is_in(place)).peekable();
    if here.peek().is_none() {
        return Ok(());
    }
    let none: Option<&str> = None;
    mount_memory(place, MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
    for file in here {
        if let Some(dir) = file.path.parent() {
            fs::create_dir_all(dir)?;
        }
        file.write(&file.path)?;
    }
    Ok(mount(none, place, none, CLOSED, none)?)
}

/// Those that lie over files of the host.
fn show_over(files: &[MemoryFile]) -> io::Result<()> {
    let mut over = files.iter().filter(|f| !PLACES.iter().any(|place| f.is_in(place))).peekable();
    if over.peek().is_none() {
        return Ok(());
    }
    let none: Option<&str> = None;
    fs::create_dir(DRAFTS)?;
    mount_memory(DRAFTS, MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
    let mut covered = BTreeSet::new();
    for (number, file) in over.enumerate() {
        let target = target(&file.path)?;
        if !covered.insert(target.clone()) {
            return Err(io::Error::other(format!(
                "{}: another secret or config lies over {}",
                file.path.display(),
                target.display()
            )));
        }
        let draft = Path::new(DRAFTS).join(number.to_string());
        file.write(&draft)?;
        mount(Some(&draft), &target, none, MsFlags::MS_BIND, none)?;
        mount(none, &target, none, CLOSED, none)?;
    }
    // Each stays as long as it lies over something.
    umount2(DRAFTS, MntFlags::MNT_DETACH)?;
    fs::remove_dir(DRAFTS)
}

/// The file of the host that a path leads to: links may lead where no secret or config may lie.
fn target(path: &Path) -> io::Result<PathBuf> {
    let shown = path.display();
    let target = fs::canonicalize(path).map_err(|e| {
        let [secrets, configs] = PLACES;
        let way = format!("a secret or config lies over a file that is there, or in {secrets} or {configs}");
        io::Error::new(e.kind(), format!("{shown} is not on this host: {way}"))
    })?;
    match target.to_str().map(str::parse::<FilePath>) {
        Some(Ok(_)) if target.is_file() => Ok(target),
        Some(Ok(_)) => {
            Err(io::Error::other(format!("{shown} is no file on this host: a secret or config lies over one")))
        }
        Some(Err(e)) => Err(io::Error::other(format!("{shown} leads elsewhere on this host: {e}"))),
        None => Err(io::Error::other(format!("{shown} leads to a path that is no text on this host"))),
    }
}
