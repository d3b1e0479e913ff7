//! Which balancer a host has: what was asked for, and what its kernel can.

use crate::{
    dataplane::desired::Balancer,
    kernel::linux::ipvs::probe::{Missing, probe},
};

/// What an operator may ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wish {
    /// IPVS where the kernel has it.
    #[default]
    Auto,
    Ipvs,
    Nftables,
}

/// IPVS was asked for.
#[derive(Debug, thiserror::Error)]
#[error(
    "IPVS cannot balance here: {0}; load the modules (modprobe -a ip_vs ip_vs_rr ip_vs_mh), or use nftables or auto"
)]
pub struct Unavailable(pub Missing);

/// Tries the kernel out, unless nftables is asked for: that would load modules for nothing.
pub async fn choose(wish: Wish) -> Result<Balancer, Unavailable> {
    if wish == Wish::Nftables {
        return Ok(Balancer::Nftables);
    }
    match (probe().await, wish) {
        (Ok(()), _) => Ok(Balancer::Ipvs),
        (Err(missing), Wish::Ipvs) => Err(Unavailable(missing)),
        (Err(missing), _) => {
            tracing::info!(%missing, "nftables balances, for lack of IPVS");
            Ok(Balancer::Nftables)
        }
    }
}
