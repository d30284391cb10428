//! Key secrets among other Secrets (CONTRACT 1.2), for every platform.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;

use crate::formats::FormatError;
use crate::formats::consistency::same_key;
use crate::formats::key_secret::KeySecret;
use crate::ids::KeyId;
use crate::names;

/// Those of a component: by namespace and label, never by name.
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

/// The name under which a key's secret is written.
fn canonical(secret: &Secret, id: KeyId) -> Option<String> {
    let component = secret.metadata.labels.as_ref()?.get(names::LABEL_COMPONENT)?;
    Some(names::key_secret(component, id))
}

/// The decodable ones, newest first, and what is wrong with the others, by name. Two of one number are both wrong unless
/// they say the same (CONTRACT 1.5); then the one by the name that Keyward gave it counts.
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
                        // Nobody knows which of those that contradict each other this one agrees with.
                        undecodable.insert(name, error);
                    } else if let Err(error) = same_key(other, &key) {
                        undecodable.insert(known.clone(), error.clone());
                        undecodable.insert(name, error);
                    } else if Some(&name) == canonical(secret, key.id).as_ref() {
                        // Of a copy by another name, what is recorded on it is of the time when it was made.
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
