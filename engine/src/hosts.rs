//! From where images of a registry are taken: containerd's `hosts.toml` (hosts.md in its documentation).

use crate::EngineError;
use oci_client::client::{Certificate, CertificateEncoding, ClientProtocol};
use serde::Deserialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

const FILE: &str = "hosts.toml";
/// Stands for every registry that has no directory of its own.
const DEFAULT: &str = "_default";

/// One place that is asked for images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// With its port, if it has one. None: the registry itself, by its own name.
    pub name: Option<String>,
    /// It is no mirror: what is for the registry's eyes is for it.
    pub own: bool,
    pub plain: bool,
    pub skip_verify: bool,
    /// Files with certificates in PEM.
    pub ca: Vec<PathBuf>,
    /// Whether it is asked which digest a tag has.
    pub resolves: bool,
}

impl Host {
    fn of_registry() -> Self {
        Self { name: None, own: true, plain: false, skip_verify: false, ca: Vec::new(), resolves: true }
    }

    pub fn protocol(&self) -> ClientProtocol {
        if self.plain { ClientProtocol::Http } else { ClientProtocol::Https }
    }

    /// # Errors
    /// A file that cannot be read.
    pub fn certificates(&self) -> Result<Vec<Certificate>, EngineError> {
        let read = |path: &PathBuf| {
            let data = fs::read(path).map_err(|e| EngineError::Hosts { path: path.clone(), why: e.to_string() })?;
            Ok(Certificate { encoding: CertificateEncoding::Pem, data })
        };
        self.ca.iter().map(read).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Option<String>,
    capabilities: Option<Vec<String>>,
    #[serde(default)]
    ca: Files,
    #[serde(default)]
    skip_verify: bool,
    /// In the order of the file.
    #[serde(default)]
    host: toml::Table,
}

#[derive(Default, Deserialize)]
struct Entry {
    capabilities: Option<Vec<String>>,
    #[serde(default)]
    ca: Files,
    #[serde(default)]
    skip_verify: bool,
}

#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Files {
    #[default]
    None,
    One(PathBuf),
    Many(Vec<PathBuf>),
}

/// In the order in which they are asked: mirrors, and the registry itself at last.
///
/// # Errors
/// A file that cannot be read, or says something that is not understood: it is not guessed at where images come from.
pub fn hosts(dir: &Path, registry: &str) -> Result<Vec<Host>, EngineError> {
    // containerd has both, since some file systems have no colons in names.
    let plain = registry.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
    for name in [Some(registry), plain.as_deref(), Some(DEFAULT)].into_iter().flatten() {
        let path = dir.join(name).join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => return parse(&text, &dir.join(name)).map_err(|why| EngineError::Hosts { path, why }),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(e) => return Err(EngineError::Hosts { path, why: e.to_string() }),
        }
    }
    Ok(vec![Host::of_registry()])
}

fn parse(text: &str, dir: &Path) -> Result<Vec<Host>, String> {
    let file: File = toml::from_str(text).map_err(|e| e.message().to_owned())?;
    let mut hosts = Vec::new();
    for (url, entry) in file.host {
        let known = ["capabilities", "ca", "skip_verify"];
        if let Some(other) = entry.as_table().and_then(|t| t.keys().find(|key| !known.contains(&key.as_str()))) {
            return Err(format!("host.{url:?}.{other}: only {} are understood", known.join(", ")));
        }
        let entry = Entry::deserialize(entry).map_err(|e| format!("host.{url:?}: {}", e.message()))?;
        hosts.extend(host(&url, entry, dir)?.map(|mirror| Host { own: false, ..mirror }));
    }
    let own = Entry { capabilities: file.capabilities, ca: file.ca, skip_verify: file.skip_verify };
    match &file.server {
        Some(server) => hosts.extend(host(server, own, dir)?),
        None => hosts.push(host_entry(Host::of_registry(), own, dir)),
    }
    Ok(hosts)
}

fn host(url: &str, entry: Entry, dir: &Path) -> Result<Option<Host>, String> {
    let (plain, rest) = match url.split_once("://") {
        Some(("https", rest)) => (false, rest),
        Some(("http", rest)) => (true, rest),
        None => (false, url),
        Some(_) => return Err(format!("{url:?}: a host is https://HOST, or http://HOST without encryption")),
    };
    let rest = rest.trim_end_matches('/').trim_end_matches("/v2");
    if rest.is_empty() || rest.contains('/') {
        return Err(format!("{url:?}: a host has no path"));
    }
    let pulls = entry.capabilities.as_ref().is_none_or(|all| all.iter().any(|one| one == "pull"));
    let host = Host { name: Some(rest.to_owned()), plain, ..Host::of_registry() };
    Ok(pulls.then(|| host_entry(host, entry, dir)))
}

fn host_entry(host: Host, entry: Entry, dir: &Path) -> Host {
    let ca = match entry.ca {
        Files::None => Vec::new(),
        Files::One(file) => vec![file],
        Files::Many(files) => files,
    };
    Host {
        skip_verify: entry.skip_verify,
        // Those that are not absolute are beside the file.
        ca: ca.into_iter().map(|file| dir.join(file)).collect(),
        resolves: entry.capabilities.is_none_or(|all| all.iter().any(|one| one == "resolve")),
        ..host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_first_and_in_order() {
        let text = r#"
            server = "https://registry.example"
            ca = "/etc/ca.pem"

            [host."http://zebra:5000"]
            capabilities = ["pull", "resolve"]

            [host."https://apple.example/v2/"]
            capabilities = ["pull"]
            ca = ["a.pem", "b.pem"]
            skip_verify = true

            [host."https://only-pushed-to"]
            capabilities = ["push"]
        "#;
        let hosts = parse(text, Path::new("/d")).unwrap();
        let names: Vec<_> = hosts.iter().map(|h| h.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["zebra:5000", "apple.example", "registry.example"]);
        assert_eq!(hosts.iter().map(|h| h.own).collect::<Vec<_>>(), [false, false, true]);
        assert!(hosts[0].plain && hosts[0].resolves && hosts[0].ca.is_empty());
        assert!(!hosts[1].plain && !hosts[1].resolves && hosts[1].skip_verify);
        assert_eq!(hosts[1].ca, [PathBuf::from("/d/a.pem"), "/d/b.pem".into()]);
        assert_eq!(hosts[2].ca, [PathBuf::from("/etc/ca.pem")]);
    }

    #[test]
    fn without_a_file_the_registry_is_asked_encrypted() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(hosts(dir.path(), "registry.example").unwrap(), [Host::of_registry()]);
        fs::create_dir(dir.path().join(DEFAULT)).unwrap();
        fs::write(dir.path().join(DEFAULT).join(FILE), "server = \"http://cache\"").unwrap();
        assert!(hosts(dir.path(), "registry.example").unwrap()[0].plain);
    }

    #[test]
    fn what_is_not_understood_is_not_guessed_at() {
        for (text, want) in [
            ("servr = \"x\"", "unknown field"),
            ("server = \"ftp://x\"", "a host is https://HOST"),
            ("server = \"https://x/path\"", "a host has no path"),
            ("[host.\"https://x\"]\noverride_path = true", "only capabilities, ca, skip_verify are understood"),
            ("[host.\"https://x\"]\nskip_verify = 1", "host.\"https://x\""),
        ] {
            let said = parse(text, Path::new("/d")).unwrap_err();
            assert!(said.contains(want), "{text}: {said}");
        }
    }
}
