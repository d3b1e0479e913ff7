//! Drivers of this host's networks: what their options mean and whether this host can have such a network. Decides only.
//!
//! ```text
//! options ─> bridge
//!         ─> macvlan, ipvlan ─┐
//! facts (what host has) ──────┼─> parent ─> Plan, or why not
//! other networks ─────────────┘
//! ```

pub mod bridge;
pub mod facts;
pub mod ipvlan;
pub mod macvlan;
pub mod parent;

use heddle_model::{
    net::{BadIfName, Mtu},
    network::{Driver, NetworkSpec},
};
use std::str::FromStr;

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
    #[error("option parent={name:?}")]
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

/// As Go's strconv.ParseBool reads it, since that is what docker does.
pub(crate) fn boolean(option: &'static str, value: &str) -> Result<bool, OptionError> {
    match value {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err(OptionError::Value { option, value: value.to_owned(), allowed: vec!["true", "false"] }),
    }
}

/// A value that parses; `wanted` says what would be accepted.
pub(crate) fn parsed<T: FromStr>(option: &'static str, value: &str, wanted: &'static str) -> Result<T, OptionError> {
    value.parse().map_err(|_| OptionError::Value { option, value: value.to_owned(), allowed: vec![wanted] })
}

/// The MTU that a network asks for, in either way.
pub fn mtu_of(spec: &NetworkSpec) -> Result<Option<Mtu>, OptionError> {
    spec.mtu.map_or_else(|| spec.options.get(MTU).map(|value| mtu(value)).transpose(), |m| Ok(Some(m)))
}
