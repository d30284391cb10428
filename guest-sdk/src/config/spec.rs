//! The tables that the derive generates, and the checks that need nothing else.

use serde_json::Value;

use super::value::ConfigValue;
use crate::bindings::keyward::provider::types::{Effect, FieldRule};
use crate::report::Findings;

/// The attributes of a struct.
#[derive(Debug)]
pub struct ObjectSpec {
    /// The doc comment.
    pub description: &'static str,
    /// The minimum number of fields that are set.
    pub min_properties: Option<Bound>,
    /// Rules for the API server.
    pub cel: &'static [Cel],
    /// Its fields, in the order of the struct.
    pub fields: &'static [FieldSpec],
}

/// The attributes of a field.
#[derive(Debug)]
pub struct FieldSpec {
    /// The name in JSON.
    pub name: &'static str,
    /// The doc comment.
    pub description: &'static str,
    /// The effect of a change, and the reason; `None` for a nested struct.
    pub effect: Option<(Effect, &'static str)>,
    /// The message if a required field is absent; `None` for an optional field.
    pub required: Option<&'static str>,
    /// Limits of lengths, values and numbers of entries.
    pub limits: Limits,
    /// Patterns that its text must match, or must not match.
    pub patterns: &'static [Pattern],
    /// Rules for the API server.
    pub cel: &'static [Cel],
    /// The schema of its type.
    pub schema: fn(&FieldSpec) -> Value,
    /// The rules of its type, for a path.
    pub rules: fn(&FieldSpec, String, &mut Vec<FieldRule>),
}

impl FieldSpec {
    /// The whole configuration, treated as a field.
    pub(crate) const ROOT: &'static Self = &Self::of::<String>();

    /// The attributes that follow from the type alone.
    pub const fn of<T: ConfigValue>() -> Self {
        Self {
            name: "",
            description: "",
            effect: None,
            required: if T::REQUIRED { Some("Required value") } else { None },
            limits: Limits::NONE,
            patterns: &[],
            cel: &[],
            schema: T::schema,
            rules: T::rules,
        }
    }

    /// Checks limits and patterns of a text. One mistake gives one violation: an empty text is only reported
    /// as empty. If a text matches a pattern that it must not match, it is not also reported for a pattern
    /// that it must match, nor as too short.
    pub(crate) fn check_text(&self, text: &str, findings: &mut Findings<'_>) {
        let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        if text.is_empty() && self.limits.min_length.as_ref().is_some_and(|bound| bound.message.is_none()) {
            findings.violation("must not be empty");
            return;
        }
        self.limits.max_length.at_most(length, Count::Characters, findings);
        let allowed = self.limits.one_of;
        if !allowed.is_empty() && !allowed.contains(&text) {
            findings.violation(format!("must be one of: {}", allowed.join(", ")));
        }
        let mut is_broken = false;
        for wanted in [false, true] {
            if !is_broken {
                let broken = |p: &&Pattern| p.wanted == wanted && p.table.accepts(text) != wanted;
                for pattern in self.patterns.iter().filter(broken) {
                    is_broken = true;
                    findings.violation(pattern.message());
                }
            }
        }
        if !is_broken {
            self.limits.min_length.at_least(length, Count::Characters, findings);
        }
    }
}

/// Limits that the author set. A limit without a message has a default message.
#[derive(Debug)]
pub struct Limits {
    /// Minimum number of characters of a text.
    pub min_length: Option<Bound>,
    /// Maximum number of characters of a text.
    pub max_length: Option<Bound>,
    /// Minimum of an integer.
    pub min: Option<Bound>,
    /// Maximum of an integer.
    pub max: Option<Bound>,
    /// Minimum number of entries of a list or map.
    pub min_items: Option<Bound>,
    /// Maximum number of entries of a list or map.
    pub max_items: Option<Bound>,
    /// The only texts allowed; empty if every text is allowed.
    pub one_of: &'static [&'static str],
}

impl Limits {
    /// No limits.
    pub const NONE: Self = Self {
        min_length: None,
        max_length: None,
        min: None,
        max: None,
        min_items: None,
        max_items: None,
        one_of: &[],
    };
}

/// A bound, and the author's message for a value beyond it.
#[derive(Debug)]
pub struct Bound {
    /// The last value allowed.
    pub value: i64,
    /// The author's message; `None` for the default message.
    pub message: Option<&'static str>,
}

/// What a bound counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    /// The value itself.
    Value,
    Characters,
    Items,
    Fields,
}

impl Count {
    fn must_be(self, relation: &str, number: i64) -> String {
        let plural = if number == 1 { "" } else { "s" };
        match self {
            Self::Value => format!("must be {relation} {number}"),
            Self::Characters => format!("must be {relation} {number} character{plural} long"),
            Self::Items => format!("must have {relation} {number} item{plural}"),
            Self::Fields => format!("must have {relation} {number} field{plural}"),
        }
    }
}

/// Checks a value against an optional bound.
pub(crate) trait Limit {
    /// `value` must not be less.
    fn at_least(&self, value: i64, count: Count, findings: &mut Findings<'_>);
    /// `value` must not be more.
    fn at_most(&self, value: i64, count: Count, findings: &mut Findings<'_>);
}

impl Limit for Option<Bound> {
    fn at_least(&self, value: i64, count: Count, findings: &mut Findings<'_>) {
        if let Some(bound) = self.as_ref().filter(|bound| value < bound.value) {
            match bound.message {
                Some(message) => findings.violation(message),
                None if bound.value == 1 && count != Count::Value => findings.violation("must not be empty"),
                None => findings.violation(count.must_be("at least", bound.value)),
            }
        }
    }

    fn at_most(&self, value: i64, count: Count, findings: &mut Findings<'_>) {
        if let Some(bound) = self.as_ref().filter(|bound| value > bound.value) {
            match bound.message {
                Some(message) => findings.violation(message),
                None => findings.violation(count.must_be("at most", bound.value)),
            }
        }
    }
}

/// A rule for the API server (`x-kubernetes-validations`).
#[derive(Debug)]
pub struct Cel {
    /// The CEL expression, `self` being the value.
    pub rule: &'static str,
    /// The API server's message if the rule does not hold.
    pub message: &'static str,
}

/// A pattern and its compiled table.
#[derive(Debug)]
pub struct Pattern {
    /// As the author wrote it, for the schema.
    pub source: &'static str,
    /// Whether a text must match; otherwise it must not match.
    pub wanted: bool,
    /// The author's message.
    pub message: Option<&'static str>,
    /// The automaton.
    pub table: Table,
}

impl Pattern {
    /// The message if the text violates the pattern.
    pub(crate) fn message(&self) -> String {
        match self.message {
            Some(message) => message.to_owned(),
            None if self.wanted => format!("must match {}", self.source),
            None => format!("must not match {}", self.source),
        }
    }
}

/// A complete automaton over bytes, generated by the derive: one look-up for each byte, for every pattern.
/// The number of a state is the index at which its row begins.
#[derive(Debug)]
pub struct Table {
    /// The column of each byte.
    pub classes: &'static [u8; 256],
    /// `next[state + class]` is the following state; 0 is the start.
    pub next: &'static [u16],
    /// The states in which a matching text ends.
    pub accepting: &'static [u16],
}

impl Table {
    /// Whether the pattern matches the text, at any position that its anchors allow.
    pub fn accepts(&self, text: &str) -> bool {
        let mut state = 0u16;
        for byte in text.bytes() {
            let class = self.classes.get(usize::from(byte)).copied().unwrap_or_default();
            state = self.next.get(usize::from(state) + usize::from(class)).copied().unwrap_or_default();
        }
        self.accepting.contains(&state)
    }
}
