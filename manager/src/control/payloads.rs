//! Secrets and configs: made, looked at and removed.

use super::{Forward, find, forward::LARGEST, stale};
use crate::{
    ambient,
    store::{Mutation, Snapshot, WriteError},
};
use heddle_model::{
    Annotations, Meta, PayloadId,
    find::FindError,
    limits::{self, LimitError},
    payload::{Content, Payload, PayloadKind},
    task::Task,
};
use heddle_plumbing::access::on_behalf;
use heddle_proto::v1::{self, payloads_client::PayloadsClient, payloads_server};
use std::{collections::BTreeSet, sync::Arc};
use tonic::{Request, Response, Status, transport::Channel};

/// Bytes of all of them together: a node may be told every one in one message.
const ALL: usize = 32 << 20;

#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    #[error(
        "{kind} name {name:?}: use 1 to 64 of a-z, A-Z, 0-9, '-', '_' and '.', with a letter or digit at both ends"
    )]
    Name { kind: PayloadKind, name: String },
    #[error("{kind} {name}: {found} bytes are too many, use at most {most}", most = kind.most())]
    Large { kind: PayloadKind, name: String, found: usize },
    #[error(
        "{kind} {name}: {found} bytes more are too many, all secrets and configs together have at most {ALL}, and {used} now"
    )]
    Full { kind: PayloadKind, name: String, found: usize, used: usize },
    #[error("{kind} {name} is empty: there is nothing to keep")]
    Empty { kind: PayloadKind, name: String },
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error("{kind} {name:?} exists already: one never changes, choose another name")]
    Exists { kind: PayloadKind, name: String },
    #[error(transparent)]
    Find(#[from] FindError),
    #[error("{kind} {name} is used by {by}: update or remove it first")]
    InUse { kind: PayloadKind, name: String, by: String },
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<PayloadError> for Status {
    fn from(e: PayloadError) -> Status {
        let text = e.to_string();
        match e {
            PayloadError::Name { .. }
            | PayloadError::Large { .. }
            | PayloadError::Full { .. }
            | PayloadError::Empty { .. }
            | PayloadError::Limit(_)
            | PayloadError::Find(FindError::Many { .. }) => Status::invalid_argument(text),
            PayloadError::Exists { .. } => Status::already_exists(text),
            PayloadError::Find(FindError::None { .. }) => Status::not_found(text),
            PayloadError::InUse { .. } => Status::failed_precondition(text),
            PayloadError::Write(WriteError::Conflict(_)) => Status::aborted(text),
            PayloadError::Write(_) => Status::unavailable(text),
        }
    }
}

/// docker's rule: they are files, not host names.
fn check_name(kind: PayloadKind, name: &str) -> Result<(), PayloadError> {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let inner = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
    match bytes.len() <= 64 && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner) {
        true => Ok(()),
        false => Err(PayloadError::Name { kind, name: name.to_owned() }),
    }
}

/// Whether it can be kept.
fn check(state: &Snapshot, payload: &Payload) -> Result<(), PayloadError> {
    let (kind, name, found) = (payload.kind, payload.annotations.name.clone(), payload.content.0.len());
    check_name(kind, &name)?;
    limits::labels(&payload.annotations.labels)?;
    match found {
        0 => Err(PayloadError::Empty { kind, name }),
        _ if found > kind.most() => Err(PayloadError::Large { kind, name, found }),
        _ if state.payload_named(kind, &name).is_some() => Err(PayloadError::Exists { kind, name }),
        _ => {
            let used = state.payloads.values().map(|p| p.content.0.len()).sum::<usize>();
            if used + found > ALL { Err(PayloadError::Full { kind, name, found, used }) } else { Ok(()) }
        }
    }
}

/// Names of the services that use it, in order.
fn services(state: &Snapshot, payload: &Payload) -> Vec<String> {
    let uses = state.services.values().filter(|s| s.uses(payload.id.as_str()));
    uses.map(|s| s.spec.annotations.name.clone()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// What takes it away: nobody may use it, or be told to.
pub fn remove(
    state: &Snapshot,
    kind: PayloadKind,
    reference: &str,
) -> Result<(PayloadId, Vec<Mutation>), PayloadError> {
    let payload = find::payload(state, kind, reference)?;
    let in_use = |by: String| PayloadError::InUse { kind, name: payload.annotations.name.clone(), by };
    if let Some(by) = services(state, &payload).first() {
        return Err(in_use(format!("service {by}")));
    }
    let uses = |t: &&Arc<Task>| t.spec.files.iter().any(|f| f.source == payload.id.as_str());
    if let Some(task) = state.tasks.values().filter(|t| !t.status.state.is_terminal()).find(uses) {
        return Err(in_use(format!("{} (still stopping)", task.name())));
    }
    let (id, version) = (payload.id.to_string(), Some(payload.meta.version));
    Ok((payload.id.clone(), vec![Mutation::Remove { kind: kind.into(), id, version }]))
}

fn told(state: &Snapshot, payload: &Payload, with_content: bool) -> v1::Payload {
    v1::Payload {
        id: payload.id.to_string(),
        meta: Some(payload.meta.clone().into()),
        kind: v1::PayloadKind::from(payload.kind).into(),
        annotations: Some(payload.annotations.clone().into()),
        size: payload.content.0.len() as u64,
        content: with_content.then(|| payload.content.0.to_vec()),
        services: services(state, payload),
    }
}

fn kind(kind: v1::PayloadKind) -> Result<PayloadKind, Status> {
    Ok(kind.try_into()?)
}

pub struct PayloadsService {
    pub forward: Forward,
}

impl PayloadsService {
    async fn leader(&self) -> Result<Option<PayloadsClient<Channel>>, Status> {
        let channel = self.forward.leader().await?;
        Ok(channel.map(|c| PayloadsClient::new(c).max_decoding_message_size(LARGEST)))
    }
}

#[tonic::async_trait]
impl payloads_server::Payloads for PayloadsService {
    async fn create_payload(
        &self,
        request: Request<v1::CreatePayloadRequest>,
    ) -> Result<Response<v1::Payload>, Status> {
        stale::refuse(&request)?;
        if let Some(mut leader) = self.leader().await? {
            return leader.create_payload(on_behalf(request)).await;
        }
        let wish = request.into_inner();
        let payload = Payload {
            id: PayloadId::from_random(ambient::random()),
            meta: Meta::default(),
            kind: kind(wish.kind())?,
            annotations: wish.annotations.map(Annotations::from).unwrap_or_default(),
            content: Content(wish.content.into()),
        };
        let plan = |state: &Snapshot| {
            check(state, &payload)?;
            Ok::<_, PayloadError>(vec![Mutation::Create(payload.clone().into())])
        };
        let state = self.forward.store.update(plan).await?;
        let stored = state.payloads.get(&payload.id).ok_or_else(|| Status::not_found("it was removed meanwhile"))?;
        Ok(Response::new(told(&state, stored, false)))
    }

    async fn list_payloads(
        &self,
        request: Request<v1::ListPayloadsRequest>,
    ) -> Result<Response<v1::ListPayloadsResponse>, Status> {
        let state = match stale::asked(&request) {
            true => self.forward.store.snapshot(),
            false => {
                if let Some(mut leader) = self.leader().await? {
                    return leader.list_payloads(on_behalf(request)).await;
                }
                self.forward.newest().await?
            }
        };
        let kind = kind(request.into_inner().kind())?;
        let payloads = state.payloads_of(kind).map(|p| told(&state, p, false)).collect();
        Ok(Response::new(v1::ListPayloadsResponse { payloads }))
    }

    async fn get_payload(&self, request: Request<v1::PayloadRequest>) -> Result<Response<v1::Payload>, Status> {
        let state = match stale::asked(&request) {
            true => self.forward.store.snapshot(),
            false => {
                if let Some(mut leader) = self.leader().await? {
                    return leader.get_payload(on_behalf(request)).await;
                }
                self.forward.newest().await?
            }
        };
        let wish = request.into_inner();
        let kind = kind(wish.kind())?;
        let payload = find::payload(&state, kind, &wish.r#ref).map_err(PayloadError::from)?;
        Ok(Response::new(told(&state, &payload, kind == PayloadKind::Config)))
    }

    async fn remove_payload(
        &self,
        request: Request<v1::PayloadRequest>,
    ) -> Result<Response<v1::RemovePayloadResponse>, Status> {
        stale::refuse(&request)?;
        if let Some(mut leader) = self.leader().await? {
            return leader.remove_payload(on_behalf(request)).await;
        }
        let wish = request.into_inner();
        let kind = kind(wish.kind())?;
        let mut removed = None;
        let plan = |state: &Snapshot| {
            let (id, mutations) = remove(state, kind, &wish.r#ref)?;
            removed = Some(id);
            Ok::<_, PayloadError>(mutations)
        };
        self.forward.store.update(plan).await?;
        let id = removed.map(String::from).unwrap_or_default();
        Ok(Response::new(v1::RemovePayloadResponse { id }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::check, world::World};
    use heddle_model::{
        Timestamp,
        payload::{FileMode, FilePath, PayloadFile},
        service::Service,
        update::{Previous, UpdateState, UpdateStatus},
    };

    fn service(world: &mut World, files: Vec<PayloadFile>) -> Service {
        let network = world.state.networks.keys().next().unwrap().clone();
        let mut service = world.service("web", 1, &network);
        service.spec.task.networks.clear();
        service.spec.task.files = files;
        service
    }

    fn file(kind: PayloadKind, source: &str, path: &str) -> PayloadFile {
        let path = FilePath::of(kind, path).unwrap();
        PayloadFile { kind, source: source.into(), path, uid: 0, gid: 0, mode: FileMode::READABLE }
    }

    #[test]
    fn what_cannot_be_kept_is_refused_in_one_sentence() {
        let mut world = World::new();
        let secret = world.payload(PayloadKind::Secret, "tls.key_1", 1);
        check(&world.state, &secret).unwrap();
        world.write(vec![Mutation::Create(secret.into())]);
        let config = world.payload(PayloadKind::Config, "tls.key_1", 1000 << 10);
        check(&world.state, &config).unwrap();
        for (kind, name, size, said) in [
            (PayloadKind::Secret, "tls.key_1", 1, "secret \"tls.key_1\" exists already: one never changes"),
            (PayloadKind::Secret, "a/b", 1, "secret name \"a/b\": use 1 to 64"),
            (PayloadKind::Config, "..", 1, "config name \"..\": use 1 to 64"),
            (PayloadKind::Secret, "big", (500 << 10) + 1, "secret big: 512001 bytes are too many, use at most 512000"),
            (PayloadKind::Config, "none", 0, "config none is empty"),
        ] {
            let payload = world.payload(kind, name, size);
            let refused = check(&world.state, &payload).unwrap_err().to_string();
            assert!(refused.starts_with(said), "{refused}");
        }
        for n in 0..32 {
            let large = world.payload(PayloadKind::Config, &format!("c{n}"), 1000 << 10);
            world.write(vec![Mutation::Create(large.into())]);
        }
        let more = world.payload(PayloadKind::Config, "more", 1000 << 10);
        let refused = check(&world.state, &more).unwrap_err().to_string();
        assert!(refused.contains("have at most 33554432, and 32768001 now"), "{refused}");
    }

    #[test]
    fn it_stays_as_long_as_a_service_uses_it() {
        let mut world = World::new();
        let (key, conf) = (world.payload(PayloadKind::Secret, "key", 3), world.payload(PayloadKind::Config, "key", 3));
        world.write(vec![Mutation::Create(key.clone().into()), Mutation::Create(conf.into())]);
        let files = vec![file(PayloadKind::Secret, "key", "key"), file(PayloadKind::Config, "key", "/etc/key")];
        let mut web = service(&mut world, files);
        web.spec = check::service(&world.state, web.spec).unwrap();
        assert_eq!(web.spec.task.files[0].source, key.id.as_str());
        world.write(vec![Mutation::Create(web.into())]);
        let refused = remove(&world.state, PayloadKind::Secret, "key").unwrap_err().to_string();
        assert_eq!(refused, "secret key is used by service web: update or remove it first");
        let service = world.state.service_named("web").unwrap().clone();
        let mut without = Service::clone(&service);
        without.spec.task.files.clear();
        // Until the update is over it may be rolled back.
        without.previous = Some(Box::new(Previous { spec: service.spec.clone(), spec_version: service.spec_version }));
        for (state, refused) in
            [(UpdateState::Updating, true), (UpdateState::Paused, true), (UpdateState::Completed, false)]
        {
            without.update = Some(UpdateStatus::begin(state, Timestamp(1), String::new()));
            without.meta = world.state.service_named("web").unwrap().meta.clone();
            world.write(vec![Mutation::Update(without.clone().into())]);
            assert_eq!(remove(&world.state, PayloadKind::Secret, "key").is_err(), refused, "{state:?}");
        }
        let (id, gone) = remove(&world.state, PayloadKind::Secret, key.id.short()).unwrap();
        assert_eq!(id, key.id);
        world.write(gone);
        assert!(world.state.payload_named(PayloadKind::Secret, "key").is_none());
        assert!(world.state.payload_named(PayloadKind::Config, "key").is_some(), "of the same name, and another thing");
        let gone = remove(&world.state, PayloadKind::Secret, "key").unwrap_err().to_string();
        assert_eq!(gone, "no secret is called \"key\"");
        // What a rollback would need is gone.
        assert!(check::change(&world.state, &service, service.spec.clone()).is_err());
    }

    #[test]
    fn two_files_are_not_in_one_place() {
        let mut world = World::new();
        let key = world.payload(PayloadKind::Secret, "key", 3);
        world.write(vec![Mutation::Create(key.into())]);
        for (paths, said) in [
            (["key", "/run/secrets/key"], "/run/secrets/key is the place of two"),
            (["/etc/a/b", "/etc/a"], "/etc/a is a secret or config, and /etc/a/b would lie in it"),
        ] {
            let files = paths.map(|path| file(PayloadKind::Secret, "key", path)).to_vec();
            let web = service(&mut world, files);
            let refused = check::service(&world.state, web.spec).unwrap_err().to_string();
            assert!(refused.starts_with(said), "{refused}");
        }
    }
}
