//! What is kept from one run to the next, below cargo's target folder.

use anyhow::{Context, Result};
use std::{
    fs::{self, File},
    path::PathBuf,
};

/// `target/vm`, found from where cargo put the test: `target/PROFILE/deps/TEST`.
pub fn dir() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3).context("tests live below the target directory")?;
    let dir = target.join("vm");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}

/// Waits until no other test holds the name. Held until the file is closed.
pub fn lock(name: &str) -> Result<File> {
    let path = dir()?.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    file.lock().with_context(|| path.display().to_string())?;
    Ok(file)
}
