//! A workload in the foreground: its output as it comes, our signals passed on as a stop, its exit code at the end.

use crate::{client::said, commands::logs};
use anyhow::Result;
use futures::{StreamExt, stream::FuturesUnordered};
use heddle_proto::v1::{self, host_client::HostClient};
use std::{pin::pin, time::Duration};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::transport::Channel;

/// Output that the daemon read before it told the end has come by then.
const QUIET: Duration = Duration::from_millis(500);

/// What asks us to end.
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Interrupts {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// The first request to end stops the workload as it wants to be stopped; the next kill it.
async fn stop(mut host: HostClient<Channel>, r#ref: String, grace_ms: Option<u64>) -> Result<(), tonic::Status> {
    host.stop_workload(v1::StopWorkloadRequest { r#ref, grace_ms }).await.map(|_| ())
}

/// Returns the program's exit code.
pub async fn attend(host: &mut HostClient<Channel>, id: &str, mut interrupts: Interrupts) -> Result<u8> {
    let (mut told, mut asker) = (host.clone(), host.clone());
    let request = v1::ServiceLogsRequest { r#ref: id.to_owned(), follow: true, tail: None, since_ms: 0 };
    let mut lines = asker.workload_logs(request).await.map_err(said)?.into_inner();
    let mut end = pin!(told.wait_workload(v1::RefRequest { r#ref: id.to_owned() }));
    let (mut reading, mut grace_ms, mut stops) = (true, None, FuturesUnordered::new());
    let ended = loop {
        tokio::select! {
            line = lines.next(), if reading => match line {
                Some(Ok(line)) => reading = logs::print(&line, false, None),
                Some(Err(status)) => {
                    eprintln!("heddle: {:#}", said(status));
                    reading = false;
                }
                None => reading = false,
            },
            ended = &mut end => break ended.map_err(said)?.into_inner(),
            () = interrupts.next() => {
                stops.push(stop(host.clone(), id.to_owned(), grace_ms));
                grace_ms = Some(0);
            }
            Some(stopped) = stops.next() => if let Err(status) = stopped {
                eprintln!("heddle: {:#}", said(status));
            },
        }
    };
    while reading {
        match tokio::time::timeout(QUIET, lines.next()).await {
            Ok(Some(Ok(line))) => reading = logs::print(&line, false, None),
            _ => reading = false,
        }
    }
    if !ended.error.is_empty() {
        eprintln!("heddle: {}", ended.error);
    }
    Ok(u8::try_from(ended.exit_code).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fake::Fake;
    use nix::sys::signal::{Signal as Kind, raise};

    fn ended(exit_code: i32) -> Option<v1::WaitWorkloadResponse> {
        Some(v1::WaitWorkloadResponse { exit_code, error: String::new() })
    }

    #[tokio::test]
    async fn the_exit_code_is_the_programs() {
        for (code, want) in [(0, 0), (7, 7), (143, 143)] {
            let fake = Fake::start(|daemon| daemon.ends = ended(code));
            let mut host = fake.client().host().unwrap();
            assert_eq!(attend(&mut host, "w1", Interrupts::new().unwrap()).await.unwrap(), want);
        }
    }

    #[tokio::test]
    async fn a_signal_stops_the_workload_and_its_code_is_still_told() {
        let fake = Fake::start(|_| {});
        let mut host = fake.client().host().unwrap();
        let interrupts = Interrupts::new().unwrap();
        // Caught by the handlers of this process, which exist from here on.
        raise(Kind::SIGINT).unwrap();
        assert_eq!(attend(&mut host, "w1", interrupts).await.unwrap(), 143);
        assert_eq!(fake.state().asked.iter().filter(|a| *a == "stop w1 None").count(), 1);
    }
}
