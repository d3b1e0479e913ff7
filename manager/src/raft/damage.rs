//! What a manager makes of what it finds on its disk: which damage is none, and which makes its votes worthless.
//!
//! ```text
//! a write that never ended   redb goes back to the commit before. Nobody was told of it: the manager goes on
//! anything else is wrong     something that others count on may be lost: entries that it acknowledged, or for whom it voted.
//!                            It counts for nothing until a majority of the others has let it go, and comes in as a learner
//! ```

use super::{
    LogStore,
    recover::{self, Stored},
};
use heddle_plumbing::seal::Key;
use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::Duration,
};

const FILE: &str = "raft.redb";
/// How long a manager that has just stopped may hold the file.
const LAST_BREATH: Duration = Duration::from_secs(5);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No file, or nothing in it.
    Nothing,
    Whole,
    Damaged(String),
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    GoOn,
    /// Begin with nothing, after what is damaged is put aside: the others have all of it.
    Anew,
    /// Nobody else has it.
    Refuse(String),
}

/// `others`: another manager is known that this one can come back by.
fn judge(found: Found, others: bool) -> Verdict {
    match (found, others) {
        (Found::Whole, _) => Verdict::GoOn,
        (Found::Nothing | Found::Damaged(_), true) => Verdict::Anew,
        (Found::Nothing, false) => Verdict::Refuse("nothing is stored".into()),
        (Found::Damaged(why), false) => Verdict::Refuse(why),
    }
}

fn look(stored: &Stored) -> Found {
    let empty = stored.vote.is_none() && stored.snapshot.is_none() && stored.entries.is_empty();
    match recover::gap(stored) {
        _ if empty && stored.purged.is_none() => Found::Nothing,
        Some(index) => Found::Damaged(format!("entry {index} of the log is missing")),
        None if stored.vote.is_none() => Found::Damaged("the vote is missing".into()),
        None => Found::Whole,
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the manager's state in {dir} cannot be used")]
    Io {
        dir: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "the manager's state {file} is damaged ({why}), and no other manager is known to get it from; nothing was changed: move \
         node.json, certificates and raft out of {dir}, start the daemon and run `heddle cluster restore FILE`"
    )]
    Lost { file: String, dir: String, why: String },
}

/// The log of a manager, and whether the others have to let it go first: it has nothing of what it promised them. What another key
/// encrypted is damaged, too.
pub async fn open(dir: &Path, key: &Key, others: bool) -> Result<(LogStore, bool), OpenError> {
    let failed = |source| OpenError::Io { dir: dir.display().to_string(), source };
    let file = dir.join(FILE);
    fs::create_dir_all(dir).map_err(failed)?;
    let (log, found) = read(&file, key).await.map_err(failed)?;
    match (judge(found, others), log) {
        (Verdict::GoOn, Some(log)) => Ok((log, false)),
        (Verdict::Anew, Some(log)) => Ok((log, true)),
        (Verdict::GoOn | Verdict::Anew, None) => {
            let kept = aside(dir, "damaged").map_err(failed)?;
            tracing::error!(kept = %kept.display(), "the manager's state is damaged: it is got anew from the other managers");
            Ok((LogStore::open(&file, key).map_err(failed)?, true))
        }
        (Verdict::Refuse(why), _) => {
            let root = dir.parent().unwrap_or(dir).display().to_string();
            Err(OpenError::Lost { file: file.display().to_string(), dir: root, why })
        }
    }
}

/// A log with nothing in it, for the first manager of a cluster.
pub async fn open_empty(dir: &Path, key: &Key) -> io::Result<LogStore> {
    fs::create_dir_all(dir)?;
    match read(&dir.join(FILE), key).await? {
        (Some(log), Found::Nothing) => Ok(log),
        _ => Err(io::Error::new(io::ErrorKind::AlreadyExists, "something of another cluster is there")),
    }
}

/// No log: it cannot be used.
async fn read(file: &Path, key: &Key) -> io::Result<(Option<LogStore>, Found)> {
    let until = tokio::time::Instant::now() + LAST_BREATH;
    loop {
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let log = LogStore::open(file, key)?;
            let found = look(&log.stored()?);
            io::Result::Ok((log, found))
        }));
        return match opened {
            Ok(Ok((log, found @ (Found::Whole | Found::Nothing)))) => Ok((Some(log), found)),
            Ok(Ok((_, damaged))) => Ok((None, damaged)),
            Ok(Err(e)) if e.kind() == io::ErrorKind::ResourceBusy && tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            Ok(Err(e)) if e.kind() == io::ErrorKind::InvalidData => Ok((None, Found::Damaged(e.to_string()))),
            Ok(Err(e)) => Err(e),
            Err(_) => Ok((None, Found::Damaged("the database cannot be read".into()))),
        };
    }
}

/// Renames what counts no more, by what it is, so that somebody can look at it.
pub fn aside(dir: &Path, what: &str) -> io::Result<PathBuf> {
    let named = |n: u32| dir.join(format!("{FILE}.{what}-{n}"));
    let kept = (1..).map(named).find(|kept| !kept.exists()).unwrap_or_else(|| named(0));
    fs::rename(dir.join(FILE), &kept)?;
    Ok(kept)
}

#[cfg(test)]
mod tests;
