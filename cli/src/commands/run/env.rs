//! The environment of a workload or of a service's tasks: `--env-file`, then `--env`. A variable without a value is taken from our own
//! environment.

use anyhow::{Context, Result};
use std::{collections::BTreeMap, path::PathBuf};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("variable {0:?}: use NAME=VALUE, or NAME to take it from here")]
    Name(String),
    #[error("line {line}, {text:?}: use NAME=VALUE, or NAME to take it from here")]
    Line { line: usize, text: String },
}

/// None: it is to be taken from here, where it is not set.
fn variable(text: &str, here: impl Fn(&str) -> Option<String>) -> Option<Option<(String, String)>> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, here(text)),
    };
    if name.is_empty() || name.contains(char::is_whitespace) {
        return None;
    }
    Some(value.map(|value| (name.to_owned(), value)))
}

/// What these files and, by a flag of this name, these lines say.
pub fn all(flag: &'static str, lines: &[String], files: &[PathBuf]) -> Result<BTreeMap<String, String>> {
    let here = |name: &str| std::env::var(name).ok();
    let mut variables = BTreeMap::new();
    for path in files {
        let name = || format!("--env-file {}", path.display());
        let content = std::fs::read_to_string(path).with_context(name)?;
        variables.extend(file(&content, here).with_context(name)?);
    }
    variables.extend(flags(lines, here).context(flag)?);
    Ok(variables)
}

/// Comments start with `#`; white space before a name does not count.
pub fn file(content: &str, here: impl Fn(&str) -> Option<String>) -> Result<BTreeMap<String, String>, EnvError> {
    let mut all = BTreeMap::new();
    for (at, line) in content.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = || EnvError::Line { line: at + 1, text: line.to_owned() };
        all.extend(variable(line, &here).ok_or_else(bad)?);
    }
    Ok(all)
}

pub fn flags(given: &[String], here: impl Fn(&str) -> Option<String>) -> Result<BTreeMap<String, String>, EnvError> {
    let mut all = BTreeMap::new();
    for text in given {
        all.extend(variable(text, &here).ok_or_else(|| EnvError::Name(text.clone()))?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(name: &str) -> Option<String> {
        (name == "HOME").then(|| "/root".into())
    }

    #[test]
    fn what_has_no_value_is_taken_from_here() {
        let given = ["A=1", "HOME", "UNSET", "B=x=y", "C="].map(String::from);
        let got = flags(&given, here).unwrap();
        let want = [("A", "1"), ("B", "x=y"), ("C", ""), ("HOME", "/root")];
        assert_eq!(got.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), want);
        assert_eq!(flags(&["=1".into()], here), Err(EnvError::Name("=1".into())));
    }

    #[test]
    fn a_file_has_comments_and_its_wrong_lines_are_named() {
        let got = file("# first\n\n  A=1 # kept\nHOME\nUNSET\n", here).unwrap();
        assert_eq!(got, BTreeMap::from([("A".into(), "1 # kept".into()), ("HOME".into(), "/root".into())]));
        assert_eq!(file("A=1\nB C=2\n", here), Err(EnvError::Line { line: 2, text: "B C=2".into() }));
    }
}
