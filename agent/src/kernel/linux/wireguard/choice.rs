//! Which means of encryption a host uses: what the operator says, or the best that there is.

use super::Available;
use heddle_model::tunnel::Backend;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    /// The kernel's if it has one.
    #[default]
    Auto,
    Only(Backend),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("this kernel has no wireguard: load the module wireguard, or use --wireguard userspace")]
    Kernel,
    #[error("this host has no /dev/net/tun, which WireGuard in userspace needs: load the module tun")]
    Userspace,
}

/// None: this host cannot encrypt. Only what was asked for by name is missed.
pub fn choose(choice: Choice, there: Available) -> Result<Option<Backend>, Missing> {
    match choice {
        Choice::Only(Backend::Kernel) if !there.kernel => Err(Missing::Kernel),
        Choice::Only(Backend::Userspace) if !there.userspace => Err(Missing::Userspace),
        Choice::Only(backend) => Ok(Some(backend)),
        Choice::Auto if there.kernel => Ok(Some(Backend::Kernel)),
        Choice::Auto => Ok(there.userspace.then_some(Backend::Userspace)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Backend::{Kernel, Userspace};

    #[test]
    fn what_is_asked_for_is_used_or_refused() {
        let there = |kernel, userspace| Available { kernel, userspace };
        for (choice, there, chosen) in [
            (Choice::Auto, there(true, true), Ok(Some(Kernel))),
            (Choice::Auto, there(false, true), Ok(Some(Userspace))),
            (Choice::Auto, there(false, false), Ok(None)),
            (Choice::Only(Kernel), there(true, true), Ok(Some(Kernel))),
            (Choice::Only(Kernel), there(false, true), Err(Missing::Kernel)),
            (Choice::Only(Userspace), there(true, true), Ok(Some(Userspace))),
            (Choice::Only(Userspace), there(true, false), Err(Missing::Userspace)),
        ] {
            assert_eq!(choose(choice, there), chosen, "{choice:?} {there:?}");
        }
    }
}
