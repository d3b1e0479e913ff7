//! What images are called.

use oci_spec::distribution::Reference;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// As docker takes it: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image {name:?}: {why}; use [HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST], such as nginx:1.27")]
pub struct BadImage {
    name: String,
    why: String,
}

impl ImageName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// In full: with its registry, and the tag that is meant where none is said.
    pub fn reference(&self) -> Reference {
        // It was one when it was made.
        self.0.parse().unwrap_or_else(|_| Reference::with_tag("invalid".into(), "invalid".into(), "invalid".into()))
    }

    /// Whether it is the same image for ever.
    pub fn is_pinned(&self) -> bool {
        self.reference().digest().is_some()
    }

    /// The same name, and for ever the image that has it now.
    ///
    /// # Errors
    /// That is no digest.
    pub fn pinned(&self, digest: &str) -> Result<Self, BadImage> {
        let tagged = match self.reference().tag() {
            Some(tag) if !self.0.ends_with(&format!(":{tag}")) => format!("{}:{tag}", self.0),
            _ => self.0.clone(),
        };
        format!("{tagged}@{digest}").parse()
    }
}

impl FromStr for ImageName {
    type Err = BadImage;
    fn from_str(name: &str) -> Result<Self, BadImage> {
        match name.parse::<Reference>() {
            Ok(_) => Ok(Self(name.to_owned())),
            Err(error) => Err(BadImage { name: name.to_owned(), why: error.to_string() }),
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
        assert_eq!(pinned("nginx").reference().digest(), Some(DIGEST));
    }

    #[test]
    fn what_is_no_name_is_refused_with_what_is() {
        for bad in ["", "Nginx", "nginx:", "a b", "nginx@sha256:12", "-x", "http://host/nginx"] {
            let said = bad.parse::<ImageName>().unwrap_err().to_string();
            assert!(said.starts_with(&format!("image {bad:?}: ")) && said.ends_with("such as nginx:1.27"), "{said}");
        }
        assert!("nginx".parse::<ImageName>().unwrap().pinned("sha256:12").is_err());
    }
}
