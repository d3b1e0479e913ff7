//! Tables and JSON.

use comfy_table::{Table, presets::NOTHING};
use serde_json::Value;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

/// Columns under headings, without lines, as docker prints them.
pub fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(headings.iter().copied());
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    text.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Prints a listing: rows as a table, or the values as a JSON array.
pub fn print(format: Format, headings: &[&str], rows: Vec<Vec<String>>, values: Vec<Value>) {
    match format {
        Format::Table => println!("{}", table(headings, rows)),
        Format::Json => println!("{:#}", Value::Array(values)),
    }
}

/// `3 minutes ago`, from milliseconds since the Unix epoch.
pub fn ago(then_ms: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    age((now.as_millis() as u64).saturating_sub(then_ms))
}

/// The same from the milliseconds since then.
pub fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    let (n, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86400 => (seconds / 3600, "hour"),
        _ => (seconds / 86400, "day"),
    };
    format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" })
}

/// The first 12 characters of an id.
pub fn short(id: &str) -> String {
    id.chars().take(12).collect()
}
