//! What parsers are tried with: bytes at random, and valid inputs that were damaged. For tests alone.
//!
//! ```text
//! damage    what may befall an input      messages   random messages of a protocol, from its descriptors
//! ```

mod damage;
mod messages;

pub use messages::{Messages, Words};

use damage::Damage;
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

/// Says how many inputs each parser is tried with.
const VARIABLE: &str = "FUZZ_CASES";
const CASES: u32 = 2000;
/// The longest input that is random from the first byte.
const NOISE: usize = 300;
/// How often an input is damaged at most.
const DAMAGES: usize = 6;

/// What a parser may hold at once, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// For any input.
    pub base: u64,
    /// For each byte of the input.
    pub factor: u64,
}

impl Memory {
    /// Two bytes may stand for an object of a protocol whose fields are all absent.
    pub const USUAL: Memory = Memory { base: 1 << 20, factor: 2 << 10 };

    fn of(self, input: &[u8]) -> u64 {
        self.base + self.factor * input.len() as u64
    }
}

struct Input(Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// One of these, at random.
pub fn one_of<T: AsRef<[u8]>>(inputs: &[T]) -> impl Fn(&mut StdRng) -> Vec<u8> {
    move |random: &mut StdRng| inputs[random.random_range(0..inputs.len())].as_ref().to_vec()
}

/// Tries a parser; a failure names the shortest input that was found to cause it.
///
/// # Panics
/// If the parser panics, or holds more memory than it may.
pub fn run(memory: Memory, valid: impl Fn(&mut StdRng) -> Vec<u8>, parse: impl Fn(&[u8])) {
    let cases = std::env::var(VARIABLE).ok().map_or(CASES, |n| n.parse().expect("FUZZ_CASES is a number"));
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    let made = (any::<u64>().no_shrink(), prop::bool::weighted(0.2), vec(Damage::any(), 0..=DAMAGES));
    let inputs = made.prop_map(|(seed, noise, damages)| {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bytes = if noise { self::noise(&mut random) } else { valid(&mut random) };
        damages.iter().for_each(|damage| damage.inflict(&mut bytes));
        Input(bytes)
    });
    let outcome = TestRunner::new(config).run(&inputs, |Input(bytes)| {
        let held = held(|| parse(&bytes));
        let most = memory.of(&bytes);
        prop_assert!(held <= most, "{held} bytes are held for an input of {}, and {most} may be", bytes.len());
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

/// The same for text.
///
/// # Panics
/// As `run` does.
pub fn run_text<T: AsRef<[u8]>>(valid: &[T], parse: impl Fn(&str)) {
    run(Memory::USUAL, one_of(valid), |bytes| parse(&String::from_utf8_lossy(bytes)));
}

fn noise(random: &mut StdRng) -> Vec<u8> {
    let length = random.random_range(0..=NOISE);
    (0..length).map(|_| random.random()).collect()
}

/// Bytes that were held at once, at most.
fn held(f: impl FnOnce()) -> u64 {
    let mut outcome = Ok(());
    // The counter must see the end of what it counts.
    let counted = allocation_counter::measure(|| outcome = catch_unwind(AssertUnwindSafe(f)));
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
    counted.bytes_max
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(parse: impl Fn(&[u8])) -> String {
        let memory = Memory { base: 1 << 10, factor: 1 };
        let tried = catch_unwind(AssertUnwindSafe(|| run(memory, one_of(&["length 3: abc"]), parse)));
        let panic = tried.expect_err("the parser is wrong");
        panic.downcast_ref::<String>().cloned().unwrap_or_default()
    }

    #[test]
    fn a_parser_that_trusts_its_input_is_found() {
        run(Memory::USUAL, one_of(&["any"]), |_| {});
        let said = fails(|bytes| assert_eq!(bytes.get(7).unwrap_or(&b'3'), &b'3', "the length is taken on trust"));
        assert!(said.contains("the length is taken on trust"), "{said}");
        let said = fails(|bytes| drop(vec![0u8; usize::from(bytes.first().copied().unwrap_or(0)) << 10]));
        assert!(said.contains("bytes are held for an input of"), "{said}");
    }
}
