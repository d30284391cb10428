//! Selects and decodes key secrets, on every platform (openshift: find-key-secrets-by-label).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;

use crate::formats::FormatError;
use crate::formats::consistency::same_key;
use crate::formats::key_secret::KeySecret;
use crate::ids::KeyId;
use crate::names;

/// The key secrets of a component: by namespace and label, never by name.
pub(super) fn of<'o>(
    secrets: &'o [Secret],
    namespace: &'o str,
    component: &'o str,
) -> impl Iterator<Item = &'o Secret> {
    secrets.iter().filter(move |secret| {
        let labels = secret.metadata.labels.as_ref();
        secret.metadata.namespace.as_deref().is_none_or(|n| n == namespace)
            && labels.and_then(|l| l.get(names::LABEL_COMPONENT)).is_some_and(|value| value == component)
    })
}

/// The name that Keyward gives to the key secret of a key.
fn canonical(secret: &Secret, id: KeyId) -> Option<String> {
    let component = secret.metadata.labels.as_ref()?.get(names::LABEL_COMPONENT)?;
    Some(names::key_secret(component, id))
}

/// The decoded key secrets, newest first, and the errors of the others, by name. Two key secrets with the same number
/// are both errors unless they agree; then the one with the expected name counts
/// (openshift: key-secrets-of-one-number-agree).
pub(super) fn decode<'o>(
    secrets: impl Iterator<Item = &'o Secret>,
) -> (Vec<KeySecret>, BTreeMap<String, FormatError>) {
    let mut found: BTreeMap<KeyId, (String, KeySecret)> = BTreeMap::new();
    let mut undecodable = BTreeMap::new();
    for secret in secrets {
        let name = secret.metadata.name.clone().unwrap_or_default();
        match KeySecret::decode(secret) {
            Ok(key) => match found.get(&key.id) {
                None => {
                    found.insert(key.id, (name, key));
                }
                Some((known, other)) => {
                    if let Some(error) = undecodable.get(known).cloned() {
                        // The known ones contradict each other, so this one is also an error.
                        undecodable.insert(name, error);
                    } else if let Err(error) = same_key(other, &key) {
                        undecodable.insert(known.clone(), error.clone());
                        undecodable.insert(name, error);
                    } else if Some(&name) == canonical(secret, key.id).as_ref() {
                        // The records on a copy with another name are from the time when it was copied.
                        found.insert(key.id, (name, key));
                    }
                }
            },
            Err(error) => {
                undecodable.insert(name, error);
            }
        }
    }
    let keys = found.into_values().rev().filter(|(name, _)| !undecodable.contains_key(name));
    (keys.map(|(_, key)| key).collect(), undecodable)
}
