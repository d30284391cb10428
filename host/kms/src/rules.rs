//! The rules by which an API server accepts a plugin's answer (kubernetes: kms-answers-have-limits). A probe
//! applies them too, so that a failure is found before an API server depends on the plugin.

use std::collections::BTreeMap;

use crate::{
    error::{KmsError, Phase},
    text,
};

/// Longest `key_id`, in bytes.
pub const MAX_KEY_ID_BYTES: usize = 1024;
/// Longest ciphertext of a wrapped seed, in bytes.
pub const MAX_CIPHERTEXT_BYTES: usize = 1024;
/// Longest annotations, keys and values together, in bytes.
pub const MAX_ANNOTATION_BYTES: usize = 32 * 1024;

pub(crate) fn version(version: &str) -> Result<(), KmsError> {
    match version {
        "v2" | "v2beta1" => Ok(()),
        other => Err(KmsError::Version { version: text::id(other) }),
    }
}

pub(crate) fn key_id(phase: Phase, key_id: &str) -> Result<(), KmsError> {
    match key_id.len() {
        1..=MAX_KEY_ID_BYTES => Ok(()),
        bytes => Err(KmsError::KeyId { phase, bytes }),
    }
}

pub(crate) fn ciphertext(ciphertext: &[u8], plaintext: &[u8]) -> Result<(), KmsError> {
    match ciphertext.len() {
        1..=MAX_CIPHERTEXT_BYTES if ciphertext == plaintext => Err(KmsError::PlaintextUnchanged),
        1..=MAX_CIPHERTEXT_BYTES => Ok(()),
        bytes => Err(KmsError::Ciphertext { bytes }),
    }
}

pub(crate) fn annotations(annotations: &BTreeMap<String, Vec<u8>>) -> Result<(), KmsError> {
    let bytes = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > MAX_ANNOTATION_BYTES {
        return Err(KmsError::Annotations { bytes });
    }
    match annotations.keys().find(|key| !is_fully_qualified_domain_name(key)) {
        Some(key) => Err(KmsError::AnnotationKey { key: text::id(key) }),
        None => Ok(()),
    }
}

/// By Kubernetes' rule: an RFC 1123 subdomain of two or more labels, each of 1 to 63 bytes, with or without
/// the final dot.
fn is_fully_qualified_domain_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.contains('.') && name.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&label.len())
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(key: &str) -> BTreeMap<String, Vec<u8>> {
        BTreeMap::from([(key.to_owned(), vec![1])])
    }

    #[test]
    fn annotation_keys_are_domain_names() {
        for good in ["kms.example.com", "a.b", "a.b.", "version.encryption.example.com", "0.1-x.com"] {
            assert_eq!(annotations(&named(good)), Ok(()), "{good}");
        }
        let long = format!("{}.com", "a".repeat(64));
        for bad in
            ["", ".", "single", "single.", "Upper.com", "-a.com", "a-.com", "a..b", "a_b.com", "ä.com", &long]
        {
            let error = annotations(&named(bad)).unwrap_err();
            assert!(matches!(error, KmsError::AnnotationKey { .. }), "{bad}: {error}");
        }
    }

    #[test]
    fn the_length_of_annotations_includes_their_keys() {
        let mut all = named("a.example.com");
        all.insert("b.example.com".into(), vec![0; MAX_ANNOTATION_BYTES - 27]);
        assert_eq!(annotations(&all), Ok(()));
        all.insert("b.example.com".into(), vec![0; MAX_ANNOTATION_BYTES - 26]);
        assert_eq!(annotations(&all), Err(KmsError::Annotations { bytes: MAX_ANNOTATION_BYTES + 1 }));
    }

    #[test]
    fn lengths_are_limited_as_by_the_api_server() {
        assert_eq!(key_id(Phase::Status, ""), Err(KmsError::KeyId { phase: Phase::Status, bytes: 0 }));
        assert_eq!(key_id(Phase::Status, &"k".repeat(1024)), Ok(()));
        assert!(key_id(Phase::Status, &"k".repeat(1025)).is_err());
        assert_eq!(ciphertext(&[], b"p"), Err(KmsError::Ciphertext { bytes: 0 }));
        assert_eq!(ciphertext(&[7; 1024], b"p"), Ok(()));
        assert_eq!(ciphertext(&[7; 1025], b"p"), Err(KmsError::Ciphertext { bytes: 1025 }));
        assert_eq!(ciphertext(b"p", b"p"), Err(KmsError::PlaintextUnchanged));
    }
}
