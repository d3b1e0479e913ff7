//! Finds objects by what an operator types: a full id, a name, or the beginning of an id.

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    #[error("no {kind} is called {reference:?}")]
    None { kind: &'static str, reference: String },
    #[error("{reference:?} is the beginning of {count} {kind} ids: give more of it")]
    Many { kind: &'static str, reference: String, count: usize },
}

/// The one among `all` (each with its id and name) that is meant. An exact id or name wins over a beginning.
pub fn find<'a, T>(
    kind: &'static str,
    reference: &str,
    all: impl Iterator<Item = (&'a str, &'a str, T)>,
) -> Result<T, FindError> {
    let mut begins = Vec::new();
    for (id, name, object) in all {
        if id == reference || name == reference {
            return Ok(object);
        }
        if !reference.is_empty() && id.starts_with(reference) {
            begins.push(object);
        }
    }
    let reference = reference.to_owned();
    match (begins.pop(), begins.len()) {
        (None, _) => Err(FindError::None { kind, reference }),
        (Some(one), 0) => Ok(one),
        (Some(_), more) => Err(FindError::Many { kind, reference, count: more + 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_win_over_beginnings() {
        let all = || [("ab1", "web", 1), ("ab2", "db", 2), ("c", "ab", 3)].into_iter();
        assert_eq!(find("x", "web", all()), Ok(1));
        assert_eq!(find("x", "ab", all()), Ok(3));
        assert_eq!(find("x", "ab2", all()), Ok(2));
        assert_eq!(find("x", "c", all()), Ok(3));
        assert!(matches!(find("x", "a", all()), Err(FindError::Many { count: 2, .. })));
        assert!(matches!(find("x", "", all()), Err(FindError::None { .. })));
    }
}
