//! Which leader an agent believes.

use std::time::Duration;

/// So long after it last heard of its leader an agent believes one of an older term: of a cluster that was restored.
const FORGET: Duration = Duration::from_secs(10);

/// Keeps out a leader that was followed by another and does not know it yet: its state is older than what the agent has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fence {
    term: u64,
}

impl Fence {
    /// Whether to believe a leader of this term, when the last one that was believed was heard of `silence` ago.
    pub fn admits(&mut self, term: u64, silence: Duration) -> bool {
        let admitted = term >= self.term || silence >= FORGET;
        if admitted {
            self.term = term;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_term_is_believed_only_when_nobody_else_is_there() {
        let (mut fence, moment) = (Fence::default(), Duration::from_millis(1));
        assert!(fence.admits(3, moment) && fence.admits(3, moment) && fence.admits(5, moment));
        assert!(!fence.admits(4, moment) && fence.admits(5, moment));
        assert!(fence.admits(1, FORGET) && fence.admits(2, moment));
    }
}
