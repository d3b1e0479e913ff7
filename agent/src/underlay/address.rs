//! Whether this host still has the address that others send to. Decides only.

use heddle_model::{NodeId, assignment::NodeView};
use std::net::IpAddr;

/// A member of a cluster, as far as addresses go.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    pub node: &'a NodeId,
    pub data_path: IpAddr,
    /// Where its manager is reached, on a manager.
    pub manager: Option<IpAddr>,
}

/// An address of the host, and its link's name.
pub type At = (String, IpAddr);

/// What is wrong, with the way out. `here` are the host's addresses.
pub fn complaint(own: &Own<'_>, here: &[At], view: Option<&NodeView>) -> Option<String> {
    if !here.iter().any(|(_, addr)| *addr == own.data_path) {
        return Some(gone(own, here));
    }
    let known = view?.peers.get(own.node)?.data_path_addr;
    let other = view?.peers.values().find(|p| p.data_path_addr == own.data_path && p.node != *own.node)?;
    Some(format!(
        "others send to {known}, not to this host's {}, which is {}'s: restart the daemon with another --data-path-addr",
        own.data_path, other.hostname
    ))
}

fn gone(own: &Own<'_>, here: &[At]) -> String {
    let addr = own.data_path;
    let usable = here.iter().filter(|(_, a)| a.is_ipv4() == addr.is_ipv4() && !a.is_loopback());
    let usable: Vec<_> = usable.map(|(link, a)| format!("{a} ({link})")).collect();
    let others = match usable.as_slice() {
        [] => "another, once it has one".to_owned(),
        some => format!("one of {}", some.join(", ")),
    };
    let way_out = match own.manager {
        Some(manager) if manager == addr => {
            format!("`heddle leave` and join again with --advertise-addr and {others}, since a manager cannot move")
        }
        _ => format!("restart the daemon with --data-path-addr and {others}"),
    };
    format!("{addr}, which others send to, is on no link of this host: give it back, or {way_out}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(link: &str, addr: &str) -> At {
        (link.to_owned(), addr.parse().unwrap())
    }

    #[test]
    fn the_way_out_is_one_that_there_is() {
        let node = NodeId::from_random([1; 16]);
        let data_path: IpAddr = "10.77.0.2".parse().unwrap();
        let worker = Own { node: &node, data_path, manager: None };
        let had = [at("lo", "127.0.0.1"), at("eth0", "10.77.0.2")];
        assert_eq!(complaint(&worker, &had, None), None);
        let has = [at("lo", "127.0.0.1"), at("eth0", "10.77.0.9"), at("eth1", "192.0.2.7"), at("eth0", "fd77::2")];
        assert_eq!(
            complaint(&worker, &has, None).unwrap(),
            "10.77.0.2, which others send to, is on no link of this host: give it back, or restart the daemon with \
             --data-path-addr and one of 10.77.0.9 (eth0), 192.0.2.7 (eth1)"
        );
        let alone = complaint(&worker, &had[..1], None).unwrap();
        assert!(alone.ends_with("with --data-path-addr and another, once it has one"), "{alone}");
        let manager = Own { manager: Some(data_path), ..worker };
        let told = complaint(&manager, &has, None).unwrap();
        assert!(told.contains("`heddle leave` and join again with --advertise-addr and one of 10.77.0.9"), "{told}");
        // Its data path is on another address than its manager.
        let apart = Own { manager: Some("10.77.0.9".parse().unwrap()), ..worker };
        assert!(complaint(&apart, &has, None).unwrap().contains("restart the daemon"));
    }
}
