//! Removes secret values from text that others wrote: a plugin's log, a container's message.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::shapes;
use crate::SecretBytes;
use crate::formats::ReferencedData;
use crate::formats::revision::PluginRecord;
use crate::ids::hex;
use crate::provider::ReferenceKind;

/// Shorter values would be found in unrelated words, and are no secrets.
const MIN_BYTES: usize = 4;
/// Each line of a value with several lines (a private key) is searched for if it has at least this length.
const MIN_LINE_BYTES: usize = 16;
pub(super) const MASK: &str = "***";
/// Marks that text was cut off.
const MORE: &str = "…";

/// Knows every secret value that plugins were given, in the forms in which a program is likely to print it. A
/// credential that a plugin got elsewhere, mostly by a login, is recognized by its shape (`shapes.rs`).
#[derive(Default)]
pub struct Scrubber {
    /// Longest first, so that no part of a longer form is left over.
    forms: Vec<zeroize::Zeroizing<String>>,
}

impl std::fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<{} forms>", self.forms.len())
    }
}

impl Scrubber {
    /// For the values of Secrets in these records.
    pub fn new<'a>(records: impl IntoIterator<Item = &'a PluginRecord>) -> Self {
        let mut forms = Vec::new();
        for record in records {
            let secrets = record.referenced.iter().filter(|(source, _)| source.kind == ReferenceKind::Secret);
            for (_, value) in secrets {
                collect(value.expose(), &mut forms);
            }
        }
        Self::of(forms.into_iter().map(zeroize::Zeroizing::new).collect())
    }

    /// Also for these values, which an admin gave: all of them are secret.
    #[must_use]
    pub fn and<'a>(self, given: impl IntoIterator<Item = &'a ReferencedData>) -> Self {
        let mut more = Vec::new();
        for value in given.into_iter().flat_map(BTreeMap::values) {
            collect(value.expose(), &mut more);
        }
        let more = more.into_iter().map(zeroize::Zeroizing::new);
        Self::of(self.forms.into_iter().chain(more).collect())
    }

    /// Also for these values: all of them are secret.
    #[must_use]
    pub fn and_bytes(self, given: &[SecretBytes]) -> Self {
        let mut more = Vec::new();
        for value in given {
            collect(value.expose(), &mut more);
        }
        let more = more.into_iter().map(zeroize::Zeroizing::new);
        Self::of(self.forms.into_iter().chain(more).collect())
    }

    fn of(mut forms: Vec<zeroize::Zeroizing<String>>) -> Self {
        forms.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        forms.dedup();
        Self { forms }
    }

    /// The text with each known value, and everything that has the shape of a credential, replaced by `***`.
    pub fn clean(&self, text: &str) -> String {
        let known = self.forms.iter().fold(text.to_owned(), |text, form| text.replace(form.as_str(), MASK));
        shapes::mask(&known)
    }

    /// The same, of at most `most` bytes. The clean text is cut: half a value would not be found.
    pub fn clean_and_cut(&self, text: &str, most: usize) -> String {
        let mut text = self.clean(text);
        if text.len() > most {
            text.truncate(text.floor_char_boundary(most.saturating_sub(MORE.len())));
            text.push_str(MORE);
        }
        text
    }
}

fn collect(value: &[u8], forms: &mut Vec<String>) {
    let trimmed = value.trim_ascii();
    for bytes in [value, trimmed] {
        if bytes.len() < MIN_BYTES {
            continue;
        }
        forms.extend([
            STANDARD.encode(bytes),
            STANDARD_NO_PAD.encode(bytes),
            URL_SAFE_NO_PAD.encode(bytes),
            hex(bytes),
            hex(bytes).to_uppercase(),
        ]);
    }
    let Ok(text) = std::str::from_utf8(trimmed) else { return };
    if text.len() >= MIN_BYTES {
        forms.push(text.to_owned());
        // As it is written in a JSON string, with escapes.
        let quoted = serde_json::Value::from(text).to_string();
        forms.extend(quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"')).map(ToOwned::to_owned));
    }
    // As it is written in a text that was joined to one line.
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
    let line = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    if line.len() >= MIN_BYTES {
        forms.push(line);
    }
    let lines = text.lines().map(str::trim).filter(|line| line.len() >= MIN_LINE_BYTES);
    forms.extend(lines.filter(|line| !line.starts_with("-----")).map(ToOwned::to_owned));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::SecretBytes;
    use crate::provider::KeyRef;

    fn scrubber(kind: ReferenceKind, value: &[u8]) -> Scrubber {
        let source = KeyRef { kind, name: "login".into(), key: "secret-id".into() };
        let record = PluginRecord {
            kms: json!({}),
            referenced: [(source, SecretBytes::from(value))].into(),
            accepted: None,
            salt: None,
        };
        Scrubber::new([&record])
    }

    #[test]
    fn values_are_masked_in_every_likely_form() {
        let scrubber = scrubber(ReferenceKind::Secret, b"s3cr\"et-id\n");
        for form in [
            "s3cr\"et-id",
            "s3cr\\\"et-id",
            "czNjciJldC1pZA==",
            "czNjciJldC1pZA",
            "czNjciJldC1pZAo=",
            "733363722265742d6964",
            "733363722265742D6964",
        ] {
            assert_eq!(
                scrubber.clean(&format!("login with <{form}> failed")),
                "login with <***> failed",
                "{form}"
            );
        }
        assert_eq!(format!("{scrubber:?}").matches("s3cr").count(), 0);
    }

    #[test]
    fn each_line_of_a_private_key_is_masked() {
        let pem = b"-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\nAgEGCCqGSM49AwEHBG0w\n-----END PRIVATE KEY-----\n";
        let scrubber = scrubber(ReferenceKind::Secret, pem);
        assert_eq!(scrubber.clean("cannot parse MIGHAgEAMBMGByqGSM49"), "cannot parse ***");
        assert_eq!(scrubber.clean("no -----BEGIN PRIVATE KEY-----"), "no -----BEGIN PRIVATE KEY-----");
    }

    #[test]
    fn value_of_several_words_is_masked_in_a_text_of_one_line() {
        let scrubber = scrubber(ReferenceKind::Secret, b"user\n\tpa55  word\n");
        assert_eq!(scrubber.clean("login as user pa55 word failed"), "login as *** failed");
    }

    #[test]
    fn no_part_of_a_value_is_left_when_a_text_is_cut() {
        let scrubber = scrubber(ReferenceKind::Secret, b"abcdefghijklmnopqrstuvwxyz");
        for before in 0..60 {
            let text = format!("{}abcdefghijklmnopqrstuvwxyz and what follows it", "-".repeat(before));
            let shown = scrubber.clean_and_cut(&text, 40);
            assert!(!shown.contains("ab") && shown.len() <= 40, "{shown}");
        }
        assert_eq!(scrubber.clean_and_cut("short", 40), "short");
    }

    #[test]
    fn unknown_token_is_masked_by_its_shape() {
        let text = "login with s3cr3t-id gave hvs.CAESIJx9Q7mKq3YcW0RkTf2LhVn8";
        assert_eq!(scrubber(ReferenceKind::Secret, b"s3cr3t-id").clean(text), "login with *** gave ***");
        assert_eq!(Scrubber::default().clean_and_cut(text, 40), "login with s3cr3t-id gave ***");
    }

    #[test]
    fn public_and_very_short_values_are_not_masked() {
        assert_eq!(scrubber(ReferenceKind::ConfigMap, b"ca-bundle").clean("ca-bundle"), "ca-bundle");
        assert_eq!(scrubber(ReferenceKind::Secret, b"1").clean("exit code 1"), "exit code 1");
    }
}
