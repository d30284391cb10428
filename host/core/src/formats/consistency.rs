//! CONTRACT 1.5, "Consistency rules while building": what one keyID says must be the same wherever it is read from. Where
//! it is not, building from either would lose the other.

use std::collections::BTreeMap;

use super::encryption_config::{EncryptionConfiguration, KmsConfiguration, ProviderConfiguration};
use super::key_secret::KeySecret;
use super::{FormatError, ReferencedData};
use crate::ids::KeyId;
use crate::provider::ReferenceKind;

fn mismatch(what: &'static str, parts: &'static str, id: KeyId) -> FormatError {
    FormatError::Mismatch { what, id, parts }
}

/// Whether two key secrets of one number say the same of it.
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

/// Whether the entries of all resources say the same of each key.
pub fn same_in_all_resources(config: &EncryptionConfiguration) -> Result<(), FormatError> {
    let mut local: BTreeMap<KeyId, (&str, &str)> = BTreeMap::new();
    let mut kms: BTreeMap<KeyId, KmsConfiguration> = BTreeMap::new();
    for provider in providers(config) {
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
                let found = (kind, key.secret.as_str());
                if *local.entry(id).or_insert(found) != found || kms.contains_key(&id) {
                    return Err(mismatch("key", "keys", id));
                }
            }
        }
    }
    Ok(())
}

/// Whether each KMS provider's name says whose key it is. One that does not cannot be built again, and would be lost.
pub fn plugin_names(config: &EncryptionConfiguration) -> Result<(), FormatError> {
    for kms in providers(config).filter_map(|provider| provider.kms.as_ref()) {
        let (id, _) = kms.name.split_once('_').ok_or_else(|| FormatError::PluginName(kms.name.clone()))?;
        id.parse::<KeyId>()?;
    }
    Ok(())
}

/// Those of the entries that are ours: CONTRACT 1.5 skips those that do not name exactly one resource.
fn providers(config: &EncryptionConfiguration) -> impl Iterator<Item = &ProviderConfiguration> {
    config
        .resources
        .iter()
        .filter(|entry| entry.resources.as_ref().is_some_and(|names| names.len() == 1))
        .flat_map(|entry| &entry.providers)
}

#[cfg(test)]
mod tests;
