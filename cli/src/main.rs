//! Parses the command line, runs it, prints what went wrong once.

use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = heddle::config::parse(std::env::args_os().collect());
    match cli.map_err(Into::into).and_then(heddle::run) {
        Ok(code) => code,
        Err(error) => match heddle::signals::exit_code_if_unread(&error) {
            Some(code) => std::process::exit(code),
            None => {
                eprintln!("heddle: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}
