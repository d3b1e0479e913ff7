//! Parses the command line, runs it, prints what went wrong once.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match heddle::run(heddle::args::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("heddle: {error:#}");
            ExitCode::FAILURE
        }
    }
}
