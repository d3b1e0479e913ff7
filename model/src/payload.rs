//! Secrets and configs: bytes that the cluster keeps, and tasks have as files in memory. They never change: another one takes
//! their place.

use crate::{Annotations, Meta, PayloadId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    fmt,
    path::{Component, Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadKind {
    /// Nobody is told what it holds but the hosts whose tasks use it.
    Secret,
    /// Whoever may look at the cluster may read it.
    Config,
}

impl PayloadKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            PayloadKind::Secret => "secret",
            PayloadKind::Config => "config",
        }
    }

    /// Bytes that one may hold: docker's numbers.
    pub const fn most(self) -> usize {
        match self {
            PayloadKind::Secret => 500 << 10,
            PayloadKind::Config => 1000 << 10,
        }
    }

    /// Where a task finds those for which no other place is named.
    pub const fn dir(self) -> &'static str {
        match self {
            PayloadKind::Secret => "/run/secrets",
            PayloadKind::Config => "/run/configs",
        }
    }
}

impl fmt::Display for PayloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a secret or a config holds. It does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Content(pub Arc<[u8]>);

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
        Ok(Self(bytes.into_vec().into()))
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    pub id: PayloadId,
    pub meta: Meta,
    pub kind: PayloadKind,
    /// The name is unique among its kind.
    pub annotations: Annotations,
    pub content: Content,
}

/// A secret or config that a service's tasks have as a file, by id in the store and by name or id in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadFile {
    pub kind: PayloadKind,
    pub source: String,
    pub path: FilePath,
    pub uid: u32,
    pub gid: u32,
    pub mode: FileMode,
}

/// Where a task finds a file: absolute, without `.`, `..` and a slash at its end, and with no zero byte in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FilePath(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFile {
    #[error("path {0:?}: use one such as /etc/app.conf, absolute and without \".\", \"..\" and \"//\"")]
    Path(String),
    #[error("path {0:?} is Heddle's own: use another one")]
    Own(String),
    #[error("mode {0:?}: use octal digits such as 0400, at most 0777")]
    Mode(String),
}

/// PATH_MAX, with the zero at its end (linux/limits.h).
const PATH: usize = 4095;
/// What every task has from its network.
const OWN: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];
/// File systems of the kernel's own, which tasks have anew.
const KERNELS: [&str; 3] = ["/proc", "/sys", "/dev"];

impl FilePath {
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// A name, or an absolute path, of which the name lies where those of the kind do.
    pub fn of(kind: PayloadKind, text: &str) -> Result<Self, BadFile> {
        if text.is_empty() {
            return Err(BadFile::Path(text.to_owned()));
        }
        let whole = Path::new(kind.dir()).join(text);
        whole.to_str().ok_or_else(|| BadFile::Path(text.to_owned()))?.parse()
    }
}

impl FromStr for FilePath {
    type Err = BadFile;
    fn from_str(text: &str) -> Result<Self, BadFile> {
        let path = Path::new(text);
        let plain: PathBuf =
            path.components().filter(|c| matches!(c, Component::Normal(_) | Component::RootDir)).collect();
        let named = path.file_name().is_some();
        // What is spelled otherwise means the same file in two ways, or none.
        if !path.is_absolute() || plain.as_os_str() != text || !named || text.len() > PATH || text.contains('\0') {
            return Err(BadFile::Path(text.to_owned()));
        }
        let dirs = [PayloadKind::Secret.dir(), PayloadKind::Config.dir()];
        if OWN.iter().chain(&dirs).any(|own| *own == text) || KERNELS.iter().any(|own| path.starts_with(own)) {
            return Err(BadFile::Own(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for FilePath {
    type Error = BadFile;
    fn try_from(text: String) -> Result<Self, BadFile> {
        text.parse()
    }
}

impl From<FilePath> for String {
    fn from(path: FilePath) -> String {
        path.0
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Permissions of a file: owner, group, others. Written in octal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct FileMode(u32);

impl FileMode {
    /// docker's default.
    pub const READABLE: Self = Self(0o444);

    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for FileMode {
    type Error = BadFile;
    fn try_from(mode: u32) -> Result<Self, BadFile> {
        if mode <= 0o777 { Ok(Self(mode)) } else { Err(BadFile::Mode(format!("{mode:o}"))) }
    }
}

impl From<FileMode> for u32 {
    fn from(mode: FileMode) -> u32 {
        mode.0
    }
}

impl FromStr for FileMode {
    type Err = BadFile;
    fn from_str(text: &str) -> Result<Self, BadFile> {
        let octal = !text.is_empty() && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| octal && *mode <= 0o777);
        mode.map(Self).ok_or_else(|| BadFile::Mode(text.to_owned()))
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_lies_where_its_kind_does() {
        for (kind, text, want) in [
            (PayloadKind::Secret, "key", Some("/run/secrets/key")),
            (PayloadKind::Config, "app/main.conf", Some("/run/configs/app/main.conf")),
            (PayloadKind::Config, "/etc/app.conf", Some("/etc/app.conf")),
            (PayloadKind::Secret, "", None),
            (PayloadKind::Secret, "../key", None),
            (PayloadKind::Secret, "a/./b", None),
            (PayloadKind::Secret, "key/", None),
            (PayloadKind::Config, "/", None),
            (PayloadKind::Config, "//etc/app.conf", None),
            (PayloadKind::Config, "/etc//app.conf", None),
            (PayloadKind::Config, "/etc/hosts", None),
            (PayloadKind::Config, "/proc/1/mem", None),
            (PayloadKind::Config, "/run/secrets", None),
            (PayloadKind::Secret, "a\0b", None),
        ] {
            assert_eq!(FilePath::of(kind, text).ok().map(String::from).as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn modes_are_octal() {
        for (text, want) in
            [("0400", Some(0o400)), ("777", Some(0o777)), ("1777", None), ("8", None), ("+4", None), ("", None)]
        {
            assert_eq!(text.parse::<FileMode>().ok().map(FileMode::get), want, "{text:?}");
        }
        assert_eq!(FileMode::READABLE.to_string(), "0444");
    }

    #[test]
    fn a_payload_shows_nothing_of_what_it_holds() {
        assert_eq!(format!("{:?}", Content(b"hunter2"[..].into())), "7 bytes");
    }
}
