//! What a program sees at paths of its own.

use super::{BadContainer, bytes};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Something that the program sees at a path of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub source: MountSource,
    /// Absolute. May hold templates, as the source of a bind mount may.
    pub target: String,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountSource {
    /// An absolute path of the host, which must exist there.
    Bind(String),
    Tmpfs {
        /// Bytes; zero is the kernel's own limit, half of the memory.
        size: u64,
        /// Permissions of its root.
        mode: u32,
    },
}

impl MountSource {
    /// docker's: world-writable, as /tmp.
    const TMPFS_MODE: u32 = 0o1777;
}

impl FromStr for Mount {
    type Err = BadContainer;
    /// docker's: `type=bind,source=PATH,target=PATH[,readonly]`, `type=tmpfs,target=PATH[,tmpfs-size=BYTES][,tmpfs-mode=MODE]`.
    fn from_str(text: &str) -> Result<Self, BadContainer> {
        let bad = |what| BadContainer::Mount { text: text.to_owned(), what };
        let (mut kind, mut source, mut target, mut read_only) = (None, None, None, false);
        let (mut size, mut mode) = (None, None);
        for field in text.split(',') {
            let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
            match (key, value) {
                ("type", Some(value)) => kind = Some(value),
                ("source" | "src", Some(value)) => source = Some(value),
                ("target" | "dst" | "destination", Some(value)) => target = Some(value),
                ("readonly" | "ro", None | Some("true" | "1")) => read_only = true,
                ("readonly" | "ro", Some("false" | "0")) => read_only = false,
                ("tmpfs-size", Some(value)) => size = Some(value),
                ("tmpfs-mode", Some(value)) => mode = Some(value),
                _ => return Err(bad("use type, source, target, readonly, tmpfs-size and tmpfs-mode as fields")),
            }
        }
        let target = target.ok_or_else(|| bad("target=PATH is missing"))?.to_owned();
        let only_tmpfs = size.is_some() || mode.is_some();
        let source = match (kind, source) {
            (Some("bind"), Some(_)) if only_tmpfs => return Err(bad("tmpfs-size and tmpfs-mode are for type=tmpfs")),
            (Some("bind"), Some(path)) => MountSource::Bind(path.to_owned()),
            (Some("bind"), None) => return Err(bad("source=PATH is missing")),
            (Some("tmpfs"), Some(_)) => return Err(bad("type=tmpfs has no source")),
            (Some("tmpfs"), None) => MountSource::Tmpfs {
                size: match size {
                    Some(text) => bytes(text).ok_or_else(|| bad("tmpfs-size takes bytes, such as 64m"))?,
                    None => 0,
                },
                mode: match mode {
                    Some(digits) => {
                        let mode = u32::from_str_radix(digits, 8).ok().filter(|m| *m <= 0o7777);
                        mode.ok_or_else(|| bad("tmpfs-mode takes octal digits, such as 0700"))?
                    }
                    None => MountSource::TMPFS_MODE,
                },
            },
            (Some("volume") | None, _) => {
                return Err(bad("volumes are not supported yet: use type=bind or type=tmpfs"));
            }
            (Some(_), _) => return Err(bad("use type=bind or type=tmpfs")),
        };
        let mount = Self { source, target, read_only };
        mount.check()?;
        Ok(mount)
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            MountSource::Bind(source) => write!(f, "type=bind,source={source},target={}", self.target)?,
            MountSource::Tmpfs { size, mode } => {
                write!(f, "type=tmpfs,target={},tmpfs-mode={mode:04o}", self.target)?;
                if *size > 0 {
                    write!(f, ",tmpfs-size={size}")?;
                }
            }
        }
        if self.read_only { f.write_str(",readonly") } else { Ok(()) }
    }
}

impl Mount {
    pub(super) fn check(&self) -> Result<(), BadContainer> {
        let bad = |what| BadContainer::Mount { text: self.to_string(), what };
        let absolute = |path: &str| path.starts_with('/') && !path.split('/').any(|part| part == "..");
        if !absolute(&self.target) || self.target.trim_matches('/').is_empty() {
            return Err(bad("the target is an absolute path below /, without .. in it"));
        }
        match &self.source {
            MountSource::Bind(path) if !absolute(path) => Err(bad("the source is an absolute path, without .. in it")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Container;

    #[test]
    fn what_is_read_is_written_alike() {
        for text in [
            "type=bind,source=/srv,target=/data",
            "type=bind,source=/srv/{{.Task.Slot}},target=/data,readonly",
            "type=tmpfs,target=/tmp,tmpfs-mode=1777",
            "type=tmpfs,target=/tmp,tmpfs-mode=0700,tmpfs-size=65536",
        ] {
            assert_eq!(text.parse::<Mount>().map(|m| m.to_string()).as_deref(), Ok(text));
        }
        let short = "type=tmpfs,dst=/tmp,tmpfs-size=64k".parse::<Mount>().map(|m| m.to_string());
        assert_eq!(short.as_deref(), Ok("type=tmpfs,target=/tmp,tmpfs-mode=1777,tmpfs-size=65536"));
    }

    #[test]
    fn a_mount_that_cannot_be_says_why() {
        for (text, want) in [
            ("type=bind,target=/a", "source=PATH is missing"),
            ("type=bind,source=/a", "target=PATH is missing"),
            ("type=bind,source=a,target=/b", "the source is an absolute path, without .. in it"),
            ("type=bind,source=/a/../b,target=/b", "the source is an absolute path, without .. in it"),
            ("type=bind,source=/a,target=/", "the target is an absolute path below /, without .. in it"),
            ("type=bind,source=/a,target=/b,tmpfs-size=1", "tmpfs-size and tmpfs-mode are for type=tmpfs"),
            ("type=tmpfs,source=/a,target=/b", "type=tmpfs has no source"),
            ("type=tmpfs,target=/b,tmpfs-size=x", "tmpfs-size takes bytes, such as 64m"),
            ("type=tmpfs,target=/b,tmpfs-mode=9", "tmpfs-mode takes octal digits, such as 0700"),
            ("type=volume,source=v,target=/b", "volumes are not supported yet: use type=bind or type=tmpfs"),
            ("type=npipe,target=/b", "use type=bind or type=tmpfs"),
            (
                "type=bind,source=/a,target=/b,x=1",
                "use type, source, target, readonly, tmpfs-size and tmpfs-mode as fields",
            ),
        ] {
            let said = text.parse::<Mount>().map_err(|e| e.to_string());
            assert!(said.as_ref().is_err_and(|e| e.ends_with(want)), "{text}: {said:?}");
        }
        let mount: Mount = "type=tmpfs,target=/a".parse().unwrap();
        let twice =
            Container { mounts: vec![mount.clone(), Mount { target: "/a/".into(), ..mount }], ..Default::default() };
        assert_eq!(twice.check(), Err(BadContainer::MountTwice("/a/".into())));
    }
}
