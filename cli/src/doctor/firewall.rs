//! What forwarded packets meet on this host besides Heddle: other firewalls, and which rule of ours goes where; sysctls.
//! Asks the kernel itself, so that it works without a daemon.

use super::{
    Check,
    Need::{self, Optional},
    check,
};
use heddle_agent::{
    dataplane::{
        firewall::{Cut, Foreign, Place},
        names,
    },
    host,
    kernel::linux::firewall::look,
    local::driver::facts::FactKind,
};
use heddle_model::net::IfName;
use serde_json::{Value, json};
use std::fs;

const NAME: &str = "other firewalls";

pub fn checks() -> Vec<Check> {
    let mut checks = match look() {
        Ok(found) => of(&found, &bridges()),
        Err(e) => vec![check(NAME, Need::Optional, Err(format!("cannot be looked at: {e}")))],
    };
    checks.extend([
        sysctl("net.ipv4.ip_forward", "Heddle sets it to 1 while it has a bridge"),
        sysctl("net.ipv6.conf.all.forwarding", "Heddle sets it to 1 while it has a bridge"),
        sysctl(BRIDGED[0], BRIDGED_MEANS),
        sysctl(BRIDGED[1], BRIDGED_MEANS),
        check("legacy iptables", Optional, Ok(legacy())),
    ]);
    checks
}

const BRIDGED: [&str; 2] = ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"];
const BRIDGED_MEANS: &str = "1: frames between two ports of a bridge meet the forward chains too";

fn of(found: &Foreign, bridges: &[IfName]) -> Vec<Check> {
    let mut checks: Vec<_> =
        found.cuts.iter().map(|(place, cut)| of_cut(place, cut, found.passes.contains(place), bridges)).collect();
    for place in found.passes.iter().filter(|p| !found.cuts.contains_key(*p)) {
        let text = format!("{place} has a rule of Heddle's that is not needed; a daemon that runs takes it away");
        checks.push(check(NAME, Optional, Ok(text)));
    }
    for v6 in &found.unread {
        let program = if *v6 { "ip6tables-legacy" } else { "iptables-legacy" };
        let text = format!(
            "a legacy filter table is loaded, which nft does not show, and {program} is not there to read it: install the package iptables"
        );
        checks.push(check(NAME, Optional, Err(text)));
    }
    if checks.is_empty() {
        checks.push(check(NAME, Optional, Ok("none drops what it does not know".into())));
    }
    checks
}

fn of_cut(place: &Place, cut: &Cut, there: bool, bridges: &[IfName]) -> Check {
    if let Some(advice) = cut.advice(place, bridges) {
        return check(NAME, Optional, Err(advice));
    }
    if cut.obstacle.is_some() {
        return check(NAME, Optional, Ok(format!("{}; its own rules name Heddle's bridges", cut.what())));
    }
    let rule = place.command(cut.at);
    let when = if there { "is there" } else { "is put there while Heddle has a bridge" };
    let text = format!("{}; what Heddle has accepted passes by one rule, which {when}: {rule}", cut.what());
    let more: [(&str, Value); 3] =
        [("place", json!(place.to_string())), ("rule", json!(rule)), ("inserted", json!(there))];
    let more = more.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    Check { more, ..check(NAME, Optional, Ok(text)) }
}

/// Ours that forward, or the one that a cluster will need.
fn bridges() -> Vec<IfName> {
    let links = host::links::read().unwrap_or_default();
    let ours = links.into_iter().filter(|(_, l)| l.ours && l.kind == FactKind::Bridge);
    let found: Vec<IfName> = ours.map(|(name, _)| name).collect();
    if found.is_empty() { vec![names::gateway_bridge()] } else { found }
}

fn sysctl(key: &'static str, means: &str) -> Check {
    let text = match fs::read_to_string(format!("/proc/sys/{}", key.replace('.', "/"))) {
        Ok(value) => format!("is {} ({means})", value.trim()),
        Err(_) => "does not exist".into(),
    };
    check(key, Optional, Ok(text))
}

fn legacy() -> String {
    let tables = |file: &str| fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
    let all = [("IPv4", tables("ip_tables_names")), ("IPv6", tables("ip6_tables_names"))];
    let loaded = all.iter().flat_map(|(family, names)| names.lines().map(move |name| format!("{family} {name}")));
    match loaded.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "no tables are loaded".into(),
        some => format!("loaded, and not shown by nft: {some}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_agent::dataplane::firewall::{Obstacle, Owner, Reason, Tool};
    use heddle_agent::dataplane::state::Family;

    fn found(obstacle: Option<Obstacle>, there: bool) -> Vec<Check> {
        let tool = Tool::Nft { family: Family::Inet, table: "firewalld".into() };
        let place = Place { tool, chain: "filter_FORWARD".into() };
        let cut = Cut {
            base: "filter_FORWARD".into(),
            reason: Reason::LastRule,
            owner: Owner::Firewalld,
            at: 1,
            obstacle,
            named: Default::default(),
        };
        let passes = there.then(|| place.clone()).into_iter().collect();
        of(&Foreign { cuts: [(place, cut)].into(), passes, ..Foreign::default() }, &[names::gateway_bridge()])
    }

    #[test]
    fn the_rule_is_told_before_and_after_it_is_put_there() {
        for there in [false, true] {
            let checks = found(None, there);
            assert!(checks[0].result.is_ok());
            assert_eq!(
                checks[0].more["rule"],
                "nft insert rule inet firewalld filter_FORWARD meta mark and 0x20000000 == 0x20000000 accept comment \"heddle\""
            );
            assert_eq!(checks[0].more["inserted"], there);
        }
    }

    #[test]
    fn what_the_operator_must_do_is_told_where_no_rule_can_be_put() {
        let told = found(Some(Obstacle::Owned), false).remove(0).result.unwrap_err();
        assert_eq!(
            told,
            "nft inet firewalld filter_FORWARD: filter_FORWARD of firewalld drops forwarded packets by its last rule; \
             it takes no rule of others: run `firewall-cmd --zone=trusted --add-interface=heddle_gw`, and again with --permanent"
        );
    }

    #[test]
    fn a_legacy_table_that_nobody_can_read_is_not_passed_over() {
        let checks = of(&Foreign { unread: [true].into(), ..Foreign::default() }, &[]);
        assert!(checks[0].result.as_ref().unwrap_err().contains("ip6tables-legacy is not there"));
    }
}
