//! Other firewalls of this host as values: which of their chains drop what we forward, and where one rule of ours lets it
//! pass. Reads what the tools print; runs nothing.
//!
//! ```text
//! nft       `nft -j list chains`, `nft -j list chain`      iptables  `iptables -S` of either kind
//! ```

pub mod iptables;
pub mod nft;

use super::{names, state::Family};
use heddle_model::net::IfName;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Which program can put a rule there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    Nft {
        family: Family,
        table: String,
    },
    /// Legacy rules are invisible to nft; those of iptables-nft are better left to it, or `iptables -L` cannot read them.
    Iptables {
        v6: bool,
        legacy: bool,
    },
}

/// A foreign chain that a rule of ours goes into.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub tool: Tool,
    pub chain: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Policy,
    /// The last rule drops or rejects whatever gets there.
    LastRule,
}

/// Whose chain it is, by the names that are in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Docker,
    Ufw,
    Firewalld,
    Somebody,
}

/// Why no rule of ours can be put there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// `flags owner`: only the process that made the table may change it.
    Owned,
    /// It sees packets before our chains mark them.
    Early,
}

/// A foreign base chain at hook forward that drops what it does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The base chain; the place may be a chain that it jumps to.
    pub base: String,
    pub reason: Reason,
    pub owner: Owner,
    /// Number that a rule of ours gets in the place, from 1.
    pub at: u32,
    pub obstacle: Option<Obstacle>,
    /// Where no rule of ours can be put: what the table names, so that it is seen when the operator has opened it.
    pub named: BTreeSet<String>,
}

/// All that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreign {
    pub cuts: BTreeMap<Place, Cut>,
    pub passes: BTreeSet<Place>,
    /// Families whose legacy filter table is loaded while no program here can read it; true is IPv6.
    pub unread: BTreeSet<bool>,
}

impl Tool {
    /// The program's name, or that of its usual alternative.
    pub fn program(&self) -> &'static str {
        match self {
            Tool::Nft { .. } => "nft",
            Tool::Iptables { v6: false, legacy: false } => "iptables-nft",
            Tool::Iptables { v6: true, legacy: false } => "ip6tables-nft",
            Tool::Iptables { v6: false, legacy: true } => "iptables-legacy",
            Tool::Iptables { v6: true, legacy: true } => "ip6tables-legacy",
        }
    }
}

impl Place {
    /// The command that puts our rule there, as a person would type it.
    pub fn command(&self, at: u32) -> String {
        let (chain, program) = (&self.chain, self.tool.program());
        match &self.tool {
            Tool::Nft { family, table } => {
                format!("nft insert rule {} {table} {chain} {}", family.as_str(), nft::pass())
            }
            Tool::Iptables { .. } => format!("{program} -I {chain} {at} {}", iptables::pass().join(" ")),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tool {
            Tool::Nft { family, table } => write!(f, "nft {} {table} {}", family.as_str(), self.chain),
            Tool::Iptables { .. } => write!(f, "{} {}", self.tool.program(), self.chain),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Owner::Docker => "docker",
            Owner::Ufw => "ufw",
            Owner::Firewalld => "firewalld",
            Owner::Somebody => "another firewall",
        })
    }
}

impl Owner {
    /// By the names of the table and of the chains in it.
    fn of<'a>(table: &str, mut chains: impl Iterator<Item = &'a str> + Clone) -> Self {
        match () {
            () if table == "firewalld" => Owner::Firewalld,
            // Docker's rules end where ufw's begin: the policy is whoever's came last, and docker's chain is made for guests.
            () if chains.clone().any(|c| c.starts_with("DOCKER")) => Owner::Docker,
            () if chains.any(|c| c.starts_with("ufw-") || c.starts_with("ufw6-")) => Owner::Ufw,
            () => Owner::Somebody,
        }
    }
}

impl Cut {
    /// What is dropped, by whom, why.
    pub fn what(&self) -> String {
        let why = match self.reason {
            Reason::Policy => "by its policy",
            Reason::LastRule => "by its last rule",
        };
        format!("{} of {} drops forwarded packets {why}", self.base, self.owner)
    }

    /// What the operator has to do, where no rule of ours can be put.
    pub fn advice(&self, place: &Place, bridges: &[IfName]) -> Option<String> {
        let bridges: Vec<_> = bridges.iter().filter(|b| !self.named.contains(b.as_str())).collect();
        if bridges.is_empty() {
            return None;
        }
        let each = |command: &str| {
            let all: Vec<_> = bridges.iter().map(|b| format!("{command}{b}")).collect();
            all.join(" && ")
        };
        let advice = match (self.obstacle?, self.owner) {
            (_, Owner::Firewalld) => format!(
                "it takes no rule of others: run `{}`, and again with --permanent",
                each("firewall-cmd --zone=trusted --add-interface=")
            ),
            (Obstacle::Owned, _) => {
                let names: Vec<_> = bridges.iter().map(|b| format!("\"{b}\"")).collect();
                format!("it takes no rule of others: let its owner accept what {} forwards", names.join(", "))
            }
            (Obstacle::Early, _) => format!(
                "it comes before our own chains: give it a priority above {}",
                super::desired::passage::PRIORITY
            ),
        };
        Some(format!("{place}: {}; {advice}", self.what()))
    }
}

/// The mark and its mask, as the tools print them.
fn mark() -> String {
    format!("{:#x}", names::PASS_MARK)
}
