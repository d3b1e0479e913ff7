//! Copies what is in a directory to another one as it is: owners, modes, times, extended attributes, hard and symbolic links,
//! device files. No link is followed, on either side.

use nix::libc;
use rustix::{
    fd::{AsFd, BorrowedFd},
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timestamps, Uid, XattrFlags, chownat, fchmod,
        fchown, fgetxattr, fgetxattr_query, flistxattr, flistxattr_query, fsetxattr, fstat, futimens, linkat, mkdirat,
        mknodat, openat, openat2, readlinkat, statat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::{CStr, OsStr},
    fs::File,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Overlayfs keeps its own notes in these, which mean nothing elsewhere.
const OVERLAY: &[u8] = b"trusted.overlay.";
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What is there already stays, unless something of the same name is copied. Devices and pipes have their modes as far as the calling
/// thread's umask lets them: in the thread that looks into images it is empty.
pub(crate) fn copy(from: &File, to: &File) -> io::Result<()> {
    let mut copier = Copier { top: to.as_fd(), links: HashMap::new() };
    copier.directory(from.as_fd(), to.as_fd(), Path::new("."))
}

struct Copier<'a> {
    top: BorrowedFd<'a>,
    /// Of files with several names, by device and number: the first that was copied, as seen from the top.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copier<'_> {
    fn directory(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, at: &Path) -> io::Result<()> {
        for entry in Dir::read_from(from)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                let at = at.join(OsStr::from_bytes(name.to_bytes()));
                self.entry(from, to, name, &at)
                    .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", at.display())))?;
            }
        }
        // Last, since what is made in it changes its times.
        keep(from, to, &fstat(from)?)
    }

    fn entry(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, at: &Path) -> io::Result<()> {
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return match mkdirat(to, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {
                    let from = openat(from, name, DIRECTORY, Mode::empty())?;
                    let to = openat(to, name, DIRECTORY, Mode::empty())?;
                    self.directory(from.as_fd(), to.as_fd(), at)
                }
                Err(e) => Err(e.into()),
            };
        }
        // What a copy before this one has not finished.
        match unlinkat(to, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                return self.link(first, to, name);
            }
            self.links.insert((stat.st_dev, stat.st_ino), at.to_owned());
        }
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = File::from(openat(from, name, flags, Mode::empty())?);
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut target = File::from(openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
                io::copy(&mut &source, &mut target)?;
                return keep(source.as_fd(), target.as_fd(), &stat);
            }
            FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?, to, name)?,
            // Whole from the first: somebody may put another thing in its place, which nobody is to change.
            kind => mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode & 0o7777), stat.st_rdev)?,
        }
        let (owner, group) = owners(&stat);
        chownat(to, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn link(&self, first: &Path, to: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        let (Some(dir), Some(file)) = (first.parent(), first.file_name()) else { return Ok(()) };
        // Somebody may have put a link in the way that leads out of the copy.
        let safe = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let dir = openat2(self.top, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), safe)?;
        Ok(linkat(dir, file, to, name, AtFlags::empty())?)
    }
}

fn owners(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

fn times(stat: &Stat) -> Timestamps {
    let moment = |seconds: i64, nanoseconds: u64| rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.try_into().unwrap_or_default(),
    };
    Timestamps {
        last_access: moment(stat.st_atime, stat.st_atime_nsec),
        last_modification: moment(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// In this order: another owner takes capabilities and the set-user-ID bit away.
fn keep(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    let (owner, group) = owners(stat);
    fchown(to, owner, group)?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode & !libc::S_IFMT))?;
    for name in attributes(from)? {
        let mut value = vec![0; fgetxattr_query(from, &name)?];
        let length = fgetxattr(from, &name, &mut value[..])?;
        match fsetxattr(to, &name, &value[..length], XattrFlags::empty()) {
            // The file system there has none of this kind.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(futimens(to, &times(stat))?)
}

/// The names of extended attributes.
fn attributes(of: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let length = match flistxattr_query(of) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    if length == 0 {
        return Ok(Vec::new());
    }
    let mut names = vec![0; length];
    let length = flistxattr(of, &mut names[..])?;
    let names = names[..length].split(|byte| *byte == 0);
    Ok(names.filter(|name| !name.is_empty() && !name.starts_with(OVERLAY)).map(<[u8]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    };

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_copy_is_as_what_it_was_made_of() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (source, target) = (from.path(), to.path());
        fs::create_dir_all(source.join("a/b")).unwrap();
        fs::write(source.join("a/b/file"), "text").unwrap();
        fs::hard_link(source.join("a/b/file"), source.join("other")).unwrap();
        symlink("/etc/passwd", source.join("link")).unwrap();
        nix::unistd::mkfifo(&source.join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        fs::set_permissions(source.join("a/b"), PermissionsExt::from_mode(0o2711)).unwrap();
        fs::set_permissions(source.join("other"), PermissionsExt::from_mode(0o4640)).unwrap();
        fs::set_permissions(source, PermissionsExt::from_mode(0o1777)).unwrap();
        let file = File::open(source.join("other")).unwrap();
        let has_attributes = fsetxattr(&file, "user.colour", b"red", XattrFlags::empty()).is_ok();
        let modified = file.metadata().unwrap().modified().unwrap() - std::time::Duration::from_secs(1000);
        file.set_modified(modified).unwrap();

        let open = |path: &Path| File::open(path).unwrap();
        copy(&open(source), &open(target)).unwrap();
        // Once more over the first, of which a file is not whole.
        fs::write(target.join("a/b/file"), "te").unwrap();
        fs::write(target.join("own"), "").unwrap();
        copy(&open(source), &open(target)).unwrap();

        assert_eq!(fs::read_to_string(target.join("other")).unwrap(), "text");
        let same = |name: &str| fs::metadata(target.join(name)).unwrap();
        assert_eq!((same("other").ino(), same("other").modified().unwrap()), (same("a/b/file").ino(), modified));
        assert_eq!(fs::read_link(target.join("link")).unwrap(), Path::new("/etc/passwd"));
        assert!(fs::symlink_metadata(target.join("pipe")).unwrap().file_type().is_fifo());
        assert_eq!((mode(&target.join("a/b")), mode(&target.join("other")), mode(target)), (0o2711, 0o4640, 0o1777));
        assert!(target.join("own").exists());
        if has_attributes {
            let mut value = [0; 8];
            let length = fgetxattr(open(&target.join("other")), "user.colour", &mut value[..]).unwrap();
            assert_eq!(&value[..length], b"red");
        }
    }

    #[test]
    fn nothing_is_copied_through_a_link() {
        let (from, to, outside) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("dir")).unwrap();
        fs::write(from.path().join("dir/file"), "text").unwrap();
        symlink(outside.path(), to.path().join("dir")).unwrap();
        assert!(copy(&File::open(from.path()).unwrap(), &File::open(to.path()).unwrap()).is_err());
        assert!(!outside.path().join("file").exists());
    }
}
