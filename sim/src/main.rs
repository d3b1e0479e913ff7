//! Runs one seed: `heddle-sim 7`. Says how it went as JSON, or what did not hold; RUST_LOG has it tell what it does.

use std::process::ExitCode;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

fn main() -> ExitCode {
    let Some(seed) = std::env::args().nth(1).and_then(|seed| seed.parse().ok()) else {
        eprintln!("usage: heddle-sim SEED, a number from 0 to {}", u64::MAX);
        return ExitCode::from(2);
    };
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::OFF.into()).from_env_lossy();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).without_time().init();
    match heddle_sim::run(seed) {
        Ok(outcome) => {
            println!("{}", serde_json::json!(outcome));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
