//! `nft -j list chains` and `nft -j list chain`.

use super::{Cut, Obstacle, Owner, Place, Reason, Tool, mark};
use crate::dataplane::{desired::passage, names::PASS_COMMENT, own, state::Family};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Our rule.
pub fn pass() -> String {
    format!("meta mark and {0} == {0} accept comment \"{PASS_COMMENT}\"", mark())
}

#[derive(Debug, Deserialize)]
struct Listing {
    nftables: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    chain: Option<Chain>,
    rule: Option<Rule>,
}

#[derive(Debug, Deserialize)]
struct Chain {
    family: String,
    table: String,
    name: String,
    r#type: Option<String>,
    hook: Option<String>,
    /// A number, as long as priorities are not printed by name.
    prio: Option<i32>,
    policy: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    handle: u64,
    comment: Option<String>,
    #[serde(default)]
    expr: Vec<Map<String, Value>>,
}

/// A foreign base chain that forwarded packets go through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    pub place: Place,
    family: Family,
    drops: bool,
    early: bool,
    owner: Owner,
}

/// The foreign base chains at hook forward. Ours are left out.
pub fn bases(json: &str) -> serde_json::Result<Vec<Base>> {
    let listing: Listing = serde_json::from_str(json)?;
    let chains: Vec<Chain> = listing.nftables.into_iter().filter_map(|e| e.chain).collect();
    let base = |chain: &Chain| {
        let family = match chain.family.as_str() {
            "ip" => Family::Ip,
            "ip6" => Family::Ip6,
            "inet" => Family::Inet,
            _ => return None,
        };
        let forwards = chain.r#type.as_deref() == Some("filter") && chain.hook.as_deref() == Some("forward");
        if !forwards || own::table(&chain.table) {
            return None;
        }
        let beside = chains.iter().filter(|c| (&c.family, &c.table) == (&chain.family, &chain.table));
        Some(Base {
            place: Place { tool: Tool::Nft { family, table: chain.table.clone() }, chain: chain.name.clone() },
            family,
            drops: chain.policy.as_deref() == Some("drop"),
            early: chain.prio.is_some_and(|p| p <= passage::PRIORITY),
            owner: Owner::of(&chain.table, beside.map(|c| c.name.as_str())),
        })
    };
    Ok(chains.iter().filter_map(base).collect())
}

impl Base {
    /// Made by iptables-nft: of which family, true is IPv6.
    pub fn iptables(&self) -> Option<bool> {
        let table = matches!(&self.place.tool, Tool::Nft { table, .. } if table == "filter");
        let made = table && self.place.chain == "FORWARD" && self.family != Family::Inet;
        made.then_some(self.family == Family::Ip6)
    }

    /// Whether it cuts, given the listing of its rules, and the handles of the rules in it that are ours.
    pub fn read(&self, json: &str) -> serde_json::Result<(Option<Cut>, Vec<u64>)> {
        let theirs: Vec<Rule> = rules(json)?.into_iter().filter(|r| !r.is_ours()).collect();
        let reason = match theirs.last() {
            _ if self.drops => Some(Reason::Policy),
            Some(last) if refuses_all(&last.expr) => Some(Reason::LastRule),
            _ => None,
        };
        let obstacle = self.early.then_some(Obstacle::Early);
        let base = self.place.chain.clone();
        let cut = reason.map(|reason| Cut { base, reason, owner: self.owner, at: 1, obstacle, named: BTreeSet::new() });
        Ok((cut, ours(json)?))
    }
}

fn rules(json: &str) -> serde_json::Result<Vec<Rule>> {
    let listing: Listing = serde_json::from_str(json)?;
    Ok(listing.nftables.into_iter().filter_map(|e| e.rule).collect())
}

/// Handles of the rules of ours in a listed chain.
pub fn ours(json: &str) -> serde_json::Result<Vec<u64>> {
    Ok(rules(json)?.iter().filter(|r| r.is_ours()).map(|r| r.handle).collect())
}

/// All that stands in quotes in `nft list table`: interfaces and comments.
pub fn named(text: &str) -> BTreeSet<String> {
    text.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

impl Rule {
    fn is_ours(&self) -> bool {
        self.comment.as_deref() == Some(PASS_COMMENT)
    }
}

/// Nothing in the rule chooses, and it ends in a refusal.
fn refuses_all(statements: &[Map<String, Value>]) -> bool {
    let mut keys = statements.iter().flat_map(|s| s.keys()).map(String::as_str);
    let refuses = |key: &str| matches!(key, "drop" | "reject");
    keys.clone().any(refuses) && keys.all(|key| refuses(key) || matches!(key, "counter" | "log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAINS: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER", "handle": 2}},
        {"chain": {"family": "inet", "table": "heddle_gateway", "name": "forward", "handle": 1, "type": "filter", "hook": "forward", "prio": -5, "policy": "accept"}},
        {"chain": {"family": "inet", "table": "mine", "name": "early", "handle": 1, "type": "filter", "hook": "forward", "prio": -150, "policy": "drop"}},
        {"chain": {"family": "bridge", "table": "b", "name": "f", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "ip", "table": "nat", "name": "POSTROUTING", "handle": 1, "type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"}},
        {"chain": {"family": "inet", "table": "firewalld", "name": "filter_FORWARD", "handle": 1, "type": "filter", "hook": "forward", "prio": 10, "policy": "accept"}}]}"#;
    const HEAD: &str = r#"{"nftables": [{"chain": {"family": "inet", "table": "firewalld", "name": "filter_FORWARD", "handle": 1, "type": "filter", "hook": "forward", "prio": 10, "policy": "accept"}}"#;
    const OURS: &str = r#"{"rule": {"family": "inet", "table": "firewalld", "chain": "filter_FORWARD", "handle": 10, "comment": "heddle", "expr": [{"match": {"op": "==", "left": {"&": [{"meta": {"key": "mark"}}, 536870912]}, "right": 536870912}}, {"accept": null}]}}"#;
    const INVALID: &str = r#"{"rule": {"family": "inet", "table": "firewalld", "chain": "filter_FORWARD", "handle": 7, "expr": [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}, {"drop": null}]}}"#;
    const REJECT: &str = r#"{"rule": {"family": "inet", "table": "firewalld", "chain": "filter_FORWARD", "handle": 9, "expr": [{"counter": {"packets": 0, "bytes": 0}}, {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}]}}"#;

    fn firewalld(rules: &[&str]) -> (Option<Cut>, Vec<u64>) {
        let bases = bases(CHAINS).unwrap();
        let rules: String = rules.iter().map(|r| format!(", {r}")).collect();
        bases[2].read(&format!("{HEAD}{rules}]}}")).unwrap()
    }

    #[test]
    fn foreign_chains_that_forward_are_found_and_no_others() {
        let all = bases(CHAINS).unwrap();
        let names: Vec<_> = all.iter().map(|b| b.place.to_string()).collect();
        assert_eq!(names, ["nft ip filter FORWARD", "nft inet mine early", "nft inet firewalld filter_FORWARD"]);
        assert_eq!(all.iter().map(Base::iptables).collect::<Vec<_>>(), [Some(false), None, None]);
        assert_eq!(all.iter().map(|b| b.owner).collect::<Vec<_>>(), [Owner::Docker, Owner::Somebody, Owner::Firewalld]);
        let early = all[1].read(r#"{"nftables": []}"#).unwrap().0.unwrap();
        assert_eq!((early.reason, early.obstacle), (Reason::Policy, Some(Obstacle::Early)));
    }

    #[test]
    fn a_last_rule_that_refuses_counts_a_conditional_one_does_not() {
        assert_eq!(firewalld(&[]), (None, vec![]));
        assert_eq!(firewalld(&[INVALID]), (None, vec![]));
        let (cut, ours) = firewalld(&[INVALID, REJECT]);
        let cut = cut.unwrap();
        assert_eq!((cut.reason, cut.owner, cut.obstacle, ours), (Reason::LastRule, Owner::Firewalld, None, vec![]));
    }

    #[test]
    fn what_a_table_names_is_found() {
        let text = "chain f {\n iifname \"lo\" accept\n oifname { \"heddle_gw\", \"virbr0\" } goto trusted\n}";
        assert_eq!(named(text), ["heddle_gw", "lo", "virbr0"].map(str::to_owned).into());
    }

    #[test]
    fn our_own_rule_is_known_by_its_comment() {
        let (cut, ours) = firewalld(&[OURS, REJECT]);
        assert!(cut.is_some());
        assert_eq!(ours, [10]);
    }
}
