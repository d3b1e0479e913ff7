//! ipvlan: every workload is a host of the parent's network under the parent's own MAC.

use super::{
    MTU, OptionError, PARENT,
    facts::HostFacts,
    mtu, one_of,
    parent::{self, Parent, Plan, Refusal, Use},
};
use crate::{
    dataplane::mode::{IpvlanFlag, IpvlanMode},
    local::network::HostNetwork,
};
use heddle_model::{net::Mtu, network::Driver};
use std::collections::BTreeMap;

const MODE: &str = "ipvlan_mode";
const FLAG: &str = "ipvlan_flag";
pub const KNOWN: &[&str] = &[PARENT, MODE, FLAG, MTU];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// None: internal.
    pub parent: Option<Parent>,
    pub mode: IpvlanMode,
    pub flag: IpvlanFlag,
    pub mtu: Option<Mtu>,
}

impl Options {
    pub fn parse(options: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        let mut out = Self::default();
        for (option, value) in options {
            match option.as_str() {
                PARENT => out.parent = Some(Parent::parse(value)?),
                MODE => out.mode = one_of(MODE, value, IpvlanMode::ALL, IpvlanMode::as_str)?,
                FLAG => out.flag = one_of(FLAG, value, IpvlanFlag::ALL, IpvlanFlag::as_str)?,
                MTU => out.mtu = Some(mtu(value)?),
                _ => {
                    return Err(OptionError::Unknown { driver: Driver::Ipvlan, option: option.clone(), known: KNOWN });
                }
            }
        }
        Ok(out)
    }
}

/// Whether this host can have such a network beside the others.
pub fn check(options: &Options, facts: &HostFacts, others: &[&HostNetwork]) -> Result<Plan, Refusal> {
    parent::check(Use::Ipvlan(options.mode, options.flag), options.parent.as_ref(), options.mtu, facts, others)
}
