//! Between the messages of `heddle.v1` and the model. To the model every field is checked; a failure names the field.

mod assignment;
mod container;
mod objects;
mod task;
mod tunnel;
mod update;
mod workload;

use crate::v1;
use heddle_model::net::{DualAddr, DualSubnet, Mac, Mtu, Port};
use std::{fmt::Display, str::FromStr, time::Duration};
use tunnel::{keys_of, keys_to};

/// A field that the model does not accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {reason}")]
pub struct ConvertError {
    pub field: &'static str,
    pub reason: String,
}

impl From<ConvertError> for tonic::Status {
    fn from(e: ConvertError) -> Self {
        tonic::Status::invalid_argument(e.to_string())
    }
}

type Result<T> = std::result::Result<T, ConvertError>;

fn wrong(field: &'static str, reason: impl Display) -> ConvertError {
    ConvertError { field, reason: reason.to_string() }
}

fn missing(field: &'static str) -> ConvertError {
    wrong(field, "is missing")
}

fn text<T: FromStr<Err: Display>>(field: &'static str, s: &str) -> Result<T> {
    s.parse().map_err(|e| wrong(field, e))
}

/// Empty text is none.
fn optional<T: FromStr<Err: Display>>(field: &'static str, s: &str) -> Result<Option<T>> {
    if s.is_empty() { Ok(None) } else { text(field, s).map(Some) }
}

fn some<T>(field: &'static str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| missing(field))
}

fn list<A, B>(items: Vec<A>) -> Result<Vec<B>>
where
    B: TryFrom<A, Error = ConvertError>,
{
    items.into_iter().map(B::try_from).collect()
}

fn port(field: &'static str, n: u32) -> Result<Port> {
    u16::try_from(n)
        .ok()
        .and_then(|n| Port::try_from(n).ok())
        .ok_or_else(|| wrong(field, format_args!("{n} is not a port: use 1 to 65535")))
}

fn mtu(field: &'static str, n: u32) -> Result<Option<Mtu>> {
    match u16::try_from(n) {
        Ok(0) => Ok(None),
        Ok(n) => Ok(Some(Mtu(n))),
        Err(_) => Err(wrong(field, format_args!("{n} is not an MTU: use 1280 to 65535"))),
    }
}

fn mac(field: &'static str, s: &str) -> Result<Mac> {
    text(field, s)
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// Both directions of an enum whose variants correspond one to one; `UNSPECIFIED` is refused.
macro_rules! enums {
    ($($model:ty = $wire:ident, $field:literal { $($m:ident = $w:ident),+ $(,)? })+) => {$(
        impl From<$model> for v1::$wire {
            fn from(value: $model) -> Self {
                match value { $(<$model>::$m => v1::$wire::$w),+ }
            }
        }
        impl TryFrom<v1::$wire> for $model {
            type Error = ConvertError;
            fn try_from(value: v1::$wire) -> Result<Self> {
                match value {
                    $(v1::$wire::$w => Ok(<$model>::$m),)+
                    v1::$wire::Unspecified => Err(missing($field)),
                }
            }
        }
    )+};
}
pub(crate) use enums;

impl From<DualAddr> for v1::DualAddr {
    fn from(a: DualAddr) -> Self {
        Self { v4: a.v4.to_string(), v6: a.v6.to_string() }
    }
}

impl TryFrom<v1::DualAddr> for DualAddr {
    type Error = ConvertError;
    fn try_from(a: v1::DualAddr) -> Result<Self> {
        Ok(Self { v4: text("addr.v4", &a.v4)?, v6: text("addr.v6", &a.v6)? })
    }
}

impl From<DualSubnet> for v1::DualSubnet {
    fn from(a: DualSubnet) -> Self {
        Self { v4: a.v4.to_string(), v6: a.v6.to_string() }
    }
}

impl TryFrom<v1::DualSubnet> for DualSubnet {
    type Error = ConvertError;
    fn try_from(a: v1::DualSubnet) -> Result<Self> {
        Ok(Self { v4: text("subnet.v4", &a.v4)?, v6: text("subnet.v6", &a.v6)? })
    }
}
