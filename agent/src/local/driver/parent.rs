//! The host's link that macvlan and ipvlan networks are made on: which it is, and who may share it.

use super::{
    OptionError,
    facts::{FactKind, HostFacts, LinkFact},
    ipvlan, macvlan,
};
use crate::{
    dataplane::mode::{IpvlanFlag, IpvlanMode, MacvlanMode},
    local::network::HostNetwork,
};
use heddle_model::{
    net::{IfName, Mtu},
    network::Driver,
};
use std::fmt;

const VLAN_IDS: std::ops::RangeInclusive<u16> = 1..=4094;

/// As an operator names it: `eth0`, or `eth0.10` for the 802.1Q sub-interface of eth0 with id 10.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    pub name: IfName,
    /// What the name says if no link has it.
    pub vlan: Option<Vlan>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vlan {
    pub base: IfName,
    pub id: u16,
}

impl Parent {
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let name: IfName = text.parse().map_err(|source| OptionError::Parent { name: text.to_owned(), source })?;
        let Some((base, id)) = text.rsplit_once('.').filter(|(_, id)| id.bytes().all(|b| b.is_ascii_digit())) else {
            return Ok(Self { name, vlan: None });
        };
        let id = id.parse().ok().filter(|id| VLAN_IDS.contains(id));
        let id = id.ok_or_else(|| OptionError::VlanId { name: text.to_owned() })?;
        let base = base.parse().map_err(|source| OptionError::Parent { name: text.to_owned(), source })?;
        Ok(Self { name, vlan: Some(Vlan { base, id }) })
    }
}

/// Where a network's links lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Nowhere: they reach one another only.
    DeadEnd,
    /// A link of the host that is there.
    Link(IfName),
    /// A sub-interface that is made and removed with the networks on it.
    Vlan { name: IfName, vlan: Vlan },
}

impl Plan {
    /// For `HostNetwork.owns_parent`.
    pub fn owns_parent(&self) -> bool {
        matches!(self, Plan::Vlan { .. })
    }
}

/// How a network, or a link of somebody else's, uses a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Macvlan(MacvlanMode),
    Ipvlan(IpvlanMode, IpvlanFlag),
}

impl Use {
    const fn driver(self) -> Driver {
        match self {
            Use::Macvlan(_) => Driver::Macvlan,
            Use::Ipvlan(..) => Driver::Ipvlan,
        }
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Use::Macvlan(mode) => write!(f, "macvlan in mode {mode}"),
            Use::Ipvlan(mode, flag) => write!(f, "ipvlan in mode {mode} with flag {flag}"),
        }
    }
}

/// Whoever is on the parent already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    Network(String),
    Link(IfName),
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            User::Network(name) => write!(f, "network {name:?}"),
            User::Link(name) => write!(f, "link {name}"),
        }
    }
}

/// Why this host cannot have such a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("this kernel has no {module}: load the module {module}")]
    Unsupported { module: &'static str },
    #[error("parent {parent} does not exist: use a link of this host, or NAME.ID for VLAN ID of the link NAME")]
    Missing { parent: IfName },
    #[error("parent {parent} does not exist and neither does {base}: use a link of this host")]
    NoBase { parent: IfName, base: IfName },
    #[error("parent {parent} would be VLAN {id} of {base}, which {link} is already: use parent={link}")]
    VlanTaken { parent: IfName, base: IfName, id: u16, link: IfName },
    #[error("parent {parent} is the loopback: use a link that leads out of this host")]
    Loopback { parent: IfName },
    #[error("parent {parent} is not an Ethernet link: use one that is")]
    NotEthernet { parent: IfName },
    #[error("parent {parent} is a port of {master}: use {master}, or a link that belongs to none")]
    Port { parent: IfName, master: IfName },
    #[error("parent {parent} was made by Heddle for another purpose: use a link of this host")]
    Ours { parent: IfName },
    #[error("parent {parent} is itself made on another link: use that link")]
    Child { parent: IfName },
    #[error("parent {parent} carries {theirs} ({user}), and {ours} cannot be beside it: use another parent")]
    Mixed { parent: IfName, user: User, ours: Driver, theirs: Driver },
    #[error("parent {parent} is used by {user}, and passthru takes a parent for itself: use another parent or mode")]
    Passthru { parent: IfName, user: User },
    #[error(
        "parent {parent} carries {theirs} ({user}), and mode and flag are the parent's: use the same or another parent"
    )]
    Differs { parent: IfName, user: User, theirs: Use },
    #[error("MTU {mtu} is over the {limit} of parent {parent}: use at most that")]
    Mtu { parent: IfName, mtu: Mtu, limit: Mtu },
    #[error("the network is in mode passthru, which takes one workload at a time: disconnect the other first")]
    Full,
}

/// Whether the host and its other networks leave room for `want` on `parent`.
pub fn check(
    want: Use,
    parent: Option<&Parent>,
    mtu: Option<Mtu>,
    facts: &HostFacts,
    others: &[&HostNetwork],
) -> Result<Plan, Refusal> {
    match want {
        Use::Macvlan(_) if !facts.has_macvlan => return Err(Refusal::Unsupported { module: "macvlan" }),
        Use::Ipvlan(..) if !facts.has_ipvlan => return Err(Refusal::Unsupported { module: "ipvlan" }),
        _ => {}
    }
    let Some(parent) = parent else { return Ok(Plan::DeadEnd) };
    let name = &parent.name;
    let (plan, limit) = match (facts.links.get(name), &parent.vlan) {
        (Some(link), vlan) => (existing(name, link, vlan.as_ref(), facts)?, link.mtu),
        (None, None) => return Err(Refusal::Missing { parent: name.clone() }),
        (None, Some(vlan)) => {
            let limit = sub_interface(name, vlan, facts)?.mtu;
            (Plan::Vlan { name: name.clone(), vlan: vlan.clone() }, limit)
        }
    };
    if let Some(mtu) = mtu.filter(|m| *m > limit) {
        return Err(Refusal::Mtu { parent: name.clone(), mtu, limit });
    }
    for (user, theirs) in users(name, facts, others) {
        share(name, want, user, theirs)?;
    }
    Ok(plan)
}

fn existing(name: &IfName, link: &LinkFact, vlan: Option<&Vlan>, facts: &HostFacts) -> Result<Plan, Refusal> {
    let parent = name.clone();
    if let Some(master) = facts.taken_by(link).cloned() {
        return Err(Refusal::Port { parent, master });
    }
    match (link.kind, vlan) {
        (FactKind::Loopback, _) => Err(Refusal::Loopback { parent }),
        // Of another network of ours: theirs and this one's, until the last of them goes.
        (FactKind::Vlan { id }, Some(vlan)) if link.ours && id == vlan.id => {
            Ok(Plan::Vlan { name: parent, vlan: vlan.clone() })
        }
        _ if link.ours => Err(Refusal::Ours { parent }),
        // The kernel would make it on that other link, and we would look for it here.
        (FactKind::Macvlan { .. } | FactKind::Ipvlan { .. }, _) => Err(Refusal::Child { parent }),
        _ if !link.ethernet => Err(Refusal::NotEthernet { parent }),
        _ => Ok(Plan::Link(parent)),
    }
}

fn sub_interface<'a>(name: &IfName, vlan: &Vlan, facts: &'a HostFacts) -> Result<&'a LinkFact, Refusal> {
    let (parent, base) = (name.clone(), vlan.base.clone());
    let Some(link) = facts.links.get(&base) else { return Err(Refusal::NoBase { parent, base }) };
    if !facts.has_vlan {
        return Err(Refusal::Unsupported { module: "8021q" });
    }
    if link.kind == FactKind::Loopback {
        return Err(Refusal::Loopback { parent: base });
    }
    if link.ours {
        return Err(Refusal::Ours { parent: base });
    }
    if !link.ethernet {
        return Err(Refusal::NotEthernet { parent: base });
    }
    let same = |l: &LinkFact| l.parent.as_ref() == Some(&base) && l.kind == FactKind::Vlan { id: vlan.id };
    match facts.links.iter().find(|(_, l)| same(l)) {
        Some((taken, _)) => Err(Refusal::VlanTaken { parent, base, id: vlan.id, link: taken.clone() }),
        None => Ok(link),
    }
}

/// Our networks on the parent, and links of others that are seen from the host's namespace.
fn users(parent: &IfName, facts: &HostFacts, others: &[&HostNetwork]) -> Vec<(User, Use)> {
    let networks = others.iter().filter_map(|n| {
        let (on, how) = use_of(n)?;
        (on == *parent).then(|| (User::Network(n.name().to_owned()), how))
    });
    let links = facts.links.iter().filter(|(_, l)| l.parent.as_ref() == Some(parent)).filter_map(|(name, l)| {
        let how = match l.kind {
            FactKind::Macvlan { passthru: true } => Use::Macvlan(MacvlanMode::Passthru),
            FactKind::Macvlan { passthru: false } => Use::Macvlan(MacvlanMode::Bridge),
            FactKind::Ipvlan { mode, flag } => Use::Ipvlan(mode, flag),
            _ => return None,
        };
        Some((User::Link(name.clone()), how))
    });
    networks.chain(links).collect()
}

/// The parent of a network that has one, and how it is used.
fn use_of(network: &HostNetwork) -> Option<(IfName, Use)> {
    match network.spec.driver {
        Driver::Macvlan => {
            let options = macvlan::Options::parse(&network.spec.options).ok()?;
            Some((options.parent?.name, Use::Macvlan(options.mode)))
        }
        Driver::Ipvlan => {
            let options = ipvlan::Options::parse(&network.spec.options).ok()?;
            Some((options.parent?.name, Use::Ipvlan(options.mode, options.flag)))
        }
        Driver::Overlay | Driver::Bridge | Driver::Host | Driver::Null => None,
    }
}

/// Networks share a parent where the kernel lets them and none changes another, as docker's macvlan does.
fn share(parent: &IfName, want: Use, user: User, theirs: Use) -> Result<(), Refusal> {
    let parent = parent.clone();
    match (want, theirs) {
        (Use::Macvlan(_), Use::Ipvlan(..)) | (Use::Ipvlan(..), Use::Macvlan(_)) => {
            Err(Refusal::Mixed { parent, user, ours: want.driver(), theirs: theirs.driver() })
        }
        (Use::Macvlan(a), Use::Macvlan(b)) if a == MacvlanMode::Passthru || b == MacvlanMode::Passthru => {
            Err(Refusal::Passthru { parent, user })
        }
        (Use::Ipvlan(..), Use::Ipvlan(..)) if want != theirs => Err(Refusal::Differs { parent, user, theirs }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
