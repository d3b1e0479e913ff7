//! What this host's kernel should look like, decided in pure code.
//!
//! ```text
//! NodeView + sandboxes ─> desired ─┐
//!                                  ├─> diff ─> steps ─> kernel
//! kernel ─> observe ─> actual ─────┘
//! ```

pub mod concern;
pub mod desired;
pub mod diff;
pub mod firewall;
pub mod flows;
pub mod ipvs;
pub mod mode;
pub mod model;
pub mod names;
pub mod nft;
pub mod own;
pub mod state;
pub mod step;
#[cfg(test)]
pub(crate) mod tests;
pub mod uplink;
pub mod wireguard;
