//! The tables that the derive writes down, and the checks that need nothing else.

use serde_json::Value;

use super::value::ConfigValue;
use crate::bindings::keyward::provider::types::{Effect, FieldRule};
use crate::report::Findings;

/// What is said of a struct.
#[derive(Debug)]
pub struct ObjectSpec {
    /// The doc comment.
    pub description: &'static str,
    /// How many fields must be set at least.
    pub min_properties: Option<Bound>,
    /// Rules for the API server.
    pub cel: &'static [Cel],
    /// Its fields, as written.
    pub fields: &'static [FieldSpec],
}

/// What is said of a field.
#[derive(Debug)]
pub struct FieldSpec {
    /// The name in JSON.
    pub name: &'static str,
    /// The doc comment.
    pub description: &'static str,
    /// What a change does, and why; `None` for a nested struct.
    pub effect: Option<(Effect, &'static str)>,
    /// The message when it is absent, where it must not be.
    pub required: Option<&'static str>,
    /// Lengths, ranges and numbers.
    pub limits: Limits,
    /// What its text must match, or must not.
    pub patterns: &'static [Pattern],
    /// Rules for the API server.
    pub cel: &'static [Cel],
    /// The schema of its type.
    pub schema: fn(&FieldSpec) -> Value,
    /// The rules of its type, for a path.
    pub rules: fn(&FieldSpec, String, &mut Vec<FieldRule>),
}

impl FieldSpec {
    /// The whole configuration, as if it were a field.
    pub(crate) const ROOT: &'static Self = &Self::of::<String>();

    /// What follows from the type alone.
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

    /// Limits and patterns of a text. One mistake is one violation: an empty text is empty and nothing else; where a text holds
    /// what it must not, it is not also said to lack the required form, nor to be too short for it.
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

/// Limits that the author gave; where one has no message, it makes its own.
#[derive(Debug)]
pub struct Limits {
    /// Characters of a text, at least.
    pub min_length: Option<Bound>,
    /// Characters of a text, at most.
    pub max_length: Option<Bound>,
    /// The least integer.
    pub min: Option<Bound>,
    /// The greatest integer.
    pub max: Option<Bound>,
    /// Entries of a list or map, at least.
    pub min_items: Option<Bound>,
    /// Entries of a list or map, at most.
    pub max_items: Option<Bound>,
    /// The only texts allowed; empty for any.
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

/// A bound, and the message for a value beyond it where the author wrote one.
#[derive(Debug)]
pub struct Bound {
    /// The last value allowed.
    pub value: i64,
    /// The author's message.
    pub message: Option<&'static str>,
}

/// What a bound counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    /// Nothing: the value itself.
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

/// Comparing against a bound that may not be there.
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
    /// What the API server says when it does not hold.
    pub message: &'static str,
}

/// A pattern and what it was compiled into.
#[derive(Debug)]
pub struct Pattern {
    /// As the author wrote it, for the schema.
    pub source: &'static str,
    /// Whether a text must match, or must not.
    pub wanted: bool,
    /// The author's message.
    pub message: Option<&'static str>,
    /// The automaton.
    pub table: Table,
}

impl Pattern {
    /// What to say when it does not hold.
    pub(crate) fn message(&self) -> String {
        match self.message {
            Some(message) => message.to_owned(),
            None if self.wanted => format!("must match {}", self.source),
            None => format!("must not match {}", self.source),
        }
    }
}

/// A complete automaton over bytes, made by the derive: one look-up a byte, whatever the pattern. A state is
/// known by where its row begins.
#[derive(Debug)]
pub struct Table {
    /// The column of each byte.
    pub classes: &'static [u8; 256],
    /// `next[state + class]` is the following state; 0 is the start.
    pub next: &'static [u16],
    /// The states that a text may end in.
    pub accepting: &'static [u16],
}

impl Table {
    /// Whether the pattern matches somewhere in the text (or where its anchors say).
    pub fn accepts(&self, text: &str) -> bool {
        let mut state = 0u16;
        for byte in text.bytes() {
            let class = self.classes.get(usize::from(byte)).copied().unwrap_or_default();
            state = self.next.get(usize::from(state) + usize::from(class)).copied().unwrap_or_default();
        }
        self.accepting.contains(&state)
    }
}
