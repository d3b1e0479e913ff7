//! Images of this host: which is meant, who uses it, and what may be removed.

use super::{OperationError, Operations, Result};
use crate::agent::Picture;
use heddle_engine::{
    image::reference,
    store::{Alone, Stored},
};
use heddle_model::{TaskId, find::FindError, image::ImageName};
use std::collections::{BTreeMap, BTreeSet};

/// That somebody needs an image.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Use {
    /// As containerd calls it.
    image: String,
    by: String,
    /// It would fail without it.
    begins: bool,
}

/// The digits of a digest, which are the id of its image.
fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// Those that are meant, at least one and all of one digest: by name, by a name whose digest is left out, or by an id or its beginning.
fn find<'a>(all: &'a [Stored], text: &str) -> Result<Vec<&'a Stored>> {
    let none = || FindError::None { kind: "image", reference: text.to_owned() };
    if let Ok(name) = text.parse::<ImageName>() {
        let whole = reference(&name).whole();
        if let Some(exact) = all.iter().find(|image| image.name == whole) {
            return Ok(vec![exact]);
        }
        let pinned: Vec<_> = all.iter().filter(|i| i.name.split_once('@').is_some_and(|(n, _)| n == whole)).collect();
        match pinned.as_slice() {
            [] => {}
            [_] => return Ok(pinned),
            [_, ..] => return Err(several(text, &pinned)),
        }
    }
    let begins = hex(text);
    let found: Vec<_> =
        all.iter().filter(|image| !begins.is_empty() && hex(&image.digest).starts_with(begins)).collect();
    let digests: BTreeSet<_> = found.iter().map(|image| &image.digest).collect();
    match digests.len() {
        0 => Err(none().into()),
        1 => Ok(found),
        count => Err(FindError::Many { kind: "image", reference: text.to_owned(), count }.into()),
    }
}

fn several(text: &str, found: &[&Stored]) -> OperationError {
    let names: Vec<_> = found.iter().map(|image| image.name.as_str()).collect();
    OperationError::ImageNames { reference: text.to_owned(), names: names.join(", ") }
}

/// By containers, by what is being made a container of, by tasks that have yet to begin, and by workloads, which may be started again.
fn uses(containers: &[(String, String)], preparing: &[(TaskId, String)], picture: &Picture) -> Vec<Use> {
    let task = |id: &str| {
        let known = picture.jobs.iter().find(|(known, _)| known.as_str() == id);
        known.map_or_else(|| format!("container {id}"), |(_, seen)| seen.job.described())
    };
    let begin = preparing.iter().map(|(id, image)| (image.clone(), task(id.as_str()), true));
    let run = containers.iter().map(|(id, image)| (image.clone(), task(id), false));
    let wanted = picture.jobs.iter().filter(|(_, seen)| seen.may_run());
    let wanted = wanted.filter_map(|(id, seen)| {
        let image = seen.job.image()?;
        Some((reference(&image.image).whole(), task(id.as_str()), false))
    });
    begin.chain(run).chain(wanted).map(|(image, by, begins)| Use { image, by, begins }).collect()
}

/// Why an image is not to be removed. What only begins to be made of it is never left without.
fn refusal(image: &str, uses: &[Use], force: bool) -> Option<OperationError> {
    let of = || uses.iter().filter(|u| u.image == image);
    let image = image.to_owned();
    if let Some(needs) = of().find(|u| u.begins) {
        return Some(OperationError::ImageNeeded { image, by: needs.by.clone() });
    }
    let by: BTreeSet<_> = of().map(|u| u.by.as_str()).collect();
    let by: Vec<_> = by.into_iter().collect();
    (!force && !by.is_empty()).then(|| OperationError::ImageUsed { image, by: by.join(", ") })
}

/// Bytes of content that nothing has any more when these names are gone.
fn freed(all: &[Stored], removed: &[String]) -> u64 {
    let (gone, left): (Vec<_>, Vec<_>) = all.iter().partition(|image| removed.contains(&image.name));
    let left: BTreeSet<_> = left.iter().flat_map(|image| image.blobs.keys()).collect();
    let gone: BTreeMap<_, _> = gone.iter().flat_map(|image| &image.blobs).collect();
    gone.into_iter().filter(|(digest, _)| !left.contains(digest)).map(|(_, size)| size).sum()
}

fn is_dangling(image: &Stored) -> bool {
    image.name.parse::<ImageName>().is_ok_and(|name| name.parts().is_dangling())
}

impl Operations {
    /// All that is known of an image: itself, and all names of the same.
    pub async fn image(&self, text: &str) -> Result<(Stored, Vec<String>)> {
        let all = self.executor.containers.engine().images().await?;
        let one = find(&all, text)?.swap_remove(0).clone();
        let names = all.into_iter().filter(|image| image.digest == one.digest).map(|image| image.name).collect();
        Ok((one, names))
    }

    /// Takes a name away, and what nothing else is made of: the name.
    pub async fn remove_image(&self, text: &str, force: bool) -> Result<String> {
        let all = self.executor.containers.engine().images().await?;
        let found = find(&all, text)?;
        let [one] = found.as_slice() else { return Err(several(text, &found)) };
        self.forget_image(&one.name, force).await?;
        Ok(one.name.clone())
    }

    /// Takes away what nobody uses: the names, and how many bytes of content went with them.
    pub async fn prune_images(&self, with_tags: bool) -> Result<(Vec<String>, u64)> {
        let all = self.executor.containers.engine().images().await?;
        let mut removed = Vec::new();
        for image in all.iter().filter(|image| with_tags || is_dangling(image)) {
            match self.forget_image(&image.name, false).await {
                Ok(()) => removed.push(image.name.clone()),
                Err(
                    OperationError::ImageUsed { .. }
                    | OperationError::ImageNeeded { .. }
                    | OperationError::ImagePulled(_),
                ) => {}
                Err(error) => return Err(error),
            }
        }
        let freed = freed(&all, &removed);
        Ok((removed, freed))
    }

    async fn forget_image(&self, name: &str, force: bool) -> Result<()> {
        let engine = self.executor.containers.engine();
        // A task that begins later waits with its pull until the image is gone, and has it pulled again.
        let alone: Alone = engine.alone(name).ok_or_else(|| OperationError::ImagePulled(name.to_owned()))?;
        // First those without a container: one that gets it meanwhile is seen twice, and not never.
        let preparing = self.executor.containers.preparing();
        let containers = engine.users().await?;
        let uses = uses(&containers, &preparing, &self.picture.borrow());
        match refusal(name, &uses, force) {
            Some(error) => Err(error),
            None => Ok(engine.remove_image(alone).await?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn stored(name: &str, digest: &str, blobs: &[(&str, u64)]) -> Stored {
        Stored {
            name: name.into(),
            digest: format!("sha256:{digest}"),
            created: std::time::Duration::ZERO,
            blobs: blobs.iter().map(|(d, size)| ((*d).to_owned(), *size)).collect(),
            config: Value::Null,
        }
    }

    fn four() -> Vec<Stored> {
        let pinned = format!("host:5000/web:1@sha256:{}", "c".repeat(64));
        let bare = format!("host:5000/web@sha256:{}", "d".repeat(64));
        vec![
            stored("docker.io/library/nginx:latest", "abc1", &[("m1", 1), ("base", 100)]),
            stored("docker.io/library/nginx:1", "abc1", &[("m1", 1), ("base", 100)]),
            stored(&pinned, "abd2", &[("m2", 2), ("base", 100), ("top", 10)]),
            stored(&bare, "f3", &[("m3", 3), ("top", 10)]),
        ]
    }

    #[test]
    fn an_image_is_meant_by_a_name_or_an_id() {
        let all = four();
        let names = |text: &str| match find(&all, text) {
            Ok(found) => found.iter().map(|image| image.digest.as_str()).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        };
        for (text, want) in [
            ("nginx", "sha256:abc1"),
            ("index.docker.io/nginx:1", "sha256:abc1"),
            ("host:5000/web:1", "sha256:abd2"),
            ("abc", "sha256:abc1 sha256:abc1"),
            ("sha256:abd2", "sha256:abd2"),
            ("ab", "\"ab\" is the beginning of 2 image ids: give more of it"),
            ("nginx:2", "no image is called \"nginx:2\""),
            ("", "no image is called \"\""),
        ] {
            assert_eq!(names(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_used_stays_and_what_begins_even_against_force() {
        let uses = |begins: bool| vec![Use { image: "x:1".into(), by: "task web.1".into(), begins }];
        let said = |image: &str, uses: &[Use], force: bool| refusal(image, uses, force).map(|e| e.to_string());
        let used = "image \"x:1\" is used by task web.1: remove that first, or use --force to take only the name away";
        assert_eq!(said("x:1", &uses(false), false).as_deref(), Some(used));
        assert_eq!(said("x:1", &uses(false), true), None);
        let needed = "image \"x:1\" is being prepared for task web.1: try again when that runs";
        assert_eq!(said("x:1", &uses(true), true).as_deref(), Some(needed));
        assert_eq!(said("x:2", &uses(true), false), None);
    }

    #[test]
    fn containers_and_what_will_be_some_use_an_image() {
        let id = TaskId::from_random([1; 16]);
        let found = uses(&[("c1".into(), "x:1".into())], &[(id.clone(), "y:1".into())], &Picture::default());
        let by = |image: &str, by: String, begins: bool| Use { image: image.into(), by, begins };
        assert_eq!(found, [by("y:1", format!("container {id}"), true), by("x:1", "container c1".into(), false)]);
    }

    #[test]
    fn shared_content_is_freed_with_its_last_name() {
        let all = four();
        let gone = |at: &[usize]| freed(&all, &at.iter().map(|&at| all[at].name.clone()).collect::<Vec<_>>());
        assert_eq!(gone(&[]), 0);
        assert_eq!(gone(&[0]), 0, "another name has the same");
        assert_eq!(gone(&[0, 1]), 1, "another image has the layer");
        assert_eq!(gone(&[2]), 2);
        assert_eq!(gone(&[0, 1, 2, 3]), 116);
    }

    #[test]
    fn a_name_without_a_tag_dangles() {
        assert_eq!(four().iter().map(is_dangling).collect::<Vec<_>>(), [false, false, false, true]);
    }
}
