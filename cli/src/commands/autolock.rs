//! `unlock`, `cluster unlock-key`: managers that start locked.

use crate::client::{Client, said};
use anyhow::{Context, Result};
use clap::Args;
use heddle_proto::v1;
use std::io::{self, IsTerminal};

#[derive(Debug, Args)]
pub struct UnlockKeyArgs {
    /// Make a new one. What managers have written is not encrypted anew; one that is down now is unlocked with the old key, and
    /// takes the new one when it hears of it
    #[arg(long)]
    rotate: bool,
    /// Print the key alone
    #[arg(short, long)]
    quiet: bool,
}

/// What an operator does with the key.
pub fn advice(key: &str) -> String {
    format!(
        "To unlock a manager that has started, run `heddle unlock` on it with this key:\n\n    {key}\n\nKeep it elsewhere: without \
         it nobody reads what a locked manager has.\n"
    )
}

pub async fn unlock_key(client: &Client, args: UnlockKeyArgs) -> Result<()> {
    let request = v1::GetUnlockKeyRequest { rotate: args.rotate };
    let key = client.control()?.get_unlock_key(request).await.map_err(said)?.into_inner().key;
    match args.quiet {
        true => println!("{key}"),
        false => print!("{}", advice(&key)),
    }
    Ok(())
}

/// Unseen where somebody types it.
fn ask() -> Result<String> {
    if io::stdin().is_terminal() {
        return rpassword::prompt_password("Unlock key: ").context("cannot read the unlock key from the terminal");
    }
    io::read_to_string(io::stdin().lock()).context("cannot read the unlock key from the standard input")
}

pub async fn unlock(client: &Client) -> Result<()> {
    let request = v1::UnlockRequest { key: ask()?.trim().to_owned() };
    let done = client.local()?.unlock(request).await.map_err(said)?.into_inner();
    println!("This manager ({}) is unlocked.", done.node);
    Ok(())
}
