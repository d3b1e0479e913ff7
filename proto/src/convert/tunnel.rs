//! Keys of the tunnel between hosts, public ones only.

use super::{ConvertError, Result, text};
use crate::v1;
use heddle_model::{
    Timestamp,
    tunnel::{Epoch, Epochs, PublicKey, TunnelEnd},
};
use std::collections::{BTreeMap, HashMap};

pub fn keys_to(keys: BTreeMap<Epoch, PublicKey>) -> HashMap<u32, String> {
    keys.into_iter().map(|(epoch, key)| (epoch.0, key.to_string())).collect()
}

pub fn keys_of(field: &'static str, keys: HashMap<u32, String>) -> Result<BTreeMap<Epoch, PublicKey>> {
    keys.into_iter().map(|(epoch, key)| Ok((Epoch(epoch), text(field, &key)?))).collect()
}

impl From<TunnelEnd> for v1::TunnelEnd {
    fn from(end: TunnelEnd) -> Self {
        Self { backend: v1::TunnelBackend::from(end.backend).into(), keys: keys_to(end.keys) }
    }
}

impl TryFrom<v1::TunnelEnd> for TunnelEnd {
    type Error = ConvertError;
    fn try_from(end: v1::TunnelEnd) -> Result<Self> {
        Ok(Self { backend: end.backend().try_into()?, keys: keys_of("tunnel.keys", end.keys)? })
    }
}

impl From<Epochs> for v1::TunnelEpochs {
    fn from(e: Epochs) -> Self {
        Self { current: e.current.0, next: e.next.map(|e| e.0), retiring: e.retiring.map(|e| e.0), since_ms: e.since.0 }
    }
}

impl From<v1::TunnelEpochs> for Epochs {
    fn from(e: v1::TunnelEpochs) -> Self {
        Self {
            current: Epoch(e.current),
            next: e.next.map(Epoch),
            retiring: e.retiring.map(Epoch),
            since: Timestamp(e.since_ms),
        }
    }
}
