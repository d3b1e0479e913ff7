//! Answers to why, and to what if.

use crate::{
    rehearsal::{Held, Planned, Rehearsal},
    scheduler::explain::{Explanation, Placed, Waiting},
    store::Snapshot,
};
use heddle_model::{NodeId, service::Service};
use heddle_proto::v1;

fn hostname(state: &Snapshot, node: &NodeId) -> String {
    state.nodes.get(node).map_or_else(String::new, |n| n.description.hostname.clone())
}

pub fn explanation(state: &Snapshot, service: &Service, explanation: Explanation) -> v1::ServiceExplanation {
    let name = &service.spec.annotations.name;
    let placed = |p: Placed| v1::PlacedTask {
        slot: p.slot,
        hostname: hostname(state, &p.node),
        node: p.node.into(),
        why: p.why,
    };
    let waiting = |w: Waiting| v1::WaitingTasks {
        slots: w.slots,
        message: w.message,
        nodes: w
            .nodes
            .into_iter()
            .map(|(node, refusals)| {
                let hostname = hostname(state, &node);
                let refusal = |r: &crate::scheduler::Refusal| v1::Refusal {
                    reason: r.to_string(),
                    remedy: r.remedy(&hostname, name),
                };
                let refusals = refusals.iter().map(refusal).collect();
                v1::NodeRefusal { node: node.into(), hostname, refusals }
            })
            .collect(),
    };
    v1::ServiceExplanation {
        placed: explanation.placed.into_iter().map(placed).collect(),
        waiting: explanation.waiting.into_iter().map(waiting).collect(),
    }
}

pub fn plan(state: &Snapshot, rehearsal: Rehearsal) -> v1::ServicePlan {
    let tasks = rehearsal.tasks.into_iter().filter_map(|(slot, planned)| planned_task(state, slot, planned));
    v1::ServicePlan {
        tasks: tasks.collect(),
        lasts_ms: rehearsal.lasts.as_millis() as u64,
        update: rehearsal.update.map(Into::into),
        ended: rehearsal.ended,
    }
}

fn planned_task(state: &Snapshot, slot: u64, planned: Planned) -> Option<v1::PlannedTask> {
    use v1::PlannedAction::{Created, Removed, Replaced, Stays};
    let host =
        |held: Option<&Held>| held.and_then(|h| h.node.as_ref()).map_or_else(String::new, |node| hostname(state, node));
    let action = match (&planned.before, &planned.after) {
        (Some(before), Some(after)) if before.task == after.task => Stays,
        (Some(_), Some(_)) => Replaced,
        (None, Some(_)) => Created,
        (Some(_), None) => Removed,
        (None, None) => return None,
    };
    let nowhere = planned.after.as_ref().filter(|after| after.node.is_none());
    Some(v1::PlannedTask {
        slot,
        action: action.into(),
        from: host(planned.before.as_ref()),
        to: host(planned.after.as_ref()),
        reason: nowhere.map_or_else(String::new, |after| after.message.clone()),
    })
}
