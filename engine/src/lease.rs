//! Leases: what is made under one is not collected as garbage while it lives.

use crate::{Engine, EngineError, api::leases};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

/// After which nobody pulls any more.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Given back when it is dropped, too: by somebody who stopped waiting.
pub(crate) struct Lease {
    engine: Engine,
    pub(crate) id: String,
    held: bool,
}

impl Lease {
    pub(crate) async fn take(engine: &Engine) -> Result<Self, EngineError> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let id = format!("heddle-{}-{}-{number}", std::process::id(), now.as_nanos());
        // A time as containerd reads it (RFC 3339).
        let until = prost_types::Timestamp::from(SystemTime::now() + LONGEST).to_string();
        let labels = [("containerd.io/gc.expire".to_owned(), until)].into();
        let create = leases::CreateRequest { id: id.clone(), labels };
        let answer = leases::leases_client::LeasesClient::new(engine.link()).create(create).await;
        answer.map_err(engine.failed("make a lease"))?;
        Ok(Self { engine: engine.clone(), id, held: true })
    }

    /// With `now`, what nothing else holds is gone when this returns.
    pub(crate) async fn give_back(mut self, now: bool) {
        self.held = false;
        delete(&self.engine, self.id.clone(), now).await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.held
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (engine, id) = (self.engine.clone(), self.id.clone());
            runtime.spawn(async move { delete(&engine, id, true).await });
        }
    }
}

async fn delete(engine: &Engine, id: String, sync: bool) {
    let delete = leases::DeleteRequest { id, sync };
    if let Err(error) = leases::leases_client::LeasesClient::new(engine.link()).delete(delete).await {
        tracing::debug!(%error, "a lease waits until it expires");
    }
}
