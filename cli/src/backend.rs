//! What to balance and to encrypt with, as the command line says it.

use clap::ValueEnum;
use heddle_agent::{balancer::Wish, kernel::linux::wireguard::Choice};
use heddle_model::tunnel::Backend;
use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LbBackend {
    /// IPVS where the kernel has it, else nftables
    #[default]
    Auto,
    Ipvs,
    Nftables,
}

impl From<LbBackend> for Wish {
    fn from(backend: LbBackend) -> Self {
        match backend {
            LbBackend::Auto => Wish::Auto,
            LbBackend::Ipvs => Wish::Ipvs,
            LbBackend::Nftables => Wish::Nftables,
        }
    }
}

impl fmt::Display for LbBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LbBackend::Auto => "auto",
            LbBackend::Ipvs => "ipvs",
            LbBackend::Nftables => "nftables",
        })
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Wireguard {
    #[default]
    Auto,
    Kernel,
    Userspace,
}

impl From<Wireguard> for Choice {
    fn from(said: Wireguard) -> Self {
        match said {
            Wireguard::Auto => Choice::Auto,
            Wireguard::Kernel => Choice::Only(Backend::Kernel),
            Wireguard::Userspace => Choice::Only(Backend::Userspace),
        }
    }
}
