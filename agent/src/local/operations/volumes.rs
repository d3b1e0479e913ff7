//! Volumes: what is asked of them by name.

use super::{OperationError, Operations, Result};
use crate::{
    agent::{Command, now},
    local::document,
    volumes::{Retired, Users},
};
use heddle_model::{
    Annotations,
    find::FindError,
    limits,
    volume::{VolumeName, VolumeRecord},
};
use serde_json::Value;
use tokio::sync::oneshot;

fn none(name: &VolumeName) -> OperationError {
    FindError::None { kind: "volume", reference: name.to_string() }.into()
}

/// Removing may take long.
async fn removed(gone: Vec<Retired>) -> Result<u64> {
    let remove = move || gone.into_iter().map(Retired::remove).sum::<std::io::Result<u64>>();
    let freed = tokio::task::spawn_blocking(remove).await.map_err(std::io::Error::other)?;
    Ok(freed?)
}

impl Operations {
    /// Acts while nothing starts, knowing who uses what.
    async fn among_users<T: Send + 'static>(&self, act: impl FnOnce(&Users) -> T + Send + 'static) -> Result<T> {
        let (answer, wait) = oneshot::channel();
        let hear = Box::new(move |users: Option<&Users>| drop(answer.send(users.map(act))));
        self.commands.send(Command::Volumes(hear)).await.map_err(|_| OperationError::Ending)?;
        wait.await.map_err(|_| OperationError::Ending)?.ok_or(OperationError::UsersUnknown)
    }

    /// One that is there already stays as it is. Without a name it is given one.
    pub async fn create_volume(&self, wanted: Annotations) -> Result<VolumeName> {
        limits::labels(&wanted.labels)?;
        let name = match wanted.name.as_str() {
            "" => format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>()).parse()?,
            name => name.parse::<VolumeName>()?,
        };
        self.volumes.create(&name, &VolumeRecord { created_at: now(), labels: wanted.labels })?;
        Ok(name)
    }

    fn document(&self, name: &VolumeName, record: &VolumeRecord, users: &Users) -> Value {
        document::volume(name, record, &self.volumes.data(name), users.get(name).map_or(&[], Vec::as_slice))
    }

    /// All of them, by name, as documents.
    pub async fn volumes(&self) -> Result<Vec<Value>> {
        let users = self.among_users(Users::clone).await?;
        Ok(self.volumes.list()?.iter().map(|(name, record)| self.document(name, record, &users)).collect())
    }

    pub async fn volume(&self, name: &str) -> Result<Value> {
        let name: VolumeName = name.parse()?;
        let users = self.among_users(Users::clone).await?;
        let record = self.volumes.get(&name)?.ok_or_else(|| none(&name))?;
        Ok(self.document(&name, &record, &users))
    }

    pub async fn remove_volume(&self, name: &str) -> Result<()> {
        let name: VolumeName = name.parse()?;
        let volumes = self.volumes.clone();
        let retire = move |users: &Users| match users.get(&name).and_then(|all| all.first()) {
            Some(user) if volumes.get(&name)?.is_some() => {
                Err(OperationError::VolumeInUse { name: name.clone(), user: user.clone() })
            }
            _ => volumes.retire(&name)?.ok_or_else(|| none(&name)),
        };
        let gone = self.among_users(retire).await??;
        removed(vec![gone]).await?;
        Ok(())
    }

    /// Removes all that nobody uses: their names, and the bytes that are free now.
    pub async fn prune_volumes(&self) -> Result<(Vec<VolumeName>, u64)> {
        let volumes = self.volumes.clone();
        let retire = move |users: &Users| {
            let mut gone = Vec::new();
            for name in volumes.list()?.into_keys().filter(|name| !users.contains_key(name)) {
                gone.extend(volumes.retire(&name)?.map(|retired| (name, retired)));
            }
            Ok::<_, std::io::Error>(gone)
        };
        let (names, gone) = self.among_users(retire).await??.into_iter().unzip();
        Ok((names, removed(gone).await?))
    }
}
