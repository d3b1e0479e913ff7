//! service plan: what an update would do, before it is done.

use super::update::{Changes, wish};
use crate::{
    client::{Client, Control, said},
    output::{self, Format},
};
use anyhow::Result;
use heddle_model::{
    service::ServiceSpec,
    update::{UpdateState, UpdateStatus},
};
use heddle_proto::v1::{self, PlannedAction};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

pub async fn plan(client: &Client, control: &mut Control, args: &Changes, format: Format) -> Result<()> {
    let wish = wish(client, control, args).await?;
    let changes = changes(&wish.before, &wish.after)?;
    let plan = control.plan_service(wish.request).await.map_err(said)?.into_inner();
    let update = plan.update.clone().map(UpdateStatus::try_from).transpose()?;
    if matches!(format, Format::Json) {
        let task = |t: &v1::PlannedTask| json!({"replica": t.slot, "action": verb(t), "from": t.from, "to": t.to, "reason": t.reason});
        let change = |(field, (old, new)): (&String, &(Value, Value))| json!({"field": field, "from": old, "to": new});
        let whole = json!({
            "changes": changes.iter().map(change).collect::<Vec<_>>(),
            "tasks": plan.tasks.iter().map(task).collect::<Vec<_>>(),
            "lastsMs": plan.lasts_ms, "updateStatus": update, "ended": plan.ended,
        });
        println!("{whole:#}");
        return Ok(());
    }
    if changes.is_empty() {
        println!("Nothing changes.");
    }
    for (field, (old, new)) in &changes {
        println!("{field}: {old} -> {new}");
    }
    let row = |t: &v1::PlannedTask| {
        vec![t.slot.to_string(), verb(t).to_owned(), t.from.clone(), t.to.clone(), t.reason.clone()]
    };
    let headings = ["REPLICA", "WHAT", "FROM", "TO", "WHY NOT"];
    output::print(format, &headings, plan.tasks.iter().map(row).collect(), Vec::new());
    println!("{}", summary(&plan, update.as_ref()));
    Ok(())
}

fn verb(task: &v1::PlannedTask) -> &'static str {
    match task.action() {
        PlannedAction::Stays | PlannedAction::Unspecified => "stays",
        PlannedAction::Replaced => "is replaced",
        PlannedAction::Created => "is made",
        PlannedAction::Removed => "is removed",
    }
}

fn summary(plan: &v1::ServicePlan, update: Option<&UpdateStatus>) -> String {
    let count = |action| plan.tasks.iter().filter(|t| t.action() == action).count();
    let counts = [
        (count(PlannedAction::Replaced), "replaced"),
        (count(PlannedAction::Created), "made"),
        (count(PlannedAction::Removed), "removed"),
        (count(PlannedAction::Stays), "left as they are"),
    ];
    let counts: Vec<_> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let tasks = if counts.is_empty() { "no tasks".to_owned() } else { format!("tasks: {}", counts.join(", ")) };
    let lasts = Duration::from_millis(plan.lasts_ms).as_secs_f64();
    let end = match update {
        _ if !plan.ended => "; there are more steps than were gone through".to_owned(),
        Some(u) => format!("; {}{}", outcome(u.state), because(&u.message)),
        None => String::new(),
    };
    format!("{tasks}; at least {lasts:.1} s, with programs that start and end at once{end}")
}

fn outcome(state: UpdateState) -> &'static str {
    match state {
        UpdateState::Completed => "the update ends well",
        UpdateState::Paused => "the update fails, and is paused",
        UpdateState::RollbackCompleted => "the update fails, and is rolled back",
        UpdateState::RollbackPaused => "the update fails, and so does its rollback",
        UpdateState::Updating | UpdateState::RollbackStarted => "it goes on",
    }
}

fn because(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// Each field that is another, by its path, with what it was and what it is.
fn changes(before: &ServiceSpec, after: &ServiceSpec) -> Result<BTreeMap<String, (Value, Value)>> {
    let mut changes = BTreeMap::new();
    compare("", &serde_json::to_value(before)?, &serde_json::to_value(after)?, &mut changes);
    Ok(changes)
}

fn compare(path: &str, old: &Value, new: &Value, changes: &mut BTreeMap<String, (Value, Value)>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&below, a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), changes);
            }
        }
        _ if old == new => {}
        _ => drop(changes.insert(path.to_owned(), (old.clone(), new.clone()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_differ_are_named_by_their_paths() {
        let (old, new) = (json!({"a": {"b": 1, "c": [1]}, "d": "x"}), json!({"a": {"b": 2, "c": [1]}, "e": true}));
        let mut found = BTreeMap::new();
        compare("", &old, &new, &mut found);
        let found: Vec<_> = found.into_iter().map(|(path, (a, b))| format!("{path}: {a} -> {b}")).collect();
        assert_eq!(found, ["a.b: 1 -> 2", "d: \"x\" -> null", "e: null -> true"]);
    }

    #[test]
    fn the_end_is_told() {
        let task = |action: PlannedAction| v1::PlannedTask { action: action.into(), ..v1::PlannedTask::default() };
        let tasks = vec![task(PlannedAction::Replaced), task(PlannedAction::Replaced), task(PlannedAction::Stays)];
        let plan = v1::ServicePlan { tasks, lasts_ms: 10_000, update: None, ended: true };
        let said = summary(&plan, None);
        assert_eq!(
            said,
            "tasks: 2 replaced, 1 left as they are; at least 10.0 s, with programs that start and end at once"
        );
        assert!(
            summary(&v1::ServicePlan { ended: false, ..plan }, None).ends_with("more steps than were gone through")
        );
    }
}
