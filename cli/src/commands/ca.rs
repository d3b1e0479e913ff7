//! `cluster ca`: the root certificate, and another in its place.

use super::show::Show;
use crate::client::{Client, said};
use anyhow::{Result, bail};
use clap::Args;
use heddle_proto::v1::{self, NodeState};
use std::time::Duration;
use tonic::Code;

const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Nodes that are named.
const NAMED: usize = 5;

#[derive(Debug, Args)]
pub struct CaArgs {
    /// Put another root in its place, and wait until every node has a certificate by it. Sessions and tasks go on. Join tokens
    /// are new then, and certificates of users have to be made anew
    #[arg(long)]
    rotate: bool,
    /// Go back to the root before, while nodes are waited for
    #[arg(long, conflicts_with = "rotate")]
    abort: bool,
    /// With --rotate: do not wait
    #[arg(short, long, requires = "rotate")]
    detach: bool,
}

pub async fn run(client: &Client, args: CaArgs) -> Result<()> {
    let mut roots = client.roots()?;
    if !args.rotate && !args.abort {
        let status = roots.get_roots(v1::GetRootsRequest {}).await.map_err(said)?.into_inner();
        if !status.next_pem.is_empty() {
            eprintln!("Another root certificate is to follow: {}.", progress(&status));
        }
        print!("{}", status.cert_pem);
        return Ok(());
    }
    let mut status = roots.rotate_root(v1::RotateRootRequest { abort: args.abort }).await.map_err(said)?.into_inner();
    if args.abort {
        println!("The root certificate stays as it was.");
        return Ok(());
    }
    let users = status.users.clone();
    if args.detach {
        println!("Another root certificate is to follow: {}.", progress(&status));
        return Ok(());
    }
    let mut show = Show::new("root certificate");
    let next = status.next_pem.clone();
    while under_way(&next, &status)? {
        show.line(progress(&status));
        tokio::time::sleep(LOOK_AGAIN).await;
        match roots.get_roots(v1::GetRootsRequest {}).await {
            Ok(answer) => status = answer.into_inner(),
            // Another leader is there soon.
            Err(e) if e.code() == Code::Unavailable => {}
            Err(e) => return Err(said(e)),
        }
    }
    drop(show);
    println!("Every node has a certificate by another root. `heddle join-token` shows the new tokens.");
    println!("Make a backup: by one of before, no node would find back.");
    if !users.is_empty() {
        println!("Users that have to be added again: {}", users.join(", "));
    }
    Ok(())
}

/// Whether nodes are waited for still, before this root is the only one.
fn under_way(next: &str, status: &v1::RootsStatus) -> Result<bool> {
    match next {
        // The answer to the request is of a moment later.
        "" => {
            bail!("the root that was to follow does not any more: see `heddle cluster ca`, and run the command again")
        }
        _ if status.next_pem == next => Ok(true),
        _ if status.cert_pem == next => Ok(false),
        _ => bail!("somebody went back to the root before with --abort"),
    }
}

/// Such as `2 of 4 nodes have a certificate by it, waiting for web1, web2 (down)`.
pub fn progress(status: &v1::RootsStatus) -> String {
    let waits = &status.waits_for;
    let done = (status.nodes as usize).saturating_sub(waits.len());
    let name = |w: &v1::WaitsForNode| match w.state() {
        NodeState::Ready => w.hostname.clone(),
        NodeState::Down => format!("{} (down)", w.hostname),
        NodeState::Unspecified | NodeState::Unknown => format!("{} (not heard of)", w.hostname),
    };
    let mut names: Vec<_> = waits.iter().take(NAMED).map(name).collect();
    if waits.len() > NAMED {
        names.push(format!("{} more", waits.len() - NAMED));
    }
    let waiting = if names.is_empty() { String::new() } else { format!(", waiting for {}", names.join(", ")) };
    format!("{done} of {} nodes have a certificate by it{waiting}", status.nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_another_ends_is_not_waited_for_without_end() {
        let said = |next: &str, cert_pem: &str, next_pem: &str| {
            let (cert_pem, next_pem) = (cert_pem.into(), next_pem.into());
            under_way(next, &v1::RootsStatus { cert_pem, next_pem, ..v1::RootsStatus::default() })
                .map_err(|e| e.to_string())
        };
        let aborted = Err("somebody went back to the root before with --abort".to_owned());
        assert_eq!(said("b", "a", "b"), Ok(true));
        assert_eq!(said("b", "b", ""), Ok(false));
        assert_eq!(said("b", "b", "c"), Ok(false), "another follows already");
        assert_eq!(said("b", "a", ""), aborted);
        assert_eq!(said("b", "a", "c"), aborted, "another began since");
        assert!(said("", "a", "").unwrap_err().starts_with("the root that was to follow does not any more"));
    }

    #[test]
    fn progress_names_who_is_waited_for() {
        let waits = |n: usize, state: NodeState| v1::WaitsForNode {
            node: String::new(),
            hostname: format!("h{n}"),
            state: state.into(),
        };
        let said = |nodes, waits_for| progress(&v1::RootsStatus { nodes, waits_for, ..v1::RootsStatus::default() });
        assert_eq!(said(3, vec![]), "3 of 3 nodes have a certificate by it");
        assert_eq!(
            said(4, vec![waits(1, NodeState::Ready), waits(2, NodeState::Down), waits(3, NodeState::Unknown)]),
            "1 of 4 nodes have a certificate by it, waiting for h1, h2 (down), h3 (not heard of)"
        );
        let many = said(9, (1..=7).map(|n| waits(n, NodeState::Ready)).collect());
        assert!(many.ends_with("h4, h5, 2 more"), "{many}");
    }
}
