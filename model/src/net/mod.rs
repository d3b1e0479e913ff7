//! Units of the data plane. Each newtype carries its range, so that a value out of range cannot be written down.

mod ifname;
mod mac;
mod mtu;
mod pool;
mod port;
mod subnet;
mod vni;

pub use ifname::{BadIfName, IfName};
pub use mac::{BadMac, Mac};
pub use mtu::{Mtu, VXLAN_OVERHEAD_V4, VXLAN_OVERHEAD_V6};
pub use pool::{Pool, PoolError};
pub use port::{BadPort, Port, Protocol};
pub use subnet::{BadSubnet, DualAddr, DualSubnet, parse_subnet, unique_local};
pub use vni::{BadVni, Vni};
