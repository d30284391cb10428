//! Text of a module that people read: shown in terminals, logs and conditions, so it must not be able to move a cursor
//! or turn the reading direction.

use keyward_core::provider::Violation;

/// The text with control characters (but line ends) and bidirectional overrides replaced.
pub(crate) fn printable(text: String) -> String {
    let hidden = |c: char| {
        (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.contains(hidden) { text.replace(hidden, "\u{fffd}") } else { text }
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
    fn terminals_are_not_given_orders() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c\nd".to_owned()), "a\u{fffd}[2Jb\u{fffd}c\nd");
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
    }
}
