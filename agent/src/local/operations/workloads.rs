//! Workloads: from a wish to a program that runs, and to its end.

use super::{
    OperationError, Operations, Result, Target, find_network, random_mac,
    waiting::{KERNEL_LIMIT, Part},
};
use crate::{
    agent::{Picture, chain, now},
    dataplane::desired::ways_out,
    local::{
        driver::bridge,
        place::{self, Newcomer, place},
        publish,
    },
    worker::NOT_STARTED,
};
use heddle_model::{
    TaskId,
    container::{Mount, MountSource},
    find::FindError,
    limits,
    network::{DEFAULT, Driver},
    task::{TaskState, TaskStatus},
    volume::VolumeName,
    workload::{HostEndpoint, HostPort, NetworkWish, Workload, WorkloadSpec},
};
use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

impl Operations {
    pub async fn run(&self, mut spec: WorkloadSpec) -> Result<(Workload, Vec<String>)> {
        if spec.image.is_none() && spec.process.command.first().is_none_or(String::is_empty) {
            return Err(OperationError::NoCommand);
        }
        limits::workload(&spec)?;
        Mount::check_all(&spec.mounts)?;
        for mount in &spec.mounts {
            if let MountSource::Volume(Some(name)) = &mount.source {
                // No template in it stands for anything.
                name.parse::<VolumeName>()?;
            }
        }
        let id = TaskId::from_random(rand::random());
        if spec.annotations.name.is_empty() {
            spec.annotations.name = petname::petname(2, "-").unwrap_or_else(|| id.short().to_owned());
        }
        let name = spec.annotations.name.clone();
        check_name(&name)?;
        if self.store.snapshot().workloads.values().any(|w| w.spec.annotations.name == name) {
            return Err(OperationError::Exists(name));
        }
        if spec.networks.is_empty() {
            spec.networks.push(NetworkWish { network: DEFAULT.into(), ..NetworkWish::default() });
        }
        let targets = spec.networks.iter().map(|w| self.target(&w.network)).collect::<Result<Vec<_>>>()?;
        let _busy = self.busy(&id).await;
        match self.begin(&id, &name, spec, targets).await {
            Ok(begun) => Ok(begun),
            Err(error) => {
                // Nothing half-made stays.
                if let Err(left) = self.discard(&id).await {
                    tracing::warn!(task = %id, error = chain(&left), "what could not be run is not wholly gone");
                }
                Err(error)
            }
        }
    }

    /// From the first place that is given to the program that runs. What fails leaves its part behind.
    async fn begin(
        &self,
        id: &TaskId,
        name: &str,
        mut spec: WorkloadSpec,
        targets: Vec<Target>,
    ) -> Result<(Workload, Vec<String>)> {
        let mut given = Vec::new();
        for (target, wish) in targets.iter().zip(&spec.networks) {
            if let Target::Overlay = target {
                given.push(self.attach(id, name, wish).await?);
            }
        }
        let (warnings, binding) = publication(&mut spec, &targets, given.iter().any(|g| !g.internal))?;
        let ports = publish::choose(&spec.ports, binding, |port| self.hold(id, port))?;
        let overlays = given.into_iter().map(|g| g.endpoint).collect();
        let workload = self.make(id, name, &spec, targets, overlays, ports)?;
        self.running(&workload).await?;
        Ok((workload, warnings))
    }

    fn make(
        &self,
        id: &TaskId,
        name: &str,
        spec: &WorkloadSpec,
        targets: Vec<Target>,
        overlays: Vec<HostEndpoint>,
        ports: Vec<HostPort>,
    ) -> Result<Workload> {
        self.store.update(|state| {
            if state.workloads.values().any(|w| w.spec.annotations.name == name) {
                return Err(OperationError::Exists(name.to_owned()));
            }
            let mut overlays = overlays.into_iter();
            let mut links = BTreeSet::new();
            for (target, wish) in targets.iter().zip(&spec.networks) {
                let endpoint = match target {
                    Target::Host(network) => {
                        let new = Newcomer { id, name, links: &links, mac: random_mac() };
                        // It may have gone since it was found.
                        let network = find_network(state, network.id.as_str())?;
                        place(state, network, wish, &new)?
                    }
                    Target::Overlay => {
                        let Some(endpoint) = overlays.next() else { continue };
                        HostEndpoint { index: place::free_link(&links, name)?, ..endpoint }
                    }
                };
                links.insert(endpoint.index);
                state.endpoints.entry(id.clone()).or_default().push(endpoint);
            }
            let workload = Workload {
                id: id.clone(),
                created_at: now(),
                spec: spec.clone(),
                ports,
                wanted: true,
                runs: 1,
                stop_grace: None,
                status: assigned(),
            };
            state.workloads.insert(id.clone(), workload.clone());
            Ok(workload)
        })
    }

    /// Waits until the program runs, or has run.
    async fn running(&self, workload: &Workload) -> Result<()> {
        let name = workload.spec.annotations.name.clone();
        let revision = self.store.snapshot().revision;
        let refused =
            |reason: &str| Some(Err(OperationError::Kernel { name: name.clone(), reason: reason.to_owned() }));
        let begun = |picture: &Picture| {
            let seen = picture.jobs.get(&workload.id).filter(|j| j.job.runs() == workload.runs)?;
            match seen.status.state {
                _ if seen.status.message == NOT_STARTED => {
                    Some(Err(OperationError::CannotRun { name: name.clone(), reason: seen.status.error.clone() }))
                }
                state if state >= TaskState::Running => Some(Ok(())),
                _ => None,
            }
        };
        let judge = |picture: &Picture| match picture.failures.get(&workload.id) {
            Some(reason) => refused(reason),
            None => begun(picture).or_else(|| picture.refusal(revision).and_then(refused)),
        };
        let last = |p: &Picture| p.jobs.get(&workload.id).map_or_else(String::new, |j| j.status.message.clone());
        self.wait(&name, KERNEL_LIMIT, judge, last).await
    }

    pub async fn start(&self, reference: &str) -> Result<()> {
        let found = self.workload(reference)?;
        if found.wanted {
            return Ok(());
        }
        // What was asked to stop may take its time.
        self.ended(&found, found.stop_grace).await?;
        let started = self.store.update(|state| {
            let gone = || FindError::None { kind: "workload", reference: reference.to_owned() };
            let workload = state.workloads.get_mut(&found.id).ok_or_else(gone)?;
            if workload.wanted {
                return Ok(None);
            }
            self.hold_all(workload)?;
            workload.wanted = true;
            workload.runs += 1;
            workload.stop_grace = None;
            workload.status = assigned();
            Ok::<_, OperationError>(Some(workload.clone()))
        })?;
        // Somebody else was faster.
        let Some(workload) = started else { return Ok(()) };
        let running = self.running(&workload).await;
        if running.is_err()
            && let Err(left) = self.end(&workload.id, Some(Duration::ZERO)).await
        {
            tracing::warn!(task = %workload.id, error = chain(&left), "what could not be started is not wholly gone");
        }
        running
    }

    pub async fn stop(&self, reference: &str, grace: Option<Duration>) -> Result<()> {
        let found = self.workload(reference)?;
        self.end(&found.id, grace).await
    }

    /// Ends the program, and waits until it has and its namespace is gone.
    async fn end(&self, id: &TaskId, grace: Option<Duration>) -> Result<()> {
        let Some(name) = self.halt(id, grace).await? else { return Ok(()) };
        self.applied(&name, Part::None).await
    }

    /// Ends the program and waits until it has. With the name of the workload, if there is one.
    async fn halt(&self, id: &TaskId, grace: Option<Duration>) -> Result<Option<String>> {
        let stopped = self.store.update(|state| {
            let Some(workload) = state.workloads.get_mut(id) else { return Ok::<_, OperationError>(None) };
            workload.wanted = false;
            workload.stop_grace = grace;
            Ok(Some(workload.clone()))
        })?;
        let Some(workload) = stopped else { return Ok(None) };
        self.ended(&workload, grace).await?;
        self.release_ended(id)?;
        Ok(Some(workload.spec.annotations.name))
    }

    async fn ended(&self, workload: &Workload, grace: Option<Duration>) -> Result<()> {
        let limit = KERNEL_LIMIT + grace.unwrap_or(workload.spec.stop_grace);
        let judge = |p: &Picture| match p.jobs.get(&workload.id) {
            Some(seen) if !seen.status.state.is_terminal() => None,
            _ => Some(Ok(())),
        };
        self.wait(&workload.spec.annotations.name, limit, judge, |_| "it has not ended".into()).await
    }

    pub async fn remove(&self, reference: &str, force: bool) -> Result<TaskId> {
        let found = self.workload(reference)?;
        if found.wanted && !force {
            return Err(OperationError::Running(found.spec.annotations.name));
        }
        let _busy = self.busy(&found.id).await;
        self.discard(&found.id).await?;
        Ok(found.id)
    }

    /// Takes a workload away with all that it has.
    async fn discard(&self, id: &TaskId) -> Result<()> {
        self.halt(id, Some(Duration::ZERO)).await?;
        let state = self.store.snapshot();
        let overlay = |e: &HostEndpoint| !state.networks.contains_key(&e.network);
        let attached = state.endpoints_of(id).iter().any(overlay) || !state.workloads.contains_key(id);
        let name = self.store.update(|state| {
            state.endpoints.remove(id);
            Ok::<_, OperationError>(state.workloads.remove(id).map(|w| w.spec.annotations.name))
        })?;
        self.ports.release(id);
        // Whatever the kernel says: nothing here asks for any of it any more.
        let gone = self.applied(&name.unwrap_or_default(), Part::None).await;
        self.executor.processes.forget(id);
        if attached && self.leader.borrow().is_some() {
            self.give_back(id, "").await;
        }
        gone
    }
}

fn assigned() -> TaskStatus {
    TaskStatus { state: TaskState::Assigned, since: now(), message: "created".into(), ..TaskStatus::default() }
}

fn check_name(name: &str) -> Result<()> {
    let edge = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    match place::check_alias(name) {
        Ok(()) if edge => Ok(()),
        _ => Err(OperationError::Name(name.to_owned())),
    }
}

/// Where ports are published: on which address by default, and whether they can be at all. Ports that cannot are dropped, with
/// a warning, as docker does. By an overlay that leads out they are published where the gateway bridge is the way out.
fn publication(
    spec: &mut WorkloadSpec,
    targets: &[Target],
    overlay_leads: bool,
) -> Result<(Vec<String>, Option<Ipv4Addr>)> {
    let driver = |t: &Target| match t {
        Target::Host(n) => n.spec.driver,
        Target::Overlay => Driver::Overlay,
    };
    let hosts = || {
        targets.iter().filter_map(|t| match t {
            Target::Host(network) => Some(network),
            Target::Overlay => None,
        })
    };
    let bridge = hosts().find(|n| n.spec.driver == Driver::Bridge && !n.spec.internal);
    let binding = match bridge {
        Some(network) => bridge::Options::parse(&network.spec.options)?.binding,
        None => None,
    };
    let leads = bridge.is_some() || (overlay_leads && hosts().all(|n| ways_out(n).is_empty()));
    if leads || spec.ports.is_empty() {
        return Ok((Vec::new(), binding));
    }
    spec.ports.clear();
    let why = match targets.iter().map(driver).next() {
        Some(Driver::Host) => "published ports are discarded when using host network mode",
        Some(Driver::Null) => "published ports are discarded: the workload is on no network",
        _ => "published ports are discarded: none of the workload's networks leads through this host",
    };
    Ok((vec![why.to_owned()], None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dataplane::tests::bridge_network, local::network::HostNetwork};
    use heddle_model::{network::NetworkSpec, workload::PublishWish};

    #[test]
    fn ports_are_published_where_something_leads_to_them_and_else_a_warning_says_so() {
        let target = |internal| Target::Host(bridge_network(1, &[], internal));
        let macvlan = || {
            let spec = NetworkSpec { driver: Driver::Macvlan, ..NetworkSpec::default() };
            let options = [("parent".to_owned(), "eth0".to_owned())].into();
            Target::Host(HostNetwork { spec: NetworkSpec { options, ..spec }, ..bridge_network(1, &[], false) })
        };
        for (targets, overlay_leads, published) in [
            (vec![target(false)], false, true),
            (vec![target(true)], false, false),
            (vec![Target::Overlay], true, true),
            (vec![Target::Overlay], false, false),
            (vec![Target::Overlay, target(false)], false, true),
            (vec![Target::Overlay, target(true)], true, true),
            (vec![Target::Overlay, target(true)], false, false),
            // The macvlan is the way out, and nothing of this host leads there.
            (vec![Target::Overlay, macvlan()], true, false),
        ] {
            let port = heddle_model::net::Port::try_from(80).unwrap();
            let protocol = heddle_model::net::Protocol::Tcp;
            let wish = PublishWish { host_ip: None, host: None, target: port..=port, protocol };
            let mut spec = WorkloadSpec { ports: vec![wish], ..WorkloadSpec::default() };
            let (warnings, _) = publication(&mut spec, &targets, overlay_leads).unwrap();
            let seen: Vec<_> = targets.iter().map(|t| matches!(t, Target::Overlay)).collect();
            assert_eq!((spec.ports.len(), warnings.len()), if published { (1, 0) } else { (0, 1) }, "{seen:?}");
        }
    }
}
