//! Drivers of this host's networks: what their options mean and whether this host can have such a network. Decides only.
//!
//! ```text
//! options ─> macvlan, ipvlan ─┐
//! facts (what host has) ──────┼─> parent ─> Plan, or why not
//! other networks ─────────────┘
//! ```

pub mod facts;
pub mod ipvlan;
pub mod macvlan;
pub mod parent;

use heddle_model::{
    net::{BadIfName, Mtu},
    network::Driver,
};

/// docker's name for the MTU of a network's links.
pub const MTU: &str = "com.docker.network.driver.mtu";
/// The host's link that workloads' links are made on.
pub const PARENT: &str = "parent";
/// The least MTU of IPv4 (RFC 791).
const LEAST_MTU: u16 = 68;

/// An option that a driver does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error("option {option:?} is unknown to the driver {driver}: it knows {}", .known.join(", "))]
    Unknown { driver: Driver, option: String, known: &'static [&'static str] },
    #[error("option {option}={value:?}: use {}", .allowed.join(", "))]
    Value { option: &'static str, value: String, allowed: Vec<&'static str> },
    #[error("option {MTU}={value:?}: use a number from {LEAST_MTU} to 65535")]
    Mtu { value: String },
    #[error("option parent={name:?}: {source}")]
    Parent { name: String, source: BadIfName },
    #[error("option parent={name:?}: a VLAN id is a number from 1 to 4094")]
    VlanId { name: String },
}

pub(crate) fn mtu(value: &str) -> Result<Mtu, OptionError> {
    let mtu = value.parse().ok().filter(|n| *n >= LEAST_MTU);
    mtu.map(Mtu).ok_or_else(|| OptionError::Mtu { value: value.to_owned() })
}

/// The one of `all` that is called so.
pub(crate) fn one_of<T: Copy>(
    option: &'static str,
    value: &str,
    all: impl IntoIterator<Item = T> + Clone,
    name: fn(T) -> &'static str,
) -> Result<T, OptionError> {
    let found = all.clone().into_iter().find(|t| name(*t) == value);
    found.ok_or_else(|| OptionError::Value {
        option,
        value: value.to_owned(),
        allowed: all.into_iter().map(name).collect(),
    })
}
