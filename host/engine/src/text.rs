//! Text of a module for people. It is shown in terminals, logs and conditions, so it must not move a cursor, change the
//! reading direction, or begin a line that looks like a line of Keyward.

use keyward_core::provider::Violation;
use serde_json::Value;

/// Whether a character is non-printable: control characters with line ends and tabs, line and paragraph separators, and
/// Unicode's `Bidi_Control`.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control() || is_line_end(c) || is_bidi(c)
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_bidi(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text as one line: line ends and tabs become spaces, and other hidden characters are replaced.
pub(crate) fn printable(text: String) -> String {
    if !text.contains(is_hidden) {
        return text;
    }
    let shown = |c: char| match c {
        c if is_line_end(c) || c == '\t' => ' ',
        c if is_hidden(c) => '\u{fffd}',
        c => c,
    };
    text.chars().map(shown).collect()
}

/// The error as one printable line: it may quote names from a module.
pub(crate) fn error_text(error: &wasmtime::Error) -> String {
    printable(format!("{error:#}"))
}

/// A text or a name in JSON that contains hidden characters other than line ends and tabs, which JSON shows escaped.
pub(crate) fn hidden_in(value: &Value) -> Option<&str> {
    let hidden = |text: &&str| text.contains(|c| is_hidden(c) && !matches!(c, '\n' | '\t'));
    match value {
        Value::String(text) => Some(text.as_str()).filter(hidden),
        Value::Array(items) => items.iter().find_map(hidden_in),
        Value::Object(fields) => fields
            .iter()
            .find_map(|(name, value)| Some(name.as_str()).filter(hidden).or_else(|| hidden_in(value))),
        _ => None,
    }
}

/// Violations or warnings with printable texts.
pub(crate) fn violations(list: Vec<Violation>) -> Vec<Violation> {
    list.into_iter().map(|v| Violation { field: printable(v.field), message: printable(v.message) }).collect()
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_control_a_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c\u{9b}d".to_owned()), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d");
    }

    #[test]
    fn one_line_stays_one_line() {
        assert_eq!(printable("a\nb\r\nc\u{2028}d\te".to_owned()), "a b  c d e");
        assert_eq!(printable("ä – 鍵".to_owned()), "ä – 鍵");
    }

    #[test]
    fn hidden_characters_are_found_in_json() {
        let found = |text: &str| {
            serde_json::from_str(text).ok().and_then(|v: Value| hidden_in(&v).map(str::to_owned))
        };
        assert_eq!(found(r#"{"a": ["b\nc\td", 1, true]}"#), None);
        assert_eq!(found(r#"{"a": ["b\u001b"]}"#), Some("b\u{1b}".to_owned()));
        assert_eq!(found(r#"{"a": {"\u200f": 1}}"#), Some("\u{200f}".to_owned()));
    }

    #[test]
    fn bytes_are_two_digits_each() {
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
    }
}
