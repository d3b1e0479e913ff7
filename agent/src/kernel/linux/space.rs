//! Network namespaces: making, removing, listing, and doing something inside one.

use crate::dataplane::{own, state::Space};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

const DIR: &str = "/run/netns";

pub fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Runs `f` on a thread of its own inside the namespace, in the runtime that calls. Sockets made there stay there.
pub async fn inside<T: Send + 'static>(
    space: &Space,
    f: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let file = match space {
        Space::Host => None,
        Space::Named(name) => Some(File::open(path(name))?),
    };
    on_thread(move || {
        if let Some(file) = file {
            setns(file, CloneFlags::CLONE_NEWNET)?;
        }
        f()
    })
    .await
}

/// The same in a new namespace, which ends with the last socket that was made there.
pub async fn apart<T: Send + 'static>(f: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    on_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        f()
    })
    .await
}

/// Never a thread of the pool: those are used again, and would stay in the namespace.
async fn on_thread<T: Send + 'static>(f: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let (send, receive) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new().name("netns".into()).spawn(move || {
        let _entered = runtime.enter();
        drop(send.send(f()));
    })?;
    receive.await.map_err(|_| io::Error::other("the thread ended early"))?
}

/// Makes a namespace and names it in /run/netns, as `ip netns add` does.
pub async fn create(name: &str) -> io::Result<()> {
    let target = path(name);
    on_thread(move || {
        prepare_dir()?;
        if mounted(&target) {
            return Ok(());
        }
        File::create(&target)?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        let none: Option<&str> = None;
        mount(Some("/proc/thread-self/ns/net"), &target, none, MsFlags::MS_BIND, none)?;
        Ok(())
    })
    .await
}

/// A mount point that is shared, so that workloads' mount namespaces do not keep removed namespaces alive.
fn prepare_dir() -> io::Result<()> {
    fs::create_dir_all(DIR)?;
    let none: Option<&str> = None;
    let share = || mount(none, DIR, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    if share().is_err() {
        mount(Some(DIR), DIR, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
        share()?;
    }
    Ok(())
}

/// Whether a namespace, and not a plain file, is there.
fn mounted(path: &Path) -> bool {
    const NSFS_MAGIC: nix::libc::c_long = 0x6e73_6673;
    nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type().0 as nix::libc::c_long == NSFS_MAGIC)
}

pub async fn remove(name: &str) -> io::Result<()> {
    let target = path(name);
    on_thread(move || {
        while mounted(&target) {
            umount2(&target, MntFlags::MNT_DETACH)?;
        }
        match fs::remove_file(&target) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    })
    .await
}

/// Ours, by name.
pub fn list() -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(DIR) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| own::space(name)).collect())
}

/// Whether a listed name is a namespace; a file left by a crash between making and mounting is not.
pub fn is_whole(name: &str) -> bool {
    mounted(&path(name))
}
