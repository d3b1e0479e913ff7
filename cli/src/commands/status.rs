//! `cluster status`: how the managers and the nodes are.

use crate::{
    client::{Client, said},
    commands::{ca, moment},
    output::{Format, age, table},
};
use anyhow::Result;
use heddle_proto::v1;
use serde_json::{Value, json};

pub async fn run(client: &Client, format: Format) -> Result<()> {
    let status = client.observe()?.get_status(v1::GetStatusRequest {}).await.map_err(said)?.into_inner();
    // A user asks from anywhere.
    let own = match client.is_user() {
        true => None,
        false => Some(client.local()?.info(v1::InfoRequest {}).await.map_err(said)?.into_inner().certificate_ends_ms),
    };
    match format {
        Format::Json => println!("{:#}", value(&status, own)),
        Format::Table => print!("{}", text(&status, own)),
    }
    Ok(())
}

/// What the count of managers means: how many more may go before nothing can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quorum {
    voters: usize,
    reachable: usize,
    led: bool,
}

impl Quorum {
    fn of(status: &v1::ClusterStatus) -> Self {
        let voters = || status.managers.iter().filter(|m| m.voter);
        let reachable = voters().filter(|m| m.reachable).count();
        Self { voters: voters().count(), reachable, led: !status.leader.is_empty() }
    }

    fn needed(self) -> usize {
        self.voters / 2 + 1
    }

    /// None: there is no quorum now.
    fn spare(self) -> Option<usize> {
        self.reachable.checked_sub(self.needed())
    }

    fn sentence(self) -> String {
        let Quorum { voters, reachable, led } = self;
        let reached = match voters {
            1 => "The only manager can be reached".to_owned(),
            _ => format!("{reachable} of {voters} managers can be reached"),
        };
        match self.spare() {
            None => format!("{reached} and {} are needed: nothing can be written until more are back.", self.needed()),
            Some(_) if !led => format!("{reached}, but none leads yet: nothing can be written until one does."),
            Some(0) => format!("{reached}: no loss can be survived."),
            Some(spare) => {
                format!("{reached}: {spare} more {} can be survived.", if spare == 1 { "loss" } else { "losses" })
            }
        }
    }
}

fn lead(status: &v1::ClusterStatus) -> String {
    let leader = status.managers.iter().find(|m| !status.leader.is_empty() && m.node == status.leader);
    leader.map_or_else(|| "none".to_owned(), |m| format!("{} (term {})", m.hostname, status.term))
}

fn rows(status: &v1::ClusterStatus) -> Vec<Vec<String>> {
    let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let row = |m: &v1::ManagerHealth| {
        let role = match (m.node == status.leader && !m.node.is_empty(), m.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        let reachable = if m.reachable { "yes" } else { "no" };
        let seen = m.silent_ms.map_or_else(|| "-".to_owned(), age);
        vec![
            m.hostname.clone(),
            m.addr.clone(),
            role.to_owned(),
            reachable.to_owned(),
            number(m.log_index),
            number(m.lag),
            seen,
        ]
    };
    status.managers.iter().map(row).collect()
}

fn text(status: &v1::ClusterStatus, own_ends_ms: Option<u64>) -> String {
    let nodes = status.nodes.unwrap_or_default();
    let others = [(nodes.down, "down"), (nodes.unknown, "unknown")];
    let others: String = others.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {n} {what}")).collect();
    let managers = table(&["MANAGER", "ADDRESS", "ROLE", "REACHABLE", "LOG INDEX", "LAG", "LAST SEEN"], rows(status));
    let mut text = format!("Leader:        {}\n", lead(status));
    text += &format!("Managers:      {}\n", Quorum::of(status).sentence());
    text += &format!("Revision:      {}\n", status.revision);
    text += &format!("Nodes:         {} ready{others}\n", nodes.ready);
    for lag in &status.behind {
        text += &format!("Behind:        {} by {} revisions\n", lag.hostname, lag.revisions);
    }
    if status.dead_manager_after_ms > 0 {
        let after = moment::show_duration(status.dead_manager_after_ms);
        text += &format!("Autopilot:     removes a manager that is down for {after}\n");
    }
    if let Some(roots) = &status.roots {
        text += &format!("Root:          another certificate is to follow: {}\n", ca::progress(roots));
    }
    let own = own_ends_ms.map_or_else(String::new, |ends| format!("this host's until {}, ", moment::show(ends)));
    let root = moment::show(status.root_certificate_ends_ms);
    text += &format!("Certificates:  {own}the cluster's until {root}\n\n{managers}\n");
    text
}

fn value(status: &v1::ClusterStatus, own_ends_ms: Option<u64>) -> Value {
    let quorum = Quorum::of(status);
    let manager = |m: &v1::ManagerHealth| {
        json!({
            "node": m.node, "hostname": m.hostname, "addr": m.addr, "voter": m.voter, "reachable": m.reachable,
            "leader": !m.node.is_empty() && m.node == status.leader, "logIndex": m.log_index, "lag": m.lag,
            "silentMs": m.silent_ms,
        })
    };
    let nodes = status.nodes.unwrap_or_default();
    let lag = |l: &v1::NodeLag| json!({ "node": l.node, "hostname": l.hostname, "revisions": l.revisions });
    json!({
        "toldBy": status.told_by, "leader": Some(&status.leader).filter(|l| !l.is_empty()), "term": status.term,
        "revision": status.revision, "managers": status.managers.iter().map(manager).collect::<Vec<_>>(),
        "quorum": {
            "voters": quorum.voters, "reachable": quorum.reachable, "needed": quorum.needed(),
            "canLose": quorum.spare(), "sentence": quorum.sentence(),
        },
        "nodes": { "ready": nodes.ready, "down": nodes.down, "unknown": nodes.unknown },
        "deadManagerAfterMs": Some(status.dead_manager_after_ms).filter(|ms| *ms > 0),
        "rootRotation": status.roots.as_ref().map(|roots| json!({
            "since": moment::show(roots.since_ms), "nodes": roots.nodes,
            "waitsFor": roots.waits_for.iter().map(|w| &w.hostname).collect::<Vec<_>>(), "usersThatEnd": roots.users,
        })),
        "behind": status.behind.iter().map(lag).collect::<Vec<_>>(),
        "certificateEnds": own_ends_ms.map(moment::show), "rootCertificateEnds": moment::show(status.root_certificate_ends_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn manager(n: u64, voter: bool, reachable: bool) -> v1::ManagerHealth {
        v1::ManagerHealth {
            node: format!("n{n}"),
            hostname: format!("h{n}"),
            addr: format!("192.0.2.{n}:2377"),
            voter,
            reachable,
            log_index: Some(90 - n),
            lag: Some(n - 1),
            silent_ms: Some(if reachable { 0 } else { 65_000 }),
        }
    }

    fn quorum(voters: usize, reachable: usize, led: bool) -> String {
        Quorum { voters, reachable, led }.sentence()
    }

    #[test]
    fn the_sentence_says_what_another_loss_means() {
        for (said, want) in [
            (quorum(1, 1, true), "The only manager can be reached: no loss can be survived."),
            (quorum(3, 3, true), "3 of 3 managers can be reached: 1 more loss can be survived."),
            (quorum(3, 2, true), "2 of 3 managers can be reached: no loss can be survived."),
            (quorum(5, 5, true), "5 of 5 managers can be reached: 2 more losses can be survived."),
            (
                quorum(3, 2, false),
                "2 of 3 managers can be reached, but none leads yet: nothing can be written until one does.",
            ),
            (
                quorum(3, 1, false),
                "1 of 3 managers can be reached and 2 are needed: nothing can be written until more are back.",
            ),
        ] {
            assert_eq!(said, want);
        }
    }

    #[test]
    fn a_status_is_read_at_a_glance() {
        let status = v1::ClusterStatus {
            leader: "n1".into(),
            term: 4,
            revision: 89,
            managers: vec![manager(1, true, true), manager(2, true, false), manager(3, false, true)],
            nodes: Some(v1::NodeCounts { ready: 2, down: 1, unknown: 0 }),
            behind: vec![v1::NodeLag { node: "n3".into(), hostname: "h3".into(), revisions: 7 }],
            root_certificate_ends_ms: 2_000_000_000_000,
            dead_manager_after_ms: 600_000,
            roots: Some(v1::RootsStatus { nodes: 3, ..v1::RootsStatus::default() }),
            ..v1::ClusterStatus::default()
        };
        expect![[r#"
            Leader:        h1 (term 4)
            Managers:      1 of 2 managers can be reached and 2 are needed: nothing can be written until more are back.
            Revision:      89
            Nodes:         2 ready, 1 down
            Behind:        h3 by 7 revisions
            Autopilot:     removes a manager that is down for 10m
            Root:          another certificate is to follow: 3 of 3 nodes have a certificate by it
            Certificates:  this host's until 2027-01-15T08:00:00Z, the cluster's until 2033-05-18T03:33:20Z

            MANAGER  ADDRESS         ROLE     REACHABLE  LOG INDEX  LAG  LAST SEEN
            h1       192.0.2.1:2377  leader   yes        89         0    0 seconds ago
            h2       192.0.2.2:2377  voter    no         88         1    1 minute ago
            h3       192.0.2.3:2377  learner  yes        87         2    0 seconds ago
        "#]]
        .assert_eq(&text(&status, Some(1_800_000_000_000)));
    }
}
