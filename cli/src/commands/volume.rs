//! volume: create, ls, inspect, rm, prune. All of them are about this host.

use super::{confirm::agreed, each::each, filter::Filters, pair};
use crate::{
    client::{Client, said},
    output::{Format, print},
};
use anyhow::{Result, bail};
use clap::Subcommand;
use heddle_proto::v1;
use indicatif::HumanBytes;
use serde_json::{Value, json};
use tonic::Code;

#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Make a volume on this host. One that is there already stays as it is
    Create {
        /// [default: a name of the daemon's choice]
        name: Option<String>,
        /// KEY or KEY=VALUE
        #[arg(short, long, value_parser = pair::key)]
        label: Vec<(String, String)>,
    },
    /// List the volumes of this host
    #[command(visible_alias = "list")]
    Ls {
        #[arg(long, value_enum, default_value_t)]
        format: Format,
        /// Print names alone
        #[arg(short, long)]
        quiet: bool,
        /// name=PART, label=KEY[=VALUE], label!=KEY[=VALUE], or dangling=true|false: whether nobody uses it
        #[arg(short, long, value_parser = pair::key_value)]
        filter: Vec<(String, String)>,
    },
    /// Show volumes, where they lie and who uses them, as JSON
    Inspect {
        #[arg(required = true)]
        volumes: Vec<String>,
    },
    /// Remove volumes, with all that is in them, if no workload and no task uses them
    #[command(visible_alias = "remove")]
    Rm {
        #[arg(required = true)]
        volumes: Vec<String>,
        /// Those that do not exist are no error
        #[arg(short, long)]
        force: bool,
    },
    /// Remove all volumes of this host that no workload and no task uses, with all that is in them
    Prune {
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
}

const FILTERS: [&str; 4] = ["dangling", "label", "label!", "name"];

fn name(volume: &Value) -> &str {
    volume["Name"].as_str().unwrap_or_default()
}

fn filters(given: Vec<(String, String)>) -> Result<Filters> {
    let filters = Filters::new(given, &FILTERS)?;
    if let Some(value) = filters.values("dangling").find(|value| !["true", "false"].contains(value)) {
        bail!("filter dangling={value}: use true or false");
    }
    Ok(filters)
}

fn passes(volume: &Value, filters: &Filters) -> bool {
    let dangling = volume["UsedBy"].as_array().is_none_or(Vec::is_empty);
    filters.any("name", |part| name(volume).contains(part))
        && filters.any("dangling", |wanted| dangling == (wanted == "true"))
        && filters.labels(&volume["Labels"])
}

/// docker prints texts only.
fn value(volume: &Value) -> Value {
    json!({
        "Name": name(volume),
        "Driver": volume["Driver"],
        "Scope": volume["Scope"],
        "Mountpoint": volume["Mountpoint"],
        "Labels": pair::joined(&volume["Labels"]),
    })
}

fn row(volume: &Value) -> Vec<String> {
    vec![volume["Driver"].as_str().unwrap_or_default().to_owned(), name(volume).to_owned()]
}

pub async fn run(client: &Client, command: VolumeCommand) -> Result<()> {
    let mut host = client.host()?;
    match command {
        VolumeCommand::Create { name, label } => {
            let name = match name.as_deref() {
                Some("") => bail!("volume name \"\": use a name, or leave it out"),
                name => name.unwrap_or_default().to_owned(),
            };
            let annotations = Some(v1::Annotations { name, labels: label.into_iter().collect() });
            let request = v1::CreateVolumeRequest { annotations };
            println!("{}", host.create_volume(request).await.map_err(said)?.into_inner().name);
        }
        VolumeCommand::Ls { format, quiet, filter } => {
            let filters = filters(filter)?;
            let answer = host.list_volumes(v1::ListVolumesRequest {}).await.map_err(said)?.into_inner();
            let mut all = answer.json.iter().map(|d| serde_json::from_str(d)).collect::<Result<Vec<Value>, _>>()?;
            all.retain(|volume| passes(volume, &filters));
            if quiet {
                all.iter().for_each(|volume| println!("{}", name(volume)));
                return Ok(());
            }
            let rows = all.iter().map(row).collect();
            print(format, &["DRIVER", "VOLUME NAME"], rows, all.iter().map(value).collect());
        }
        VolumeCommand::Inspect { volumes } => {
            let mut found: Vec<Value> = Vec::new();
            let all = each(volumes, async |r#ref| {
                let answer = host.inspect_volume(v1::RefRequest { r#ref }).await.map_err(said)?.into_inner();
                found.push(serde_json::from_str(&answer.json)?);
                Ok(())
            })
            .await;
            println!("{:#}", Value::Array(found));
            return all;
        }
        VolumeCommand::Rm { volumes, force } => {
            return each(volumes, async |r#ref| {
                match host.remove_volume(v1::RefRequest { r#ref: r#ref.clone() }).await {
                    Ok(_) => println!("{}", r#ref),
                    Err(status) if force && status.code() == Code::NotFound => {}
                    Err(status) => return Err(said(status)),
                }
                Ok(())
            })
            .await;
        }
        VolumeCommand::Prune { force } => {
            let what = "all volumes of this host not used by at least one workload or task";
            if !force && !agreed(what, "unused volumes", &[])? {
                return Ok(());
            }
            let pruned = host.prune_volumes(v1::PruneVolumesRequest {}).await.map_err(said)?.into_inner();
            if !pruned.names.is_empty() {
                println!("Deleted Volumes:\n{}\n", pruned.names.join("\n"));
            }
            println!("Total reclaimed space: {}", HumanBytes(pruned.freed_bytes));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::table;
    use expect_test::expect;

    fn two() -> Vec<Value> {
        let volume = |name: &str, users: &[&str]| {
            json!({
                "Name": name, "Driver": "local", "Scope": "local", "Mountpoint": format!("/state/{name}/data"),
                "CreatedAt": "1970-01-01T00:00:01Z", "Labels": { "tier": name }, "Options": {}, "UsedBy": users,
            })
        };
        vec![volume("cache", &[]), volume("data", &["task web.1"])]
    }

    #[test]
    fn dockers_columns_and_keys() {
        expect![[r#"
            DRIVER  VOLUME NAME
            local   cache
            local   data"#]]
        .assert_eq(&table(&["DRIVER", "VOLUME NAME"], two().iter().map(row).collect()));
        expect![[r#"
            {
              "Driver": "local",
              "Labels": "tier=cache",
              "Mountpoint": "/state/cache/data",
              "Name": "cache",
              "Scope": "local"
            }"#]]
        .assert_eq(&format!("{:#}", value(&two()[0])));
    }

    #[test]
    fn filters_choose() {
        for (filter, want) in [
            ("dangling=true", vec!["cache"]),
            ("dangling=false", vec!["data"]),
            ("name=a", vec!["cache", "data"]),
            ("label=tier=data", vec!["data"]),
        ] {
            let filters = filters(vec![pair::key_value(filter).unwrap()]).unwrap();
            let all = two();
            let names: Vec<_> = all.iter().filter(|v| passes(v, &filters)).map(name).collect();
            assert_eq!(names, want, "{filter}");
        }
        let said = filters(vec![pair::key_value("dangling=maybe").unwrap()]).unwrap_err().to_string();
        assert_eq!(said, "filter dangling=maybe: use true or false");
    }
}
