//! network ls.

use super::find;
use crate::{
    client::{Client, said},
    commands::{
        filter::Filters,
        pair::{joined, key_value},
    },
    output::{self, Format},
};
use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

const FILTERS: [&str; 8] = ["dangling", "driver", "id", "label", "label!", "name", "scope", "type"];

#[derive(Debug, Args)]
pub struct LsArgs {
    /// driver=, id=, label=, name=, scope=local|swarm, type=custom|builtin or dangling=true|false
    #[arg(short, long, value_parser = key_value)]
    filter: Vec<(String, String)>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Ids in full
    #[arg(long)]
    no_trunc: bool,
    /// Print ids alone
    #[arg(short, long)]
    quiet: bool,
}

fn text<'a>(document: &'a Value, key: &str) -> &'a str {
    document[key].as_str().unwrap_or_default()
}

fn filters(given: Vec<(String, String)>) -> Result<Filters> {
    let filters = Filters::new(given, &FILTERS)?;
    for (key, known) in
        [("type", ["custom", "builtin"]), ("scope", ["local", "swarm"]), ("dangling", ["true", "false"])]
    {
        if let Some(value) = filters.values(key).find(|v| !known.contains(v)) {
            bail!("filter {key}={value}: use {} or {}", known[0], known[1]);
        }
    }
    Ok(filters)
}

/// All but `dangling`, which needs more than a list tells.
fn passes(document: &Value, filters: &Filters) -> bool {
    filters.any("driver", |driver| text(document, "Driver") == driver)
        && filters.any("id", |id| text(document, "Id").starts_with(id))
        && filters.any("name", |name| text(document, "Name").contains(name))
        && filters.any("scope", |scope| text(document, "Scope") == scope)
        && filters.any("type", |kind| find::is_builtin(document) == (kind == "builtin"))
        && filters.labels(&document["Labels"])
}

fn id(document: &Value, full: bool) -> String {
    let id = text(document, "Id");
    if full { id.to_owned() } else { output::short(id) }
}

fn row(document: &Value, full: bool) -> Vec<String> {
    let mut row = vec![id(document, full)];
    row.extend(["Name", "Driver", "Scope"].map(|key| text(document, key).to_owned()));
    row
}

/// docker prints texts only.
fn value(document: &Value) -> Value {
    let yes = |key: &str| (document[key] == true).to_string();
    json!({
        "ID": text(document, "Id"),
        "Name": text(document, "Name"),
        "Driver": text(document, "Driver"),
        "Scope": text(document, "Scope"),
        "IPv4": yes("EnableIPv4"),
        "IPv6": yes("EnableIPv6"),
        "Internal": yes("Internal"),
        "Labels": joined(&document["Labels"]),
        "CreatedAt": text(document, "Created"),
    })
}

pub async fn run(client: &Client, args: LsArgs) -> Result<()> {
    let filters = filters(args.filter)?;
    let (mut host, mut control) = (client.host()?, client.control()?);
    let (mut documents, missing) = find::all(&mut host, &mut control).await.map_err(said)?;
    if let Some(status) = missing {
        eprintln!("WARNING: networks that this host does not take part in are missing: {:#}", said(status));
    }
    documents.retain(|d| passes(d, &filters));
    if filters.has("dangling") {
        let mut chosen = Vec::new();
        for document in documents {
            let found = find::find(&mut host, &mut control, text(&document, "Id")).await.map_err(said)?;
            let dangling = !find::is_builtin(&found.document) && find::is_unused(&found.document);
            if filters.any("dangling", |wanted| dangling == (wanted == "true")) {
                chosen.push(document);
            }
        }
        documents = chosen;
    }
    if args.quiet {
        documents.iter().for_each(|d| println!("{}", id(d, args.no_trunc)));
        return Ok(());
    }
    let rows = documents.iter().map(|d| row(d, args.no_trunc)).collect();
    let headings = ["NETWORK ID", "NAME", "DRIVER", "SCOPE"];
    output::print(args.format, &headings, rows, documents.iter().map(value).collect());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn three() -> Vec<Value> {
        let network = |id: char, name: &str, driver: &str, scope: &str, ingress: bool| {
            json!({
                "Id": id.to_string().repeat(25), "Name": name, "Driver": driver, "Scope": scope, "Ingress": ingress,
                "EnableIPv4": true, "EnableIPv6": false, "Internal": false, "Labels": { "tier": name },
                "Created": "1970-01-01T00:00:01Z",
            })
        };
        vec![
            network('a', "bridge", "bridge", "local", false),
            network('b', "front", "overlay", "swarm", false),
            network('c', "ingress", "overlay", "swarm", true),
        ]
    }

    #[test]
    fn dockers_columns_and_keys() {
        let rows = three().iter().map(|d| row(d, false)).collect();
        expect![[r#"
            NETWORK ID    NAME     DRIVER   SCOPE
            aaaaaaaaaaaa  bridge   bridge   local
            bbbbbbbbbbbb  front    overlay  swarm
            cccccccccccc  ingress  overlay  swarm"#]]
        .assert_eq(&output::table(&["NETWORK ID", "NAME", "DRIVER", "SCOPE"], rows));
        expect![[r#"
            {
              "CreatedAt": "1970-01-01T00:00:01Z",
              "Driver": "overlay",
              "ID": "bbbbbbbbbbbbbbbbbbbbbbbbb",
              "IPv4": "true",
              "IPv6": "false",
              "Internal": "false",
              "Labels": "tier=front",
              "Name": "front",
              "Scope": "swarm"
            }"#]]
        .assert_eq(&format!("{:#}", value(&three()[1])));
    }

    #[test]
    fn filters_choose() {
        for (filter, want) in [
            ("driver=overlay", vec!["front", "ingress"]),
            ("scope=local", vec!["bridge"]),
            ("type=custom", vec!["front"]),
            ("type=builtin", vec!["bridge", "ingress"]),
            ("name=on", vec!["front"]),
            ("id=ccc", vec!["ingress"]),
            ("label=tier=front", vec!["front"]),
        ] {
            let filters = filters(vec![key_value(filter).unwrap()]).unwrap();
            let all = three();
            let names: Vec<_> = all.iter().filter(|d| passes(d, &filters)).map(|d| text(d, "Name")).collect();
            assert_eq!(names, want, "{filter}");
        }
        assert_eq!(
            filters(vec![key_value("type=odd").unwrap()]).unwrap_err().to_string(),
            "filter type=odd: use custom or builtin"
        );
    }
}
