//! What a task prints: lines of JSON in a file, and the one before it.

use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

const NAME: &str = "log.jsonl";
const OLD: &str = "log.1.jsonl";
/// Bytes in one file.
const LIMIT: u64 = 10 << 20;
/// A longer line is cut in pieces.
pub const LONGEST: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    Stdout,
    Stderr,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub stream: Stream,
    pub text: String,
}

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

pub struct Writer {
    dir: PathBuf,
    file: File,
    size: u64,
}

fn open(dir: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(dir.join(NAME))
}

impl Writer {
    pub fn open(dir: &Path) -> io::Result<Self> {
        let file = open(dir)?;
        let size = file.metadata()?.len();
        Ok(Self { dir: dir.to_owned(), file, size })
    }

    pub fn write(&mut self, stream: Stream, text: &[u8]) -> io::Result<()> {
        if self.size > LIMIT {
            fs::rename(self.dir.join(NAME), self.dir.join(OLD))?;
            self.file = open(&self.dir)?;
            self.size = 0;
        }
        let line = Line { at_ms: now_ms(), stream, text: String::from_utf8_lossy(text).into_owned() };
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        self.size += bytes.len() as u64;
        self.file.write_all(&bytes)
    }
}

/// All lines since a time, oldest first. A last line that is not whole yet is left out. With the number of bytes read of
/// the newest file, for reading on.
pub fn read(dir: &Path, since_ms: u64, from: u64) -> io::Result<(Vec<Line>, u64)> {
    let mut lines = Vec::new();
    let mut at = from;
    for (name, newest) in [(OLD, false), (NAME, true)] {
        if !newest && from > 0 {
            continue;
        }
        let mut file = match File::open(dir.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        if newest {
            // The file was replaced by a new one: from its start.
            if file.metadata()?.len() < from {
                at = 0;
            }
            io::Seek::seek(&mut file, io::SeekFrom::Start(at))?;
        }
        let mut reader = BufReader::new(file);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes)? > 0 && bytes.last() == Some(&b'\n') {
            if newest {
                at += bytes.len() as u64;
            }
            lines.extend(serde_json::from_slice::<Line>(&bytes).ok().filter(|l| l.at_ms >= since_ms));
            bytes.clear();
        }
    }
    Ok((lines, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_in_order_and_can_be_followed() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path()).unwrap();
        writer.write(Stream::Stdout, b"one").unwrap();
        writer.write(Stream::Stderr, b"two \xff").unwrap();
        let (lines, at) = read(dir.path(), 0, 0).unwrap();
        assert_eq!(lines.iter().map(|l| l.text.as_str()).collect::<Vec<_>>(), ["one", "two \u{fffd}"]);
        writer.write(Stream::Stdout, b"three").unwrap();
        let (more, _) = read(dir.path(), 0, at).unwrap();
        assert_eq!(more.iter().map(|l| l.text.as_str()).collect::<Vec<_>>(), ["three"]);
        assert_eq!(read(dir.path(), u64::MAX, 0).unwrap().0, []);
    }
}
