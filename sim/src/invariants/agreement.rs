//! Every manager that has a version has the same state at it.

use crate::net::At;
use heddle_manager::store::Snapshot;
use heddle_model::Object;
use std::{collections::BTreeMap, sync::Arc};

#[derive(Default)]
pub struct Agreement {
    states: BTreeMap<u64, (At, Arc<Snapshot>)>,
}

impl Agreement {
    pub fn see(&mut self, at: At, state: &Arc<Snapshot>) -> Result<(), String> {
        let version = state.version.0;
        let (first, known) = self.states.entry(version).or_insert_with(|| (at, state.clone()));
        if **known == **state {
            return Ok(());
        }
        let (a, b): (Vec<_>, Vec<_>) = (known.objects().collect(), state.objects().collect());
        let only = |ours: &[Object], theirs: &[Object]| {
            ours.iter().filter(|o| !theirs.contains(o)).map(|o| format!("\n  {o:?}")).collect::<String>()
        };
        let how = format!("\n the first has{}\n the second has{}", only(&a, &b), only(&b, &a));
        Err(format!("hosts {first} and {at} differ at version {version}:{how}"))
    }
}
