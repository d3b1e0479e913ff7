//! How a network leads outside: what a workload's default route may be made of.

use ipnet::IpNet;
use std::net::IpAddr;

/// Of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Everything, in that family.
    pub dst: IpNet,
    /// None: the device itself leads there.
    pub via: Option<IpAddr>,
}

impl Way {
    pub fn by(gateway: IpAddr) -> Self {
        Self { dst: everything(gateway), via: Some(gateway) }
    }

    /// `like` is any address of the family.
    pub fn on_link(like: IpAddr) -> Self {
        Self { dst: everything(like), via: None }
    }
}

fn everything(like: IpAddr) -> IpNet {
    match like {
        IpAddr::V4(_) => IpNet::V4(Default::default()),
        IpAddr::V6(_) => IpNet::V6(Default::default()),
    }
}
