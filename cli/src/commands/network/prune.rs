//! network prune.

use super::{find, rm};
use crate::{
    client::{Client, said},
    commands::{agree::agreed, filter::Filters, moment, pair::key_value},
};
use anyhow::Result;
use clap::Args;
use serde_json::Value;
use tonic::Code;

const FILTERS: [&str; 3] = ["label", "label!", "until"];

#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// label=, label!=, or until= a date or so long ago, such as 24h
    #[arg(long, value_parser = key_value)]
    filter: Vec<(String, String)>,
}

/// Milliseconds since the Unix epoch; None if the document does not say.
fn created(document: &Value) -> Option<u64> {
    let at: jiff::Timestamp = document["Created"].as_str()?.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok()
}

fn passes(document: &Value, filters: &Filters, until: &[u64]) -> bool {
    !find::is_builtin(document)
        && filters.labels(&document["Labels"])
        && until.iter().all(|until| created(document).is_some_and(|at| at < *until))
}

pub async fn run(client: &Client, args: PruneArgs) -> Result<()> {
    let filters = Filters::new(args.filter.clone(), &FILTERS)?;
    let until = filters.values("until").map(moment::now).collect::<Result<Vec<_>, _>>().map_err(anyhow::Error::msg)?;
    let warning = "This will remove all custom networks not used by at least one workload or service.";
    if !args.force && !agreed("unused networks", warning, &args.filter)? {
        return Ok(());
    }
    let deleted = prune(client, &filters, &until).await?;
    if !deleted.is_empty() {
        println!("Deleted Networks:\n{}\n", deleted.join("\n"));
    }
    Ok(())
}

/// The names of those removed.
async fn prune(client: &Client, filters: &Filters, until: &[u64]) -> Result<Vec<String>> {
    let (mut host, mut control) = (client.host()?, client.control()?);
    let (documents, missing) = find::all(&mut host, &mut control).await.map_err(said)?;
    if let Some(status) = missing {
        eprintln!("WARNING: networks of the cluster are left alone: {:#}", said(status));
    }
    let mut deleted = Vec::new();
    for document in documents.iter().filter(|d| passes(d, filters, until)) {
        let id = document["Id"].as_str().unwrap_or_default();
        let found = match find::find(&mut host, &mut control, id).await {
            Ok(found) if find::is_unused(&found.document) => found,
            Ok(_) => continue,
            Err(status) if status.code() == Code::NotFound => continue,
            Err(status) => return Err(said(status)),
        };
        match rm::remove(&mut host, &mut control, &found).await {
            Ok(()) => deleted.push(found.document["Name"].as_str().unwrap_or_default().to_owned()),
            // Somebody uses it whom this host does not see, or this host may not decide over it.
            Err(status) if status.code() == Code::FailedPrecondition => {}
            Err(status) => eprintln!("WARNING: {:#}", said(status)),
        }
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fake::Fake;
    use serde_json::json;

    fn network(id: &str, name: &str, label: &str, second: u32, containers: Value) -> Value {
        json!({
            "Id": id, "Name": name, "Scope": "local", "Driver": "bridge", "Labels": { label: "" },
            "Created": format!("1970-01-01T00:00:{second:02}Z"), "Containers": containers,
        })
    }

    #[tokio::test]
    async fn only_custom_networks_that_nobody_uses_go() {
        let fake = Fake::start(|daemon| {
            daemon.networks = vec![
                network("1", "bridge", "x", 1, json!({})),
                network("2", "used", "x", 1, json!({ "w": {} })),
                network("3", "old", "x", 1, json!({})),
                network("4", "new", "x", 30, json!({})),
                network("5", "other", "y", 1, json!({})),
                network("6", "refused", "x", 1, json!({})),
            ];
            daemon.in_use = vec!["6".into()];
        });
        let filters = Filters::new(vec![key_value("label=x").unwrap()], &FILTERS).unwrap();
        assert_eq!(prune(&fake.client(), &filters, &[20_000]).await.unwrap(), ["old"]);
        assert_eq!(prune(&fake.client(), &Filters::default(), &[]).await.unwrap(), ["new", "other"]);
        assert_eq!(prune(&fake.client(), &Filters::default(), &[]).await.unwrap(), Vec::<String>::new());
    }
}
