//! What may be changed of services, and what a change comes to.

use super::{ControlError, SpecError, check, find};
use crate::store::{Conflict, Mutation, Snapshot, WriteError};
use heddle_model::{
    Kind, ServiceId, Timestamp, Version,
    login::Logins,
    service::{Mode, Service, ServiceSpec},
};
use std::sync::Arc;

/// The service that is meant, and what is to be written.
pub struct Changed {
    pub id: ServiceId,
    pub mutations: Vec<Mutation>,
}

fn written(service: Service) -> Changed {
    Changed { id: service.id.clone(), mutations: vec![Mutation::Update(service.into())] }
}

/// What a service is to become.
pub struct Wish {
    pub spec: ServiceSpec,
    /// The version of the service that the spec was made from.
    pub seen: Version,
    /// Those of registries that are not among them stay.
    pub logins: Logins,
}

pub fn update(state: &Snapshot, reference: &str, wish: Wish, now: Timestamp) -> Result<Changed, ControlError> {
    let Wish { spec, seen, logins } = wish;
    let service = find::service(state, reference)?;
    let stored = service.meta.version;
    if stored != seen {
        let conflict = Conflict::Stale { kind: Kind::Service, id: service.id.to_string(), expected: seen, stored };
        return Err(WriteError::from(conflict).into());
    }
    let spec = check::change(state, &service, spec)?;
    check::logins(&spec, &logins)?;
    let mut service = Arc::unwrap_or_clone(service);
    let shown = service.logins.clone();
    let changed = service.change(spec, now);
    service.log_in(logins);
    match changed || service.logins != shown {
        true => Ok(written(service)),
        false => Ok(Changed { id: service.id, mutations: Vec::new() }),
    }
}

/// Back to the spec before, which must still be possible.
pub fn roll_back(state: &Snapshot, reference: &str, now: Timestamp) -> Result<Changed, ControlError> {
    let service = find::service(state, reference)?;
    let Some(previous) = &service.previous else {
        return Err(SpecError::NoPrevious(service.spec.annotations.name.clone()).into());
    };
    if service.spec.mode.is_job() {
        return Err(SpecError::JobRollback(service.spec.annotations.name.clone()).into());
    }
    check::change(state, &service, previous.spec.clone())?;
    let mut service = Arc::unwrap_or_clone(service);
    service.roll_back(now, String::new());
    Ok(written(service))
}

/// Has tasks moved to nodes with fewer of them, so many at most, or as many as it takes; 0 ends what goes on.
pub fn rebalance(state: &Snapshot, reference: &str, most: Option<u64>) -> Result<Changed, ControlError> {
    let service = find::service(state, reference)?;
    let name = || service.spec.annotations.name.clone();
    let Mode::Replicated { replicas } = service.spec.mode else {
        return Err(SpecError::Move { name: name(), mode: service.spec.mode.as_str() }.into());
    };
    if service.is_updating() {
        return Err(SpecError::MoveInUpdate(name()).into());
    }
    let moves = most.unwrap_or(replicas).min(replicas);
    Ok(written(Service { moves, ..Arc::unwrap_or_clone(service) }))
}

/// Another number of replicas. It is no update: what goes on goes on, and a rollback does not undo it.
pub fn scale(state: &Snapshot, reference: &str, replicas: u64) -> Result<Changed, ControlError> {
    let service = find::service(state, reference)?;
    let mut service = Arc::unwrap_or_clone(service);
    let Some(mode) = service.spec.mode.scaled(replicas) else {
        return Err(SpecError::Scale { name: service.spec.annotations.name, mode: service.spec.mode.as_str() }.into());
    };
    check::room(state, Some(&service.id), &ServiceSpec { mode: mode.clone(), ..service.spec.clone() })?;
    if service.spec.mode == mode {
        return Ok(Changed { id: service.id, mutations: Vec::new() });
    }
    if let Some(previous) = &mut service.previous {
        previous.spec.mode = mode.clone();
    }
    service.spec.mode = mode;
    Ok(written(service))
}
