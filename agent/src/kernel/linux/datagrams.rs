//! Datagrams whose backend leaves are led to another one, without losing the answers that are on their way.

use super::{conntrack, nft, space};
use crate::dataplane::{
    flows::{self, Datagrams, FAMILIES, Flow, misled},
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

/// Leads anew what goes to none of `serving` in a namespace that balances. How many flows there were.
pub async fn lead_anew(at: &Space, serving: &Arc<BTreeSet<IpAddr>>) -> io::Result<usize> {
    let to = serving.clone();
    let elsewhere = tracked(at, move |flow| !to.contains(&flow.reply.src)).await?;
    if elsewhere.is_empty() {
        return Ok(0);
    }
    let zones = zones(at).await?;
    let misled = misled(elsewhere, &zones, serving);
    if !misled.is_empty() {
        nft::run(at, flows::lead_anew(&misled, &zones, zone())).await?;
    }
    Ok(misled.len())
}

/// Takes zones away that are not needed any more. How many are left.
pub async fn tidy(at: &Space) -> io::Result<usize> {
    // What gets a zone after that is tracked there.
    let zones = zones(at).await?;
    if zones.is_empty() {
        return Ok(0);
    }
    let gone = flows::unused(tracked(at, |_| true).await?, &zones);
    if !gone.is_empty() {
        nft::run(at, flows::forget(&gone)).await?;
    }
    Ok(zones.len() - gone.len())
}

/// Flows of the namespace.
async fn tracked(at: &Space, which: impl Fn(&Flow) -> bool + Send + 'static) -> io::Result<Vec<Flow>> {
    let flows = space::inside(at, move || {
        let count = fs::read_to_string(COUNT)?;
        let mut flows = if count.trim() == "0" { Vec::new() } else { conntrack::flows()? };
        flows.retain(which);
        Ok(flows)
    });
    flows.await
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
        for (key, zone) in nft::elements(at, &names::flows_table(), map).await? {
            let read = || Some((datagrams(&key)?, zone.as_u64()?.try_into().ok()?));
            let (datagrams, zone) = read().ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("nft: zone {zone} of {key:?} cannot be read"))
            })?;
            found.insert(datagrams, zone);
        }
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
