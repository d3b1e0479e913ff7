//! Which bridges of others lead outside, as `br-lan` does, and which are only for somebody's guests, as `docker0` is.

use heddle_model::net::IfName;
use std::collections::BTreeSet;

/// What a link has to do with bridges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Bridge,
    /// Hardware, or what lies on hardware: bond, team, VLAN.
    Outward,
    /// All else, such as a port that a container or a virtual machine is behind.
    Inward,
}

/// A link of the host's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLink {
    pub name: IfName,
    pub role: Role,
    /// The bridge that it is a port of.
    pub master: Option<IfName>,
}

/// The bridges that hardware is a port of, or that the way to everywhere goes by.
pub fn uplinks(links: &[HostLink], default_routes: &BTreeSet<IfName>) -> BTreeSet<IfName> {
    let bridges = links.iter().filter(|l| l.role == Role::Bridge).map(|l| &l.name);
    let wired = |name: &IfName| links.iter().any(|l| l.role == Role::Outward && l.master.as_ref() == Some(name));
    bridges.filter(|name| wired(name) || default_routes.contains(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_leads_outside_by_hardware_or_by_the_default_route() {
        let name = |n: &str| n.parse::<IfName>().unwrap();
        let link = |n: &str, role, master: Option<&str>| HostLink { name: name(n), role, master: master.map(name) };
        let links = [
            link("eth0", Role::Outward, None),
            link("docker0", Role::Bridge, None),
            link("veth1", Role::Inward, Some("docker0")),
            link("virbr0", Role::Bridge, None),
            link("vmbr0", Role::Bridge, None),
            link("tap0", Role::Inward, Some("vmbr0")),
            link("eth1", Role::Outward, Some("vmbr0")),
            link("br0", Role::Bridge, None),
            link("veth2", Role::Inward, Some("br0")),
        ];
        assert_eq!(uplinks(&links, &[name("br0"), name("eth0")].into()), [name("br0"), name("vmbr0")].into());
        assert_eq!(uplinks(&links, &BTreeSet::new()), [name("vmbr0")].into());
    }
}
