//! All data of one keyID must be the same in all resources and key secrets (openshift: one-key-id-says-one-thing). If
//! it is not, a configuration that is built from one of them would lose the other.

use std::collections::BTreeMap;

use super::encryption_config::{EncryptionConfiguration, KmsConfiguration};
use super::key_secret::KeySecret;
use super::{FormatError, ReferencedData};
use crate::SecretBytes;
use crate::ids::KeyId;
use crate::provider::ReferenceKind;

fn mismatch(what: &'static str, parts: &'static str, id: KeyId) -> FormatError {
    FormatError::Mismatch { what, id, parts }
}

/// Checks that two key secrets with the same number agree.
pub fn same_key(one: &KeySecret, other: &KeySecret) -> Result<(), FormatError> {
    let id = one.id;
    if one.mode != other.mode || one.material != other.material {
        return Err(mismatch("key", "keys", id));
    }
    let (Some(a), Some(b)) = (&one.kms, &other.kms) else { return Ok(()) };
    if a.provider != b.provider || a.plugin.kms != b.plugin.kms {
        return Err(mismatch("KMS plugin config", "configs", id));
    }
    let of = |data: &ReferencedData, kind: ReferenceKind| -> ReferencedData {
        let entries = data.iter().filter(|(reference, _)| reference.kind == kind);
        entries.map(|(reference, value)| (reference.clone(), value.clone())).collect()
    };
    for (kind, what, parts) in [
        (ReferenceKind::Secret, "KMS secret data", "secret data"),
        (ReferenceKind::ConfigMap, "KMS configmap data", "configmap data"),
    ] {
        if of(&a.plugin.referenced, kind) != of(&b.plugin.referenced, kind) {
            return Err(mismatch(what, parts, id));
        }
    }
    Ok(())
}

/// Checks that the entries of all resources agree about each key.
pub fn same_in_all_resources(config: &EncryptionConfiguration) -> Result<(), FormatError> {
    let mut local: BTreeMap<KeyId, (&str, Option<SecretBytes>)> = BTreeMap::new();
    let mut kms: BTreeMap<KeyId, KmsConfiguration> = BTreeMap::new();
    for provider in config.resources.iter().flat_map(|entry| &entry.providers) {
        if let Some(found) = &provider.kms {
            let Some(id) = found.name.split_once('_').and_then(|(id, _)| id.parse::<KeyId>().ok()) else {
                continue;
            };
            let found = KmsConfiguration { name: id.to_string(), ..found.clone() };
            if kms.entry(id).or_insert_with(|| found.clone()) != &found || local.contains_key(&id) {
                return Err(mismatch("KMS plugin config", "configs", id));
            }
        }
        for (kind, keys) in
            [("aescbc", &provider.aescbc), ("aesgcm", &provider.aesgcm), ("secretbox", &provider.secretbox)]
        {
            for key in keys.iter().flat_map(|keys| &keys.keys) {
                let Ok(id) = key.name.parse::<KeyId>() else { continue };
                // The key itself, not its base64 form.
                let found = (kind, key.material());
                if *local.entry(id).or_insert_with(|| found.clone()) != found || kms.contains_key(&id) {
                    return Err(mismatch("key", "keys", id));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
