//! Compiles patterns into tables.
//!
//! Patterns have Kubernetes' syntax (RE2): the API server applies them from the schema, and the module
//! applies the same patterns from these tables. A table is a complete, minimal automaton over bytes. It needs
//! one look-up for each byte, so no module contains a regex engine and no input makes a match slow.

use std::collections::HashMap;

use proc_macro2::{Literal, TokenStream};
use quote::quote;
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::util::primitives::StateID;
use regex_automata::{Anchored, Input, MatchKind};

/// More states than any pattern of a configuration field needs. For a counted repetition of thousands, use
/// `check`.
const MAX_STATES: usize = 4096;

/// `classes[byte]` is the column of a byte, `next[state * width + class]` the next state; state 0 is the
/// start.
#[derive(Debug)]
pub(crate) struct Table {
    classes: [u8; 256],
    next: Vec<u16>,
    accepting: Vec<u16>,
}

/// Compiles a pattern, or returns the reason why it is refused.
pub(crate) fn compile(pattern: &str) -> Result<Table, String> {
    // RE2's \d, \w, \s and \b are ASCII, those of this engine are Unicode. API server and module must agree.
    for class in [r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", r"\b", r"\B"] {
        if pattern.replace(r"\\", "").contains(class) {
            return Err(format!("list the characters, for example [0-9]: `{class}` differs between engines"));
        }
    }
    let dfa = dense::Builder::new()
        .configure(
            dense::Config::new()
                .minimize(true)
                .start_kind(StartKind::Anchored)
                .match_kind(MatchKind::All)
                .dfa_size_limit(Some(512 << 10))
                .determinize_size_limit(Some(4 << 20)),
        )
        .build(&format!("(?s:.*)(?:{pattern})(?s:.*)"))
        .map_err(|error| {
            if error.is_size_limit_exceeded() { too_large() } else { format!("not a valid pattern: {error}") }
        })?;
    let start = dfa
        .start_state_forward(&Input::new("").anchored(Anchored::Yes))
        .map_err(|error| format!("not a valid pattern: {error}"))?;
    tabulate(&dfa, start)
}

/// Numbers the states that can be reached from the start.
fn tabulate<A: Automaton>(dfa: &A, start: StateID) -> Result<Table, String> {
    let mut numbers = HashMap::from([(start, 0u16)]);
    let mut states = vec![start];
    let mut rows: Vec<Vec<u16>> = Vec::new();
    while let Some(&state) = states.get(rows.len()) {
        let mut row = Vec::with_capacity(256);
        for byte in 0..=255u8 {
            let following = dfa.next_state(state, byte);
            let number = if let Some(number) = numbers.get(&following) {
                *number
            } else {
                let number = u16::try_from(states.len()).map_err(|_| too_large())?;
                numbers.insert(following, number);
                states.push(following);
                number
            };
            row.push(number);
        }
        rows.push(row);
        if states.len() > MAX_STATES {
            return Err(too_large());
        }
    }
    let (classes, columns) = merge_columns(&rows);
    let row_of = |number: usize| u16::try_from(number * columns.len()).map_err(|_| too_large());
    let mut next = Vec::with_capacity(rows.len() * columns.len());
    for row in &rows {
        for byte in &columns {
            next.push(row_of(row.get(usize::from(*byte)).copied().map_or(0, usize::from))?);
        }
    }
    let mut accepting = Vec::new();
    for (number, state) in states.iter().enumerate() {
        if dfa.is_match_state(dfa.next_eoi_state(*state)) {
            accepting.push(row_of(number)?);
        }
    }
    Ok(Table { classes, next, accepting })
}

fn too_large() -> String {
    "the table of this pattern is too large; limit the length with max_length, or use `check`".to_owned()
}

/// Bytes that every state treats alike share a class. Also returns one byte of each class.
fn merge_columns(rows: &[Vec<u16>]) -> ([u8; 256], Vec<u8>) {
    let mut classes = [0u8; 256];
    let mut seen: HashMap<Vec<u16>, u8> = HashMap::new();
    let mut columns = Vec::new();
    for byte in 0..=255u8 {
        let column: Vec<u16> = rows.iter().filter_map(|row| row.get(usize::from(byte)).copied()).collect();
        let class = *seen.entry(column).or_insert_with(|| {
            columns.push(byte);
            // There are at most 256 classes, so the last number fits.
            u8::try_from(columns.len() - 1).unwrap_or(u8::MAX)
        });
        if let Some(slot) = classes.get_mut(usize::from(byte)) {
            *slot = class;
        }
    }
    (classes, columns)
}

impl Table {
    /// The table as a `keyward_guest::config::Table`.
    pub(crate) fn to_tokens(&self) -> TokenStream {
        let Self { classes, next, accepting } = self;
        let classes = Literal::byte_string(classes);
        quote! {
            ::keyward_guest::config::Table {
                classes: #classes,
                next: &[#(#next),*],
                accepting: &[#(#accepting),*],
            }
        }
    }

    #[cfg(test)]
    fn accepts(&self, text: &str) -> bool {
        let end = text.bytes().fold(0u16, |state, byte| {
            self.next[usize::from(state) + usize::from(self.classes[usize::from(byte)])]
        });
        self.accepting.contains(&end)
    }
}

#[cfg(test)]
mod tests {
    use super::compile;

    fn check(pattern: &str, good: &[&str], bad: &[&str]) {
        let table = compile(pattern).unwrap();
        for text in good {
            assert!(table.accepts(text), "{pattern} should match {text:?}");
        }
        for text in bad {
            assert!(!table.accepts(text), "{pattern} should not match {text:?}");
        }
    }

    #[test]
    fn an_anchored_pattern_matches_the_whole_text() {
        check("^[a-z]([a-z-]*[a-z])?$", &["a", "ab", "a-b"], &["", "-a", "a-", "A", "a\n"]);
        check(
            "^sha256:[a-f0-9]{64}$",
            &[&format!("sha256:{}", "0a".repeat(32))],
            &[&format!("sha256:{}", "0a".repeat(31))],
        );
    }

    #[test]
    fn an_unanchored_pattern_matches_anywhere() {
        check("//", &["a//b", "//", "a//"], &["", "/", "/a/"]);
        check("^/", &["/", "/a"], &["", "a/"]);
        check("/$", &["/", "a/"], &["", "/a"]);
        check("(^|/)[.][.]?(/|$)", &[".", "a/../b", "a/."], &["a", "a./b", ".../a"]);
    }

    #[test]
    fn alternatives_are_kept_together() {
        check("^a|b$", &["a", "ax", "b", "xb"], &["xax", "bx"]);
        check("", &["", "anything"], &[]);
    }

    #[test]
    fn a_negated_class_matches_whole_characters() {
        check("^[^@]{2}$", &["é!"], &["é", "a@"]);
    }

    #[test]
    fn a_refused_pattern_has_a_reason() {
        assert!(compile("(").unwrap_err().contains("not a valid pattern"));
        assert!(compile(r"^\d+$").unwrap_err().contains("[0-9]"));
        assert!(compile("^[a-z]{20000}$").unwrap_err().contains("table"));
    }
}
