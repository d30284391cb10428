//! A Secret as bytes, so that a fuzzer changes names and values and not the base64 around them. Core's property tests
//! make the seeds of valid objects with the same code.
//!
//! Fields are separated by [`SEPARATOR`]; each pair of them is one entry.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

/// Occurs in no JSON and in no name.
pub const SEPARATOR: u8 = 0x1e;
/// Before the name of an annotation; the name of the object has this alone.
const ANNOTATION: char = '@';

/// The entries in these bytes; a name that is not text is left out.
pub fn read(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let fields: Vec<&[u8]> = bytes.split(|byte| *byte == SEPARATOR).collect();
    let entry = |pair: &[&[u8]]| {
        let [name, value] = pair else { return None };
        Some((String::from_utf8(name.to_vec()).ok()?, value.to_vec()))
    };
    fields.chunks(2).filter_map(entry).collect()
}

/// The bytes of these entries. A value with a [`SEPARATOR`] in it is cut there: this makes seeds, and stores nothing.
pub fn write<'e>(entries: impl IntoIterator<Item = (&'e str, &'e [u8])>) -> Vec<u8> {
    let fields: Vec<&[u8]> = entries.into_iter().flat_map(|(name, value)| [name.as_bytes(), value]).collect();
    fields.join(&SEPARATOR)
}

/// The Secret in these bytes.
pub fn read_secret(bytes: &[u8]) -> Secret {
    let mut secret = Secret::default();
    secret.metadata.namespace = Some("keyward-system".to_owned());
    for (name, value) in read(bytes) {
        let text = || String::from_utf8_lossy(&value).into_owned();
        match name.strip_prefix(ANNOTATION) {
            Some("") => secret.metadata.name = Some(text()),
            Some(annotation) => {
                let annotations = secret.metadata.annotations.get_or_insert_default();
                annotations.insert(annotation.to_owned(), text());
            }
            None => {
                secret.data.get_or_insert_default().insert(name, ByteString(value));
            }
        }
    }
    secret
}

/// The bytes of this Secret.
pub fn write_secret(secret: &Secret) -> Vec<u8> {
    let name = secret.metadata.name.iter().map(|name| (ANNOTATION.to_string(), name.as_bytes().to_vec()));
    let annotations = secret.metadata.annotations.iter().flatten();
    let annotations =
        annotations.map(|(name, text)| (format!("{ANNOTATION}{name}"), text.as_bytes().to_vec()));
    let data = secret.data.iter().flatten().map(|(name, value)| (name.clone(), value.0.clone()));
    let entries: Vec<(String, Vec<u8>)> = name.chain(annotations).chain(data).collect();
    write(entries.iter().map(|(name, value)| (name.as_str(), value.as_slice())))
}
