//! docker's `--filter KEY=VALUE`: different keys must all hold; of one key's values any, of labels all.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter {key:?}: use {known}")]
pub struct UnknownFilter {
    key: String,
    known: String,
}

#[derive(Debug, Default)]
pub struct Filters(Vec<(String, String)>);

impl Filters {
    pub fn new(given: Vec<(String, String)>, known: &[&str]) -> Result<Self, UnknownFilter> {
        match given.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            Some((key, _)) => Err(UnknownFilter { key: key.clone(), known: known.join(", ") }),
            None => Ok(Self(given)),
        }
    }

    pub fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    pub fn has(&self, key: &str) -> bool {
        self.values(key).next().is_some()
    }

    /// Whether one of the key's values passes, or there is none.
    pub fn any(&self, key: &str, test: impl Fn(&str) -> bool) -> bool {
        !self.has(key) || self.values(key).any(test)
    }

    /// `label=KEY`, `label=KEY=VALUE`, and the same with `label!`.
    pub fn labels(&self, labels: &Value) -> bool {
        let holds = |wanted: &str| match wanted.split_once('=') {
            Some((key, value)) => labels[key] == value,
            None => labels.get(wanted).is_some(),
        };
        self.values("label").all(holds) && !self.values("label!").any(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::pair::key_value;
    use serde_json::json;

    fn filters(given: &[&str]) -> Filters {
        let given = given.iter().map(|f| key_value(f).unwrap()).collect();
        Filters::new(given, &["label", "label!", "name"]).unwrap()
    }

    #[test]
    fn of_one_key_any_and_of_labels_all() {
        let names = filters(&["name=a", "name=b"]);
        assert!(names.any("name", |n| n == "b") && !names.any("name", |n| n == "c") && names.any("label", |_| false));
        let labels = json!({ "zone": "a", "tier": "" });
        for (given, want) in [
            (vec!["label=zone"], true),
            (vec!["label=zone=a", "label=tier"], true),
            (vec!["label=zone=b"], false),
            (vec!["label=zone=a", "label=no"], false),
            (vec!["label!=zone"], false),
            (vec!["label!=zone=b"], true),
        ] {
            assert_eq!(filters(&given).labels(&labels), want, "{given:?}");
        }
    }

    #[test]
    fn unknown_keys_are_refused_with_the_known_ones() {
        let said = Filters::new(vec![key_value("colour=red").unwrap()], &["id", "name"]).unwrap_err().to_string();
        assert_eq!(said, "filter \"colour\": use id, name");
    }
}
