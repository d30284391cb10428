//! Cleans the texts of a plugin before they are shown.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

use crate::rules::MAX_KEY_ID_BYTES;

/// Longest text taken from a plugin, in bytes. It is far more than is ever shown: the caller redacts secrets
/// that this crate does not know, and it finds a secret only in one piece.
const MAX_BYTES: usize = 16 * 1024;

/// Replaces the text that was cut.
const MORE: &str = "…";

/// Shorter blobs are not redacted: they would match unrelated words.
const MIN_BLOB_BYTES: usize = 8;

/// One line of at most [`MAX_BYTES`], without any of `blobs` in the forms in which programs usually print
/// bytes.
///
/// A plugin that fails may quote its input. Errors are shown in status and logs, so they must not.
pub(crate) fn clean(text: &str, blobs: &[&[u8]]) -> String {
    let mut text = text.to_owned();
    for blob in blobs.iter().filter(|blob| blob.len() >= MIN_BLOB_BYTES) {
        for form in printed_forms(blob) {
            text = text.replace(&form, "[redacted]");
        }
    }
    let mut line = String::with_capacity(text.len().min(MAX_BYTES));
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        // Leaves room for the space and MORE that may follow the word.
        if line.len() + word.len() + " ".len() + MORE.len() > MAX_BYTES {
            // A word is never split: half a secret could not be redacted.
            line.push_str(MORE);
            break;
        }
        line.push_str(word);
    }
    line
}

/// An id in one line, cut to the length that an API server accepts.
pub(crate) fn id(text: &str) -> String {
    let mut line = clean(text, &[]);
    line.truncate(line.floor_char_boundary(MAX_KEY_ID_BYTES));
    line
}

/// The blob as text, in hex of either case, in base64 (the unpadded form is part of the padded one), and as
/// lists of numbers.
fn printed_forms(blob: &[u8]) -> Vec<String> {
    let mut forms = Vec::new();
    if let Ok(text) = str::from_utf8(blob) {
        forms.push(text.to_owned());
    }
    let mut hex = String::with_capacity(blob.len() * 2);
    for byte in blob {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    forms.push(hex.to_uppercase());
    forms.push(hex);
    forms.push(STANDARD_NO_PAD.encode(blob));
    let numbers: Vec<_> = blob.iter().map(u8::to_string).collect();
    forms.push(numbers.join(" "));
    forms.push(numbers.join(", "));
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_line_of_limited_length() {
        assert_eq!(
            clean("1 error occurred:\n\t* permission denied\n\n", &[]),
            "1 error occurred: * permission denied"
        );
        let long = clean(&"wörd ".repeat(5000), &[]);
        assert!(long.len() <= MAX_BYTES && long.ends_with("wörd …"), "{}", long.len());
        assert_eq!(clean("\u{1b}[31mred\u{0}", &[]), "[31mred");
    }

    #[test]
    fn no_word_is_cut_in_two() {
        let secret = "s".repeat(60);
        for before in MAX_BYTES - 80..MAX_BYTES {
            let text = clean(&format!("{} {secret} more", "x".repeat(before)), &[]);
            assert!(!text.contains('s') || text.contains(&secret), "{before}");
            assert!(text.len() <= MAX_BYTES);
        }
        assert_eq!(clean(&"s".repeat(MAX_BYTES), &[]), "…");
    }

    #[test]
    fn an_id_is_cut_to_the_longest_accepted_length() {
        assert_eq!(id(&"k".repeat(2000)).len(), MAX_KEY_ID_BYTES);
        assert_eq!(id("a\nb"), "a b");
    }

    #[test]
    fn no_printed_form_of_a_blob_is_quoted() {
        let blob = b"wrapped:v1:c2VjcmV0";
        for form in printed_forms(blob) {
            assert_eq!(clean(&format!("cannot decrypt <{form}>"), &[blob]), "cannot decrypt <[redacted]>");
        }
        let binary = [0u8, 159, 146, 150, 1, 2, 3, 4];
        assert_eq!(clean("bad: 009f929601020304", &[&binary]), "bad: [redacted]");
    }
}
