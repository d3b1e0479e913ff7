//! The control service on the local socket: there while this node is a manager, a clear refusal otherwise.

use super::member::Daemon;
use heddle_proto::v1::control_server::SERVICE_NAME;
use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tonic::{body::Body, codegen::http, server::NamedService};
use tower::{Service, ServiceExt};

#[derive(Clone)]
pub struct Dynamic {
    pub daemon: Arc<Daemon>,
}

impl NamedService for Dynamic {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for Dynamic {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let daemon = self.daemon.clone();
        Box::pin(async move {
            match daemon.control().await {
                Ok(control) => control.oneshot(request).await,
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}
