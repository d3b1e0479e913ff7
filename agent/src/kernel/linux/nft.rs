//! Tables through the `nft` program, run inside the namespace.

use super::{space, watch};
use crate::dataplane::{
    nft::family,
    own,
    state::{Family, Space, Table, TableId},
};
use serde::Deserialize;
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

/// Our tables with the digests of their bodies.
pub async fn observe(space: &Space) -> io::Result<BTreeMap<TableId, Table>> {
    let list = |what: &'static str| {
        space::inside(space, move || {
            let output = Command::new("nft").args(["-j", "list", what]).stdin(Stdio::null()).output()?;
            if !output.status.success() {
                let text = String::from_utf8_lossy(&output.stderr);
                return Err(io::Error::other(format!("nft: {}", text.lines().next().unwrap_or("no reason given"))));
            }
            // Some versions print garbage for the flags of a table.
            serde_json::from_str::<Listing>(&String::from_utf8_lossy(&output.stdout)).map_err(io::Error::other)
        })
    };
    let mut tables = BTreeMap::new();
    for table in list("tables").await?.nftables.into_iter().filter_map(|e| e.table) {
        if let Some(id) = id(&table.family, &table.name) {
            tables.insert(id, Table { digest: String::new(), body: None });
        }
    }
    if tables.is_empty() {
        return Ok(tables);
    }
    for chain in list("chains").await?.nftables.into_iter().filter_map(|e| e.chain) {
        let digest = chain.name.strip_prefix("digest_");
        if let Some((id, digest)) = id(&chain.family, &chain.table).zip(digest) {
            tables.insert(id, Table { digest: digest.to_owned(), body: None });
        }
    }
    Ok(tables)
}
