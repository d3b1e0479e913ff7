//! `events`: every change of the cluster's state, as it is agreed on.

use crate::{
    client::{Client, said},
    commands::{filter::Filters, moment, pair::key_value},
    output::Format,
};
use anyhow::{Result, bail};
use clap::Args;
use heddle_proto::v1;
use serde_json::json;
use std::io::{self, Write};

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Print what came after this revision first; 0: all that is known [default: only what is to come]
    #[arg(long, value_name = "REVISION")]
    since: Option<u64>,
    /// End after this revision
    #[arg(long, value_name = "REVISION")]
    until: Option<u64>,
    /// Only some: kind=cluster|node|network|service|task|connection, name=NAME, id=ID, action=created|updated|removed
    #[arg(short, long = "filter", value_name = "KEY=VALUE", value_parser = key_value)]
    filters: Vec<(String, String)>,
    /// As lines to read, or one JSON object a line
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub async fn run(client: &Client, args: EventsArgs) -> Result<()> {
    if let (Some(since), Some(until)) = (args.since, args.until)
        && until < since
    {
        bail!("--until {until} is before --since {since}: use a later revision");
    }
    let filters = Filters::new(args.filters, &["kind", "name", "id", "action"])?;
    let kinds = filters.values("kind").map(str::to_owned).collect();
    let request = v1::WatchEventsRequest { since: args.since, until: args.until, kinds };
    let mut events = client.observe()?.watch_events(request).await.map_err(said)?.into_inner();
    let mut out = io::stdout().lock();
    while let Some(told) = events.message().await.map_err(said)? {
        for event in told.events.iter().filter(|e| wanted(&filters, e)) {
            writeln!(out, "{}", line(&told, event, args.format))?;
        }
        out.flush()?;
    }
    Ok(())
}

fn action(event: &v1::Event) -> &'static str {
    match event.action() {
        v1::EventAction::Created => "created",
        v1::EventAction::Updated => "updated",
        v1::EventAction::Removed => "removed",
        v1::EventAction::Unspecified => "changed",
    }
}

fn wanted(filters: &Filters, event: &v1::Event) -> bool {
    filters.any("name", |name| event.name == name)
        && filters.any("id", |id| event.id.starts_with(id))
        && filters.any("action", |a| action(event) == a)
}

fn line(told: &v1::Events, event: &v1::Event, format: Format) -> String {
    let (revision, at) = (told.revision, moment::show(told.at_ms));
    let v1::Event { kind, id, name, detail, .. } = event;
    match format {
        Format::Json => json!({
            "revision": revision, "at": at, "kind": kind, "id": id, "name": name, "action": action(event),
            "detail": detail,
        })
        .to_string(),
        Format::Table => {
            let named = if name.is_empty() { id } else { name };
            let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
            format!("{at} {revision} {kind} {named} {}{detail}", action(event))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> v1::Event {
        v1::Event {
            kind: "task".into(),
            id: "abc".into(),
            name: "web.1".into(),
            action: v1::EventAction::Updated.into(),
            detail: "starting -> running".into(),
        }
    }

    #[test]
    fn an_event_is_one_line() {
        let told = v1::Events { revision: 12, at_ms: 1_800_000_000_000, events: Vec::new() };
        let said = line(&told, &event(), Format::Table);
        assert_eq!(said, "2027-01-15T08:00:00Z 12 task web.1 updated: starting -> running");
        let value: serde_json::Value = serde_json::from_str(&line(&told, &event(), Format::Json)).unwrap();
        assert_eq!(
            (&value["revision"], &value["name"], &value["action"]),
            (&json!(12), &json!("web.1"), &json!("updated"))
        );
    }

    #[test]
    fn filters_hold_together() {
        let filters = |given: &[&str]| {
            let given = given.iter().map(|f| key_value(f).unwrap()).collect();
            Filters::new(given, &["kind", "name", "id", "action"]).unwrap()
        };
        assert!(wanted(&filters(&["kind=task", "name=web.1", "id=ab"]), &event()));
        assert!(!wanted(&filters(&["name=web.1", "action=removed"]), &event()));
    }
}
