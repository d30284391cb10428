//! The lists of an EncryptionConfiguration: one list of keys for each resource, as the API server builds it. The API
//! server appends the lists of all entries that name a resource, writes with the first key, and reads with all keys.
//!
//! The next configuration is built from these lists, so they must be complete. Everything that they cannot express is
//! an error that names the field: wildcards, key names that are not keyIDs, KMS v1. Such a configuration was not
//! written by Keyward, and Keyward does not replace it (openshift: configuration-is-understood-as-a-whole).

use std::collections::{BTreeMap, BTreeSet};

use super::encryption_config::{
    EncryptionConfiguration, KeysConfiguration, KmsConfiguration, NamedKey, ProviderConfiguration,
};
use super::key_secret::NULL_KEY;
use super::{FormatError, consistency};
use crate::SecretBytes;
use crate::ids::{GroupResource, KeyId, Mode};
use crate::names;

/// A key of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedKey<'a> {
    /// Number of the key.
    pub id: KeyId,
    /// The mode of encryption. An AES-GCM key of zeros is the placeholder of an identity key
    /// (openshift: identity-keys).
    pub mode: Mode,
    /// The key material: the key itself for local modes, otherwise [`NULL_KEY`].
    pub material: SecretBytes,
    /// Set only for [`Mode::Kms`].
    pub kms: Option<&'a KmsConfiguration>,
}

/// The list of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderList<'a> {
    /// Whether `identity` is the first provider.
    pub writes_plain: bool,
    /// The keys in their order, each once.
    pub keys: Vec<ListedKey<'a>>,
}

impl ProviderList<'_> {
    /// The write key. If `identity` writes, this is the first identity key: the list does not show whether that key is
    /// the write key or a read key.
    pub fn writer(&self) -> Option<KeyId> {
        let mut keys = self.keys.iter();
        let found = if self.writes_plain { keys.find(|key| key.mode == Mode::Identity) } else { keys.next() };
        found.map(|key| key.id)
    }
}

/// The lists of all resources.
///
/// # Errors
/// The configuration contains something that the lists cannot express.
pub fn lists(
    config: &EncryptionConfiguration,
) -> Result<BTreeMap<GroupResource, ProviderList<'_>>, FormatError> {
    consistency::same_in_all_resources(config)?;
    let mut lists: BTreeMap<GroupResource, ProviderList<'_>> = BTreeMap::new();
    for (i, entry) in config.resources.iter().enumerate() {
        let at = format!("resources[{i}]");
        let names = entry.resources.as_deref().unwrap_or_default();
        for (what, is_empty) in [("resources", names.is_empty()), ("providers", entry.providers.is_empty())] {
            if is_empty {
                return Err(refused(format!("{at}.{what}"), "at least one is required"));
            }
        }
        let mut seen = BTreeSet::new();
        for (n, name) in names.iter().enumerate() {
            let path = format!("{at}.resources[{n}]");
            let resource = resource(name).map_err(|why| refused(&path, why))?;
            if !seen.insert(resource.clone()) {
                return Err(refused(path, "is given twice"));
            }
            for (j, provider) in entry.providers.iter().enumerate() {
                let is_first = !lists.contains_key(&resource);
                let found = decode_provider(provider, &resource, &format!("{at}.providers[{j}]"), is_first)?;
                append(lists.entry(resource.clone()).or_default(), found, is_first);
            }
        }
    }
    Ok(lists)
}

fn append<'a>(list: &mut ProviderList<'a>, found: Vec<ListedKey<'a>>, is_first: bool) {
    list.writes_plain |= is_first && found.is_empty();
    for key in found {
        if list.keys.iter().all(|known| known.id != key.id) {
            list.keys.push(key);
        }
    }
}

fn resource(name: &str) -> Result<GroupResource, &'static str> {
    if name.contains('*') {
        return Err("wildcards are not supported; name each resource");
    }
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if name.split('.').all(label) {
        Ok(GroupResource::parse(name))
    } else {
        Err("is not a resource such as `secrets` or `deployments.apps`, in lower case")
    }
}

/// The keys of a provider, the first one writes; none for `identity`.
fn decode_provider<'a>(
    provider: &'a ProviderConfiguration,
    resource: &GroupResource,
    at: &str,
    is_first: bool,
) -> Result<Vec<ListedKey<'a>>, FormatError> {
    match provider {
        ProviderConfiguration {
            aesgcm: Some(keys),
            aescbc: None,
            secretbox: None,
            identity: None,
            kms: None,
        } => {
            let keys = local(Mode::Aesgcm, keys, &format!("{at}.aesgcm"))?;
            if is_first && keys.first().is_some_and(|key| key.mode == Mode::Identity) {
                let why = "is a key that consists of zeros, and the API server would write with it; put `identity` first";
                return Err(refused(format!("{at}.aesgcm.keys[0]"), why));
            }
            Ok(keys)
        }
        ProviderConfiguration {
            aesgcm: None,
            aescbc: Some(keys),
            secretbox: None,
            identity: None,
            kms: None,
        } => local(Mode::Aescbc, keys, &format!("{at}.aescbc")),
        ProviderConfiguration {
            aesgcm: None,
            aescbc: None,
            secretbox: Some(keys),
            identity: None,
            kms: None,
        } => local(Mode::Secretbox, keys, &format!("{at}.secretbox")),
        ProviderConfiguration {
            aesgcm: None,
            aescbc: None,
            secretbox: None,
            identity: Some(_),
            kms: None,
        } => Ok(Vec::new()),
        ProviderConfiguration {
            aesgcm: None,
            aescbc: None,
            secretbox: None,
            identity: None,
            kms: Some(kms),
        } => {
            let id = kms_key(kms, resource, &format!("{at}.kms"))?;
            let material = SecretBytes::new(NULL_KEY.to_vec());
            Ok(vec![ListedKey { id, mode: Mode::Kms, material, kms: Some(kms) }])
        }
        _ => Err(refused(at, "must be exactly one of aesgcm, aescbc, secretbox, identity and kms")),
    }
}

fn local<'a>(mode: Mode, keys: &KeysConfiguration, at: &str) -> Result<Vec<ListedKey<'a>>, FormatError> {
    if keys.keys.is_empty() {
        return Err(refused(format!("{at}.keys"), "at least one is required"));
    }
    let decode = |(k, named): (usize, &NamedKey)| {
        let id = key_id(&named.name).ok_or_else(|| refused(format!("{at}.keys[{k}].name"), NOT_A_KEY_ID))?;
        let material = named
            .material()
            .filter(|material| !material.is_empty())
            .ok_or_else(|| refused(format!("{at}.keys[{k}].secret"), "is not a key in base64"))?;
        let null = mode == Mode::Aesgcm && material.expose() == NULL_KEY;
        Ok(ListedKey { id, mode: if null { Mode::Identity } else { mode }, material, kms: None })
    };
    keys.keys.iter().enumerate().map(decode).collect()
}

const NOT_A_KEY_ID: &str = "is not a keyID: a positive number without leading zeros";

/// The keyID in the name of a key. Values are stored under the exact name, so `07` is not 7.
fn key_id(name: &str) -> Option<KeyId> {
    name.parse().ok().filter(|id: &KeyId| *id > KeyId(0) && id.to_string() == name)
}

fn kms_key(kms: &KmsConfiguration, resource: &GroupResource, at: &str) -> Result<KeyId, FormatError> {
    let (number, _) = kms.name.split_once('_').ok_or_else(|| FormatError::PluginName(kms.name.clone()))?;
    number.parse::<KeyId>()?;
    let id = key_id(number).ok_or_else(|| refused(format!("{at}.name"), NOT_A_KEY_ID))?;
    let expected = names::kms_provider(id, resource);
    if kms.name != expected {
        let why = format!("must be {expected}: values of {resource} are stored under this name");
        return Err(refused(format!("{at}.name"), &why));
    }
    if kms.api_version != "v2" {
        return Err(refused(format!("{at}.apiVersion"), "must be v2"));
    }
    Ok(id)
}

fn refused(at: impl Into<String>, why: &str) -> FormatError {
    FormatError::Config(format!("{}: {why}", at.into()))
}

#[cfg(test)]
mod tests;
