//! Managers, agents and operators in one thread, with time, network, disks and chance drawn from one number: whatever a
//! seed does, it does again.
//!
//! ```text
//! host        one manager as it is: raft over redb, store, leader's loop, dispatcher's sessions
//! disk, net   what they stand on: writes that a crash loses or tears, messages that are late, lost, out of order
//! agent       takes assignments, works on tasks, reports          client  writes and reads, and notes what it was told
//! faults      what goes wrong when          invariants  what must hold all the while, and once it has stopped
//! ```
//!
//! Every host has a runtime of its own whose clock stands until the driver lets it go on, a tick at a time. A crash drops
//! the runtime with all that ran in it, in an order that hangs on tokio's count of all tasks of the process: hence a process
//! for every seed.

mod agent;
mod client;
mod disk;
mod driver;
mod faults;
mod host;
mod invariants;
mod net;
mod peer;
mod world;

pub use driver::{Failure, Outcome, run};
