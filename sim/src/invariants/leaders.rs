//! One leader a term.

use crate::net::At;
use std::collections::BTreeMap;

#[derive(Default)]
pub struct Leaders(BTreeMap<u64, At>);

impl Leaders {
    pub fn see(&mut self, at: At, term: u64) -> Result<(), String> {
        let first = *self.0.entry(term).or_insert(at);
        if first == at { Ok(()) } else { Err(format!("hosts {first} and {at} both lead in term {term}")) }
    }

    /// How many terms had a leader.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}
