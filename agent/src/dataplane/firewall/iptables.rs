//! `iptables -S`: what it prints of the filter table.

use super::{Cut, Owner, Place, Reason, Tool, mark};
use crate::dataplane::names::PASS_COMMENT;
use std::collections::BTreeSet;

const BASE: &str = "FORWARD";
/// Docker's chain for rules of others, which it never touches.
const GUESTS: &str = "DOCKER-USER";

/// Our rule, as arguments.
pub fn pass() -> Vec<String> {
    let mark = format!("{0}/{0}", mark());
    ["-m", "mark", "--mark", &mark, "-m", "comment", "--comment", PASS_COMMENT, "-j", "ACCEPT"]
        .map(str::to_owned)
        .to_vec()
}

/// What the filter table does with forwarded packets, and the chains that have our rule.
pub fn read(v6: bool, legacy: bool, text: &str) -> (Option<(Place, Cut)>, BTreeSet<Place>) {
    let ours = pass().join(" ");
    let rules = |chain: &str| -> Vec<&str> {
        let head = format!("-A {chain} ");
        text.lines().filter_map(|l| l.strip_prefix(head.as_str())).map(str::trim_end).collect()
    };
    let place = |chain: &str| Place { tool: Tool::Iptables { v6, legacy }, chain: chain.to_owned() };
    // Some versions put the comment in quotes.
    let is_ours = |rule: &&str| rule.replace('"', "") == ours;
    let passes = [BASE, GUESTS].into_iter().filter(|chain| rules(chain).iter().any(is_ours)).map(place).collect();
    let theirs = |chain: &str| -> Vec<&str> { rules(chain).into_iter().filter(|r| !is_ours(r)).collect() };
    let base = theirs(BASE);
    let reason = match base.last() {
        _ if text.lines().any(|l| l == format!("-P {BASE} DROP")) => Some(Reason::Policy),
        Some(last) if last.starts_with("-j DROP") || last.starts_with("-j REJECT") => Some(Reason::LastRule),
        _ => None,
    };
    let chain = if base.contains(&format!("-j {GUESTS}").as_str()) { GUESTS } else { BASE };
    let owner = Owner::of("filter", text.lines().filter_map(|l| l.strip_prefix("-N ")));
    let cut = reason.map(|reason| {
        let cut = Cut {
            base: BASE.to_owned(),
            reason,
            owner,
            at: number(chain, &theirs(chain)),
            obstacle: None,
            named: BTreeSet::new(),
        };
        (place(chain), cut)
    });
    (cut, passes)
}

/// In docker's chain the operator's own rules come first and keep their say; the `RETURN` that may end it comes after.
fn number(chain: &str, rules: &[&str]) -> u32 {
    match (chain, rules.split_last()) {
        (GUESTS, Some((&"-j RETURN", before))) => before.len() as u32 + 1,
        (GUESTS, _) => rules.len() as u32 + 1,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: &str = "-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n-N DOCKER\n-N DOCKER-FORWARD\n\
        -N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD\n-A DOCKER-FORWARD -i docker0 -j ACCEPT\n";
    const UFW: &str = "-P INPUT DROP\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n-N ufw-before-forward\n-N ufw-reject-forward\n\
        -A FORWARD -j ufw-before-forward\n-A FORWARD -j ufw-reject-forward\n";
    const RULE: &str = "-m mark --mark 0x20000000/0x20000000 -m comment --comment heddle -j ACCEPT";

    fn place(chain: &str) -> Place {
        Place { tool: Tool::Iptables { v6: false, legacy: false }, chain: chain.into() }
    }

    #[test]
    fn docker_has_a_chain_for_guests() {
        let (cut, passes) = read(false, false, DOCKER);
        let (at, cut) = cut.unwrap();
        assert_eq!((at, cut.owner, cut.reason, cut.at), (place("DOCKER-USER"), Owner::Docker, Reason::Policy, 1));
        assert!(passes.is_empty());
        // The operator's own rules stay before ours, the return that older versions add after it.
        let older = format!("{DOCKER}-A DOCKER-USER -i eth0 -s 192.0.2.0/24 -j DROP\n-A DOCKER-USER -j RETURN\n");
        assert_eq!(read(false, false, &older).0.unwrap().1.at, 2);
        let with = format!("{DOCKER}-A DOCKER-USER {RULE}\n");
        let (cut, passes) = read(false, false, &with);
        assert_eq!(cut.unwrap().1.at, 1);
        assert_eq!(passes, BTreeSet::from([place("DOCKER-USER")]));
    }

    #[test]
    fn ufw_gets_the_rule_at_the_top() {
        let (at, cut) = read(false, false, UFW).0.unwrap();
        assert_eq!((at, cut.owner, cut.at), (place("FORWARD"), Owner::Ufw, 1));
        assert_eq!(read(false, false, &format!("{UFW}-A FORWARD {RULE}\n")).1, BTreeSet::from([place("FORWARD")]));
    }

    #[test]
    fn a_last_rule_that_refuses_counts_a_conditional_one_does_not() {
        let open = "-P FORWARD ACCEPT\n-A FORWARD -i eth1 -j DROP\n";
        assert_eq!(read(false, true, open), (None, BTreeSet::new()));
        let refusing = format!("{open}-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n");
        let (at, cut) = read(true, true, &refusing).0.unwrap();
        assert_eq!((at.tool, cut.reason), (Tool::Iptables { v6: true, legacy: true }, Reason::LastRule));
    }

    #[test]
    fn the_rule_of_somebody_else_is_not_ours() {
        let text = "-P FORWARD ACCEPT\n-A FORWARD -m mark --mark 0x1/0x1 -m comment --comment heddle -j ACCEPT\n";
        assert_eq!(read(false, false, text), (None, BTreeSet::new()));
    }
}
