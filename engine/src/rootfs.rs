//! Looks into the file system of an image: only there is known who its users are, and what a volume begins with.

use crate::{EngineError, api::types::Mount, spec::Ids};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::stat::{Mode as FileMode, umask},
};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Bytes of options that mount(2) takes; it cuts off the rest, and does not say so.
const PAGE: usize = 4096;
/// No list of users is larger.
const LARGEST: u64 = 4 << 20;

/// Whom a user (`NAME[:GROUP]`, or numbers) and further groups are there.
pub(crate) async fn ids(mounts: Vec<Mount>, user: Option<String>, groups: Vec<String>) -> Result<Ids, EngineError> {
    apart(move || {
        let [passwd, group] = read(&show(&mounts)?)?;
        lookup(&passwd, &group, user.as_deref().unwrap_or("0"), &groups)
    })
    .await
}

/// Works in a thread of its own, which alone sees what it mounts, and with which that is gone, however it ends.
pub(crate) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    let work = std::thread::spawn(work);
    let joined = tokio::task::spawn_blocking(move || work.join()).await.map_err(io::Error::other)?;
    match joined.map_err(|_| io::Error::other("looking into it failed")).map_err(EngineError::Rootfs)? {
        Err(EngineError::Host(error)) => Err(EngineError::Rootfs(error)),
        other => other,
    }
}

/// The root of the image, in such a thread.
pub(crate) fn show(mounts: &[Mount]) -> io::Result<File> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    // Whatever lies there is not seen by this thread for a moment.
    let place = Path::new("/proc");
    // What is made here has the modes that it is made with.
    umask(FileMode::empty());
    for one in mounts {
        let (flags, data) = options(&one.options);
        let (from, data) = nearer(data);
        if let Some(from) = from {
            // Of this thread alone.
            std::env::set_current_dir(from)?;
        }
        if data.len() >= PAGE {
            return Err(io::Error::other("it has too many layers"));
        }
        let flags = flags | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount(Some(one.source.as_str()), place, Some(one.r#type.as_str()), flags, Some(data.as_str()))?;
    }
    File::open(place)
}

fn read(root: &File) -> io::Result<[String; 2]> {
    let file = |path: &str| -> io::Result<String> {
        // A link of the image leads nowhere outside it.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
        match opened {
            Err(rustix::io::Errno::NOENT) => Ok(String::new()),
            Err(e) => Err(e.into()),
            Ok(file) => {
                let file = File::from(file);
                // Whatever else an image has there must not be waited for.
                if !file.metadata()?.is_file() {
                    return Err(io::Error::other(format!("/{path} is no file")));
                }
                let mut text = Vec::new();
                file.take(LARGEST).read_to_end(&mut text)?;
                Ok(String::from_utf8_lossy(&text).into_owned())
            }
        }
    };
    Ok([file("etc/passwd")?, file("etc/group")?])
}

/// What mount(2) takes as flags, and what it takes as text.
fn options(all: &[String]) -> (MsFlags, String) {
    let mut flags = MsFlags::MS_RDONLY;
    let mut data = Vec::new();
    for option in all {
        match option.as_str() {
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            "ro" | "rw" => {}
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

/// Layers by where they are from a directory that all are in, as containerd mounts them: a layer takes some ten bytes then.
fn nearer(data: String) -> (Option<PathBuf>, String) {
    const LAYERS: &str = "lowerdir=";
    let layers = data.split(',').find_map(|option| option.strip_prefix(LAYERS)).unwrap_or_default();
    let paths: Vec<&Path> = layers.split(':').map(Path::new).collect();
    let shared = |dir: &&Path| paths.iter().all(|path| path.starts_with(dir));
    let above = paths[0].ancestors().skip(1).find(shared).filter(|dir| dir.is_absolute());
    let Some(above) = above.filter(|_| data.len() >= PAGE) else { return (None, data) };
    let near: Vec<_> =
        paths.iter().filter_map(|path| Some(path.strip_prefix(above).ok()?.display().to_string())).collect();
    let near = data.replacen(layers, &near.join(":"), 1);
    (Some(above.to_owned()), near)
}

/// The fields of a line, if there are enough (passwd(5), group(5)).
fn lines(text: &str, least: usize) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.trim().split(':').collect::<Vec<_>>()).filter(move |fields| fields.len() >= least)
}

fn lookup(passwd: &str, group: &str, user: &str, groups: &[String]) -> Result<Ids, EngineError> {
    let gid = |name: &str| -> Result<u32, EngineError> {
        if let Ok(number) = name.parse() {
            return Ok(number);
        }
        let found = lines(group, 3).find(|fields| fields[0] == name).and_then(|fields| fields[2].parse().ok());
        found.ok_or_else(|| EngineError::User { user: user.into(), missing: format!("group {name:?}") })
    };
    let (name, own) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
    // As docker: nothing after the colon is as no colon.
    let own = own.filter(|group| !group.is_empty());
    let number: Option<u32> = name.parse().ok();
    let known = lines(passwd, 6).find(|fields| match number {
        Some(number) => fields[2].parse() == Ok(number),
        None => fields[0] == name,
    });
    let known = known.and_then(|fields| {
        let (uid, gid) = (fields[2].parse().ok()?, fields[3].parse().ok()?);
        Some((fields[0].to_owned(), Ids { uid, gid, groups: vec![], home: fields[5].to_owned() }))
    });
    let mut ids = match (known, number) {
        (Some((name, known)), _) => {
            let in_it = |fields: &Vec<&str>| fields[3].split(',').any(|member| member == name);
            let more = lines(group, 4).filter(|fields| own.is_none() && in_it(fields));
            Ids { groups: more.filter_map(|fields| fields[2].parse().ok()).collect(), ..known }
        }
        (None, Some(uid)) => Ids { uid, gid: 0, groups: vec![], home: "/".into() },
        (None, None) => return Err(EngineError::User { user: user.into(), missing: format!("user {name:?}") }),
    };
    if let Some(own) = own {
        ids.gid = gid(own)?;
    }
    for name in groups {
        ids.groups.push(gid(name)?);
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var/www:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:\nadm:x:4:www,other\nvideo:x:44:\n";

    fn found(user: &str, groups: &[&str]) -> Result<(u32, u32, Vec<u32>, String), String> {
        let groups: Vec<_> = groups.iter().map(|g| (*g).to_owned()).collect();
        let ids = lookup(PASSWD, GROUP, user, &groups).map_err(|e| e.to_string())?;
        Ok((ids.uid, ids.gid, ids.groups, ids.home))
    }

    #[test]
    fn layers_are_named_from_nearby_where_there_are_many() {
        let dir = "/var/lib/containerd/snapshots";
        let few = format!("lowerdir={dir}/1/fs:{dir}/2/fs,index=off");
        assert_eq!(nearer(few.clone()), (None, few));
        assert_eq!(nearer("mode=755".into()), (None, "mode=755".into()));
        let all: Vec<_> = (1..=200).map(|n| format!("{dir}/{n}/fs")).collect();
        let (from, near) = nearer(format!("workdir={dir}/0/work,lowerdir={},index=off", all.join(":")));
        assert_eq!(from.as_deref(), Some(Path::new(dir)));
        assert!(near.starts_with(&format!("workdir={dir}/0/work,lowerdir=1/fs:2/fs:")), "{near}");
        assert!(near.ends_with(":200/fs,index=off") && near.len() < PAGE, "{near}");
    }

    #[test]
    fn users_are_those_of_the_image() {
        assert_eq!(found("0", &["video", "9"]).unwrap(), (0, 0, vec![44, 9], "/root".into()));
        assert_eq!(found("www", &[]).unwrap(), (33, 33, vec![4], "/var/www".into()));
        assert_eq!(found("33", &[]).unwrap(), (33, 33, vec![4], "/var/www".into()));
        assert_eq!(found("www:video", &[]).unwrap(), (33, 44, vec![], "/var/www".into()));
        assert_eq!(found("www:", &[]).unwrap().2, [4]);
        assert_eq!(found("4242", &[]).unwrap(), (4242, 0, vec![], "/".into()));
        assert_eq!(found("nobody", &[]).unwrap_err(), "user \"nobody\": the image has no user \"nobody\"");
        assert_eq!(found("www:x", &[]).unwrap_err(), "user \"www:x\": the image has no group \"x\"");
    }
}
