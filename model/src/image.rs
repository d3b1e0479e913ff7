//! What images are called.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// As docker takes it: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

/// What a name says, and what is meant where it says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a> {
    /// With its port, if it has one.
    pub registry: &'a str,
    /// Of docker.io, and without a slash: one of those that docker keeps below `library`.
    pub library: bool,
    pub path: &'a str,
    pub tag: Option<&'a str>,
    pub digest: Option<&'a str>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image {name:?}: {why}; use [HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST], such as nginx:1.27")]
pub struct BadImage {
    name: String,
    why: &'static str,
}

const DOCKER: &str = "docker.io";
/// Hosts of docker.io, by which it is called, too.
const OF_DOCKER: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];
/// Below which docker.io keeps what has no slash.
const LIBRARY: &str = "library/";
/// Bytes of a path, and of a tag.
const LONGEST: (usize, usize) = (255, 128);

/// By the grammar of docker's references (distribution/reference).
fn parts(name: &str) -> Result<Parts<'_>, &'static str> {
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (name, None),
    };
    let is_hex = |hex: &str| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if digest.is_some_and(|digest| !digest.strip_prefix("sha256:").is_some_and(is_hex)) {
        return Err("its digest is no sha256: and 64 hexadecimal digits");
    }
    let is_host = |first: &str| first.contains(['.', ':']) || first == "localhost";
    let (registry, rest) = match rest.split_once('/') {
        Some((first, rest)) if OF_DOCKER.contains(&first) => (DOCKER, rest),
        Some((first, rest)) if is_host(first) => (first, rest),
        _ => (DOCKER, rest),
    };
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let bracketed = |host: &str| host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).map(str::to_owned);
    let is_v6 = bracketed(host).is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok());
    let is_label = |label: &str| {
        let edges = !label.starts_with('-') && !label.ends_with('-');
        !label.is_empty() && edges && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if !(is_v6 || host.split('.').all(is_label)) || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err("that is no HOST or HOST:PORT");
    }
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let is_tag = |tag: &str| {
        let first = tag.bytes().next().is_some_and(is_word);
        first && tag.len() <= LONGEST.1 && tag.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("its tag is none");
    }
    if path.len() > LONGEST.0 || !path.split('/').all(is_component) {
        return Err("a name has lower-case letters, digits, and . _ - between them");
    }
    Ok(Parts { registry, library: registry == DOCKER && !path.contains('/'), path, tag, digest })
}

/// Letters and digits, with one `.`, one or two `_`, or some `-` between them.
fn is_component(text: &str) -> bool {
    let between = |separator: &str| {
        separator.is_empty() || matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
    };
    let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let edges = text.starts_with(is_letter) && text.ends_with(is_letter);
    edges && text.split(is_letter).all(between)
}

impl Parts<'_> {
    /// As docker shows it: without its tag and digest, and without what docker.io stands for.
    pub fn repository(&self) -> String {
        match self.path.strip_prefix(LIBRARY).filter(|rest| !rest.contains('/')) {
            _ if self.registry != DOCKER => format!("{}/{}", self.registry, self.path),
            Some(rest) => rest.to_owned(),
            None => self.path.to_owned(),
        }
    }

    /// Whether it is called by its digest alone, so that another image never gets its name.
    pub fn is_dangling(&self) -> bool {
        self.tag.is_none() && self.digest.is_some()
    }
}

impl ImageName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn parts(&self) -> Parts<'_> {
        // It was one when it was made.
        parts(&self.0).unwrap_or(Parts { registry: DOCKER, library: true, path: &self.0, tag: None, digest: None })
    }

    /// Whether it is the same image for ever.
    pub fn is_pinned(&self) -> bool {
        self.parts().digest.is_some()
    }

    /// The same name, and for ever the image that has it now.
    ///
    /// # Errors
    /// That is no digest.
    pub fn pinned(&self, digest: &str) -> Result<Self, BadImage> {
        let tag = if self.parts().tag.is_some() { "" } else { ":latest" };
        format!("{}{tag}@{digest}", self.0).parse()
    }
}

impl FromStr for ImageName {
    type Err = BadImage;
    fn from_str(name: &str) -> Result<Self, BadImage> {
        match parts(name) {
            Ok(_) => Ok(Self(name.to_owned())),
            Err(why) => Err(BadImage { name: name.to_owned(), why }),
        }
    }
}

impl TryFrom<String> for ImageName {
    type Error = BadImage;
    fn try_from(name: String) -> Result<Self, BadImage> {
        name.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    #[test]
    fn a_pinned_name_says_the_tag_too() {
        let pinned = |name: &str| name.parse::<ImageName>().unwrap().pinned(DIGEST).unwrap();
        assert_eq!(pinned("nginx").as_str(), format!("nginx:latest@{DIGEST}"));
        assert_eq!(pinned("host:5000/a/nginx").as_str(), format!("host:5000/a/nginx:latest@{DIGEST}"));
        assert_eq!(pinned("host:5000/nginx:1.27").as_str(), format!("host:5000/nginx:1.27@{DIGEST}"));
        assert!(pinned("nginx").is_pinned() && !"nginx:1".parse::<ImageName>().unwrap().is_pinned());
        assert_eq!(pinned("nginx").parts().digest, Some(DIGEST));
    }

    #[test]
    fn what_is_not_said_is_docker_hubs() {
        let said = |name: &'static str| {
            let p = parts(name).unwrap();
            (p.registry, p.library, p.path, p.tag)
        };
        assert_eq!(said("nginx"), ("docker.io", true, "nginx", None));
        assert_eq!(said("a/b:1.2-x"), ("docker.io", false, "a/b", Some("1.2-x")));
        assert_eq!(said("localhost/x"), ("localhost", false, "x", None));
        assert_eq!(said("host:5000/a__b/c--d:t"), ("host:5000", false, "a__b/c--d", Some("t")));
        assert_eq!(said("[fd00::1]:5000/x"), ("[fd00::1]:5000", false, "x", None));
        assert_eq!(said("registry.example/x"), ("registry.example", false, "x", None));
        for host in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
            let named = |path: &str| format!("{host}/{path}");
            assert_eq!(parts(&named("nginx:1")), parts("nginx:1"), "{host}");
            assert_eq!(parts(&named("a/b")), parts("a/b"), "{host}");
        }
        assert!(parts("registry-1.docker.io.example/x").is_ok_and(|p| p.registry == "registry-1.docker.io.example"));
    }

    #[test]
    fn a_repository_is_shown_as_docker_does() {
        for (name, want) in [
            ("nginx:1", "nginx"),
            ("docker.io/library/nginx:1", "nginx"),
            ("index.docker.io/a/b", "a/b"),
            ("library/a/b", "library/a/b"),
            ("host:5000/library/x:2", "host:5000/library/x"),
        ] {
            assert_eq!(parts(name).unwrap().repository(), want);
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_what_is() {
        for bad in [
            "",
            "Nginx",
            "nginx:",
            "a b",
            "nginx@sha256:12",
            "-x",
            "http://host/nginx",
            "a..b",
            "a/",
            "/a",
            "a___b",
            "host:x/a",
            "-h.x/a",
            "nginx@md5:1",
        ] {
            let said = bad.parse::<ImageName>().unwrap_err().to_string();
            assert!(said.starts_with(&format!("image {bad:?}: ")) && said.ends_with("such as nginx:1.27"), "{said}");
        }
        assert!("nginx".parse::<ImageName>().unwrap().pinned("sha256:12").is_err());
    }
}
