//! The options of each driver, by docker's names. One file a driver.

pub mod bridge;

use heddle_model::{net::Mtu, network::NetworkSpec};
use std::collections::BTreeMap;

/// Every driver has it.
pub const MTU: &str = "com.docker.network.driver.mtu";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error("option {name:?} is not known to driver {driver}: use one of {}", known.join(", "))]
    Unknown { driver: &'static str, name: String, known: &'static [&'static str] },
    #[error("option {name}={value}: use {wanted}")]
    Value { name: &'static str, value: String, wanted: String },
}

/// Refuses what is not in the list.
pub fn check_names(
    driver: &'static str,
    options: &BTreeMap<String, String>,
    known: &'static [&'static str],
) -> Result<(), OptionError> {
    match options.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(OptionError::Unknown { driver, name: name.clone(), known }),
        None => Ok(()),
    }
}

/// As Go's strconv.ParseBool reads it, since that is what docker does.
pub fn boolean(options: &BTreeMap<String, String>, name: &'static str, default: bool) -> Result<bool, OptionError> {
    match options.get(name).map(String::as_str) {
        None => Ok(default),
        Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
        Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
        Some(value) => Err(OptionError::Value { name, value: value.to_owned(), wanted: "true or false".into() }),
    }
}

/// A value that parses, or what would be accepted.
pub fn parsed<T: std::str::FromStr>(
    options: &BTreeMap<String, String>,
    name: &'static str,
    wanted: &str,
) -> Result<Option<T>, OptionError> {
    let Some(value) = options.get(name) else { return Ok(None) };
    let wrong = |_| OptionError::Value { name, value: value.clone(), wanted: wanted.to_owned() };
    value.parse().map(Some).map_err(wrong)
}

/// The MTU that a network asks for, in either way.
pub fn mtu(spec: &NetworkSpec) -> Result<Option<Mtu>, OptionError> {
    Ok(spec.mtu.or(parsed(&spec.options, MTU, "a number from 68 to 65535")?.map(Mtu)))
}
