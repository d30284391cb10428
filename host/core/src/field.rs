//! Paths of fields below the configuration of a KMS, in the notation of rules and violations.
//!
//! `tls.serverName` is a field of an object, `labels.*` any value of a map, `hosts[]` any item of a list, and
//! `hosts[2]` one of them. Rules contain patterns (with `*` or `[]`), messages contain concrete paths.

use std::fmt;

use serde_json::Value;

/// One step from a value to a value below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The field of this name.
    Key(String),
    /// Any value of a map.
    AnyKey,
    /// The item with this index of a list.
    Item(usize),
    /// Any item of a list.
    AnyItem,
}

/// A path or a pattern of paths; empty for the configuration as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(Vec<Step>);

/// The error for a text that is not a [`FieldPath`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a field path such as `tls.serverName`, `labels.*` or `hosts[]`")]
pub struct FieldPathError {
    /// The text.
    pub text: String,
}

impl FieldPath {
    /// Parses `tls.serverName`, `labels.*`, `hosts[].name`. The empty text is not a path.
    pub fn parse(text: &str) -> Result<Self, FieldPathError> {
        let error = || FieldPathError { text: text.to_owned() };
        let mut steps = Vec::new();
        for part in text.split('.') {
            let (name, lists) = match part.find('[') {
                Some(at) => part.split_at(at),
                None => (part, ""),
            };
            match name {
                "" => return Err(error()),
                "*" => steps.push(Step::AnyKey),
                name if name
                    .contains(|c: char| c == '*' || c == ']' || c.is_whitespace() || c.is_control()) =>
                {
                    return Err(error());
                }
                name => steps.push(Step::Key(name.to_owned())),
            }
            let mut rest = lists;
            while !rest.is_empty() {
                let (inside, after) =
                    rest.strip_prefix('[').and_then(|r| r.split_once(']')).ok_or_else(error)?;
                steps.push(match inside {
                    "" => Step::AnyItem,
                    index => Step::Item(index.parse().map_err(|_| error())?),
                });
                rest = after;
            }
        }
        Ok(Self(steps))
    }

    /// The steps, outermost first.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Whether this is the configuration as a whole.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// This path with one more step.
    #[must_use]
    pub fn then(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// Whether this pattern covers `path`: `*` matches any key, `[]` matches any item or itself.
    pub fn covers(&self, path: &Self) -> bool {
        self.0.len() == path.0.len()
            && self.0.iter().zip(&path.0).all(|pair| match pair {
                (Step::AnyKey, Step::Key(_)) | (Step::AnyItem, Step::Item(_)) => true,
                (pattern, step) => pattern == step,
            })
    }

    /// The value at this path; `None` if there is none, or if the path is a pattern.
    pub fn get<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.0.iter().try_fold(value, |value, step| match step {
            Step::Key(name) => value.get(name),
            Step::Item(index) => value.get(index),
            Step::AnyKey | Step::AnyItem => None,
        })
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(_) | Step::AnyKey if i > 0 => f.write_str(".")?,
                _ => {}
            }
            match step {
                Step::Key(name) => f.write_str(name)?,
                Step::AnyKey => f.write_str("*")?,
                Step::Item(index) => write!(f, "[{index}]")?,
                Step::AnyItem => f.write_str("[]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case("tls.serverName")]
    #[case("labels.*")]
    #[case("hosts[]")]
    #[case("hosts[].ports[][].name")]
    #[case("hosts[2].name")]
    fn path_is_displayed_as_it_was_parsed(#[case] text: &str) {
        assert_eq!(FieldPath::parse(text).unwrap().to_string(), text);
    }

    #[rstest]
    #[case("")]
    #[case(".a")]
    #[case("a..b")]
    #[case("a.")]
    #[case("[]")]
    #[case("a[")]
    #[case("a[x]")]
    #[case("a[]b")]
    #[case("a*")]
    #[case("a b")]
    fn other_texts_are_not_paths(#[case] text: &str) {
        assert!(FieldPath::parse(text).is_err(), "{text:?}");
    }

    #[rstest]
    #[case("a.b", "a.b", true)]
    #[case("a.b", "a.c", false)]
    #[case("a.b", "a", false)]
    #[case("labels.*", "labels.team", true)]
    #[case("hosts[].name", "hosts[3].name", true)]
    #[case("hosts[]", "hosts[]", true)]
    #[case("hosts[]", "hosts.name", false)]
    fn patterns_cover_paths(#[case] pattern: &str, #[case] path: &str, #[case] covered: bool) {
        let parse = |text| FieldPath::parse(text).unwrap();
        assert_eq!(parse(pattern).covers(&parse(path)), covered);
    }

    #[test]
    fn path_gets_the_value_below_it() {
        let value = json!({"a": {"b": [1, {"c": 2}]}});
        let get = |text| FieldPath::parse(text).unwrap().get(&value).cloned();
        assert_eq!(get("a.b[1].c"), Some(json!(2)));
        assert_eq!(get("a.b[5]"), None);
        assert_eq!(get("a.b[]"), None);
        assert_eq!(get("x.y"), None);
    }
}
