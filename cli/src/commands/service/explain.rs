//! service explain: why tasks are where they are, or nowhere.

use crate::{
    client::{Control, said},
    output::{self, Format},
};
use anyhow::Result;
use heddle_proto::v1;
use serde_json::{Value, json};

pub async fn explain(control: &mut Control, service: String, format: Format) -> Result<()> {
    let request = v1::RefRequest { r#ref: service };
    let told = control.explain_service(request).await.map_err(said)?.into_inner();
    let headings = ["REPLICAS", "NODE", "TAKES IT", "WHY", "WHAT WOULD HELP"];
    output::print(format, &headings, rows(&told), values(&told));
    Ok(())
}

fn rows(told: &v1::ServiceExplanation) -> Vec<Vec<String>> {
    let placed = |p: &v1::PlacedTask| {
        vec![p.slot.to_string(), p.hostname.clone(), "has it".to_owned(), p.why.clone(), String::new()]
    };
    let mut rows: Vec<_> = told.placed.iter().map(placed).collect();
    for group in &told.waiting {
        let slots = ranges(&group.slots);
        if !group.message.is_empty() {
            rows.push(vec![slots.clone(), String::new(), "waits".into(), group.message.clone(), String::new()]);
        } else if group.nodes.is_empty() {
            rows.push(vec![slots.clone(), String::new(), "no".into(), "there is no node for it".into(), String::new()]);
        }
        for node in &group.nodes {
            if node.refusals.is_empty() {
                let why = "nothing is against it: it is about to be placed".to_owned();
                rows.push(vec![slots.clone(), node.hostname.clone(), "yes".into(), why, String::new()]);
            }
            for refusal in &node.refusals {
                let (why, remedy) = (refusal.reason.clone(), refusal.remedy.clone());
                rows.push(vec![slots.clone(), node.hostname.clone(), "no".into(), why, remedy]);
            }
        }
    }
    rows
}

fn values(told: &v1::ServiceExplanation) -> Vec<Value> {
    let placed = told
        .placed
        .iter()
        .map(|p| json!({"replicas": [p.slot], "placed": true, "node": p.node, "hostname": p.hostname, "why": p.why}));
    let waiting = told.waiting.iter().map(|group| {
        let refusals = |n: &v1::NodeRefusal| -> Vec<Value> {
            n.refusals.iter().map(|r| json!({"reason": r.reason, "remedy": r.remedy})).collect()
        };
        let node = |n: &v1::NodeRefusal| json!({"node": n.node, "hostname": n.hostname, "refusals": refusals(n)});
        json!({
            "replicas": group.slots, "placed": false, "message": group.message,
            "nodes": group.nodes.iter().map(node).collect::<Vec<_>>(),
        })
    });
    placed.chain(waiting).collect()
}

/// `1-3, 7`
fn ranges(slots: &[u64]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &slot in slots {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == slot => *last = slot,
            _ => ranges.push((slot, slot)),
        }
    }
    let range = |(first, last): (u64, u64)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.into_iter().map(range).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range() {
        for (slots, want) in [(&[1, 2, 3, 7][..], "1-3, 7"), (&[4], "4"), (&[1, 3], "1, 3"), (&[], "")] {
            assert_eq!(ranges(slots), want);
        }
    }

    #[test]
    fn each_refusal_has_a_line() {
        let refusal = |reason: &str| v1::Refusal { reason: reason.into(), remedy: "r".into() };
        let node = |name: &str, refusals| v1::NodeRefusal { node: name.into(), hostname: name.into(), refusals };
        let group = v1::WaitingTasks {
            slots: vec![2, 3],
            message: String::new(),
            nodes: vec![node("a", vec![refusal("x"), refusal("y")]), node("b", vec![])],
        };
        let placed = v1::PlacedTask { slot: 1, node: "c".into(), hostname: "c".into(), why: "w".into() };
        let told = v1::ServiceExplanation { placed: vec![placed], waiting: vec![group] };
        let short: Vec<_> = rows(&told).into_iter().map(|r| (r[0].clone(), r[1].clone(), r[2].clone())).collect();
        let want = [("1", "c", "has it"), ("2-3", "a", "no"), ("2-3", "a", "no"), ("2-3", "b", "yes")];
        assert_eq!(short, want.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
        assert_eq!(values(&told).len(), 2);
    }
}
