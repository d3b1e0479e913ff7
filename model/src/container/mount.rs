//! What a program sees at paths of its own.

use super::{BadContainer, bytes};
use crate::{
    template::{self, Values, render},
    volume::VolumeName,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// Something that the program sees at a path of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub source: MountSource,
    /// Absolute. May hold templates, as what the source names may.
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
    /// The volume of this name ([`VolumeName`], once its templates are filled in) on the task's host. None: one without a name,
    /// which goes with the task.
    Volume(Option<String>),
}

impl MountSource {
    /// docker's: world-writable, as /tmp.
    const TMPFS_MODE: u32 = 0o1777;

    /// The path or name in it.
    pub fn text(&self) -> Option<&str> {
        match self {
            MountSource::Bind(text) | MountSource::Volume(Some(text)) => Some(text),
            MountSource::Volume(None) | MountSource::Tmpfs { .. } => None,
        }
    }

    pub fn text_mut(&mut self) -> Option<&mut String> {
        match self {
            MountSource::Bind(text) | MountSource::Volume(Some(text)) => Some(text),
            MountSource::Volume(None) | MountSource::Tmpfs { .. } => None,
        }
    }
}

impl FromStr for Mount {
    type Err = BadContainer;
    /// docker's: `[type=volume,][source=NAME,]target=PATH[,readonly]`, `type=bind,source=PATH,target=PATH[,readonly]`,
    /// `type=tmpfs,target=PATH[,tmpfs-size=BYTES][,tmpfs-mode=MODE]`.
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
            (Some("bind" | "volume") | None, _) if only_tmpfs => {
                return Err(bad("tmpfs-size and tmpfs-mode are for type=tmpfs"));
            }
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
            (Some("volume") | None, name) => MountSource::Volume(name.map(str::to_owned)),
            (Some(_), _) => return Err(bad("use type=volume, type=bind or type=tmpfs")),
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
            MountSource::Volume(Some(name)) => write!(f, "type=volume,source={name},target={}", self.target)?,
            MountSource::Volume(None) => write!(f, "type=volume,target={}", self.target)?,
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
    /// docker's short form: `PATH:TARGET[:ro]` is a bind mount, `NAME:TARGET[:ro]` a volume, `TARGET` a volume without a name.
    ///
    /// # Errors
    /// The text has another form, or a part of it cannot be.
    pub fn short(text: &str) -> Result<Self, BadContainer> {
        let bad = |what| BadContainer::Mount { text: text.to_owned(), what };
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, options) = match *parts.as_slice() {
            [target] => (None, target, "rw"),
            [source, target] => (Some(source), target, "rw"),
            [source, target, options] => (Some(source), target, options),
            _ => return Err(bad("use [PATH|NAME:]TARGET[:ro]")),
        };
        let source = match source {
            Some(path) if path.starts_with('/') => MountSource::Bind(path.to_owned()),
            Some(path) if path.contains('/') => {
                return Err(bad("the first part is an absolute path or the name of a volume"));
            }
            name => MountSource::Volume(name.map(str::to_owned)),
        };
        let read_only = match options {
            "ro" => true,
            "rw" => false,
            _ => return Err(bad("use ro or rw as the last part")),
        };
        let mount = Self { source, target: target.to_owned(), read_only };
        mount.check()?;
        Ok(mount)
    }

    pub(super) fn check(&self) -> Result<(), BadContainer> {
        let bad = |what| BadContainer::Mount { text: self.to_string(), what };
        let absolute = |path: &str| path.starts_with('/') && !path.split('/').any(|part| part == "..");
        if !absolute(&self.target) || self.target.trim_matches('/').is_empty() {
            return Err(bad("the target is an absolute path below /, without .. in it"));
        }
        match &self.source {
            MountSource::Bind(path) if !absolute(path) => Err(bad("the source is an absolute path, without .. in it")),
            MountSource::Volume(Some(name)) => {
                template::check(name)?;
                let each = || "x".to_owned();
                let any = Values {
                    service_id: each(),
                    service_name: each(),
                    node_id: each(),
                    node_hostname: each(),
                    task_id: each(),
                    task_name: each(),
                    task_slot: each(),
                };
                // What it is called must be possible whatever its templates stand for.
                render(name, &any).parse::<VolumeName>()?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether all of them can be, side by side.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn check_all(mounts: &[Mount]) -> Result<(), BadContainer> {
        let mut targets = BTreeSet::new();
        for mount in mounts {
            mount.check()?;
            template::check(&mount.target)?;
            mount.source.text().map_or(Ok(()), template::check)?;
            if !targets.insert(mount.target.trim_end_matches('/')) {
                return Err(BadContainer::MountTwice(mount.target.clone()));
            }
        }
        Ok(())
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
            "type=volume,source=data,target=/data",
            "type=volume,source={{.Service.Name}}-{{.Task.Slot}},target=/data,readonly",
            "type=volume,target=/data",
        ] {
            assert_eq!(text.parse::<Mount>().map(|m| m.to_string()).as_deref(), Ok(text));
        }
        let short = "type=tmpfs,dst=/tmp,tmpfs-size=64k".parse::<Mount>().map(|m| m.to_string());
        assert_eq!(short.as_deref(), Ok("type=tmpfs,target=/tmp,tmpfs-mode=1777,tmpfs-size=65536"));
        let volume = "source=data,target=/data".parse::<Mount>().map(|m| m.to_string());
        assert_eq!(volume.as_deref(), Ok("type=volume,source=data,target=/data"));
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
            ("type=volume,target=/b,tmpfs-size=1", "tmpfs-size and tmpfs-mode are for type=tmpfs"),
            ("type=volume,source=,target=/b", "beginning with a letter or digit"),
            ("type=volume,source=a/b,target=/b", "beginning with a letter or digit"),
            ("type=volume,source={{.Task.Slot}}/b,target=/b", "beginning with a letter or digit"),
            ("type=volume,source=a{{.Task.Slot,target=/b", "where two braces are meant"),
            ("type=npipe,target=/b", "use type=volume, type=bind or type=tmpfs"),
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

    #[test]
    fn the_short_form_says_by_its_first_part_what_it_is() {
        for (text, want) in [
            ("/srv:/data", "type=bind,source=/srv,target=/data"),
            ("/srv:/data:ro", "type=bind,source=/srv,target=/data,readonly"),
            ("data:/data", "type=volume,source=data,target=/data"),
            ("d{{.Task.Slot}}:/data:rw", "type=volume,source=d{{.Task.Slot}},target=/data"),
            ("/data", "type=volume,target=/data"),
        ] {
            assert_eq!(Mount::short(text).map(|m| m.to_string()).as_deref(), Ok(want));
        }
        for (text, want) in [
            ("data", "the target is an absolute path below /, without .. in it"),
            ("/data:ro", "the target is an absolute path below /, without .. in it"),
            ("./srv:/data", "the first part is an absolute path or the name of a volume"),
            ("-d:/data", "beginning with a letter or digit"),
            (":/data", "beginning with a letter or digit"),
            ("d:/data:z", "use ro or rw as the last part"),
            ("d:/data:ro:x", "use [PATH|NAME:]TARGET[:ro]"),
        ] {
            let said = Mount::short(text).map_err(|e| e.to_string());
            assert!(said.as_ref().is_err_and(|e| e.ends_with(want)), "{text}: {said:?}");
        }
    }
}
