//! How often one agent is told of changes: at once where they are few, gathered where they come one after the other.

use std::time::Duration;
use tokio::time::Instant;

/// Tellings a second of all agents together, where each of many changes concerns them all.
const TELLINGS: u32 = 5_000;
/// Of one agent that nothing holds up.
const AT_ONCE: u32 = 4;

pub struct Pace {
    /// When it could have been told as often as it was, at an even pace.
    even: Instant,
    next: Instant,
}

impl Pace {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { even: now, next: now }
    }

    /// It may be told again from then on.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// It was told something, one of so many nodes.
    pub fn told(&mut self, now: Instant, nodes: usize) {
        let apart = Duration::from_secs(1) * nodes.try_into().unwrap_or(u32::MAX) / TELLINGS;
        self.even = self.even.max(now) + apart;
        self.next = self.even.checked_sub(apart * AT_ONCE).unwrap_or(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds between tellings of an agent that always has something to be told.
    fn waits(nodes: usize, tellings: usize) -> Vec<u128> {
        let (mut now, mut pace) = (Instant::now(), Pace::new());
        let mut waits = Vec::new();
        for _ in 0..tellings {
            pace.told(now, nodes);
            let next = pace.next().max(now);
            waits.push((next - now).as_millis());
            now = next;
        }
        waits
    }

    #[test]
    fn some_are_told_at_once_and_then_at_a_pace_by_how_many_there_are() {
        assert_eq!(waits(1000, 7), [0, 0, 0, 0, 200, 200, 200]);
        assert_eq!(waits(5000, 7), [0, 0, 0, 0, 1000, 1000, 1000]);
        assert_eq!(waits(3, 7), [0; 7], "a few nodes do not notice");
    }

    #[test]
    fn after_a_while_it_is_told_at_once_again() {
        let (start, mut pace) = (Instant::now(), Pace::new());
        (0..9).for_each(|_| pace.told(start, 1000));
        assert!(pace.next() > start);
        let later = start + Duration::from_secs(2);
        (0..4).for_each(|_| pace.told(later, 1000));
        assert!(pace.next() <= later);
        pace.told(later, 1000);
        assert!(pace.next() > later);
    }
}
