//! Tables as text of nft's language.

use super::state::{Family, NftChain, NftSet, Table, TableBody, TableId};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt::Write, sync::Arc};

impl Table {
    pub fn new(body: TableBody) -> Self {
        let text = render(&body);
        let digest = Sha256::digest(text.as_bytes())[..8].iter().map(|b| format!("{b:02x}")).collect();
        Self { digest, body: Some(Arc::new(body)) }
    }
}

impl TableBody {
    pub fn chain(&mut self, name: &str, base: Option<&str>, rules: Vec<String>) {
        self.chains.insert(name.to_owned(), NftChain { base: base.map(str::to_owned), rules });
    }

    pub fn set(&mut self, name: &str, declaration: &str, elements: impl IntoIterator<Item = String>) {
        let elements: BTreeMap<_, _> = elements.into_iter().map(|e| (e, String::new())).collect();
        self.sets.insert(name.to_owned(), NftSet { is_map: false, declaration: declaration.to_owned(), elements });
    }

    pub fn map(&mut self, name: &str, declaration: &str, elements: impl IntoIterator<Item = (String, String)>) {
        let elements = elements.into_iter().collect();
        self.sets.insert(name.to_owned(), NftSet { is_map: true, declaration: declaration.to_owned(), elements });
    }
}

pub fn family(family: Family) -> &'static str {
    match family {
        Family::Ip => "ip",
        Family::Ip6 => "ip6",
        Family::Inet => "inet",
        Family::Bridge => "bridge",
        Family::Netdev => "netdev",
    }
}

/// Name of the empty chain that says which body a table has.
pub fn digest_chain(digest: &str) -> String {
    format!("digest_{digest}")
}

fn render(body: &TableBody) -> String {
    let mut out = String::new();
    // Chains come before the maps that jump to them; writing to a String cannot fail.
    for (name, chain) in body.chains.iter().filter(|(_, c)| c.base.is_none()) {
        write_chain(&mut out, name, chain);
    }
    for (name, set) in &body.sets {
        let kind = if set.is_map { "map" } else { "set" };
        let element = |(k, v): (&String, &String)| if set.is_map { format!("{k} : {v}") } else { k.clone() };
        let elements: Vec<_> = set.elements.iter().map(element).collect();
        let _ = writeln!(out, "  {kind} {name} {{\n    {}", set.declaration);
        if !elements.is_empty() {
            let _ = writeln!(out, "    elements = {{ {} }}", elements.join(", "));
        }
        out.push_str("  }\n");
    }
    for (name, chain) in body.chains.iter().filter(|(_, c)| c.base.is_some()) {
        write_chain(&mut out, name, chain);
    }
    out
}

fn write_chain(out: &mut String, name: &str, chain: &NftChain) {
    let _ = writeln!(out, "  chain {name} {{");
    if let Some(base) = &chain.base {
        let _ = writeln!(out, "    {base}");
    }
    for rule in &chain.rules {
        let _ = writeln!(out, "    {rule}");
    }
    out.push_str("  }\n");
}

/// The transaction that makes the table as given, whatever was there.
pub fn script(id: &TableId, table: &Table) -> String {
    let (family, name) = (family(id.family), &id.name);
    let body = table.body.as_deref().map(render).unwrap_or_default();
    let digest = digest_chain(&table.digest);
    format!(
        "table {family} {name} {{ }}\ndelete table {family} {name}\ntable {family} {name} {{\n  chain {digest} {{ }}\n{body}}}\n"
    )
}
