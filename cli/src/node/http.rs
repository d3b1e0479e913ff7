//! What a daemon answers over HTTP where it is asked to: its numbers, whether it lives, whether it is ready. It tells names
//! and counts, and takes no orders.

use super::{
    member::{Daemon, Slot},
    ready::{self, Check},
};
use anyhow::{Context, Result};
use axum::{Router, extract::State, http::StatusCode, routing::get};
use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;
use std::{net::SocketAddr, sync::Arc};
use tokio::net::TcpListener;

const TEXT: [(&str, &str); 1] = [("content-type", "text/plain; version=0.0.4; charset=utf-8")];

#[derive(Clone)]
struct Server {
    daemon: Arc<Daemon>,
    recorded: PrometheusHandle,
}

/// Listens at once; the future answers until it is dropped.
pub async fn serve(
    addr: SocketAddr,
    daemon: Arc<Daemon>,
    recorded: PrometheusHandle,
) -> Result<impl Future<Output = std::io::Result<()>>> {
    let listener = TcpListener::bind(addr).await.with_context(|| format!("--metrics-addr: cannot listen at {addr}"))?;
    let routes = Router::new()
        .route("/metrics", get(numbers))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .with_state(Server { daemon, recorded });
    Ok(axum::serve(listener, routes).into_future())
}

async fn numbers(State(server): State<Server>) -> ([(&'static str, &'static str); 1], String) {
    server.daemon.observe().await;
    (TEXT, server.recorded.render())
}

async fn readiness(State(server): State<Server>) -> (StatusCode, String) {
    let checks = server.daemon.checks().await;
    let ready = checks.iter().all(|c| c.wrong.is_none());
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, ready::text(&checks))
}

impl Daemon {
    /// Sets all numbers that are a state.
    async fn observe(&self) {
        gauge!("heddle_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        let status = self.agent.status.borrow().clone();
        gauge!("heddle_agent_connected").set(f64::from(u8::from(status.connected)));
        gauge!("heddle_agent_assigned_revision").set(status.assigned_revision as f64);
        gauge!("heddle_agent_applied_revision").set(status.applied_revision as f64);
        gauge!("heddle_agent_tasks_running").set(status.running);
        gauge!("heddle_dataplane_failing").set(status.errors.len() as f64);
        gauge!("heddle_underlay_warnings").set(status.below.warnings().len() as f64);
        let slot = self.member.lock().await;
        let Some(member) = slot.as_ref() else { return };
        let ends = member.credentials.life().ends;
        gauge!("heddle_certificate_expiry_timestamp_seconds").set(ends.0 as f64 / 1000.0);
        if let Some(manager) = &member.manager {
            manager.observe();
        }
    }

    async fn checks(&self) -> Vec<Check> {
        let (in_cluster, locked, manager) = {
            let slot = self.member.lock().await;
            (!matches!(*slot, Slot::Outside), slot.refuse_locked().err(), slot.as_ref().and_then(|m| m.manager.clone()))
        };
        let mut checks = ready::agent(in_cluster, &self.agent.status.borrow());
        if let Some(locked) = locked {
            checks.push(Check { what: "manager", wrong: Some(locked.to_string()) });
        }
        if let Some(manager) = manager {
            checks.push(Check { what: "manager", wrong: manager.reaches_quorum().await.err() });
        }
        checks
    }
}
