//! Why the kernel made no link: what its numbers mean for each kind, decided here and nowhere else.

use crate::dataplane::state::LinkKind;
use heddle_model::net::IfName;
use std::io;

#[derive(Debug, thiserror::Error)]
pub enum LinkFault {
    #[error("this kernel has no {module}: load the module {module}")]
    Unsupported { module: &'static str, source: io::Error },
    #[error("{parent} is not a link of this host: make it first")]
    NoParent { parent: IfName, source: io::Error },
    #[error(
        "{parent} is in use by what does not share it with {module} (a bridge port, a bond, a passthru macvlan, or macvlan beside ipvlan): use another parent"
    )]
    Busy { parent: IfName, module: &'static str, source: io::Error },
    #[error(
        "a link of that name, or with that VLAN id on the parent, is there and is not ours: remove it or use another"
    )]
    Exists { source: io::Error },
    #[error(
        "{parent} takes no {module} like this (not Ethernet, a smaller MTU, or a passthru macvlan that is not alone)"
    )]
    Invalid { parent: IfName, module: &'static str, source: io::Error },
}

/// The kernel's module for a kind.
pub const fn module(kind: &LinkKind) -> &'static str {
    match kind {
        LinkKind::Bridge => "bridge",
        LinkKind::Vxlan(_) => "vxlan",
        LinkKind::Veth { .. } => "veth",
        LinkKind::Macvlan { .. } => "macvlan",
        LinkKind::Ipvlan { .. } => "ipvlan",
        LinkKind::Vlan { .. } => "8021q",
        LinkKind::Wireguard { .. } => "wireguard",
        LinkKind::Tun => "tun",
    }
}

/// An error of making such a link, with what it means where that is known.
pub fn fault(kind: &LinkKind, source: io::Error) -> io::Error {
    let module = module(kind);
    let why = source.kind();
    let fault = match (source.raw_os_error(), kind.parent().cloned()) {
        (Some(nix::libc::EOPNOTSUPP), _) => LinkFault::Unsupported { module, source },
        (Some(nix::libc::EEXIST), _) => LinkFault::Exists { source },
        (Some(nix::libc::ENODEV), Some(parent)) => LinkFault::NoParent { parent, source },
        (Some(nix::libc::EBUSY), Some(parent)) => LinkFault::Busy { parent, module, source },
        (Some(nix::libc::EINVAL), Some(parent)) => LinkFault::Invalid { parent, module, source },
        _ => return source,
    };
    io::Error::new(why, fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::mode::{IpvlanFlag, IpvlanMode, MacvlanMode};
    use nix::libc;

    #[test]
    fn every_number_has_a_sentence() {
        let parent: IfName = "eth7".parse().unwrap();
        let ipvlan = LinkKind::Ipvlan { parent: parent.clone(), mode: IpvlanMode::L2, flag: IpvlanFlag::Bridge };
        let macvlan = LinkKind::Macvlan { parent: parent.clone(), mode: MacvlanMode::Passthru };
        let vlan = LinkKind::Vlan { parent, id: 10 };
        for (kind, errno, part) in [
            (&ipvlan, libc::EOPNOTSUPP, "this kernel has no ipvlan: load the module ipvlan"),
            (&vlan, libc::EOPNOTSUPP, "load the module 8021q"),
            (&macvlan, libc::ENODEV, "eth7 is not a link of this host"),
            (&ipvlan, libc::EBUSY, "eth7 is in use"),
            (&macvlan, libc::EINVAL, "eth7 takes no macvlan"),
            (&LinkKind::Bridge, libc::EEXIST, "a link of that name"),
            (&LinkKind::Bridge, libc::EPERM, "not permitted"),
        ] {
            let said = fault(kind, io::Error::from_raw_os_error(errno)).to_string();
            assert!(said.contains(part), "{said}");
        }
    }
}
