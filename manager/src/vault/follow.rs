//! Has the state key's file follow the cluster's object.

use super::{UnlockKey, Vault, VaultError, Wish};
use crate::store::{Snapshot, Store};
use heddle_plumbing::tls::Credentials;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// After a disk that could not be written to.
const RETRY: Duration = Duration::from_secs(1);

/// None: nothing is known of the cluster yet, or nothing that this program understands.
fn wish(state: &Snapshot) -> Option<Wish> {
    let cluster = state.cluster.as_ref()?;
    let unlock = cluster.unlock_key.as_ref().map(|text| text.0.parse::<UnlockKey>()).transpose();
    Some(Wish { revision: cluster.meta.version, unlock: unlock.ok()? })
}

fn obey(vault: &Vault, state: &Snapshot, credentials: &Credentials) -> Result<(), VaultError> {
    let Some(wish) = wish(state) else { return Ok(()) };
    let locks = wish.unlock.is_some();
    if vault.obey(wish, credentials)? {
        tracing::info!(locks, "the key of this manager's state is kept as the cluster wishes");
    }
    Ok(())
}

/// Runs until it is cancelled.
pub async fn follow(vault: Vault, store: Store, credentials: Credentials, cancel: CancellationToken) {
    let mut watch = store.watch();
    loop {
        let state = watch.borrow_and_update().clone();
        let obeyed = obey(&vault, &state, &credentials);
        let failed = obeyed.is_err();
        if let Err(error) = obeyed {
            tracing::error!("the key of this manager's state is not kept as the cluster wishes: {error}");
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = watch.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if failed => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use heddle_model::cluster::Cluster;

    #[test]
    fn the_cluster_says_what_locks_it() {
        assert_eq!(wish(&Snapshot::default()), None);
        let mut world = World::new();
        let key = UnlockKey::new([5; 32]);
        for (unlock_key, wanted) in [(None, None), (Some(key.text()), Some(key))] {
            let cluster = Cluster::clone(world.state.cluster.as_ref().unwrap());
            world.write(vec![crate::store::Mutation::Update(Cluster { unlock_key, ..cluster }.into())]);
            assert_eq!(wish(&world.state), Some(Wish { revision: world.state.version, unlock: wanted }));
        }
    }
}
