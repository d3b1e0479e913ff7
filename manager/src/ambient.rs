//! What a manager takes from around it beside messages and its disk: the time of day and random numbers. A thread that
//! simulates managers has its own of both, so that a seed repeats everything.

use heddle_model::Timestamp;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    cell::RefCell,
    time::{SystemTime, UNIX_EPOCH},
};

/// A clock that stands until it is set, and random numbers from a seed.
struct Simulated {
    now: Timestamp,
    rng: SmallRng,
}

thread_local! {
    static SIMULATED: RefCell<Option<Simulated>> = const { RefCell::new(None) };
}

/// From here on this thread's random numbers come from `seed` alone.
pub fn simulate(seed: u64) {
    let rng = SmallRng::seed_from_u64(seed);
    SIMULATED.set(Some(Simulated { now: Timestamp(0), rng }));
}

/// What `now` answers on this thread, if it simulates.
pub fn set_clock(now: Timestamp) {
    SIMULATED.with_borrow_mut(|s| s.iter_mut().for_each(|s| s.now = now));
}

/// By the clock of this host; 0 if that is before 1970.
pub fn now() -> Timestamp {
    SIMULATED.with_borrow(|s| s.as_ref().map(|s| s.now)).unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(since.as_millis() as u64)
    })
}

/// Random bytes, fit for ids, keys and nonces.
pub fn random<const N: usize>() -> [u8; N] {
    let simulated = SIMULATED.with_borrow_mut(|s| {
        s.as_mut().map(|s| {
            let mut bytes = [0; N];
            s.rng.fill_bytes(&mut bytes);
            bytes
        })
    });
    simulated.unwrap_or_else(rand::random)
}

/// For what needs no secrecy, such as the moment of an election.
pub fn rng() -> SmallRng {
    let simulated = SIMULATED.with_borrow_mut(|s| s.as_mut().map(|s| s.rng.next_u64()));
    SmallRng::seed_from_u64(simulated.unwrap_or_else(rand::random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_everything_and_only_on_its_thread() {
        let draw = || {
            simulate(7);
            set_clock(Timestamp(5));
            (now(), random::<16>(), random::<24>(), rng().next_u64())
        };
        let first = draw();
        assert_eq!(draw(), first);
        assert_ne!(first.1, first.2[..16]);
        let outside = std::thread::spawn(|| (now(), random::<16>())).join().unwrap();
        assert!(outside.0 > Timestamp(1_700_000_000_000) && outside.1 != first.1);
    }
}
