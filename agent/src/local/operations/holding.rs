//! Ports of the host that lead to workloads: taken before one runs, given back when it has ended.

use super::{OperationError, Operations, Result};
use crate::{
    agent::chain,
    local::publish::{Held, PublishError},
};
use heddle_model::{
    TaskId,
    assignment::NodeView,
    endpoint::{PortConfig, PublishMode},
    net::Port,
    workload::{HostPort, Workload},
};

impl Operations {
    pub(super) fn hold(&self, id: &TaskId, port: &HostPort) -> std::result::Result<Held, PublishError> {
        if let Some(service) = self.publisher(port) {
            return Err(PublishError::Service { port: port.host, protocol: port.protocol, service });
        }
        self.ports.hold(id, port)
    }

    /// The service whose port it is, on every host or on this one.
    fn publisher(&self, port: &HostPort) -> Option<String> {
        let picture = self.picture.borrow();
        publisher(picture.member.as_ref()?.view.as_ref()?, port)
    }

    /// Takes all the ports of a workload that is about to run, unless it has them still. All or none.
    pub(super) fn hold_all(&self, workload: &Workload) -> std::result::Result<(), PublishError> {
        if self.ports.holds(&workload.id) {
            return Ok(());
        }
        for port in &workload.ports {
            let failed = match self.hold(&workload.id, port) {
                Ok(Held::Yes) => continue,
                Ok(Held::Busy) => PublishError::Busy { port: port.host, protocol: port.protocol },
                Err(error) => error,
            };
            self.ports.release(&workload.id);
            return Err(failed);
        }
        Ok(())
    }

    /// Gives the ports of a workload back, unless somebody has started it again.
    pub(super) fn release_ended(&self, id: &TaskId) -> Result<()> {
        // Whoever starts it takes its ports as one change too.
        self.store.update(|state| {
            if state.workloads.get(id).is_none_or(|w| !w.wanted) {
                self.ports.release(id);
            }
            Ok(())
        })
    }

    /// Takes the ports of what ran before the daemon was restarted.
    pub fn hold_again(&self) {
        for (port, why) in self.hold_missing() {
            tracing::warn!(%port, why, "a published port is not held: it will be when it is free");
        }
    }

    /// Takes every port of what runs that is not held, such as one that somebody else had when the daemon began. With those
    /// that still cannot be, and why.
    pub(super) fn hold_missing(&self) -> Vec<(Port, String)> {
        let missing = |workload: &Workload| {
            let ports = workload.ports.iter().filter(|port| !self.ports.holds_port(&workload.id, port));
            ports.map(|port| (workload.id.clone(), port.clone())).collect::<Vec<_>>()
        };
        let state = self.store.snapshot();
        let mut left = Vec::new();
        for (id, port) in state.workloads.values().filter(|w| w.wanted).flat_map(missing) {
            // Whoever ends it gives its ports back as one change too.
            let held = self.store.update(|state| {
                let runs = state.workloads.get(&id).is_some_and(|w| w.wanted && w.ports.contains(&port));
                let free = runs && !self.ports.holds_port(&id, &port);
                Ok::<_, OperationError>(if free { Some(self.ports.hold(&id, &port)?) } else { None })
            });
            match held {
                Ok(Some(Held::Yes)) => tracing::debug!(task = %id, port = %port.host, "a published port is held again"),
                Ok(Some(Held::Busy)) => left.push((port.host, "somebody else has it".to_owned())),
                Ok(None) => {}
                Err(error) => left.push((port.host, chain(&error))),
            }
        }
        left
    }
}

/// The service that has a port: by the mesh on every host, or by one of its tasks on this one.
fn publisher(view: &NodeView, port: &HostPort) -> Option<String> {
    let same = |p: &PortConfig| p.published == Some(port.host) && p.protocol == port.protocol;
    let mesh = |p: &PortConfig| p.mode == PublishMode::Ingress && same(p);
    let service = view.services.values().find(|s| s.ports.iter().any(mesh)).map(|s| s.name.clone());
    let task = || view.tasks.values().find(|t| t.on_node() && t.host_ports.iter().any(same));
    service.or_else(|| task().map(|t| t.service_name.clone()))
}
