//! Names for workloads: a resolver at 127.0.0.11 in each one's namespace.
//!
//! ```text
//! NodeView ─> zone (pure: what one workload may ask for) ─> server ── not ours ─> forward ─> the host's resolvers
//! ```

mod forward;
pub(crate) mod server;
pub(crate) mod zone;

pub use forward::Upstream;
pub use server::Resolver;
pub use zone::Zone;
