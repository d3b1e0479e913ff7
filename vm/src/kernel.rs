//! Debian's kernel, unpacked and never installed, and the order in which its modules load.

use crate::cache::Cache;
use anyhow::{Context, Result, bail, ensure};
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Always depends on the newest kernel of the release.
const META: &str = "linux-image-cloud-amd64";

pub struct Kernel {
    /// As `uname -r` prints it.
    pub release: String,
    pub image: PathBuf,
    modules: PathBuf,
    dependencies: HashMap<String, Module>,
    builtin: BTreeSet<String>,
}

struct Module {
    /// Below the modules' folder.
    path: String,
    needs: Vec<String>,
}

impl Kernel {
    /// The one that apt would install, from the cache or downloaded.
    pub fn fetch(cache: &Cache) -> Result<Self> {
        let _lock = cache.lock("kernel")?;
        let package = match candidate()? {
            Some(package) => package,
            None => {
                run(Command::new("apt-get").args(["update", "-qq"]))?;
                candidate()?.with_context(|| format!("apt knows no package {META}: its sources need Debian's main"))?
            }
        };
        let unpacked = cache.dir().join(&package);
        if !unpacked.exists() {
            let staged = tempfile::tempdir_in(cache.dir())?;
            let download = || run(Command::new("apt-get").args(["download", "-qq", &package]).current_dir(&staged));
            // Lists that are too old name files that are gone.
            download().or_else(|_| run(Command::new("apt-get").args(["update", "-qq"])).and_then(|()| download()))?;
            unpack(staged.path(), &unpacked)?;
        }
        let release = package.strip_prefix("linux-image-").unwrap_or(&package).to_owned();
        Self::read(&unpacked, release)
    }

    fn read(unpacked: &Path, release: String) -> Result<Self> {
        let modules = unpacked.join("lib/modules").join(&release);
        let read = |name: &str| fs::read_to_string(modules.join(name)).with_context(|| format!("{release}: {name}"));
        Ok(Self {
            image: unpacked.join(format!("boot/vmlinuz-{release}")),
            dependencies: dependencies(&read("modules.dep")?),
            builtin: read("modules.builtin")?.lines().map(name).collect(),
            modules,
            release,
        })
    }

    /// Files of these modules and of all that they need, in an order in which they load: paths on this machine, and
    /// below the folder of modules.
    pub fn modules(&self, wanted: &[String]) -> Result<Vec<(PathBuf, String)>> {
        let mut order = Vec::new();
        for module in wanted {
            if !self.builtin.contains(&name(module)) {
                self.visit(&name(module), &mut order)?;
            }
        }
        Ok(order.into_iter().map(|path| (self.modules.join(&path), path)).collect())
    }

    /// Where the guest has its modules.
    pub fn guest_folder(&self) -> PathBuf {
        Path::new("/lib/modules").join(&self.release)
    }

    /// What modprobe(8) reads, of these modules only: file names and texts.
    pub fn indexes(&self, modules: &[(PathBuf, String)]) -> Result<[(&'static str, String); 2]> {
        let paths: BTreeSet<&str> = modules.iter().map(|(_, path)| path.as_str()).collect();
        let read =
            |name| fs::read_to_string(self.modules.join(name)).with_context(|| format!("{}: {name}", self.release));
        Ok([
            ("modules.dep", dependencies_of(&read("modules.dep")?, &paths)),
            ("modules.alias", aliases_of(&read("modules.alias")?, &paths)),
        ])
    }

    fn visit(&self, module: &str, order: &mut Vec<String>) -> Result<()> {
        let Some(found) = self.dependencies.get(module) else {
            bail!("the kernel {} has no module {module}", self.release)
        };
        if !order.contains(&found.path) {
            for needed in &found.needs {
                self.visit(needed, order)?;
            }
            order.push(found.path.clone());
        }
        Ok(())
    }
}

/// The versioned package that the meta package stands for.
fn candidate() -> Result<Option<String>> {
    let output = Command::new("apt-cache").args(["depends", META]).output().context("apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let package = text.lines().find_map(|l| l.trim().strip_prefix("Depends: ")).map(str::to_owned);
    Ok(package.filter(|p| p.starts_with("linux-image-")))
}

/// Appears whole under its name, or not at all.
fn unpack(downloaded: &Path, target: &Path) -> Result<()> {
    let is_package = |path: &PathBuf| path.extension().is_some_and(|e| e == "deb");
    let package = fs::read_dir(downloaded)?.filter_map(|e| Some(e.ok()?.path())).find(is_package);
    let package = package.context("apt-get download left no package")?;
    let tree = downloaded.join("tree");
    run(Command::new("dpkg").arg("-x").args([&package, &tree]))?;
    for folder in fs::read_dir(tree.join("lib/modules"))? {
        run(Command::new("depmod").arg("-b").arg(&tree).arg(folder?.file_name()))?;
    }
    fs::rename(&tree, target).with_context(|| target.display().to_string())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// A module's name by its path or by what people write: the kernel takes `-` and `_` for the same.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// Reads `modules.dep`, depmod(8): `PATH: NEEDED NEEDED...`, all of them, in no order that loads.
fn dependencies(text: &str) -> HashMap<String, Module> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let module = |needs: &str| needs.split_whitespace().map(name).collect();
    lines.map(|(path, needs)| (name(path), Module { path: path.to_owned(), needs: module(needs) })).collect()
}

/// Of these modules, of which none needs one that is not among them.
fn dependencies_of(text: &str, paths: &BTreeSet<&str>) -> String {
    let ours = |line: &&str| line.split_once(':').is_some_and(|(path, _)| paths.contains(path));
    text.lines().filter(ours).map(|line| format!("{line}\n")).collect()
}

/// Lines of `modules.alias`: `alias PATTERN MODULE`.
fn aliases_of(text: &str, paths: &BTreeSet<&str>) -> String {
    let names: BTreeSet<String> = paths.iter().map(|path| name(path)).collect();
    let ours = |line: &&str| line.rsplit_once(' ').is_some_and(|(_, module)| names.contains(&name(module)));
    text.lines().filter(ours).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> Kernel {
        let text = "kernel/a/base.ko:\nkernel/a/mid-dle.ko: kernel/a/base.ko\n\
                    kernel/b/top.ko: kernel/a/mid-dle.ko kernel/a/base.ko\n";
        Kernel {
            release: "6.1".into(),
            image: PathBuf::new(),
            modules: "/m".into(),
            dependencies: dependencies(text),
            builtin: ["unix".to_owned()].into(),
        }
    }

    #[test]
    fn a_module_loads_after_what_it_needs_and_once() {
        let order = kernel().modules(&["top".into(), "mid_dle".into(), "mid-dle".into(), "unix".into()]).unwrap();
        let paths: Vec<_> = order.iter().map(|(_, path)| path.as_str()).collect();
        assert_eq!(paths, ["kernel/a/base.ko", "kernel/a/mid-dle.ko", "kernel/b/top.ko"]);
        assert_eq!(order[2].0, Path::new("/m/kernel/b/top.ko"));
    }

    #[test]
    fn indexes_tell_of_the_modules_that_are_there() {
        let paths = BTreeSet::from(["kernel/a/mid-dle.ko", "kernel/a/base.ko"]);
        let text = "kernel/a/base.ko:\nkernel/a/mid-dle.ko: kernel/a/base.ko\nkernel/b/top.ko: kernel/a/base.ko\n";
        assert_eq!(dependencies_of(text, &paths), text[..text.find("kernel/b").unwrap()]);
        let text = "# Aliases\nalias rtnl-link-mid mid_dle\nalias net-pf-16 top\n";
        assert_eq!(aliases_of(text, &paths), "alias rtnl-link-mid mid_dle\n");
    }

    #[test]
    fn a_module_that_the_kernel_lacks_is_named() {
        let error = kernel().modules(&["ipvlan".into()]).unwrap_err();
        assert_eq!(error.to_string(), "the kernel 6.1 has no module ipvlan");
    }
}
