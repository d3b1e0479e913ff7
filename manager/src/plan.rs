//! What every deciding stage of the leader takes and gives.

use crate::store::{Mutation, Snapshot};
use heddle_model::{Timestamp, Version};

/// What a stage may know beside the state. Nothing else reaches it: the same input gives the same plan.
pub struct Context<'a> {
    pub now: Timestamp,
    /// Revision that the data plane of every ready node has reached.
    pub acked: Version,
    /// 128 fresh random bits a call.
    pub random: &'a mut dyn FnMut() -> [u8; 16],
}

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub mutations: Vec<Mutation>,
    /// When to look again although nothing changed.
    pub wake: Option<Timestamp>,
}

impl Plan {
    pub fn push(&mut self, mutation: Mutation) {
        self.mutations.push(mutation);
    }

    pub fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |old| old.min(at)));
    }
}

pub type Stage = fn(&Snapshot, &mut Context<'_>) -> Plan;
