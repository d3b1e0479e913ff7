//! Tables through the `nft` program, run inside the namespace.

use super::{space, watch};
use crate::dataplane::{
    nft::family,
    own,
    state::{Family, Space, Table, TableId},
};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::{self, Write},
    process::{Command, Stdio},
};

/// Runs one transaction.
pub async fn run(space: &Space, script: String) -> io::Result<()> {
    space::inside(space, move || {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        watch::started(child.id());
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        tracing::debug!(script, %text, "nft refused a table");
        Err(io::Error::other(format!("nft: {}", text.lines().next().unwrap_or("no reason given"))))
    })
    .await
}

pub async fn remove(space: &Space, id: &TableId) -> io::Result<()> {
    let (family, name) = (family(id.family), &id.name);
    run(space, format!("table {family} {name} {{ }}\ndelete table {family} {name}\n")).await
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    table: Option<Named>,
    chain: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    family: String,
    name: String,
    #[serde(default)]
    table: String,
}

fn id(family: &str, name: &str) -> Option<TableId> {
    let family = match family {
        "ip" => Family::Ip,
        "ip6" => Family::Ip6,
        "inet" => Family::Inet,
        "bridge" => Family::Bridge,
        "netdev" => Family::Netdev,
        _ => return None,
    };
    own::table(name).then(|| TableId { family, name: name.to_owned() })
}

/// What `nft -j list tables` says of tables of ours, or `nft -j list chains` of those that have a digest.
pub(crate) fn read(json: &str) -> serde_json::Result<BTreeMap<TableId, Table>> {
    let listing: Listing = serde_json::from_str(json)?;
    let table = |entry: Entry| match entry {
        Entry { table: Some(table), .. } => Some((id(&table.family, &table.name)?, String::new())),
        Entry { chain: Some(chain), .. } => {
            let digest = chain.name.strip_prefix("digest_")?;
            Some((id(&chain.family, &chain.table)?, digest.to_owned()))
        }
        Entry { table: None, chain: None } => None,
    };
    let found = listing.nftables.into_iter().filter_map(table);
    Ok(found.map(|(id, digest)| (id, Table { digest, body: None })).collect())
}

/// Runs `nft -j list ...` inside the namespace.
async fn list<T: Send + 'static>(
    space: &Space,
    what: Vec<String>,
    read: impl FnOnce(&str) -> serde_json::Result<T> + Send + 'static,
) -> io::Result<T> {
    space::inside(space, move || {
        let output = Command::new("nft").args(["-j", "list"]).args(what).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("nft: {}", text.lines().next().unwrap_or("no reason given"))));
        }
        // Some versions print garbage for the flags of a table.
        read(&String::from_utf8_lossy(&output.stdout)).map_err(io::Error::other)
    })
    .await
}

/// The elements of a map: keys, each of several fields, and values.
pub async fn elements(space: &Space, id: &TableId, map: &str) -> io::Result<Vec<(Vec<Value>, Value)>> {
    let what = ["map", family(id.family), &id.name, map].map(str::to_owned).to_vec();
    list(space, what, read_elements).await
}

/// What `nft -j list map` says.
pub(crate) fn read_elements(json: &str) -> serde_json::Result<Vec<(Vec<Value>, Value)>> {
    #[derive(Deserialize)]
    struct Key {
        concat: Vec<Value>,
    }
    let listing: Value = serde_json::from_str(json)?;
    let maps = listing["nftables"].as_array().into_iter().flatten();
    let elements = maps.filter_map(|entry| entry["map"]["elem"].as_array()).flatten();
    let read = |element: &Value| Ok((serde_json::from_value::<Key>(element[0].clone())?.concat, element[1].clone()));
    elements.map(read).collect()
}

/// Our tables with the digests of their bodies.
pub async fn observe(space: &Space) -> io::Result<BTreeMap<TableId, Table>> {
    let mut tables = list(space, vec!["tables".into()], read).await?;
    if !tables.is_empty() {
        tables.extend(list(space, vec!["chains".into()], read).await?);
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_a_map_are_read_whole_or_not_at_all() {
        let said = |elements: &str| {
            read_elements(&format!(
                "{{\"nftables\": [{{\"metainfo\": {{}}}}, {{\"map\": {{\"name\": \"m\"{elements}}}}}]}}"
            ))
        };
        assert_eq!(said("").unwrap(), []);
        let two =
            said(", \"elem\": [[{\"concat\": [\"10.0.0.1\", 80]}, 7], [{\"concat\": [\"10.0.0.2\", 81]}, 8]]").unwrap();
        assert_eq!(two[1], (vec!["10.0.0.2".into(), 81.into()], 8.into()));
        assert!(said(", \"elem\": [[{\"elem\": {\"val\": 1}}, 7]]").is_err());
    }
}
