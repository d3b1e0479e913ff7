//! KEY=VALUE, as flags take it, and numbers with units.

use heddle_model::placement::is_resource_name;
use serde_json::Value;

pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("use KEY=VALUE".into()),
    }
}

/// The same, where a key alone has an empty value: labels and options.
pub fn key(text: &str) -> Result<(String, String), String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("", _) => Err("use KEY or KEY=VALUE".into()),
        (key, value) => Ok((key.to_owned(), value.to_owned())),
    }
}

/// A document's labels as docker's lists have them: KEY=VALUE,KEY=VALUE.
pub fn joined(labels: &Value) -> String {
    let labels = labels.as_object().into_iter().flatten();
    labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
}

/// NAME=COUNT of what nodes have and services reserve.
pub fn resource(text: &str) -> Result<(String, u64), String> {
    let form = || "use NAME=COUNT, such as gpu=2".to_owned();
    let (name, count) = text.split_once('=').ok_or_else(form)?;
    match count.parse() {
        Ok(count) if is_resource_name(name) => Ok((name.to_owned(), count)),
        _ => Err(form()),
    }
}

/// A number of bytes: 512m, 2g, as docker takes them, a kilobyte being 1,024 bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    let config = parse_size::Config::new().with_binary();
    config.parse_size(text).map_err(|_| format!("{text:?} is no number of bytes: use one such as 512m or 2g"))
}
