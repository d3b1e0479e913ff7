//! Takes away the places on overlays that nobody holds any more.

use crate::{
    dispatcher::connection,
    plan::{Context, Plan},
    store::{Mutation, Snapshot},
};
use heddle_model::{Kind, connection::Connection};

/// Gives up the places of nodes that are gone and of tasks that ended; forgets what was given up once every ready node has
/// stopped using its addresses.
pub fn reap(state: &Snapshot, context: &Context<'_>, plan: &mut Plan) {
    for connection in state.connections.values() {
        if connection.released && context.acked >= connection.meta.version {
            plan.push(remove(connection));
        } else if !wanted(state, connection) {
            plan.mutations.extend(connection::release(connection));
        }
    }
}

fn wanted(state: &Snapshot, connection: &Connection) -> bool {
    // A workload that is no task is known to its host alone.
    let ended = state.tasks.get(&connection.workload).is_some_and(|t| !t.on_node());
    state.nodes.contains_key(&connection.node) && !ended
}

fn remove(connection: &Connection) -> Mutation {
    Mutation::Remove { kind: Kind::Connection, id: connection.id.to_string(), version: Some(connection.meta.version) }
}
