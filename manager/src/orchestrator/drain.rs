//! When a task that has to go may be stopped: not before every ready node's balancers have let go of it. However it came to
//! that (an update, fewer replicas, a node that is drained, a service that is removed, a health check), this is the one place.

use crate::{
    plan::{Context, Plan},
    store::{Mutation, Snapshot},
};
use heddle_model::task::Task;
use std::time::Duration;

/// A node that is there and does not follow holds nobody up for longer.
const LIMIT: Duration = Duration::from_secs(30);

pub fn release(state: &Snapshot, context: &Context<'_>, plan: &mut Plan) {
    for task in state.tasks.values().filter(|t| t.has_to_go() && t.on_node() && !t.stop) {
        let at = task.meta.updated_at.plus(LIMIT);
        let let_go = context.acked >= task.meta.version;
        if let_go || context.now >= at {
            if !let_go {
                let (acked, needed) = (context.acked.0, task.meta.version.0);
                tracing::warn!(
                    task = task.name(),
                    acked,
                    needed,
                    "a task is stopped although a node still leads to it: `heddle cluster status` shows which is behind"
                );
            }
            plan.push(Mutation::Update(Task { stop: true, ..Task::clone(task) }.into()));
        } else {
            plan.wake_at(at);
        }
    }
}
