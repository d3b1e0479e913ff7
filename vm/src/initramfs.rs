//! The root file system of the machine, as the archive that the kernel unpacks at boot (newc,
//! kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`). Not compressed: to unpack costs an emulated
//! processor more than to copy.

use crate::{
    PROGRAM,
    cache::Cache,
    guest::{ORDER, Order},
    programs::which,
};
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

/// What goes in.
pub struct Tree<'a> {
    cache: &'a Cache,
    /// By its path in the guest without the first slash.
    entries: BTreeMap<String, Entry>,
}

impl<'a> Tree<'a> {
    /// Only the skeleton, busybox's commands, and the real shell: busybox's own prefers its commands to other programs.
    pub fn new(cache: &'a Cache) -> Result<Self> {
        let mut tree = Self { cache, entries: BTreeMap::new() };
        for folder in FOLDERS {
            tree.put(folder, Entry::Folder);
        }
        for link in MERGED {
            tree.put(&format!("usr/{link}"), Entry::Folder);
            tree.entries.insert(link.into(), Entry::Link(format!("usr/{link}")));
        }
        tree.put("dev/console", Entry::Console);
        tree.put("init", Entry::Link(PROGRAM.into()));
        tree.text(Path::new("/etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n");
        tree.text(Path::new("/etc/group"), "root:x:0:\nnogroup:x:65534:\n");
        tree.text(Path::new("/etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n");
        tree.text(Path::new("/etc/resolv.conf"), "");
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

    pub fn text(&mut self, guest: &Path, text: &str) {
        self.put(&inside(guest), Entry::Text(text.into()));
    }

    /// A symbolic link.
    pub fn link(&mut self, guest: &Path, target: &str) {
        self.put(&inside(guest), Entry::Link(target.into()));
    }

    /// What the first process is to do.
    pub fn order(&mut self, order: &Order) -> Result<()> {
        self.text(Path::new(ORDER), &serde_json::to_string(order)?);
        Ok(())
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
        self.entries.remove(&format!("usr/bin/{name}"));
        self.libraries(&path)?;
        self.copy(&path, &path)
    }

    /// A program without its symbols: they are nine tenths of what cargo builds.
    pub fn program(&mut self, host: &Path, guest: &Path) -> Result<()> {
        self.libraries(host)?;
        self.copy(&stripped(self.cache, host)?, guest)
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
            self.entries.entry(parent.display().to_string()).or_insert(Entry::Folder);
        }
        self.entries.insert(guest.into(), entry);
    }

    /// The archive in this folder, written anew only if something has changed. A machine that boots meanwhile is not
    /// disturbed: it reads the old one.
    pub fn archive(&self, folder: &Path) -> Result<PathBuf> {
        let (archive, inputs) = (folder.join("initramfs"), folder.join("inputs"));
        let wanted = self.inputs()?;
        if !archive.exists() || fs::read_to_string(&inputs).ok().as_deref() != Some(&wanted) {
            let _ = fs::remove_file(&inputs);
            let staged = folder.join("initramfs.new");
            self.write(&staged)?;
            fs::rename(&staged, &archive)?;
            fs::write(&inputs, wanted)?;
        }
        Ok(archive)
    }

    /// Says everything that the archive is made of, so that equal text means an equal archive.
    fn inputs(&self) -> Result<String> {
        let mut text = String::new();
        for (path, entry) in &self.entries {
            let line = match entry {
                Entry::Folder | Entry::Console => path.clone(),
                Entry::Link(target) => format!("{path} -> {target}"),
                Entry::Text(content) => format!("{path} {content:?}"),
                Entry::File(host) => format!("{path} {}", version(host)?),
            };
            text.push_str(&line);
            text.push('\n');
        }
        Ok(text)
    }

    fn write(&self, archive: &Path) -> Result<()> {
        let mut out = BufWriter::new(File::create(archive).with_context(|| archive.display().to_string())?);
        for (number, (path, entry)) in (1..).zip(&self.entries) {
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

/// A copy that is made anew when the program has changed. Programs of one name in different folders have a copy each.
fn stripped(cache: &Cache, program: &Path) -> Result<PathBuf> {
    let name = program.display().to_string().trim_start_matches('/').replace('/', "-");
    let _lock = cache.lock("strip")?;
    let folder = cache.folder("stripped")?;
    let (copy, of) = (folder.join(&name), folder.join(format!("{name}.of")));
    let wanted = version(program)?;
    if copy.exists() && fs::read_to_string(&of).is_ok_and(|text| text == wanted) {
        return Ok(copy);
    }
    let staged = folder.join(format!("{name}.new"));
    let status = Command::new("strip").arg("-o").args([&staged, program]).status().context("strip")?;
    ensure!(status.success(), "strip {}: {status}", program.display());
    let _ = fs::remove_file(&of);
    fs::rename(&staged, &copy)?;
    fs::write(&of, wanted)?;
    Ok(copy)
}

/// What differs when a file has changed.
fn version(file: &Path) -> Result<String> {
    let metadata = fs::metadata(file).with_context(|| file.display().to_string())?;
    let changed = metadata.modified()?.duration_since(UNIX_EPOCH)?.as_nanos();
    Ok(format!("{} {} {changed}", file.display(), metadata.len()))
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
