//! What a host's daemon keeps on disk, searched.

use crate::Lab;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// All files below, but for what has been removed since.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path(), found),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

impl Lab {
    /// Files of a host's state that have these bytes, below its directory.
    pub fn holding(&self, host: &str, text: &str) -> Vec<String> {
        let root = self.state_dir(host);
        let mut all = Vec::new();
        files(Path::new(&root), &mut all);
        assert!(!all.is_empty(), "{root} has no files");
        let has = |file: &PathBuf| match fs::read(file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            bytes => bytes.expect("root reads").windows(text.len()).any(|w| w == text.as_bytes()),
        };
        let inside = |file: &PathBuf| file.strip_prefix(&root).expect("it is below").display().to_string();
        all.iter().filter(|f| has(f)).map(inside).collect()
    }
}
