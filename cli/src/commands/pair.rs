//! KEY=VALUE, as flags take it.

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
