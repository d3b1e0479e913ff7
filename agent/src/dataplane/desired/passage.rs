//! How what we forward gets through the chains of other firewalls. An `accept` of ours ends only our own chain, so it leaves
//! a mark, and one rule of ours in each chain that would drop the packet accepts the mark.
//!
//! The mark is for what passes among our own networks and between them and the outside. What goes to a bridge of somebody
//! else's, such as docker0, or comes from one, gets none: whether it may is for the rules that guard those networks.

use super::super::names;
use crate::dataplane::state::{KernelState, LinkKind, Space, Table, TableBody};
use heddle_model::net::IfName;
use std::collections::BTreeSet;

/// Our own forward chains: before those of others (docker, ufw: 0; firewalld: 10), so that the mark is there.
pub const FORWARD: &str = "type filter hook forward priority filter - 5; policy accept;";
/// That priority as a number.
pub const PRIORITY: i32 = -5;

/// `accept` for our own forward chains, in a table that `add` was called for.
pub const ACCEPT: &str = "goto pass";

/// The bridges whose packets are marked.
const TRUSTED: &str = "trusted";

/// Gives a table what `ACCEPT` leads to. Which bridges are trusted is known when the kernel was looked at: one that is new
/// is not.
pub fn add(table: &mut TableBody) {
    table.set(TRUSTED, "type ifname;", []);
    let strange = |side: &str| format!("meta {side}kind \"bridge\" {side}name != @{TRUSTED} accept");
    let mark = format!("meta mark set meta mark or {:#x} accept", names::PASS_MARK);
    table.chain("pass", None, vec![strange("iif"), strange("oif"), mark]);
}

/// Adds to what is wanted all that depends on what others have: a pass in every foreign chain that was seen to drop what we
/// forward, while we forward at all, and the names of the bridges that it is for.
pub fn complete(desired: &mut KernelState, actual: &KernelState) {
    let Some(host) = desired.spaces.get_mut(&Space::Host) else { return };
    let ours = host.links.iter().filter(|(_, l)| l.kind == LinkKind::Bridge).map(|(name, _)| name.clone());
    let mut trusted: BTreeSet<IfName> = ours.collect();
    let seen = actual.spaces.get(&Space::Host).filter(|_| !trusted.is_empty());
    let cuts = seen.into_iter().flat_map(|h| &h.cuts);
    host.passes = cuts.filter(|(_, cut)| cut.obstacle.is_none()).map(|(place, _)| place.clone()).collect();
    trusted.extend(seen.into_iter().flat_map(|h| &h.uplinks).cloned());
    for table in host.tables.values_mut() {
        let Some(body) = table.body.as_deref().filter(|b| b.sets.contains_key(TRUSTED)) else { continue };
        let mut body = body.clone();
        body.set(TRUSTED, "type ifname;", trusted.iter().map(|name| format!("\"{name}\"")));
        *table = Table::new(body);
    }
}

/// What an operator must do for us, one sentence for each foreign chain that stays closed although we forward.
pub fn closed(desired: &KernelState, actual: &KernelState) -> BTreeSet<String> {
    let host = |s: &KernelState| s.spaces.get(&Space::Host).cloned().unwrap_or_default();
    let bridges = host(desired).links.into_iter().filter(|(_, l)| l.kind == LinkKind::Bridge).map(|(n, _)| n);
    let bridges: Vec<_> = bridges.collect();
    if bridges.is_empty() {
        return BTreeSet::new();
    }
    let cuts = host(actual).cuts;
    cuts.iter().filter_map(|(place, cut)| cut.advice(place, &bridges)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{
        diff::diff,
        firewall::{Cut, Obstacle, Owner, Place, Reason, Tool},
        state::Family,
        step::Step,
        tests::{blank, wanted},
    };

    fn place(chain: &str) -> Place {
        Place { tool: Tool::Iptables { v6: false, legacy: false }, chain: chain.into() }
    }

    fn cut(at: u32, obstacle: Option<Obstacle>) -> Cut {
        Cut {
            base: "FORWARD".into(),
            reason: Reason::Policy,
            owner: Owner::Docker,
            at,
            obstacle,
            named: BTreeSet::new(),
        }
    }

    fn seen(cuts: &[(Place, Cut)], passes: &[Place]) -> KernelState {
        let mut state = wanted(1, &[], 8080);
        let host = state.spaces.get_mut(&Space::Host).unwrap();
        host.cuts = cuts.iter().cloned().collect();
        host.passes = passes.iter().cloned().collect();
        state
    }

    fn steps(mut goal: KernelState, seen: &KernelState) -> Vec<Step> {
        complete(&mut goal, seen);
        diff(&goal, seen).into_iter().filter(|s| matches!(s, Step::AddPass { .. } | Step::RemovePass { .. })).collect()
    }

    #[test]
    fn a_chain_that_drops_gets_one_pass() {
        let kernel = seen(&[(place("DOCKER-USER"), cut(3, None))], &[]);
        let add = Step::AddPass { space: Space::Host, place: place("DOCKER-USER"), at: 3 };
        assert_eq!(steps(wanted(1, &[], 8080), &kernel), std::slice::from_ref(&add));
        let mut after = kernel.clone();
        after.step(&add).unwrap();
        assert_eq!(steps(wanted(1, &[], 8080), &after), []);
    }

    #[test]
    fn a_pass_goes_when_its_chain_drops_no_more_or_nothing_is_forwarded() {
        let remove = |chain| Step::RemovePass { space: Space::Host, place: place(chain) };
        assert_eq!(steps(wanted(1, &[], 8080), &seen(&[], &[place("FORWARD")])), [remove("FORWARD")]);
        let kernel = seen(&[(place("FORWARD"), cut(1, None))], &[place("FORWARD")]);
        assert_eq!(steps(blank(), &kernel), [remove("FORWARD")]);
        // Docker came after us: its own chain for such rules is the better place.
        let kernel = seen(&[(place("DOCKER-USER"), cut(1, None))], &[place("FORWARD")]);
        let add = Step::AddPass { space: Space::Host, place: place("DOCKER-USER"), at: 1 };
        assert_eq!(steps(wanted(1, &[], 8080), &kernel), [add, remove("FORWARD")]);
    }

    #[test]
    fn only_our_own_bridges_and_those_that_lead_outside_are_trusted() {
        let mut goal = wanted(1, &[], 8080);
        let mut kernel = seen(&[], &[]);
        kernel.spaces.get_mut(&Space::Host).unwrap().uplinks = ["br-lan".parse().unwrap()].into();
        complete(&mut goal, &kernel);
        let table = &goal.spaces[&Space::Host].tables[&names::gateway_table()];
        let body = table.body.as_ref().unwrap();
        let trusted: Vec<_> = body.sets[TRUSTED].elements.keys().map(String::as_str).collect();
        assert_eq!(trusted, ["\"br-lan\"", "\"heddle_gw\""]);
        assert_eq!(table, &Table::new(TableBody::clone(body)), "its digest says so");
    }

    #[test]
    fn what_cannot_be_opened_is_told_and_not_tried() {
        let owned = Place { tool: Tool::Nft { family: Family::Inet, table: "firewalld".into() }, chain: "f".into() };
        let kernel = seen(&[(owned, Cut { owner: Owner::Firewalld, ..cut(1, Some(Obstacle::Owned)) })], &[]);
        let goal = wanted(1, &[], 8080);
        assert_eq!(steps(goal.clone(), &kernel), []);
        let told = closed(&goal, &kernel).into_iter().next().unwrap();
        assert!(told.contains("firewall-cmd --zone=trusted --add-interface=heddle_gw"), "{told}");
        assert_eq!(closed(&blank(), &kernel), BTreeSet::new());
        // The operator did it.
        let mut kernel = kernel;
        let cuts = &mut kernel.spaces.get_mut(&Space::Host).unwrap().cuts;
        cuts.values_mut().for_each(|cut| cut.named = ["heddle_gw".to_owned()].into());
        assert_eq!(closed(&goal, &kernel), BTreeSet::new());
    }
}
