//! ps: the workloads, and the tasks of services, on this host.

use super::{filter::Filters, pair::key_value};
use crate::{
    client::{Client, said},
    output::{self, Format},
};
use anyhow::Result;
use clap::Args;
use heddle_proto::v1;
use serde_json::{Value, json};
use std::net::IpAddr;

const FILTERS: [&str; 7] = ["id", "label", "label!", "name", "network", "publish", "status"];
/// As docker cuts it.
const COMMAND_WIDTH: usize = 20;

#[derive(Debug, Args)]
pub struct PsArgs {
    /// Those that have ended too
    #[arg(short, long)]
    all: bool,
    /// name=, id=, network=, status=, label= or publish=
    #[arg(short, long, value_parser = key_value)]
    filter: Vec<(String, String)>,
    /// The last created so many, in any state
    #[arg(short = 'n', long)]
    last: Option<usize>,
    /// Print ids alone
    #[arg(short, long)]
    quiet: bool,
    /// Ids and commands in full
    #[arg(long)]
    no_trunc: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn text<'a>(document: &'a Value, key: &str) -> &'a str {
    document[key].as_str().unwrap_or_default()
}

/// docker writes a `/` before a name.
fn names(document: &Value) -> Vec<&str> {
    let all = document["Names"].as_array().into_iter().flatten();
    all.filter_map(Value::as_str).map(|n| n.trim_start_matches('/')).collect()
}

fn networks(document: &Value) -> Vec<(&str, &str)> {
    let all = document["NetworkSettings"]["Networks"].as_object().into_iter().flatten();
    all.map(|(name, place)| (name.as_str(), text(place, "NetworkID"))).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Mapping<'a> {
    ip: Option<IpAddr>,
    protocol: &'a str,
    /// None: not published.
    public: Option<u64>,
    private: u64,
}

fn mappings(document: &Value) -> Vec<Mapping<'_>> {
    let mapping = |p: &'_ Value| {
        let protocol = p["Type"].as_str().map(|t| if t == "udp" { "udp" } else { "tcp" }).unwrap_or("tcp");
        let public = p["PublicPort"].as_u64().filter(|n| *n > 0);
        let ip = text(p, "IP").parse().ok();
        Some(Mapping { ip, protocol, public, private: p["PrivatePort"].as_u64()? })
    };
    let mut all: Vec<_> = document["Ports"].as_array().into_iter().flatten().filter_map(mapping).collect();
    all.sort();
    all
}

/// `0.0.0.0:8000-8002->80-82/tcp, [::]:53->53/udp`: neighbours are joined.
fn ports(document: &Value) -> String {
    let mut runs: Vec<(Mapping, u64)> = Vec::new();
    for next in mappings(document) {
        match runs.last_mut() {
            Some((first, more))
                if (first.ip, first.protocol) == (next.ip, next.protocol)
                    && first.private + *more + 1 == next.private
                    && first.public.map(|p| p + *more + 1) == next.public =>
            {
                *more += 1;
            }
            _ => runs.push((next, 0)),
        }
    }
    let range = |first: u64, more: u64| if more == 0 { first.to_string() } else { format!("{first}-{}", first + more) };
    let show = |(first, more): (Mapping, u64)| {
        let private = range(first.private, more);
        let ip = match first.ip {
            Some(IpAddr::V6(ip)) => format!("[{ip}]:"),
            Some(IpAddr::V4(ip)) => format!("{ip}:"),
            None => String::new(),
        };
        match first.public {
            Some(public) => format!("{ip}{}->{private}/{}", range(public, more), first.protocol),
            None => format!("{private}/{}", first.protocol),
        }
    };
    runs.into_iter().map(show).collect::<Vec<_>>().join(", ")
}

/// `PORT[-PORT][/PROTOCOL]`.
fn publishes(document: &Value, wanted: &str) -> bool {
    let (range, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>()) else { return false };
    let within = |m: &Mapping| m.protocol == protocol && m.public.is_some_and(|p| (first..=last).contains(&p));
    mappings(document).iter().any(within)
}

fn passes(document: &Value, filters: &Filters) -> bool {
    filters.any("id", |id| text(document, "Id").starts_with(id))
        && filters.any("name", |wanted| names(document).iter().any(|n| n.contains(wanted.trim_start_matches('/'))))
        && filters.any("status", |status| text(document, "State") == status)
        && filters.any("publish", |port| publishes(document, port))
        && filters.any("network", |wanted| {
            networks(document).iter().any(|(name, id)| *name == wanted || !wanted.is_empty() && id.starts_with(wanted))
        })
        && filters.labels(&document["Labels"])
}

fn created(document: &Value) -> u64 {
    document["Created"].as_u64().unwrap_or_default()
}

/// Newest first, as docker orders them.
fn choose(mut documents: Vec<Value>, filters: &Filters, last: Option<usize>) -> Vec<Value> {
    documents.retain(|d| passes(d, filters));
    documents.sort_by_key(|d| std::cmp::Reverse(created(d)));
    documents.truncate(last.unwrap_or(usize::MAX));
    documents
}

fn row(document: &Value, full: bool, ago: impl Fn(u64) -> String) -> Vec<String> {
    let (id, command) = (text(document, "Id"), text(document, "Command"));
    let (id, command) = match full {
        true => (id.to_owned(), command.to_owned()),
        false if command.chars().count() <= COMMAND_WIDTH => (output::short(id), command.to_owned()),
        false => (output::short(id), command.chars().take(COMMAND_WIDTH - 1).chain(['…']).collect()),
    };
    vec![
        id,
        text(document, "Image").to_owned(),
        format!("\"{command}\""),
        ago(created(document) * 1000),
        text(document, "Status").to_owned(),
        ports(document),
        names(document).join(","),
    ]
}

fn value(document: &Value) -> Value {
    let label = |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or_default());
    let labels: Vec<_> = document["Labels"].as_object().into_iter().flatten().map(label).collect();
    let networks: Vec<_> = networks(document).into_iter().map(|(name, _)| name).collect();
    json!({
        "ID": text(document, "Id"),
        "Names": names(document).join(","),
        "Image": text(document, "Image"),
        "Command": format!("\"{}\"", text(document, "Command")),
        "CreatedAt": super::moment::show(created(document) * 1000),
        "State": text(document, "State"),
        "Status": text(document, "Status"),
        "Ports": ports(document),
        "Networks": networks.join(","),
        "Labels": labels.join(","),
    })
}

pub async fn run(client: &Client, args: PsArgs) -> Result<()> {
    let filters = Filters::new(args.filter, &FILTERS)?;
    let all = args.all || args.last.is_some() || filters.has("status");
    let answer = client.host()?.list_workloads(v1::ListWorkloadsRequest { all }).await.map_err(said)?.into_inner();
    let documents = answer.json.iter().map(|d| serde_json::from_str(d)).collect::<Result<Vec<Value>, _>>()?;
    let chosen = choose(documents, &filters, args.last);
    if args.quiet {
        for document in &chosen {
            let id = text(document, "Id");
            println!("{}", if args.no_trunc { id.to_owned() } else { output::short(id) });
        }
        return Ok(());
    }
    let headings = ["ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
    let rows = chosen.iter().map(|d| row(d, args.no_trunc, output::ago)).collect();
    output::print(args.format, &headings, rows, chosen.iter().map(value).collect());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn port(ip: &str, public: u16, private: u16, protocol: &str) -> Value {
        json!({ "IP": ip, "PublicPort": public, "PrivatePort": private, "Type": protocol })
    }

    fn two() -> Vec<Value> {
        let web = json!({
            "Id": "aaaaaaaaaaaaaaaaaaaaaaaaa", "Names": ["/web"], "Command": "heddle whoami --port 80", "Created": 100,
            "State": "running", "Status": "Up 3 minutes", "Labels": { "tier": "front" },
            "NetworkSettings": { "Networks": { "bridge": { "NetworkID": "n1" } } },
            "Ports": [port("::", 8001, 81, "tcp"), port("0.0.0.0", 8000, 80, "tcp"), port("0.0.0.0", 8001, 81, "tcp"),
                port("::", 8000, 80, "tcp"), port("127.0.0.1", 5353, 53, "udp"), { "PrivatePort": 99, "Type": "tcp" }],
        });
        let job = json!({
            "Id": "bbbbbbbbbbbbbbbbbbbbbbbbb", "Names": ["job"], "Image": "nginx:1.27", "Command": "true", "Created": 200, "State": "exited",
            "Status": "Exited (0) 1 minute ago", "Labels": {}, "Ports": [],
            "NetworkSettings": { "Networks": { "back": { "NetworkID": "n2" } } },
        });
        vec![web, job]
    }

    fn shown(filter: &[&str], full: bool) -> String {
        let given = filter.iter().map(|f| key_value(f).unwrap()).collect();
        let chosen = choose(two(), &Filters::new(given, &FILTERS).unwrap(), None);
        let rows = chosen.iter().map(|d| row(d, full, |ms| format!("at {ms}"))).collect();
        output::table(&["ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"], rows)
    }

    #[test]
    fn dockers_columns_newest_first() {
        expect![[r#"
            ID            IMAGE       COMMAND                 CREATED    STATUS                   PORTS                                                                                    NAMES
            bbbbbbbbbbbb  nginx:1.27  "true"                  at 200000  Exited (0) 1 minute ago                                                                                           job
            aaaaaaaaaaaa              "heddle whoami --por…"  at 100000  Up 3 minutes             99/tcp, 0.0.0.0:8000-8001->80-81/tcp, 127.0.0.1:5353->53/udp, [::]:8000-8001->80-81/tcp  web"#]].assert_eq(&shown(&[], false));
        expect![[r#"
            ID                         IMAGE  COMMAND                    CREATED    STATUS        PORTS                                                                                    NAMES
            aaaaaaaaaaaaaaaaaaaaaaaaa         "heddle whoami --port 80"  at 100000  Up 3 minutes  99/tcp, 0.0.0.0:8000-8001->80-81/tcp, 127.0.0.1:5353->53/udp, [::]:8000-8001->80-81/tcp  web"#]].assert_eq(&shown(&["name=web"], true));
    }

    #[test]
    fn filters_choose() {
        for (filter, want) in [
            ("name=we", vec!["web"]),
            ("id=bbb", vec!["job"]),
            ("network=back", vec!["job"]),
            ("network=n1", vec!["web"]),
            ("status=exited", vec!["job"]),
            ("label=tier=front", vec!["web"]),
            ("label!=tier", vec!["job"]),
            ("publish=8000", vec!["web"]),
            ("publish=5000-6000/udp", vec!["web"]),
            ("publish=80", vec![]),
        ] {
            let filters = Filters::new(vec![key_value(filter).unwrap()], &FILTERS).unwrap();
            let chosen = choose(two(), &filters, None);
            assert_eq!(chosen.iter().flat_map(names).collect::<Vec<_>>(), want, "{filter}");
        }
        assert_eq!(choose(two(), &Filters::default(), Some(1)).iter().flat_map(names).collect::<Vec<_>>(), ["job"]);
    }
}
