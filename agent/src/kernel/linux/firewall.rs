//! Other firewalls of the host, through the programs that made their rules.

use super::{space, watch};
use crate::dataplane::{
    firewall::{
        Cut, Foreign, Obstacle, Place, Tool, iptables,
        nft::{self, Base},
    },
    state::Space,
};
use std::{
    fs, io,
    process::{Command, Output, Stdio},
};

/// What forwarded packets meet in the calling thread's network namespace. Changes nothing.
pub fn look() -> io::Result<Foreign> {
    let mut found = Foreign::default();
    for base in nft::bases(&nft_json(&["list", "chains"])?).map_err(io::Error::other)? {
        let read = match base.iptables() {
            Some(v6) => iptables_rules(v6, false)?,
            None => None,
        };
        match (base.iptables(), read) {
            (Some(v6), Some(text)) => take(&mut found, iptables::read(v6, false, &text)),
            _ => native(&mut found, &base)?,
        }
    }
    for v6 in [false, true] {
        // Asking the legacy program would load its tables.
        if !legacy_filter(v6)? {
            continue;
        }
        match iptables_rules(v6, true)? {
            Some(text) => take(&mut found, iptables::read(v6, true, &text)),
            None => drop(found.unread.insert(v6)),
        }
    }
    Ok(found)
}

fn take(found: &mut Foreign, (cut, passes): (Option<(Place, Cut)>, std::collections::BTreeSet<Place>)) {
    found.cuts.extend(cut);
    found.passes.extend(passes);
}

fn native(found: &mut Foreign, base: &Base) -> io::Result<()> {
    let Some(json) = chain(&base.place)? else { return Ok(()) };
    let (cut, ours) = base.read(&json).map_err(io::Error::other)?;
    if !ours.is_empty() {
        found.passes.insert(base.place.clone());
    }
    let Some(mut cut) = cut else { return Ok(()) };
    if ours.is_empty() && cut.obstacle.is_none() && owned(&base.place)? {
        cut.obstacle = Some(Obstacle::Owned);
    }
    if let (Some(_), Tool::Nft { family, table }) = (cut.obstacle, &base.place.tool) {
        cut.named = nft::named(&text(run("nft", &["list", "table", family.as_str(), table])?)?);
    }
    found.cuts.insert(base.place.clone(), cut);
    Ok(())
}

/// The kernel is asked to check the insertion, not to do it: not every nft says who owns a table.
fn owned(place: &Place) -> io::Result<bool> {
    let command = place.command(1);
    let arguments: Vec<&str> = command.split(' ').skip(1).collect();
    let output = run("nft", &[&["-c"], arguments.as_slice()].concat())?;
    Ok(String::from_utf8_lossy(&output.stderr).contains("Operation not permitted"))
}

/// None: there is no such chain any more.
fn chain(place: &Place) -> io::Result<Option<String>> {
    let Tool::Nft { family, table } = &place.tool else { return Ok(None) };
    let output = run("nft", &["-j", "list", "chain", family.as_str(), table, &place.chain])?;
    if String::from_utf8_lossy(&output.stderr).contains("No such file or directory") {
        return Ok(None);
    }
    text(output).map(Some)
}

fn nft_json(arguments: &[&str]) -> io::Result<String> {
    text(run("nft", &[&["-j"], arguments].concat())?)
}

fn run(program: &str, arguments: &[&str]) -> io::Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn()?;
    watch::started(child.id());
    child.wait_with_output()
}

fn text(output: Output) -> io::Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(text.lines().next().unwrap_or("no reason given").to_owned()))
}

/// Whether the legacy filter table is loaded in this namespace.
fn legacy_filter(v6: bool) -> io::Result<bool> {
    let file = if v6 { "ip6_tables_names" } else { "ip_tables_names" };
    match fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
        Ok(names) => Ok(names.lines().any(|name| name == "filter")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// The program of this kind: by its own name, or where the plain name leads to it.
fn program(v6: bool, legacy: bool) -> io::Result<Option<&'static str>> {
    let own = Tool::Iptables { v6, legacy }.program();
    let (plain, kind) = (if v6 { "ip6tables" } else { "iptables" }, if legacy { "(legacy)" } else { "(nf_tables)" });
    for name in [own, plain] {
        match run(name, &["--version"]) {
            Ok(output) if String::from_utf8_lossy(&output.stdout).contains(kind) => return Ok(Some(name)),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(None)
}

/// The filter table in the program's own words. None: no such program here, or the table is not of its making.
fn iptables_rules(v6: bool, legacy: bool) -> io::Result<Option<String>> {
    let Some(program) = program(v6, legacy)? else { return Ok(None) };
    let output = run(program, &["-w", "5", "-t", "filter", "-S"])?;
    match output.status.success() {
        true => text(output).map(Some),
        false if !legacy => Ok(None),
        false => text(output).map(Some),
    }
}

/// Puts our rule there.
pub async fn add(space: &Space, place: &Place, at: u32) -> io::Result<()> {
    let place = place.clone();
    space::inside(space, move || match &place.tool {
        Tool::Nft { .. } => {
            let command = place.command(at);
            let arguments: Vec<&str> = command.split(' ').skip(1).collect();
            text(run("nft", &arguments)?).map(drop)
        }
        Tool::Iptables { v6, legacy } => {
            let number = at.to_string();
            iptables_do(*v6, *legacy, &["-I", &place.chain, &number]).and_then(text).map(drop)
        }
    })
    .await
}

/// Takes away every rule of ours there.
pub async fn remove(space: &Space, place: &Place) -> io::Result<()> {
    let place = place.clone();
    space::inside(space, move || match &place.tool {
        Tool::Nft { family, table } => {
            let Some(json) = chain(&place)? else { return Ok(()) };
            for handle in nft::ours(&json).map_err(io::Error::other)? {
                let handle = handle.to_string();
                let arguments = ["delete", "rule", family.as_str(), table, &place.chain, "handle", &handle];
                text(run("nft", &arguments)?)?;
            }
            Ok(())
        }
        Tool::Iptables { v6, legacy } => {
            // Until there is none.
            while iptables_do(*v6, *legacy, &["-C", &place.chain])?.status.success() {
                text(iptables_do(*v6, *legacy, &["-D", &place.chain])?)?;
            }
            Ok(())
        }
    })
    .await
}

fn iptables_do(v6: bool, legacy: bool, what: &[&str]) -> io::Result<Output> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, Tool::Iptables { v6, legacy }.program());
    let program = program(v6, legacy)?.ok_or_else(missing)?;
    let rule = iptables::pass();
    let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
    run(program, &[&["-w", "5", "-t", "filter"], what, &rule].concat())
}

#[cfg(test)]
mod tests;
