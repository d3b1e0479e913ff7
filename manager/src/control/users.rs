//! People who may ask the cluster through its port: who they are, and their certificates.

use super::{Forward, stale};
use crate::{
    ambient, ca, dispatcher,
    store::{Mutation, Snapshot, WriteError, now},
};
use heddle_model::{
    Timestamp,
    cluster::{Cluster, User},
    meta::{BadName, check_name},
};
use heddle_plumbing::access::on_behalf;
use heddle_proto::v1::{self, users_client::UsersClient, users_server};
use std::time::Duration;
use tonic::{Request, Response, Status};

/// Longer than anybody should trust a file on a laptop.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86400);

#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error(transparent)]
    Name(#[from] BadName),
    #[error("user {0} is there already: remove it first, or use another name")]
    Exists(String),
    #[error("no user is called {0:?}")]
    None(String),
    #[error("this manager is still starting")]
    Starting,
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<UserError> for Status {
    fn from(e: UserError) -> Status {
        let text = e.to_string();
        match e {
            UserError::Name(_) => Status::invalid_argument(text),
            UserError::Exists(_) => Status::already_exists(text),
            UserError::None(_) => Status::not_found(text),
            UserError::Starting | UserError::Write(_) => Status::unavailable(text),
        }
    }
}

/// What makes it so.
fn add(state: &Snapshot, name: &str, user: User) -> Result<Vec<Mutation>, UserError> {
    check_name(name)?;
    changed(state, |cluster| match cluster.users.insert(name.to_owned(), user) {
        Some(_) => Err(UserError::Exists(name.to_owned())),
        None => Ok(()),
    })
}

fn remove(state: &Snapshot, name: &str) -> Result<Vec<Mutation>, UserError> {
    let gone = |cluster: &mut Cluster| cluster.users.remove(name).map(drop);
    changed(state, |cluster| gone(cluster).ok_or_else(|| UserError::None(name.to_owned())))
}

fn changed(
    state: &Snapshot,
    change: impl FnOnce(&mut Cluster) -> Result<(), UserError>,
) -> Result<Vec<Mutation>, UserError> {
    let mut cluster = Cluster::clone(state.cluster.as_ref().ok_or(UserError::Starting)?);
    change(&mut cluster)?;
    Ok(vec![Mutation::Update(cluster.into())])
}

pub struct UsersService {
    pub forward: Forward,
}

#[tonic::async_trait]
impl users_server::Users for UsersService {
    async fn add_user(&self, request: Request<v1::AddUserRequest>) -> Result<Response<v1::AddUserResponse>, Status> {
        stale::refuse(&request)?;
        if let Some(leader) = self.forward.leader().await? {
            return UsersClient::new(leader).add_user(on_behalf(request)).await;
        }
        let wish = request.into_inner();
        let life = Duration::from_secs(wish.life_s);
        if life.is_zero() || life > LONGEST {
            return Err(Status::invalid_argument(format!("life {life:?} of a certificate: use 1s to 87600h")));
        }
        let store = &self.forward.store;
        let cluster = store.snapshot().cluster.clone().ok_or(UserError::Starting)?;
        let user = User {
            id: ca::secret(ambient::random()).0,
            added: now(),
            ends: now().plus(life),
            signer: ca::rotation::signer(&cluster),
        };
        // Before anything is written: the request may be no request.
        let cert_pem = ca::user_certificate(&cluster, &wish.name, &user.id, &wish.csr_pem, life)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        store.update(|state| add(state, &wish.name, user.clone())).await?;
        let managers = dispatcher::managers(&store.snapshot());
        Ok(Response::new(v1::AddUserResponse { cert_pem, roots_pem: cluster.trusted_pem(), managers }))
    }

    async fn list_users(
        &self,
        request: Request<v1::ListUsersRequest>,
    ) -> Result<Response<v1::ListUsersResponse>, Status> {
        let state = match stale::asked(&request) {
            true => self.forward.store.snapshot(),
            false => {
                if let Some(leader) = self.forward.leader().await? {
                    return UsersClient::new(leader).list_users(on_behalf(request)).await;
                }
                self.forward.newest().await?
            }
        };
        let cluster = state.cluster.clone().ok_or(UserError::Starting)?;
        let told = |(name, user): (&String, &User)| {
            let Timestamp(added_at_ms) = user.added;
            v1::User { name: name.clone(), added_at_ms, ends_ms: user.ends.0 }
        };
        Ok(Response::new(v1::ListUsersResponse { users: cluster.users.iter().map(told).collect() }))
    }

    async fn remove_user(
        &self,
        request: Request<v1::RemoveUserRequest>,
    ) -> Result<Response<v1::RemoveUserResponse>, Status> {
        stale::refuse(&request)?;
        if let Some(leader) = self.forward.leader().await? {
            return UsersClient::new(leader).remove_user(on_behalf(request)).await;
        }
        let name = request.into_inner().name;
        self.forward.store.update(|state| remove(state, &name)).await?;
        Ok(Response::new(v1::RemoveUserResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn a_name_is_one_users_until_it_is_removed() {
        let mut world = World::new();
        let user = |id: &str| User { id: id.into(), added: Timestamp(1), ends: Timestamp(2), signer: String::new() };
        let made = add(&world.state, "alice", user("a")).unwrap();
        world.write(made);
        let said = |r: Result<_, UserError>| r.unwrap_err().to_string();
        assert!(said(add(&world.state, "alice", user("b"))).starts_with("user alice is there already"));
        assert!(said(add(&world.state, "al.ice", user("b"))).contains("al.ice"));
        assert_eq!(said(remove(&world.state, "bob")), "no user is called \"bob\"");
        let gone = remove(&world.state, "alice").unwrap();
        world.write(gone);
        let again = add(&world.state, "alice", user("b")).unwrap();
        world.write(again);
        assert_eq!(world.state.cluster.as_ref().unwrap().users["alice"].id, "b");
    }
}
