//! Datagrams whose backend leaves are led to another one, without losing the answers that are on their way.

use super::{conntrack, nft, space};
use crate::dataplane::{
    flows::{self, Datagrams, FAMILIES, misled},
    names,
    state::Space,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

/// Flows that the namespace tracks, of whatever kind.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// What has a zone may lose it between two looks.
const ATTEMPTS: usize = 3;

/// Leads anew what goes to none of `serving` in a namespace that balances. How many flows there were.
pub async fn lead_anew(at: &Space, serving: &Arc<BTreeSet<IpAddr>>) -> io::Result<usize> {
    let to = serving.clone();
    let elsewhere = space::inside(at, move || {
        let tracked = fs::read_to_string(COUNT)?;
        let mut flows = if tracked.trim() == "0" { Vec::new() } else { conntrack::flows()? };
        flows.retain(|flow| !to.contains(&flow.reply.src));
        Ok(flows)
    });
    let elsewhere = elsewhere.await?;
    if elsewhere.is_empty() {
        return Ok(0);
    }
    let mut left = ATTEMPTS;
    loop {
        left -= 1;
        let zones = zones(at).await?;
        let misled = misled(elsewhere.iter().copied(), &zones, serving);
        if misled.is_empty() {
            return Ok(0);
        }
        match nft::run(at, flows::lead_anew(&misled, &zones, zone())).await {
            Ok(()) => return Ok(misled.len()),
            Err(error) if left == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

/// A number that none of these datagrams had in the last ten minutes; flows live for two.
fn zone() -> u16 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let hundredths = since.as_millis() / 10;
    (hundredths % u128::from(u16::MAX)) as u16 + 1
}

/// Datagrams that have a zone of their own.
async fn zones(at: &Space) -> io::Result<BTreeMap<Datagrams, u16>> {
    let mut found = BTreeMap::new();
    for (_, map) in FAMILIES {
        let elements = nft::elements(at, &names::flows_table(), map).await?;
        found
            .extend(elements.iter().filter_map(|(key, zone)| Some((datagrams(key)?, zone.as_u64()?.try_into().ok()?))));
    }
    Ok(found)
}

/// From an element's key: source, destination, and their ports.
fn datagrams(key: &[serde_json::Value]) -> Option<Datagrams> {
    let [src, dst, sport, dport] = key else { return None };
    let addr = |ip: &serde_json::Value, port: &serde_json::Value| {
        Some(SocketAddr::new(ip.as_str()?.parse().ok()?, port.as_u64()?.try_into().ok()?))
    };
    Some((addr(src, sport)?, addr(dst, dport)?))
}
