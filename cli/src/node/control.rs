//! A manager's services on the local socket: there while this node is a manager, a clear refusal otherwise.

use super::member::Daemon;
use heddle_manager::{
    control::{ControlService, PayloadsService, RootsService, UsersService},
    manager::Manager,
    observe::ObserveService,
};
use heddle_proto::v1::{
    control_server::ControlServer, observe_server::ObserveServer, payloads_server::PayloadsServer,
    roots_server::RootsServer, users_server::UsersServer,
};
use std::{
    convert::Infallible,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tonic::{body::Body, codegen::http, server::NamedService};
use tower::{Service, ServiceExt};

/// A service that a manager has.
pub trait OfManager: NamedService + Sized {
    fn of(manager: &Manager) -> Self;
}

impl OfManager for ControlServer<ControlService> {
    fn of(manager: &Manager) -> Self {
        manager.control()
    }
}

impl OfManager for ObserveServer<ObserveService> {
    fn of(manager: &Manager) -> Self {
        manager.observer()
    }
}

impl OfManager for PayloadsServer<PayloadsService> {
    fn of(manager: &Manager) -> Self {
        manager.payloads()
    }
}

impl OfManager for RootsServer<RootsService> {
    fn of(manager: &Manager) -> Self {
        manager.roots()
    }
}

impl OfManager for UsersServer<UsersService> {
    fn of(manager: &Manager) -> Self {
        manager.users()
    }
}

pub struct Dynamic<S> {
    daemon: Arc<Daemon>,
    service: PhantomData<fn() -> S>,
}

impl<S> Dynamic<S> {
    pub fn new(daemon: Arc<Daemon>) -> Self {
        Self { daemon, service: PhantomData }
    }
}

impl<S> Clone for Dynamic<S> {
    fn clone(&self) -> Self {
        Self::new(self.daemon.clone())
    }
}

impl<S: NamedService> NamedService for Dynamic<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Dynamic<S>
where
    S: OfManager
        + Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send>
        + Send
        + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let daemon = self.daemon.clone();
        Box::pin(async move {
            match daemon.manager().await {
                Ok(manager) => S::of(&manager).oneshot(request).await,
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}
