//! macvlan: every workload is a host of the parent's own Ethernet, with a MAC of its own.

use super::{
    MTU, OptionError, PARENT,
    facts::HostFacts,
    mtu, one_of,
    parent::{self, Parent, Plan, Refusal, Use},
};
use crate::{dataplane::mode::MacvlanMode, local::network::HostNetwork};
use heddle_model::{net::Mtu, network::Driver};
use std::collections::BTreeMap;

const MODE: &str = "macvlan_mode";
pub const KNOWN: &[&str] = &[PARENT, MODE, MTU];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// None: internal.
    pub parent: Option<Parent>,
    pub mode: MacvlanMode,
    pub mtu: Option<Mtu>,
}

impl Options {
    pub fn parse(options: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        let mut out = Self::default();
        for (option, value) in options {
            match option.as_str() {
                PARENT => out.parent = Some(Parent::parse(value)?),
                MODE => out.mode = one_of(MODE, value, MacvlanMode::ALL, MacvlanMode::as_str)?,
                MTU => out.mtu = Some(mtu(value)?),
                _ => {
                    return Err(OptionError::Unknown { driver: Driver::Macvlan, option: option.clone(), known: KNOWN });
                }
            }
        }
        Ok(out)
    }
}

/// Whether this host can have such a network beside the others.
pub fn check(options: &Options, facts: &HostFacts, others: &[&HostNetwork]) -> Result<Plan, Refusal> {
    parent::check(Use::Macvlan(options.mode), options.parent.as_ref(), options.mtu, facts, others)
}

/// Whether another workload may join the `members` that are in the network.
pub fn admit(options: &Options, members: usize) -> Result<(), Refusal> {
    if options.mode == MacvlanMode::Passthru && members > 0 { Err(Refusal::Full) } else { Ok(()) }
}
