//! What a task prints: lines of JSON in a file, and those before it, of which the oldest go.

use heddle_model::container::LogLimits;
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// A longer line is cut in pieces.
pub const LONGEST: usize = 16 << 10;
/// Lines that are read at once.
const BATCH: usize = 256;

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

/// The file that is written to, or the one so many before it.
fn path(dir: &Path, age: u32) -> PathBuf {
    dir.join(match age {
        0 => "log.jsonl".to_owned(),
        age => format!("log.{age}.jsonl"),
    })
}

pub struct Writer {
    dir: PathBuf,
    limits: LogLimits,
    file: File,
    size: u64,
}

impl Writer {
    pub fn open(dir: &Path, limits: LogLimits) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path(dir, 0))?;
        let size = file.metadata()?.len();
        Ok(Self { dir: dir.to_owned(), limits, file, size })
    }

    pub fn write(&mut self, stream: Stream, text: &[u8]) -> io::Result<()> {
        let line = Line { at_ms: now_ms(), stream, text: String::from_utf8_lossy(text).into_owned() };
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        if self.size > 0 && self.size + bytes.len() as u64 > self.limits.max_size {
            self.rotate()?;
        }
        self.file.write_all(&bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// What is kept stays where no new file can be made.
    fn rotate(&mut self) -> io::Result<()> {
        let next = self.dir.join("log.new");
        self.file = OpenOptions::new().create(true).append(true).open(&next)?;
        // A task that runs once more may have kept more files before.
        for age in (self.limits.max_files..).take_while(|age| path(&self.dir, *age).exists()) {
            fs::remove_file(path(&self.dir, age))?;
        }
        for age in (0..self.limits.max_files - 1).rev().filter(|age| path(&self.dir, *age).exists()) {
            fs::rename(path(&self.dir, age), path(&self.dir, age + 1))?;
        }
        fs::rename(next, path(&self.dir, 0))?;
        self.size = 0;
        Ok(())
    }
}

/// Reads lines in their order, and on where it stopped, whatever the writer does to the files meanwhile.
pub struct Reader {
    dir: PathBuf,
    since_ms: u64,
    /// Being read, by its number in the file system, since its name changes.
    file: Option<(u64, BufReader<File>)>,
    /// A line whose end is not written yet.
    partial: Vec<u8>,
}

impl Reader {
    /// Of lines since a time, from the oldest on.
    pub fn new(dir: PathBuf, since_ms: u64) -> Self {
        Self { dir, since_ms, file: None, partial: Vec::new() }
    }

    /// A few lines. Empty: there is nothing more for now.
    pub fn more(&mut self) -> io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        loop {
            let Some((_, file)) = &mut self.file else {
                match self.successor()? {
                    Some(next) => self.file = Some(next),
                    None => return Ok(lines),
                }
                continue;
            };
            while lines.len() < BATCH {
                if file.read_until(b'\n', &mut self.partial)? == 0 || self.partial.last() != Some(&b'\n') {
                    break;
                }
                let line = serde_json::from_slice::<Line>(&self.partial).ok();
                lines.extend(line.filter(|line| line.at_ms >= self.since_ms));
                self.partial.clear();
            }
            if lines.len() >= BATCH {
                return Ok(lines);
            }
            // What is written no more has been read to its end; so that is known before it is looked at once more.
            match self.successor()? {
                Some(next) if file_ended(&mut self.file)? => {
                    self.partial.clear();
                    self.file = Some(next);
                }
                Some(_) => {}
                None => return Ok(lines),
            }
        }
    }

    /// The file after the one that is read, or the oldest if that is not there any more. None: it is the newest.
    fn successor(&self) -> io::Result<Option<(u64, BufReader<File>)>> {
        let (mut after, mut missing) = (None, 0);
        for age in 0.. {
            let file = match File::open(path(&self.dir, age)) {
                // The one that is being given another name just now.
                Err(e) if e.kind() == io::ErrorKind::NotFound && missing == 0 => {
                    missing = 1;
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                file => file?,
            };
            missing = 0;
            let number = file.metadata()?.ino();
            if self.file.as_ref().is_some_and(|(own, _)| *own == number) {
                break;
            }
            after = Some((number, BufReader::new(file)));
        }
        Ok(after)
    }

    /// The last lines, so many, after which `more` reads on.
    pub fn tail(&mut self, count: usize) -> io::Result<VecDeque<Line>> {
        let mut last = VecDeque::new();
        loop {
            let lines = self.more()?;
            if lines.is_empty() {
                return Ok(last);
            }
            last.extend(lines);
            last.drain(..last.len().saturating_sub(count));
        }
    }
}

/// Whether nothing was written to it after it was read.
fn file_ended(file: &mut Option<(u64, BufReader<File>)>) -> io::Result<bool> {
    file.as_mut().map_or(Ok(true), |(_, file)| Ok(file.fill_buf()?.is_empty()))
}

/// The last line of all.
pub fn last(dir: &Path) -> Option<String> {
    Reader::new(dir.to_owned(), 0).tail(1).ok()?.pop_back().map(|line| line.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: impl IntoIterator<Item = Line>) -> Vec<String> {
        lines.into_iter().map(|l| l.text).collect()
    }

    fn small(max_files: u32) -> LogLimits {
        LogLimits { max_size: 200, max_files }
    }

    #[test]
    fn lines_come_back_in_order_and_can_be_followed() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), LogLimits::default()).unwrap();
        writer.write(Stream::Stdout, b"one").unwrap();
        writer.write(Stream::Stderr, b"two \xff").unwrap();
        let mut reader = Reader::new(dir.path().to_owned(), 0);
        assert_eq!(texts(reader.more().unwrap()), ["one", "two \u{fffd}"]);
        assert_eq!(texts(reader.more().unwrap()), [""; 0]);
        writer.write(Stream::Stdout, b"three").unwrap();
        assert_eq!(texts(reader.more().unwrap()), ["three"]);
        assert_eq!(Reader::new(dir.path().to_owned(), u64::MAX).more().unwrap(), []);
        assert_eq!(last(dir.path()).as_deref(), Some("three"));
        assert_eq!(texts(Reader::new(dir.path().to_owned(), 0).tail(2).unwrap()), ["two \u{fffd}", "three"]);
    }

    #[test]
    fn the_oldest_files_go_and_the_others_are_of_their_size() {
        for max_files in [1, 3] {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = Writer::open(dir.path(), small(max_files)).unwrap();
            (0..100).for_each(|n| writer.write(Stream::Stdout, format!("line {n}").as_bytes()).unwrap());
            let files: Vec<_> =
                fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).collect();
            assert_eq!(files.len(), max_files as usize);
            assert!(files.iter().all(|size| *size <= 200), "{files:?}");
            let kept = texts(Reader::new(dir.path().to_owned(), 0).more().unwrap());
            assert!(kept.len() >= max_files as usize && kept.last().unwrap() == "line 99", "{kept:?}");
            let all: Vec<_> = (100 - kept.len()..100).map(|n| format!("line {n}")).collect();
            assert_eq!(kept, all);
        }
    }

    #[test]
    fn whoever_follows_misses_nothing_when_files_are_exchanged() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), small(3)).unwrap();
        let mut reader = Reader::new(dir.path().to_owned(), 0);
        let (mut seen, mut written) = (Vec::new(), 0);
        for burst in [1, 2, 3, 4, 5, 1, 6, 2] {
            for _ in 0..burst {
                writer.write(Stream::Stdout, format!("line {written}").as_bytes()).unwrap();
                written += 1;
            }
            loop {
                let lines = reader.more().unwrap();
                if lines.is_empty() {
                    break;
                }
                seen.extend(texts(lines));
            }
        }
        assert_eq!(seen, (0..written).map(|n| format!("line {n}")).collect::<Vec<_>>());
    }

    #[test]
    fn half_a_line_waits_for_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::new(dir.path().to_owned(), 0);
        let mut file = File::create(path(dir.path(), 0)).unwrap();
        file.write_all(b"{\"at_ms\":1,\"stream\":\"std").unwrap();
        assert_eq!(reader.more().unwrap(), []);
        file.write_all(b"out\",\"text\":\"a\"}\n").unwrap();
        assert_eq!(texts(reader.more().unwrap()), ["a"]);
    }
}
