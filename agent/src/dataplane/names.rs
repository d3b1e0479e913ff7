//! The one place that derives the names and numbers of our kernel objects. `own` recognises what is made here.

use super::state::{Family, Space, TableId};
use heddle_model::{
    NetworkId, NodeId, TaskId,
    net::{IfName, Mac},
    tunnel::Epoch,
};
use sha2::{Digest, Sha256};

/// How much of an id goes into a namespace's name: 51 random bits.
pub(super) const ID_PART: usize = 10;
/// Characters of hash in the name of a veth's outer end; with `hd` this fills the 15 that Linux allows.
pub(super) const HASH_PART: usize = 13;

pub(super) const TASK_SPACE: &str = "hd-t-";
pub(super) const NETWORK_SPACE: &str = "hd-n-";
pub(super) const INGRESS_SPACE: &str = "hd-ingress";
pub(super) const TUNNEL_SPACE: &str = "hd-tunnel";
pub(super) const GATEWAY: &str = "heddle_gw";
pub(super) const INGRESS_LEG: &str = "hdgw-ingress";
pub(super) const VXLAN_STAGING: &str = "hdvx";
pub(super) const DEFAULT_BRIDGE: &str = "heddle0";
pub(super) const HOST_BRIDGE: &str = "hdb-";
pub(super) const DEAD_END: &str = "hdp-";

/// Alias (IFLA_IFALIAS) of links in the host's namespace whose names an operator chose: what makes them ours.
pub const ALIAS: &str = "heddle";

/// `rtm_protocol` of every route, and `FRA_PROTOCOL` of every rule, that we make; unassigned in iproute2's rt_protos.
pub const ROUTE_PROTOCOL: u8 = 104;
/// Routing table of replies that go back to the host they entered by (in workloads' namespaces).
pub const REPLY_TABLE: u32 = 1000;
/// Preference of the policy rule that leads there.
pub const REPLY_PREF: u32 = 100;
/// Preference of the rules that keep what is sent on a parent of ours on it (in the host's namespace).
pub const PARENT_PREF: u32 = 100;
/// Set in the firewall mark of such replies; the low 16 bits say which host.
pub const REPLY_MARK: u32 = 0x4000_0000;
/// Set in the firewall mark of what our own forward chains accept: foreign chains that would drop it let it pass by this.
pub const PASS_MARK: u32 = 0x2000_0000;
/// Comment of every rule of ours in a foreign chain.
pub const PASS_COMMENT: &str = "heddle";
/// Set in the firewall marks that select an IPVS service.
pub const IPVS_MARK: u32 = 0x1000_0000;
/// Routing table that leads everything to the host itself, and the preference of the rule by which what IPVS balances for a
/// workload itself goes there.
pub const IPVS_TABLE: u32 = 1001;
pub const IPVS_PREF: u32 = 101;
/// Where the resolver listens inside a workload's namespace; port 53 is translated to it.
pub const DNS_PORT: u16 = 11053;
/// The neighbour that replies are sent to before the egress hook writes the entry host's MAC.
pub const VIRTUAL_GATEWAY_MAC: Mac = Mac([0x02, 0x49, 0x4e, 0xff, 0xff, 0xff]);

/// A constant of this file as an interface name.
fn fixed(name: &str) -> IfName {
    name.parse().expect("names made here are 1 to 15 graphic characters")
}

/// The namespace of a workload.
pub fn task_space(task: &TaskId) -> Space {
    Space::Named(format!("{TASK_SPACE}{}", &task.as_str()[..ID_PART]))
}

/// The namespace of an overlay network other than ingress.
pub fn network_space(network: &NetworkId) -> Space {
    Space::Named(format!("{NETWORK_SPACE}{}", &network.as_str()[..ID_PART]))
}

/// The namespace of the ingress network and its balancer.
pub fn ingress_space() -> Space {
    Space::Named(INGRESS_SPACE.to_owned())
}

/// The namespace of the tunnel between hosts, where the sockets of encrypted overlays are.
pub fn tunnel_space() -> Space {
    Space::Named(TUNNEL_SPACE.to_owned())
}

/// This host's end of the tunnel by the keys of an epoch.
pub fn tunnel(epoch: Epoch) -> IfName {
    fixed(&format!("wg{}", epoch.slot()))
}

/// The bridge of an overlay, in the overlay's namespace.
pub fn bridge() -> IfName {
    fixed("br0")
}

/// The tunnel of an overlay, in the overlay's namespace.
pub fn vxlan() -> IfName {
    fixed("vxlan0")
}

/// What a tunnel is called in the host's namespace between being made and being moved. One left there is rubbish.
pub fn vxlan_staging(vni: heddle_model::net::Vni) -> IfName {
    fixed(&format!("{VXLAN_STAGING}{vni}"))
}

/// The bridge by which workloads reach the world, in the host's namespace.
pub fn gateway_bridge() -> IfName {
    fixed(GATEWAY)
}

/// The host's end of its link to the ingress namespace.
pub fn ingress_leg_outer() -> IfName {
    fixed(INGRESS_LEG)
}

/// The ingress namespace's end of it.
pub fn ingress_leg() -> IfName {
    fixed("gw0")
}

/// The link of every namespace to itself.
pub fn loopback() -> IfName {
    fixed("lo")
}

/// `ethN` in a workload.
pub fn task_link(index: usize) -> IfName {
    fixed(&format!("eth{index}"))
}

/// The leg on the gateway bridge of a workload whose `ethN` are all an operator's choice.
pub fn workload_gateway() -> IfName {
    fixed("gw0")
}

/// The outer end of a workload's leg in a network.
pub fn task_port(task: &TaskId, network: &NetworkId) -> IfName {
    fixed(&format!("hd{}", hash36(&[b"port", task.as_str().as_bytes(), network.as_str().as_bytes()])))
}

/// The bridge of a network of this host, unless an operator named it.
pub fn host_bridge(network: &NetworkId) -> IfName {
    fixed(&format!("{HOST_BRIDGE}{}", &network.as_str()[..ID_PART]))
}

/// The bridge of the network that workloads join when they name none.
pub fn default_bridge() -> IfName {
    fixed(DEFAULT_BRIDGE)
}

/// The parent of a macvlan or ipvlan network that has none: a bridge without ports. Not every kernel has `dummy`.
pub fn dead_end(network: &NetworkId) -> IfName {
    fixed(&format!("{DEAD_END}{}", &network.as_str()[..ID_PART]))
}

/// Routing table of what workloads send by the network's own parent, in the host's namespace. Its upper byte is our route
/// protocol number: others count from 1, or use names of less than 2^16.
pub fn parent_table(network: &NetworkId) -> u32 {
    let hash = hash(&[b"parent", network.as_str().as_bytes()]);
    u32::from_be_bytes([ROUTE_PROTOCOL, hash[0], hash[1], hash[2]])
}

/// What a link is called until it is finished and gets its own name. One that is still called so at a look is rubbish.
pub fn staging(space: &Space, name: &IfName) -> IfName {
    fixed(&format!("hd{}", hash36(&[b"staging", space.to_string().as_bytes(), name.as_str().as_bytes()])))
}

/// A link's name as a part of a sysctl's, whose parts are set apart by dots: as sysctl(8) writes it.
pub fn in_sysctl(link: &IfName) -> String {
    link.as_str().replace('.', "/")
}

/// The link that a sysctl is of, if it is one of a link's.
pub fn link_of_sysctl(key: &str) -> Option<IfName> {
    let mut parts = key.split('.');
    let of_links = parts.next() == Some("net") && parts.next().is_some_and(|family| family.starts_with("ipv"));
    let link = parts.nth(1).filter(|name| of_links && !matches!(*name, "all" | "default"))?;
    parts.next()?;
    link.replace('/', ".").parse().ok()
}

/// The outer end of a workload's leg on the gateway bridge.
pub fn gateway_port(task: &TaskId) -> IfName {
    fixed(&format!("hd{}", hash36(&[b"gateway", task.as_str().as_bytes()])))
}

/// What the gateway bridge of a host is known by as a network.
pub fn gateway_network(node: &NodeId) -> NetworkId {
    let digest = hash(&[b"gateway network", node.as_str().as_bytes()]);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    NetworkId::from_random(bytes)
}

/// A MAC that stays the same for as long as `parts` do; for links that only this host knows.
pub fn local_mac(parts: &[&str]) -> Mac {
    let digest = hash(&parts.iter().map(|p| p.as_bytes()).collect::<Vec<_>>());
    let mut bytes = [0; 6];
    bytes.copy_from_slice(&digest[..6]);
    Mac::from_random(bytes)
}

/// The filter of the tunnels' underlay, in the host's namespace.
pub fn underlay_table() -> TableId {
    TableId { family: Family::Inet, name: "heddle_underlay".to_owned() }
}

/// Translation and filter of the gateway bridge, in the host's namespace.
pub fn gateway_table() -> TableId {
    TableId { family: Family::Inet, name: "heddle_gateway".to_owned() }
}

/// Translation and filter of this host's own bridge networks, in the host's namespace.
pub fn bridge_table() -> TableId {
    TableId { family: Family::Inet, name: "heddle_bridge".to_owned() }
}

/// Which flows of datagrams are tracked in which zone. Nothing that is wanted changes it, so what is in it stays.
pub fn flows_table() -> TableId {
    TableId { family: Family::Inet, name: "heddle_flows".to_owned() }
}

/// What else a namespace needs of one family.
pub fn table(family: Family) -> TableId {
    TableId { family, name: "heddle".to_owned() }
}

pub(super) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

fn hash36(parts: &[&[u8]]) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    hash(parts)[..HASH_PART].iter().map(|b| char::from(DIGITS[usize::from(*b) % 36])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_of_a_sysctl_is_found() {
        for link in ["br0", "eth0.10"] {
            let link: IfName = link.parse().unwrap();
            let key = format!("net.ipv6.conf.{}.accept_ra", in_sysctl(&link));
            assert_eq!(link_of_sysctl(&key), Some(link));
        }
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.vs.conntrack"] {
            assert_eq!(link_of_sysctl(key), None, "{key}");
        }
    }

    #[test]
    fn every_pair_has_a_port_of_its_own() {
        let tasks: Vec<_> = (0..20).map(|n| TaskId::from_random([n; 16])).collect();
        let networks: Vec<_> = (0..20).map(|n| NetworkId::from_random([n; 16])).collect();
        let mut names: Vec<_> = tasks.iter().flat_map(|t| networks.iter().map(|n| task_port(t, n))).collect();
        names.extend(tasks.iter().map(gateway_port));
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(names.iter().all(|n| n.as_str().len() == 15));
    }
}
