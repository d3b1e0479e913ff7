//! Gives an empty volume what an image has where it is mounted, as docker does.

use crate::{EngineError, api::types::Mount, copy::copy, rootfs, spec::Volume};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2, syncfs};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Lies beside the data until all of it is there.
const FILLING: &str = "filling";
/// Two tasks may begin with one volume at the same time.
static TURN: Mutex<()> = Mutex::new(());

pub(crate) async fn fill(mounts: Vec<Mount>, volumes: Vec<Volume>) -> Result<(), EngineError> {
    if volumes.is_empty() {
        return Ok(());
    }
    rootfs::apart(move || {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lacking = Vec::new();
        for volume in &volumes {
            if is_lacking(&volume.data)? {
                lacking.push((volume, File::open(&volume.data)?));
            }
        }
        if lacking.is_empty() {
            return Ok(());
        }
        let root = rootfs::show(&mounts)?;
        for (volume, data) in lacking {
            let because = |e: io::Error| io::Error::new(e.kind(), format!("volume at {}: {e}", volume.target));
            fill_one(&root, volume, &data).map_err(because)?;
        }
        Ok(())
    })
    .await
}

fn marker(data: &Path) -> PathBuf {
    data.with_file_name(FILLING)
}

/// Whether it is empty, or was being filled when a daemon before this one ended.
fn is_lacking(data: &Path) -> io::Result<bool> {
    Ok(marker(data).try_exists()? || fs::read_dir(data)?.next().is_none())
}

fn fill_one(root: &File, volume: &Volume, data: &File) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // A link of the image leads nowhere outside it.
    let path = volume.target.trim_start_matches('/');
    let from = match openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(from) => File::from(from),
        // The image has no directory there, so it has nothing for it.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let marker = marker(&volume.data);
    File::create(&marker)?.sync_all()?;
    copy(&from, data)?;
    syncfs(data)?;
    fs::remove_file(marker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_filled_once_and_a_broken_one_again() {
        let (image, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (root, data) = (File::open(image.path()).unwrap(), host.path().join("data"));
        fs::create_dir_all(image.path().join("srv/inner")).unwrap();
        fs::write(image.path().join("srv/inner/file"), "text").unwrap();
        std::os::unix::fs::symlink("/srv", image.path().join("link")).unwrap();
        fs::create_dir(&data).unwrap();
        let volume = |target: &str| Volume { data: data.clone(), target: target.into() };
        let fill = |target: &str| fill_one(&root, &volume(target), &File::open(&data).unwrap()).unwrap();

        for nothing in ["/none", "/srv/inner/file"] {
            fill(nothing);
            assert!(is_lacking(&data).unwrap(), "{nothing}");
        }
        fill("/link");
        assert_eq!(fs::read_to_string(data.join("inner/file")).unwrap(), "text");
        assert!(!is_lacking(&data).unwrap());
        fs::write(data.join("inner/file"), "te").unwrap();
        File::create(marker(&data)).unwrap();
        assert!(is_lacking(&data).unwrap());
        fill("/srv/");
        assert_eq!(fs::read_to_string(data.join("inner/file")).unwrap(), "text");
        assert!(!is_lacking(&data).unwrap());
    }
}
