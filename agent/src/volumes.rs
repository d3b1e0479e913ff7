//! Volumes on this host's disk. Those with a name outlive whoever uses them; one without lies in its task's directory.
//!
//! ```text
//! volumes/NAME/volume.json   since when it is there, its labels
//! volumes/NAME/data/         what tasks see
//! tasks/ID/volumes/N/data/   the same of the task's mount N, which names none
//! .gone-...                  out of the way, and being removed
//! ```

use crate::executor::record;
use heddle_engine::spec::Volume;
use heddle_model::{
    Timestamp,
    container::{Mount, MountSource},
    volume::{VolumeName, VolumeRecord},
};
use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

const DATA: &str = "data";
const RECORD: &str = "volume.json";
/// In a task's directory.
const OWN: &str = "volumes";
/// No name begins with a dot.
const DRAFT: &str = ".new-";
const GONE: &str = ".gone-";

/// Who uses which, by name: `task web.1`, `workload db`.
pub type Users = BTreeMap<VolumeName, Vec<String>>;
/// Hears of them. None: it is not known yet what runs here.
pub type Hear = Box<dyn FnOnce(Option<&Users>) + Send>;

#[derive(Debug, Clone)]
pub struct Volumes {
    dir: PathBuf,
}

impl Volumes {
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        make(&dir, 0o711)?;
        sweep(&dir)?;
        Ok(Self { dir })
    }

    pub fn data(&self, name: &VolumeName) -> PathBuf {
        self.dir.join(name.as_str()).join(DATA)
    }

    /// Whole or not at all. One that is there already stays as it is.
    pub fn create(&self, name: &VolumeName, record: &VolumeRecord) -> io::Result<()> {
        let place = self.dir.join(name.as_str());
        if place.try_exists()? {
            return Ok(());
        }
        let draft = self.dir.join(unique(DRAFT));
        make(&draft, 0o711)?;
        make(&draft.join(DATA), 0o755)?;
        record::write(&draft.join(RECORD), record)?;
        File::open(&draft)?.sync_all()?;
        let renamed = fs::rename(&draft, place);
        if let Err(error) = renamed {
            let _ = fs::remove_dir_all(&draft);
            // Somebody else was faster.
            let there = [io::ErrorKind::DirectoryNotEmpty, io::ErrorKind::AlreadyExists];
            return if there.contains(&error.kind()) { Ok(()) } else { Err(error) };
        }
        File::open(&self.dir)?.sync_all()
    }

    /// None: there is no such volume.
    pub fn get(&self, name: &VolumeName) -> io::Result<Option<VolumeRecord>> {
        record::read(&self.dir.join(name.as_str()).join(RECORD))
    }

    pub fn list(&self) -> io::Result<BTreeMap<VolumeName, VolumeRecord>> {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(&self.dir)? {
            let Some(name) = entry?.file_name().to_str().and_then(|name| name.parse::<VolumeName>().ok()) else {
                continue;
            };
            // It may have gone meanwhile.
            if let Some(record) = self.get(&name)? {
                all.insert(name, record);
            }
        }
        Ok(all)
    }

    /// Takes one away, so that another of its name may be made. None: there is no such volume.
    pub fn retire(&self, name: &VolumeName) -> io::Result<Option<Retired>> {
        retire(&self.dir.join(name.as_str()), &self.dir)
    }

    /// Makes bind mounts of the volumes among a task's mounts, and the volumes that are not there yet: what runs it knows of
    /// directories alone.
    pub fn provide(&self, mounts: &mut [Mount], task_dir: &Path, now: Timestamp) -> io::Result<Vec<Volume>> {
        let mut provided = Vec::new();
        for (number, mount) in mounts.iter_mut().enumerate() {
            let MountSource::Volume(name) = &mount.source else { continue };
            let data = match name {
                Some(name) => self.provide_named(name, now)?,
                None => anonymous(task_dir, number)?,
            };
            mount.source = MountSource::Bind(data.display().to_string());
            provided.push(Volume { data, target: mount.target.clone() });
        }
        Ok(provided)
    }

    fn provide_named(&self, name: &str, now: Timestamp) -> io::Result<PathBuf> {
        let name: VolumeName = name.parse().map_err(io::Error::other)?;
        let because = |e: io::Error| io::Error::new(e.kind(), format!("volume {name} cannot be made: {e}"));
        self.create(&name, &VolumeRecord { created_at: now, labels: BTreeMap::new() }).map_err(because)?;
        Ok(self.data(&name))
    }
}

/// The data of a volume that goes with its task.
pub fn anonymous(task_dir: &Path, number: usize) -> io::Result<PathBuf> {
    let place = task_dir.join(OWN).join(number.to_string());
    let data = place.join(DATA);
    for (dir, mode) in [(task_dir.join(OWN).as_path(), 0o711), (&place, 0o711), (&data, 0o755)] {
        // What its program made of it stays so.
        if !dir.try_exists()? {
            make(dir, mode)?;
        }
    }
    Ok(data)
}

/// Removes the volumes that go with a task, in their own time. `tasks` holds its directory.
pub fn forget(task_dir: &Path, tasks: &Path) {
    match retire(&task_dir.join(OWN), tasks) {
        Ok(Some(gone)) => gone.remove_apart(),
        Ok(None) => {}
        Err(error) => tracing::warn!(dir = %task_dir.display(), %error, "volumes of a task cannot be removed"),
    }
}

/// Removes what a daemon before this one had begun to make or to remove.
pub fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if [DRAFT, GONE].iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            Retired(entry.path()).remove_apart();
        }
    }
    Ok(())
}

/// What has lost its name, and takes room until it is removed.
#[must_use]
#[derive(Debug)]
pub struct Retired(PathBuf);

impl Retired {
    /// Bytes on disk that were freed. It may take long.
    pub fn remove(self) -> io::Result<u64> {
        let size = size(&self.0.join(DATA))?;
        fs::remove_dir_all(&self.0)?;
        Ok(size)
    }

    fn remove_apart(self) {
        std::thread::spawn(move || {
            if let Err(error) = fs::remove_dir_all(&self.0) {
                tracing::warn!(dir = %self.0.display(), %error, "what is left of a volume cannot be removed");
            }
        });
    }
}

fn unique(prefix: &str) -> String {
    format!("{prefix}{:032x}", rand::random::<u128>())
}

/// Whatever the daemon's umask is.
fn make(dir: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(mode))
}

fn retire(place: &Path, dir: &Path) -> io::Result<Option<Retired>> {
    let gone = dir.join(unique(GONE));
    match fs::rename(place, &gone) {
        Ok(()) => Ok(Some(Retired(gone))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Of all files in a directory, in bytes of the disk. A file with several names counts as often.
fn size(dir: &Path) -> io::Result<u64> {
    let mut sum = 0;
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let stat = entry.metadata()?;
            // The unit of st_blocks (inode(7)).
            sum += stat.blocks() * 512;
            if stat.is_dir() {
                left.push(entry.path());
            }
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> VolumeName {
        text.parse().unwrap()
    }

    fn record(at: u64) -> VolumeRecord {
        VolumeRecord { created_at: Timestamp(at), labels: [("tier".to_owned(), "db".to_owned())].into() }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_volume_is_made_once_kept_and_removed() {
        let host = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(host.path().join("volumes")).unwrap();
        assert!(volumes.list().unwrap().is_empty() && volumes.get(&name("a")).unwrap().is_none());
        volumes.create(&name("a"), &record(1)).unwrap();
        fs::write(volumes.data(&name("a")).join("file"), [1; 8192]).unwrap();
        volumes.create(&name("a"), &record(2)).unwrap();
        volumes.create(&name("b"), &record(3)).unwrap();
        assert_eq!((mode(&volumes.dir.join("a")), mode(&volumes.data(&name("a")))), (0o711, 0o755));

        let again = Volumes::open(volumes.dir.clone()).unwrap();
        assert_eq!(again.list().unwrap(), [(name("a"), record(1)), (name("b"), record(3))].into());
        assert!(again.data(&name("a")).join("file").exists());

        let gone = again.retire(&name("a")).unwrap().unwrap();
        assert!(again.get(&name("a")).unwrap().is_none());
        // Another of its name is another volume.
        again.create(&name("a"), &record(4)).unwrap();
        assert!(gone.remove().unwrap() >= 8192);
        assert!(again.data(&name("a")).exists() && !again.data(&name("a")).join("file").exists());
        assert!(again.retire(&name("c")).unwrap().is_none());
    }

    #[test]
    fn what_is_half_made_or_half_removed_is_nothing() {
        let host = tempfile::tempdir().unwrap();
        for left in [".new-1/data", ".gone-2/data", "a/data"] {
            fs::create_dir_all(host.path().join(left)).unwrap();
        }
        fs::write(host.path().join("a").join(RECORD), serde_json::to_vec(&record(1)).unwrap()).unwrap();
        let volumes = Volumes::open(host.path().to_owned()).unwrap();
        assert_eq!(volumes.list().unwrap().into_keys().collect::<Vec<_>>(), [name("a")]);
        for _ in 0..500 {
            if fs::read_dir(host.path()).unwrap().count() == 1 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("it is still there");
    }

    #[test]
    fn volumes_of_a_task_become_bind_mounts() {
        let host = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(host.path().join("volumes")).unwrap();
        let tasks = host.path().join("tasks");
        let task = tasks.join("t1");
        fs::create_dir_all(&task).unwrap();
        let parse = |text: &str| text.parse::<Mount>().unwrap();
        let bind = "type=bind,source=/srv,target=/a";
        let mut mounts =
            [bind, "type=volume,source=data,target=/b,readonly", "type=volume,target=/c"].map(parse).to_vec();
        let provided = volumes.provide(&mut mounts, &task, Timestamp(7)).unwrap();
        let (named, own) = (volumes.data(&name("data")), task.join("volumes/2/data"));
        let shown: Vec<_> = mounts.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                bind.to_owned(),
                format!("type=bind,source={},target=/b,readonly", named.display()),
                format!("type=bind,source={},target=/c", own.display()),
            ]
        );
        let volume = |data: &Path, target: &str| Volume { data: data.to_owned(), target: target.into() };
        assert_eq!(provided, [volume(&named, "/b"), volume(&own, "/c")]);
        assert_eq!(volumes.get(&name("data")).unwrap().unwrap().created_at, Timestamp(7));
        // A workload that is started once more finds what it wrote.
        fs::write(own.join("file"), "").unwrap();
        fs::set_permissions(&own, Permissions::from_mode(0o700)).unwrap();
        assert_eq!(anonymous(&task, 2).unwrap(), own);
        assert!(own.join("file").exists() && mode(&own) == 0o700);

        forget(&task, &tasks);
        forget(&task, &tasks);
        assert!(!own.exists() && named.exists());
        let mut bad = [Mount { source: MountSource::Volume(Some("a/b".into())), ..parse("target=/b") }];
        let said = volumes.provide(&mut bad, &task, Timestamp(7)).unwrap_err().to_string();
        assert!(said.starts_with("volume name \"a/b\": use 1 to 255"), "{said}");
    }
}
