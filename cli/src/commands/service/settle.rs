//! Waiting until a service is as wanted, and showing how far it is.

use crate::client::{Control, said};
use anyhow::{Result, bail};
use futures::StreamExt;
use heddle_proto::v1;
use std::{io::IsTerminal, time::Duration};

/// What the progress says in one line, and whether that is what was asked for.
fn describe(progress: &v1::ServiceProgress) -> (String, bool) {
    let (done, wanted) = (progress.in_rotation, progress.desired);
    let removing = wanted == 0;
    let reached =
        if removing { progress.gone } else { done == wanted && progress.running == wanted && progress.stopping == 0 };
    let mut text = match removing {
        true => format!("{} tasks left", progress.stopping),
        false => format!("{} of {wanted} running, {done} in rotation on every host", progress.running),
    };
    if progress.stopping > 0 && !removing {
        text.push_str(&format!(", {} stopping", progress.stopping));
    }
    (text, reached)
}

/// Waits until the service is as wanted. On a time-out says what is missing.
pub async fn settle(control: &mut Control, name: &str, id: &str, timeout: u64) -> Result<()> {
    let request = v1::RefRequest { r#ref: id.to_owned() };
    let mut stream = control.watch_service(request).await.map_err(said)?.into_inner();
    let until = tokio::time::Instant::now() + Duration::from_secs(timeout);
    let bar = std::io::stderr().is_terminal().then(indicatif::ProgressBar::new_spinner);
    let mut last = v1::ServiceProgress::default();
    let mut shown = String::new();
    loop {
        match tokio::time::timeout_at(until, stream.next()).await {
            Ok(Some(Ok(progress))) => last = progress,
            Ok(Some(Err(status))) => return Err(said(status)),
            Ok(None) if last.gone => return Ok(()),
            Ok(None) => bail!("{name}: the manager went away while waiting: look with `heddle service ps {name}`"),
            Err(_) => break,
        }
        let (text, reached) = describe(&last);
        if reached {
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
            return Ok(());
        }
        match &bar {
            Some(bar) => {
                bar.set_message(format!("{name}: {text}"));
                bar.tick();
            }
            None if shown != text => eprintln!("{name}: {text}"),
            None => {}
        }
        shown = text;
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let mut why = last.reasons.clone();
    if !last.waiting_for.is_empty() {
        why.push(format!("waiting for {}", last.waiting_for.join(", ")));
    }
    bail!("{name}: not done after {timeout} s: {}; {}", describe(&last).0, why.join("; "))
}
