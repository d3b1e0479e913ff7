//! Whether a program that was started is there for its clients yet.

use crate::{host, worker::Job};
use heddle_model::{assignment::NodeView, net::Protocol};

/// It listens on each port that its service publishes by TCP, or that its health is checked at; who has none is taken at its word.
pub fn answers(view: Option<&NodeView>, job: &Job, pid: u32) -> bool {
    let service = job.task().and_then(|task| view?.services.get(&task.service));
    let ports = service.iter().flat_map(|s| &s.ports).filter(|p| p.protocol == Protocol::Tcp);
    let checked = job.health().and_then(|check| check.probe.port());
    let mut wanted = ports.map(|p| p.target).chain(checked).map(|port| (Protocol::Tcp, port)).peekable();
    if wanted.peek().is_none() {
        return true;
    }
    let open = host::listening_beside(pid);
    wanted.all(|port| open.contains(&port))
}
