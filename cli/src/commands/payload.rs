//! secret, config: create, ls, inspect, rm.

use super::{
    each::{each, show_each},
    filter::Filters,
    moment, pair,
};
use crate::{
    client::{Client, said},
    output::{Format, print},
};
use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use clap::Subcommand;
use heddle_model::payload::PayloadKind;
use heddle_proto::v1;
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{self, Read},
};

#[derive(Debug, Subcommand)]
pub enum PayloadCommand {
    /// Keep the bytes of a file, or of the standard input (-), under a name; they never change
    Create {
        name: String,
        /// FILE, or - for the standard input
        file: String,
        /// KEY or KEY=VALUE
        #[arg(short, long, value_parser = pair::key)]
        label: Vec<(String, String)>,
    },
    /// List them
    Ls {
        #[arg(long, value_enum, default_value_t)]
        format: Format,
        /// Print ids alone
        #[arg(short, long)]
        quiet: bool,
        /// label=KEY[=VALUE], label!=KEY[=VALUE], name=PART
        #[arg(short, long, value_parser = pair::key_value)]
        filter: Vec<(String, String)>,
    },
    /// Show all that may be known of them, as JSON; of a config also what it holds, in base64
    Inspect {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove them, if no service uses them
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// No more than is needed to see that it is too much.
fn read(kind: PayloadKind, file: &str) -> Result<Vec<u8>> {
    let most = kind.most();
    let input: Box<dyn Read> = match file {
        "-" => Box::new(io::stdin()),
        path => Box::new(File::open(path).with_context(|| format!("cannot read {path}"))?),
    };
    let mut content = Vec::new();
    input.take(most as u64 + 1).read_to_end(&mut content).with_context(|| format!("cannot read {file}"))?;
    match content.len() {
        found if found > most => bail!("{file}: a {kind} holds at most {most} bytes, and these are more"),
        _ => Ok(content),
    }
}

fn labels(payload: &v1::Payload) -> Value {
    json!(payload.annotations.clone().unwrap_or_default().labels)
}

fn name(payload: &v1::Payload) -> &str {
    payload.annotations.as_ref().map_or("", |a| &a.name)
}

fn created(payload: &v1::Payload) -> String {
    payload.meta.as_ref().map_or_else(String::new, |m| moment::show(m.created_at_ms))
}

fn value(payload: &v1::Payload) -> Value {
    let mut value = json!({
        "id": payload.id, "name": name(payload), "labels": labels(payload), "size": payload.size,
        "createdAt": created(payload), "version": payload.meta.as_ref().map(|m| m.version),
        "services": payload.services,
    });
    if let Some(content) = &payload.content {
        value["data"] = BASE64_STANDARD.encode(content).into();
    }
    value
}

pub async fn run(client: &Client, kind: PayloadKind, command: PayloadCommand) -> Result<()> {
    let mut payloads = client.payloads()?;
    let wire: i32 = v1::PayloadKind::from(kind).into();
    match command {
        PayloadCommand::Create { name, file, label } => {
            let request = v1::CreatePayloadRequest {
                kind: wire,
                content: read(kind, &file)?,
                annotations: Some(v1::Annotations { name, labels: label.into_iter().collect() }),
            };
            println!("{}", payloads.create_payload(request).await.map_err(said)?.into_inner().id);
        }
        PayloadCommand::Ls { format, quiet, filter } => {
            let filters = Filters::new(filter, &["label", "label!", "name"])?;
            let request = v1::ListPayloadsRequest { kind: wire };
            let mut all = payloads.list_payloads(request).await.map_err(said)?.into_inner().payloads;
            all.retain(|p| filters.any("name", |part| name(p).contains(part)) && filters.labels(&labels(p)));
            all.sort_by(|a, b| name(a).cmp(name(b)));
            if quiet {
                all.iter().for_each(|p| println!("{}", p.id));
                return Ok(());
            }
            let short = |id: &str| id.chars().take(12).collect::<String>();
            let row = |p: &v1::Payload| {
                vec![short(&p.id), name(p).to_owned(), p.size.to_string(), p.services.join(", "), created(p)]
            };
            let headings = ["ID", "NAME", "BYTES", "USED BY", "CREATED"];
            print(format, &headings, all.iter().map(row).collect(), all.iter().map(value).collect());
        }
        PayloadCommand::Inspect { names } => {
            return show_each(names, async |r#ref| {
                let request = v1::PayloadRequest { kind: wire, r#ref };
                Ok(value(payloads.get_payload(request).await.map_err(said)?.get_ref()))
            })
            .await;
        }
        PayloadCommand::Rm { names } => {
            return each(names, async |r#ref| {
                let request = v1::PayloadRequest { kind: wire, r#ref: r#ref.clone() };
                payloads.remove_payload(request).await.map_err(said)?;
                println!("{}", r#ref);
                Ok(())
            })
            .await;
        }
    }
    Ok(())
}
