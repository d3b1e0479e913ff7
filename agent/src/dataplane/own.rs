//! Recognises what is ours by the names that `names` derives. What it does not recognise is foreign: never listed, never
//! touched. Named spaces that are ours are ours with all that is in them.

use super::{
    names::{
        self, ALIAS, DEAD_END, DEFAULT_BRIDGE, GATEWAY, HASH_PART, HOST_BRIDGE, ID_PART, INGRESS_LEG, INGRESS_SPACE,
        NETWORK_SPACE, TASK_SPACE, TUNNEL_SPACE, VXLAN_STAGING,
    },
    state::Space,
};
use heddle_model::net::IfName;

fn base36(s: &str) -> bool {
    s.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
}

fn is_id(part: &str) -> bool {
    part.len() == ID_PART && base36(part)
}

/// Whether a file in /run/netns is a namespace of ours.
pub fn space(name: &str) -> bool {
    let id = name.strip_prefix(TASK_SPACE).or_else(|| name.strip_prefix(NETWORK_SPACE));
    matches!(name, INGRESS_SPACE | TUNNEL_SPACE) || id.is_some_and(is_id)
}

/// Whether a link in this space is ours. In the host's space only exact forms count, since `hd…` alone may be anybody's, and
/// our alias on links whose names an operator chose.
pub fn link(space: &Space, name: &str, alias: Option<&str>) -> bool {
    match space {
        Space::Named(_) => name != "lo",
        Space::Host => host_name(name) || (alias == Some(ALIAS) && name != "lo"),
    }
}

/// Whether `names` derives such a name for a link in the host's space.
pub fn host_name(name: &str) -> bool {
    let bridge = name.strip_prefix(HOST_BRIDGE).or_else(|| name.strip_prefix(DEAD_END)).is_some_and(is_id);
    let staged =
        name.strip_prefix(VXLAN_STAGING).is_some_and(|vni| !vni.is_empty() && vni.bytes().all(|b| b.is_ascii_digit()));
    bridge || staged || port(name) || matches!(name, GATEWAY | INGRESS_LEG | DEFAULT_BRIDGE)
}

/// The outer end of a workload's leg, or a link that is not finished.
fn port(name: &str) -> bool {
    name.strip_prefix("hd").is_some_and(|hash| hash.len() == HASH_PART && base36(hash))
}

/// Whether an nftables table is ours, in whichever space.
pub fn table(name: &str) -> bool {
    name == "heddle" || name.starts_with("heddle_")
}

/// Whether a route, or a rule of the host's, is ours: by the protocol it was made with.
pub fn route(protocol: u8) -> bool {
    protocol == names::ROUTE_PROTOCOL
}

const HOST_SYSCTLS: &[&str] = &["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];
const HOST_LINK_SYSCTLS: &[&str] =
    &["net.ipv4.conf.{}.route_localnet", "net.ipv6.conf.{}.accept_ra", "net.ipv6.conf.{}.disable_ipv6"];
const SPACE_SYSCTLS: &[&str] = &[
    "net.bridge.bridge-nf-call-arptables",
    "net.bridge.bridge-nf-call-ip6tables",
    "net.bridge.bridge-nf-call-iptables",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.ip_early_demux",
    "net.ipv4.ip_forward",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.vs.conntrack",
    "net.ipv4.vs.expire_nodest_conn",
    "net.ipv4.vs.sloppy_tcp",
    "net.ipv6.conf.all.forwarding",
];
const LINK_SYSCTLS: &[&str] = &[
    "net.ipv4.conf.{}.rp_filter",
    "net.ipv6.conf.{}.accept_dad",
    "net.ipv6.conf.{}.accept_ra",
    "net.ipv6.conf.{}.addr_gen_mode",
];

/// Every sysctl that we may set in a space with these links: what `observe` reads.
pub fn sysctls<'a>(space: &Space, links: impl IntoIterator<Item = &'a IfName>) -> Vec<String> {
    let (fixed, of_link) = match space {
        Space::Host => (HOST_SYSCTLS, HOST_LINK_SYSCTLS),
        Space::Named(_) => (SPACE_SYSCTLS, LINK_SYSCTLS),
    };
    let ours = links.into_iter().filter(|name| *space != Space::Host || !port(name.as_str()));
    let per_link = ours.flat_map(|name| of_link.iter().map(move |key| key.replace("{}", &names::in_sysctl(name))));
    fixed.iter().map(|key| (*key).to_owned()).chain(per_link).collect()
}

/// What it amounts to that a sysctl does not exist: without the br_netfilter module no bridged frame is filtered, a kernel
/// without IPv6 has it on no link, and hears no router, and one without IPVS balances nothing.
pub fn absent_sysctl(key: &str) -> Option<&'static str> {
    let off = ["net.bridge.bridge-nf-call-", "net.ipv4.vs."].iter().any(|part| key.starts_with(part)).then_some("0");
    let of_ipv6 = |name: &str| key.starts_with("net.ipv6.") && key.ends_with(name);
    off.or_else(|| of_ipv6(".accept_ra").then_some("0")).or_else(|| of_ipv6(".disable_ipv6").then_some("1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_model::{NetworkId, TaskId, net::Vni};

    #[test]
    fn recognises_every_name_that_names_makes() {
        let (task, network) = (TaskId::from_random([1; 16]), NetworkId::from_random([2; 16]));
        for s in
            [names::task_space(&task), names::network_space(&network), names::ingress_space(), names::tunnel_space()]
        {
            assert!(space(&s.to_string()), "{s}");
        }
        let links = [
            names::task_port(&task, &network),
            names::gateway_port(&task),
            names::gateway_bridge(),
            names::ingress_leg_outer(),
            names::vxlan_staging(Vni::FIRST),
            names::host_bridge(&network),
            names::default_bridge(),
            names::dead_end(&network),
            names::staging(&Space::Host, &names::default_bridge()),
        ];
        for l in links {
            assert!(link(&Space::Host, l.as_str(), None), "{l}");
        }
        for t in [names::underlay_table(), names::gateway_table()] {
            assert!(table(&t.name));
        }
    }

    #[test]
    fn leaves_others_alone() {
        for foreign in [
            "flannel.1",
            "docker0",
            "hd0",
            "hda",
            "br0",
            "vxlan0",
            "heddle_gw2",
            "heddle1",
            "hdvx",
            "hdvxlan",
            "hdb-",
            "hdb-0123",
            "hdp-ABCDEFGHIJ",
            "lo",
        ] {
            for alias in [None, Some(""), Some("Heddle"), Some("heddle "), Some("heddle uplink")] {
                assert!(!link(&Space::Host, foreign, alias), "{foreign} {alias:?}");
            }
        }
        assert!(link(&Space::Host, "br0", Some("heddle")));
        assert!(!link(&Space::Host, "lo", Some("heddle")));
        for foreign in ["ingress_sbox", "hd", "hd-t-", "hd-t-short", "hd-x-0123456789"] {
            assert!(!space(foreign), "{foreign}");
        }
        for foreign in ["filter", "nat", "heddles", "docker"] {
            assert!(!table(foreign), "{foreign}");
        }
        assert!(!route(4));
    }
}
