//! What locks managers that start.

use heddle_model::cluster::{Cluster, Secret};

#[derive(Debug, thiserror::Error)]
pub enum AutolockError {
    #[error("autolock is off, so there is no unlock key: turn it on with `heddle cluster update --autolock=true`")]
    Off,
}

fn with(cluster: &Cluster, unlock_key: Option<Secret>) -> Option<Cluster> {
    Some(Cluster { unlock_key, ..cluster.clone() })
}

/// Turns it on or off. On with a fresh key; one that it is on with already stays. None: it is so already.
pub fn set(cluster: &Cluster, on: bool, fresh: &Secret) -> Option<Cluster> {
    match (on, &cluster.unlock_key) {
        (true, None) => with(cluster, Some(fresh.clone())),
        (false, Some(_)) => with(cluster, None),
        (true, Some(_)) | (false, None) => None,
    }
}

/// A fresh key in place of the one before, if there is a fresh one.
pub fn rotate(cluster: &Cluster, fresh: Option<&Secret>) -> Result<Option<Cluster>, AutolockError> {
    match (&cluster.unlock_key, fresh) {
        (None, _) => Err(AutolockError::Off),
        (Some(_), None) => Ok(None),
        (Some(_), Some(fresh)) => Ok(with(cluster, Some(fresh.clone()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    fn key(cluster: Option<Cluster>) -> Option<Option<String>> {
        cluster.map(|c| c.unlock_key.map(|key| key.0))
    }

    #[test]
    fn a_key_is_there_while_it_is_on() {
        let off = Cluster::clone(World::new().state.cluster.as_ref().unwrap());
        let fresh = |text: &str| Secret(text.into());
        let on = set(&off, true, &fresh("a")).unwrap();
        assert_eq!(on.unlock_key, Some(fresh("a")));
        assert_eq!(key(set(&on, true, &fresh("b"))), None, "on already");
        assert_eq!(key(set(&on, false, &fresh("b"))), Some(None));
        assert_eq!(key(set(&off, false, &fresh("b"))), None, "off already");

        assert_eq!(key(rotate(&on, None).unwrap()), None);
        assert_eq!(key(rotate(&on, Some(&fresh("b"))).unwrap()), Some(Some("b".into())));
        for fresh in [None, Some(&fresh("b"))] {
            assert!(rotate(&off, fresh).unwrap_err().to_string().starts_with("autolock is off"));
        }
    }
}
