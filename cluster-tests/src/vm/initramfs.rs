//! The root file system of the machine, as the archive that the kernel unpacks at boot (newc,
//! kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`). Not compressed: to unpack costs an emulated
//! processor more than to copy.

use super::cache;
use anyhow::{Context, Result, ensure};
use cpio::newc;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
    time::UNIX_EPOCH,
};

/// As on Debian, these are links into /usr.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
const FOLDERS: [&str; 10] = ["dev", "proc", "sys", "run", "tmp", "var", "root", "vm", "etc", "mnt"];
/// Read by the tools, where this machine has them.
const DATA: [&str; 4] = ["/etc/protocols", "/etc/services", "/etc/iproute2", "/usr/share/iproute2"];
const TYPE_FOLDER: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_LINK: u32 = 0o120_000;
const TYPE_DEVICE: u32 = 0o020_000;

enum Entry {
    Folder,
    Link(String),
    /// A file of this machine.
    File(PathBuf),
    Text(String),
    /// The kernel gives it to the first process as its standard streams.
    Console,
}

/// What goes in, by its path in the guest without the first slash.
pub struct Tree(BTreeMap<String, Entry>);

impl Tree {
    /// Only the skeleton, busybox's commands, and the real shell: busybox's own prefers its commands to other programs.
    pub fn new() -> Result<Self> {
        let mut tree = Self(BTreeMap::new());
        for folder in FOLDERS {
            tree.put(folder, Entry::Folder);
        }
        for link in MERGED {
            tree.put(&format!("usr/{link}"), Entry::Folder);
            tree.0.insert(link.into(), Entry::Link(format!("usr/{link}")));
        }
        tree.put("dev/console", Entry::Console);
        tree.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n");
        tree.text("etc/group", "root:x:0:\nnogroup:x:65534:\n");
        tree.text("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n");
        tree.text("etc/resolv.conf", "");
        for data in DATA.map(Path::new).into_iter().filter(|p| p.exists()) {
            tree.copy(data, data)?;
        }
        tree.tool("busybox")?;
        let applets = Command::new("busybox").arg("--list").output().context("busybox")?;
        for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|a| *a != "busybox") {
            tree.put(&format!("usr/bin/{applet}"), Entry::Link("/bin/busybox".into()));
        }
        tree.tool("sh")?;
        Ok(tree)
    }

    pub fn text(&mut self, guest: &str, text: &str) {
        self.put(guest, Entry::Text(text.into()));
    }

    /// A file, or a folder with everything below it.
    pub fn copy(&mut self, host: &Path, guest: &Path) -> Result<()> {
        let at = inside(guest);
        if !host.is_dir() {
            ensure!(host.exists(), "{} is missing", host.display());
            self.put(&at, Entry::File(host.to_owned()));
            return Ok(());
        }
        for entry in fs::read_dir(host).with_context(|| host.display().to_string())? {
            let entry = entry?;
            self.copy(&entry.path(), &guest.join(entry.file_name()))?;
        }
        Ok(())
    }

    /// A program of this machine's `PATH`, at its own place.
    pub fn tool(&mut self, name: &str) -> Result<()> {
        let path = which(name).with_context(|| format!("{name} is missing: run scripts/prepare"))?;
        // Busybox's command of this name may stand in the other of the two folders.
        self.0.remove(&format!("usr/bin/{name}"));
        self.libraries(&path)?;
        self.copy(&path, &path)
    }

    /// A program without its symbols: they are nine tenths of what cargo builds.
    pub fn program(&mut self, host: &Path, guest: &Path) -> Result<()> {
        self.libraries(host)?;
        self.copy(&stripped(host)?, guest)
    }

    fn libraries(&mut self, program: &Path) -> Result<()> {
        let output = Command::new("ldd").arg(program).output().context("ldd")?;
        for library in libraries(&String::from_utf8_lossy(&output.stdout)) {
            self.copy(Path::new(&library), Path::new(&library))?;
        }
        Ok(())
    }

    fn put(&mut self, guest: &str, entry: Entry) {
        for parent in Path::new(guest).ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            self.0.entry(parent.display().to_string()).or_insert(Entry::Folder);
        }
        self.0.insert(guest.into(), entry);
    }

    /// Says everything that the archive is made of, so that equal text means an equal archive.
    pub fn inputs(&self) -> Result<String> {
        let mut text = String::new();
        for (path, entry) in &self.0 {
            let line = match entry {
                Entry::Folder | Entry::Console => path.clone(),
                Entry::Link(target) => format!("{path} -> {target}"),
                Entry::Text(content) => format!("{path} {content:?}"),
                Entry::File(host) => {
                    let metadata = fs::metadata(host).with_context(|| host.display().to_string())?;
                    let changed = metadata.modified()?.duration_since(UNIX_EPOCH)?.as_nanos();
                    format!("{path} {} {} {changed}", host.display(), metadata.len())
                }
            };
            text.push_str(&line);
            text.push('\n');
        }
        Ok(text)
    }

    pub fn write(&self, archive: &Path) -> Result<()> {
        let mut out = BufWriter::new(File::create(archive).with_context(|| archive.display().to_string())?);
        for (number, (path, entry)) in (1..).zip(&self.0) {
            let header = newc::Builder::new(path).ino(number).nlink(1);
            match entry {
                Entry::Folder => content(header.mode(TYPE_FOLDER | 0o755), &[], &mut out)?,
                Entry::Link(target) => content(header.mode(TYPE_LINK | 0o777), target.as_bytes(), &mut out)?,
                Entry::Text(text) => content(header.mode(TYPE_FILE | 0o644), text.as_bytes(), &mut out)?,
                Entry::File(host) => {
                    let bytes = fs::read(host).with_context(|| host.display().to_string())?;
                    content(header.mode(TYPE_FILE | 0o755), &bytes, &mut out)?;
                }
                Entry::Console => {
                    content(header.mode(TYPE_DEVICE | 0o600).rdev_major(5).rdev_minor(1), &[], &mut out)?;
                }
            }
        }
        newc::trailer(&mut out)?;
        Ok(out.flush()?)
    }
}

fn content(header: newc::Builder, bytes: &[u8], out: &mut impl Write) -> Result<()> {
    let size = u32::try_from(bytes.len()).context("a file of 4 GiB or more does not fit into the archive")?;
    let mut entry = header.write(out, size);
    entry.write_all(bytes)?;
    entry.finish()?;
    Ok(())
}

/// The path in the archive: without the first slash, below /usr where Debian has it.
fn inside(guest: &Path) -> String {
    let path = guest.strip_prefix("/").unwrap_or(guest);
    match MERGED.iter().any(|top| path.starts_with(top)) {
        true => format!("usr/{}", path.display()),
        false => path.display().to_string(),
    }
}

/// Paths in what ldd(1) prints. Of a static program it prints none.
fn libraries(text: &str) -> Vec<String> {
    let path = |line: &str| line.split_whitespace().find(|w| w.starts_with('/')).map(str::to_owned);
    text.lines().filter_map(path).collect()
}

pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    folders.map(|folder| folder.join(name)).find(|p| p.is_file())
}

/// A copy that is made anew when the program has changed.
fn stripped(program: &Path) -> Result<PathBuf> {
    let name = program.file_name().context("a program has a name")?.to_string_lossy().into_owned();
    let _lock = cache::lock("strip")?;
    let folder = cache::dir()?.join("stripped");
    fs::create_dir_all(&folder)?;
    let copy = folder.join(&name);
    let age = |path: &Path| fs::metadata(path).and_then(|m| m.modified());
    if age(&copy).is_ok_and(|copied| age(program).is_ok_and(|built| built < copied)) {
        return Ok(copy);
    }
    let staged = folder.join(format!("{name}.new"));
    let status = Command::new("strip").arg("-o").args([&staged, program]).status().context("strip")?;
    ensure!(status.success(), "strip {}: {status}", program.display());
    fs::rename(&staged, &copy)?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_with_a_path() {
        let text = "\tlinux-vdso.so.1 (0x00007ffe)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(libraries(text), ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(libraries("\tnot a dynamic executable\n").is_empty());
    }

    #[test]
    fn paths_are_those_behind_debians_links() {
        assert_eq!(inside(Path::new("/lib64/ld.so")), "usr/lib64/ld.so");
        assert_eq!(inside(Path::new("/usr/sbin/nft")), "usr/sbin/nft");
        assert_eq!(inside(Path::new("/library")), "library");
    }
}
