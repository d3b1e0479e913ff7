//! The files of a task's directory. Each is written whole or not at all.

use heddle_model::{container::Container, placement::Resources};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

pub const SPEC: &str = "spec.json";
pub const TASK: &str = "task.json";
pub const EXIT: &str = "exit.json";

/// The network namespace that the daemon itself is in.
pub const HOST_NETNS: &str = "/proc/self/ns/net";

/// What a shim is to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShimSpec {
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub dir: Option<String>,
    pub hostname: String,
    pub netns: PathBuf,
    /// Path in the task's view to content, such as /etc/resolv.conf.
    pub files: BTreeMap<String, String>,
    /// How many files come by the standard input. None from a daemon that is older than this program.
    #[serde(default)]
    pub secrets: usize,
    #[serde(default)]
    pub resources: Resources,
    #[serde(default)]
    pub container: Container,
}

impl ShimSpec {
    pub fn is_on_host(&self) -> bool {
        self.netns == Path::new(HOST_NETNS)
    }
}

/// The shim and the task's pid 1, with their start times in clock ticks since boot: a pid may be used again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    pub shim: u32,
    pub shim_start: u64,
    pub init: u32,
    pub init_start: u64,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 128 + N for signal N, as a shell says it.
    pub code: i32,
    /// Set when the program could not be run at all, or the kernel has ended it.
    pub error: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl Exit {
    /// The shim was killed, or the host restarted.
    pub fn lost() -> Self {
        Exit {
            code: 137,
            error: Some("the task was killed with its host or its shim".into()),
            at_ms: super::log::now_ms(),
        }
    }
}

/// None: there is no such file.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

pub fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let draft = path.with_extension("new");
    fs::write(&draft, serde_json::to_vec(value)?)?;
    fs::File::open(&draft)?.sync_all()?;
    fs::rename(&draft, path)
}

/// Field 22 of /proc/PID/stat (proc(5)); None if there is no such process, or only its remains.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = stat(pid)?;
    let mut fields = stat.split_whitespace();
    let state = fields.next()?;
    (state != "Z" && state != "X").then_some(())?;
    fields.nth(18)?.parse().ok()
}

/// Field 4 of the same.
pub fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.split_whitespace().nth(1)?.parse().ok()
}

/// From field 3 on.
fn stat(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and brackets; what follows the last bracket does not.
    Some(stat.rsplit_once(')')?.1.to_owned())
}
