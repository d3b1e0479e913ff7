//! Where this host is for others, after a start at which the operator may have said otherwise.

use super::{addr, state::NodeState};
use anyhow::Result;
use heddle_model::cluster::Role;
use std::net::{IpAddr, SocketAddr};

/// Addresses are as the operator says now; what is empty stays. The managers hear of the data path when the agent greets
/// them, and of a manager's own address from that itself.
pub fn moved(state: &NodeState, role: Role, advertise: &str, data_path: &str) -> Result<NodeState> {
    let advertise = (!advertise.is_empty()).then(|| addr::advertise(advertise)).transpose()?;
    let at = advertise.unwrap_or(state.advertise);
    let data_path = (!data_path.is_empty()).then(|| addr::data_path(data_path, at)).transpose()?;
    Ok(at_addresses(state, role, advertise, data_path))
}

fn at_addresses(state: &NodeState, role: Role, advertise: Option<SocketAddr>, data_path: Option<IpAddr>) -> NodeState {
    let mut next = state.clone();
    let (before, together) = (state.advertise, state.advertise.ip() == state.data_path);
    next.advertise = advertise.unwrap_or(before);
    // Tunnels that end where the manager was follow it.
    next.data_path = data_path.unwrap_or(if together { next.advertise.ip() } else { state.data_path });
    // A worker has no other address than its data path's.
    if role == Role::Worker && advertise.is_none() && together {
        next.advertise.set_ip(next.data_path);
    }
    for at in next.listen.iter_mut().filter(|at| at.port() == before.port()) {
        at.set_port(next.advertise.port());
        if at.ip() == before.ip() {
            at.set_ip(next.advertise.ip());
        }
    }
    next.managers.iter_mut().filter(|m| **m == before).for_each(|m| *m = next.advertise);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn state() -> NodeState {
        NodeState {
            advertise: socket("10.0.0.1:2377"),
            listen: vec![socket("[::]:2377"), socket("0.0.0.0:2377")],
            data_path: [10, 0, 0, 1].into(),
            managers: vec![socket("10.0.0.1:2377"), socket("10.0.0.2:2377")],
        }
    }

    #[test]
    fn nothing_said_changes_nothing() {
        for role in [Role::Manager, Role::Worker] {
            assert_eq!(at_addresses(&state(), role, None, None), state());
        }
    }

    #[test]
    fn a_manager_moves_with_its_port_and_its_tunnels() {
        let moved = at_addresses(&state(), Role::Manager, Some(socket("10.0.0.9:99")), None);
        let wanted = NodeState {
            advertise: socket("10.0.0.9:99"),
            listen: vec![socket("[::]:99"), socket("0.0.0.0:99")],
            data_path: [10, 0, 0, 9].into(),
            managers: vec![socket("10.0.0.9:99"), socket("10.0.0.2:2377")],
        };
        assert_eq!(moved, wanted);
        let apart = NodeState { data_path: [10, 1, 0, 1].into(), listen: vec![socket("10.0.0.1:2377")], ..state() };
        let moved = at_addresses(&apart, Role::Manager, Some(socket("10.0.0.9:2377")), None);
        assert_eq!((moved.data_path, moved.listen), (apart.data_path, vec![socket("10.0.0.9:2377")]));
    }

    #[test]
    fn a_data_path_moves_alone_but_for_a_worker() {
        let to = [10, 1, 0, 1].into();
        for (role, advertise) in [(Role::Manager, "10.0.0.1:2377"), (Role::Worker, "10.1.0.1:2377")] {
            let moved = at_addresses(&state(), role, None, Some(to));
            assert_eq!((moved.data_path, moved.advertise), (to, socket(advertise)), "{role}");
        }
    }
}
