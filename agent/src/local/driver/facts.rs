//! What a driver must know of this host before it says yes.

use crate::dataplane::mode::{IpvlanFlag, IpvlanMode};
use heddle_model::net::{IfName, Mtu};
use std::collections::BTreeMap;

/// The links of the host's own namespace, and what its kernel can make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    pub links: BTreeMap<IfName, LinkFact>,
    pub has_macvlan: bool,
    pub has_ipvlan: bool,
    pub has_vlan: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFact {
    pub kind: FactKind,
    pub mtu: Mtu,
    /// Macvlan and ipvlan take no other parent.
    pub ethernet: bool,
    /// The bridge, bond and so on that it belongs to.
    pub master: Option<IfName>,
    /// The link that it is made on, if that is in the host's namespace.
    pub parent: Option<IfName>,
    /// As `own` recognises it.
    pub ours: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactKind {
    Loopback,
    Bridge,
    /// Its members go on as links of their own, unlike those of other masters.
    Vrf,
    Vlan {
        id: u16,
    },
    /// Or macvtap.
    Macvlan {
        passthru: bool,
    },
    /// Or ipvtap.
    Ipvlan {
        mode: IpvlanMode,
        flag: IpvlanFlag,
    },
    Other,
}

impl HostFacts {
    /// The link's master, if that one takes all that comes in by the link.
    pub(crate) fn taken_by<'a>(&self, link: &'a LinkFact) -> Option<&'a IfName> {
        let vrf = |m: &&IfName| self.links.get(*m).is_some_and(|l| l.kind == FactKind::Vrf);
        link.master.as_ref().filter(|m| !vrf(m))
    }

    /// The links that could be parents now, with their MTUs: what `desired` wants to know of the host. One that was made a
    /// port since its network was created is left out, so that the rest of the host goes on.
    pub fn parents(&self) -> BTreeMap<IfName, Mtu> {
        let fit = self.links.iter().filter(|(_, l)| l.ethernet && self.taken_by(l).is_none());
        fit.map(|(name, l)| (name.clone(), l.mtu)).collect()
    }
}
