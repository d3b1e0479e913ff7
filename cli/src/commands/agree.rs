//! Asks before much is removed.

use anyhow::{Result, bail};
use std::io::{self, IsTerminal, Write};

/// False: the operator does not want it.
pub fn agreed(what: &str, warning: &str, filters: &[(String, String)]) -> Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("nobody can be asked without a terminal: give --force to remove {what}");
    }
    println!("WARNING! {warning}");
    if !filters.is_empty() {
        println!("\n  Items to be pruned will be filtered with:");
        filters.iter().for_each(|(key, value)| println!("  - {key}={value}"));
    }
    print!("\nAre you sure you want to continue? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
