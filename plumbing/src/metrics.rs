//! Numbers about the running daemon, in the text format of Prometheus: what they are called, and the one recorder. Code that
//! acts counts where it acts; what is a state is looked at when somebody asks. Without a recorder counting does nothing.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Upper bounds of the buckets of everything that is measured in seconds.
const SECONDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// What was measured goes into its buckets so often, although nobody asks.
const UPKEEP: Duration = Duration::from_secs(5);

const COUNTERS: [(&str, &str); 6] = [
    ("heddle_rpc_requests_total", "Calls of this daemon's services, by method and by how they began."),
    ("heddle_loop_passes_total", "Passes of a loop, by whether they did what they were for."),
    ("heddle_dataplane_steps_total", "Changes of kernel objects that were due."),
    (
        "heddle_dataplane_drift_total",
        "Those of them that were due although nothing else was wanted: somebody changed the kernel.",
    ),
    ("heddle_dataplane_errors_total", "Changes that the kernel refused."),
    ("heddle_dns_queries_total", "Questions of workloads, by what came of them."),
];
const HISTOGRAMS: [(&str, &str); 2] = [
    ("heddle_loop_pass_duration_seconds", "How long a pass of a loop took."),
    ("heddle_dispatcher_ack_latency_seconds", "From an assignment to the agent's word that its kernel is there."),
];
const GAUGES: [(&str, &str); 24] = [
    ("heddle_build_info", "1, with the daemon's version."),
    ("heddle_loop_last_success_timestamp_seconds", "When a pass of a loop last did what it was for."),
    ("heddle_certificate_expiry_timestamp_seconds", "When this node's certificate ends."),
    ("heddle_raft_term", "The term of raft that this manager is in."),
    ("heddle_raft_is_leader", "1 if this manager leads."),
    ("heddle_raft_has_leader", "1 if this manager knows of a leader."),
    ("heddle_raft_voters", "Managers that vote."),
    ("heddle_raft_learners", "Managers that follow and do not vote."),
    ("heddle_raft_last_log_index", "The last entry in this manager's log."),
    ("heddle_raft_committed_index", "The last entry that this manager knows to be committed."),
    ("heddle_raft_last_applied_index", "The last entry that this manager's store has applied."),
    ("heddle_raft_snapshot_index", "The last entry in this manager's newest snapshot."),
    ("heddle_store_revision", "The newest revision of this manager's store."),
    ("heddle_store_objects", "Objects in this manager's store, by kind."),
    ("heddle_nodes", "Nodes of the cluster, by state."),
    ("heddle_dispatcher_sessions", "Agents that have a session with this manager."),
    (
        "heddle_dispatcher_nodes_behind",
        "Ready nodes whose kernel has not acknowledged the newest revision. Of the leader.",
    ),
    ("heddle_dispatcher_revisions_behind_max", "Revisions that the slowest ready node is behind. Of the leader."),
    ("heddle_agent_connected", "1 if this node has a session with the leader."),
    ("heddle_agent_assigned_revision", "The newest revision that this node was told."),
    ("heddle_agent_applied_revision", "The revision that this node's kernel has reached."),
    ("heddle_agent_tasks_running", "Programs that run on this node."),
    ("heddle_dataplane_failing", "What this node's kernel lacks now of what it should have."),
    ("heddle_underlay_warnings", "What is wrong now below the overlays."),
];

/// Starts to record, once for the process; None if something records already.
pub fn record() -> Option<PrometheusHandle> {
    let seconds = Matcher::Suffix("_seconds".to_owned());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(seconds, &SECONDS).ok()?;
    let handle = builder.install_recorder().ok()?;
    COUNTERS.iter().for_each(|(name, help)| describe_counter!(*name, *help));
    HISTOGRAMS.iter().for_each(|(name, help)| describe_histogram!(*name, *help));
    GAUGES.iter().for_each(|(name, help)| describe_gauge!(*name, *help));
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(UPKEEP);
        loop {
            tick.tick().await;
            upkeep.run_upkeep();
        }
    });
    Some(handle)
}

/// Notes a pass of a loop.
pub fn pass(of: &'static str, took: Duration, done: bool) {
    counter!("heddle_loop_passes_total", "loop" => of, "result" => if done { "ok" } else { "error" }).increment(1);
    histogram!("heddle_loop_pass_duration_seconds", "loop" => of).record(took);
    if done {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        gauge!("heddle_loop_last_success_timestamp_seconds", "loop" => of).set(now.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_say_their_kind() {
        let all = COUNTERS.iter().chain(&HISTOGRAMS).chain(&GAUGES);
        let names: std::collections::BTreeSet<_> = all.map(|(name, _)| *name).collect();
        assert_eq!(names.len(), COUNTERS.len() + HISTOGRAMS.len() + GAUGES.len());
        assert!(COUNTERS.iter().all(|(name, _)| name.ends_with("_total")));
        assert!(HISTOGRAMS.iter().all(|(name, _)| name.ends_with("_seconds")));
        assert!(GAUGES.iter().all(|(name, _)| !name.ends_with("_total")));
    }

    #[tokio::test]
    async fn what_is_counted_can_be_read() {
        let recorded = record().unwrap();
        assert!(record().is_none());
        pass("test", Duration::from_millis(20), true);
        pass("test", Duration::from_millis(20), false);
        let text = recorded.render();
        for line in [
            "# TYPE heddle_loop_passes_total counter",
            "heddle_loop_passes_total{loop=\"test\",result=\"error\"} 1",
            "heddle_loop_pass_duration_seconds_bucket{loop=\"test\",le=\"0.01\"} 0",
            "heddle_loop_pass_duration_seconds_bucket{loop=\"test\",le=\"0.025\"} 2",
            "heddle_loop_pass_duration_seconds_count{loop=\"test\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
