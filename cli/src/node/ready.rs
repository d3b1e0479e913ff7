//! Whether this host does what it is there for, as load balancers and supervisors ask.

use heddle_agent::agent::Status;
use std::fmt::{self, Write};

/// One thing that has to hold, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub what: &'static str,
    pub wrong: Option<String>,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.wrong {
            None => write!(f, "ok      {}", self.what),
            Some(why) => write!(f, "failed  {}: {why}", self.what),
        }
    }
}

/// Of the agent: it hears from the leader, and its kernel is as it was told.
pub fn agent(in_cluster: bool, status: &Status) -> Vec<Check> {
    let session = match (in_cluster, status.removed, status.connected) {
        (false, ..) => None,
        (true, true, _) => Some("this node is not in the cluster any more".to_owned()),
        (true, false, false) => Some("no session with the leader".to_owned()),
        (true, false, true) => None,
    };
    let behind = status.applied_revision < status.assigned_revision;
    let kernel = match status.errors.first() {
        Some(error) => Some(error.clone()),
        None if in_cluster && behind => {
            Some(format!("the kernel is at revision {} of {}", status.applied_revision, status.assigned_revision))
        }
        None => None,
    };
    vec![Check { what: "session", wrong: session }, Check { what: "data plane", wrong: kernel }]
}

/// One line for each.
pub fn text(checks: &[Check]) -> String {
    checks.iter().fold(String::new(), |mut text, check| {
        let _ = writeln!(text, "{check}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(in_cluster: bool, status: &Status) -> String {
        let wrong: Vec<_> = agent(in_cluster, status).into_iter().filter_map(|c| c.wrong).collect();
        wrong.join("; ")
    }

    #[test]
    fn a_host_alone_needs_nobody_and_a_node_needs_the_leader_and_its_kernel() {
        let alone = Status::default();
        let node = Status { connected: true, assigned_revision: 7, applied_revision: 7, ..Status::default() };
        assert_eq!((wrong(false, &alone), wrong(true, &node)), (String::new(), String::new()));
        assert_eq!(wrong(true, &alone), "no session with the leader");
        assert_eq!(wrong(true, &Status { removed: true, ..node.clone() }), "this node is not in the cluster any more");
        let late = Status { applied_revision: 6, ..node.clone() };
        assert_eq!(wrong(true, &late), "the kernel is at revision 6 of 7");
        assert_eq!(wrong(true, &Status { errors: vec!["no vxlan".into()], ..late }), "no vxlan");
        assert_eq!(wrong(false, &Status { errors: vec!["no bridge".into()], ..alone }), "no bridge");
    }

    #[test]
    fn what_is_wrong_is_said_by_name() {
        let said = text(&agent(true, &Status::default()));
        assert_eq!(said, "failed  session: no session with the leader\nok      data plane\n");
    }
}
