//! Whether whole packets of the data path arrive at the other hosts: whom to ask, with how much, and what is said of it.
//! Decides only.

use heddle_model::{NodeId, assignment::NodeView, net::Mtu};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};
use tokio::time::Instant;

/// What every network carries (RFC 8200, 5); of IPv4 alone, where links are smaller still, RFC 791's.
const SMALL: [u16; 2] = [1280, 576];
/// How often a way is tried that was good, or silent.
const ROUND: Duration = Duration::from_secs(60);
/// What was said is taken back soon after it was mended.
const AGAIN: Duration = Duration::from_secs(10);

/// A host to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub node: NodeId,
    pub hostname: String,
    pub addr: IpAddr,
    /// The most that Heddle sends there in one packet: no network's is more than what the links of both carry.
    pub full: u16,
}

impl Target {
    fn name(&self) -> String {
        format!("{} ({})", self.hostname, self.addr)
    }

    /// Something that must arrive if anything does. None: there is nothing smaller than the whole.
    pub fn small(&self) -> Option<u16> {
        let least = if self.addr.is_ipv4() { SMALL.len() } else { 1 };
        SMALL[..least].iter().copied().find(|small| *small < self.full)
    }
}

/// What arrives at a host and comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    Whole,
    /// Of whole packets none, of so many bytes all.
    Less(u16),
    /// Nothing: it does not answer anybody, or is not there.
    Silent,
}

/// What was found, and what it was asked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub addr: IpAddr,
    pub full: u16,
    pub passage: Passage,
    /// When to ask again.
    pub due: Instant,
}

pub type Paths = BTreeMap<NodeId, Found>;

/// Everybody that this host sends to.
pub fn targets(view: &NodeView, own: &NodeId, addr: IpAddr, mtu: Mtu) -> Vec<Target> {
    let others = view.peers.values().filter(|p| p.node != *own && p.data_path_addr.is_ipv4() == addr.is_ipv4());
    let target = |p: &heddle_model::assignment::PeerView| Target {
        node: p.node.clone(),
        hostname: p.hostname.clone(),
        addr: p.data_path_addr,
        full: p.data_path_mtu.map_or(mtu, |theirs| theirs.min(mtu)).0,
    };
    others.map(target).collect()
}

/// Those to ask now: not asked yet, not with this, or not for long.
pub fn due(targets: &[Target], known: &Paths, now: Instant) -> Vec<Target> {
    let is = |t: &&Target| match known.get(&t.node) {
        Some(found) => found.addr != t.addr || found.full != t.full || found.due <= now,
        None => true,
    };
    targets.iter().filter(is).cloned().collect()
}

/// `spread`, below 1, keeps hosts from asking all at once.
pub fn found(target: &Target, passage: Passage, now: Instant, spread: f64) -> Found {
    let period = if matches!(passage, Passage::Less(_)) { AGAIN } else { ROUND };
    Found { addr: target.addr, full: target.full, passage, due: now + period.mul_f64(0.75 + spread / 2.0) }
}

/// Forgets who is no target any more.
pub fn retain(known: &mut Paths, targets: &[Target]) {
    let there: BTreeSet<&NodeId> = targets.iter().map(|t| &t.node).collect();
    known.retain(|node, _| there.contains(node));
}

/// What is wrong, one sentence for each host. `link` carries this host's data path.
pub fn complaints(targets: &[Target], known: &Paths, link: &str) -> Vec<String> {
    let complaint = |t: &Target| {
        let Passage::Less(least) = known.get(&t.node)?.passage else { return None };
        Some(format!(
            "{}: packets of {} bytes do not arrive, of {least} do: set the MTU of {link} here, and of that host's link, \
             to {least}, or let the network between them carry {}",
            t.name(),
            t.full,
            t.full
        ))
    };
    targets.iter().filter_map(complaint).collect()
}

/// Why the networks carry less than this host's own data path would.
pub fn narrowed(view: &NodeView, own: &NodeId, mtu: Mtu) -> Option<String> {
    let others = || view.peers.values().filter(|p| p.node != *own);
    let least = others().filter_map(|p| p.data_path_mtu).min().filter(|least| *least < mtu)?;
    let narrow = others().filter(|p| p.data_path_mtu == Some(least));
    let names: Vec<_> = narrow.map(|p| format!("{} ({})", p.hostname, p.data_path_addr)).collect();
    Some(format!(
        "the data path's MTU is {} here but {} on {}: all networks follow the least",
        mtu.0,
        least.0,
        some(names)
    ))
}

/// What all of this comes to, for an operator who asks.
pub fn summary(targets: &[Target], known: &Paths) -> String {
    let with = |wanted: Passage| {
        let is = move |t: &&Target| known.get(&t.node).is_some_and(|found| found.passage == wanted);
        targets.iter().filter(is)
    };
    let whole: BTreeSet<u16> = with(Passage::Whole).map(|t| t.full).collect();
    let whole: Vec<_> = whole.iter().map(ToString::to_string).collect();
    let count = with(Passage::Whole).count();
    let mut text = match count {
        0 => format!("tried with {} other hosts", targets.len()),
        _ => format!("packets of {} bytes arrive at {count} of {} other hosts", whole.join(" or "), targets.len()),
    };
    let silent: Vec<_> = with(Passage::Silent).map(Target::name).collect();
    if !silent.is_empty() {
        text.push_str(&format!("; no answer, which may be a firewall's doing, from {}", some(silent)));
    }
    text
}

/// The first few of many.
fn some(mut names: Vec<String>) -> String {
    const MOST: usize = 4;
    let more = names.len().saturating_sub(MOST);
    names.truncate(MOST);
    match more {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(n: u8, full: u16) -> Target {
        let (node, addr) = (NodeId::from_random([n; 16]), IpAddr::from([10, 77, 0, n]));
        Target { node, hostname: format!("node{n}"), addr, full }
    }

    #[test]
    fn everybody_is_asked_once_and_again_when_something_is_new() {
        let now = Instant::now();
        let mut known = Paths::new();
        let all = [target(2, 1500), target(3, 1500)];
        assert_eq!(due(&all, &known, now), all);
        known.insert(all[0].node.clone(), found(&all[0], Passage::Whole, now, 0.0));
        known.insert(all[1].node.clone(), found(&all[1], Passage::Less(1400), now, 0.0));
        assert_eq!(due(&all, &known, now), []);
        assert_eq!(due(&all, &known, now + AGAIN), all[1..]);
        assert_eq!(due(&all, &known, now + ROUND), all);
        let elsewhere = Target { addr: [10, 77, 0, 9].into(), ..all[0].clone() };
        for changed in [target(2, 1400), elsewhere] {
            assert_eq!(due(&[changed.clone(), all[1].clone()], &known, now), [changed]);
        }
        retain(&mut known, &all[..1]);
        assert_eq!(known.len(), 1);
    }

    #[test]
    fn what_does_not_arrive_is_told_and_who_is_silent_is_not_accused() {
        let now = Instant::now();
        let all = [target(2, 1500), target(3, 1500), target(4, 1500)];
        let passages = [Passage::Whole, Passage::Less(1400), Passage::Silent];
        let known: Paths = all.iter().zip(passages).map(|(t, p)| (t.node.clone(), found(t, p, now, 0.5))).collect();
        assert_eq!(
            complaints(&all, &known, "eth0"),
            [
                "node3 (10.77.0.3): packets of 1500 bytes do not arrive, of 1400 do: set the MTU of eth0 here, and of that \
              host's link, to 1400, or let the network between them carry 1500"
            ]
        );
        assert_eq!(
            summary(&all, &known),
            "packets of 1500 bytes arrive at 1 of 3 other hosts; no answer, which may be a firewall's doing, from node4 \
             (10.77.0.4)"
        );
    }

    #[test]
    fn what_is_smaller_than_the_whole_depends_on_the_family() {
        let v6 = |full| Target { addr: "fd77::2".parse().unwrap(), ..target(2, full) };
        for (target, small) in [
            (target(2, 9000), Some(1280)),
            (target(2, 1280), Some(576)),
            (target(2, 576), None),
            (v6(1500), Some(1280)),
            (v6(1280), None),
        ] {
            assert_eq!(target.small(), small, "{target:?}");
        }
    }
}
