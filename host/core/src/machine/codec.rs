//! Converts between a state and an EncryptionConfiguration (openshift: provider-order,
//! openshift: providers-to-keys).

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Key, ResourceKeys, State};
use crate::formats::FormatError;
use crate::formats::encryption_config::{
    EncryptionConfiguration, Identity, KeysConfiguration, KmsConfiguration, NamedKey, ProviderConfiguration,
    ResourceConfiguration,
};
use crate::formats::key_secret::{KeySecret, KmsKey};
use crate::formats::provider_lists::{self, ListedKey};
use crate::formats::revision::{PluginRecord, RevisionContent};
use crate::ids::{GroupResource, KeyId, Mode};
use crate::names;

/// The state of a revision. A key whose secret has the same key is backed, and has the secret's content. Any
/// other key keeps what is deployed, provider and plugin data included, so that encoding the state again
/// drops nothing.
///
/// # Errors
/// The configuration is not understood as a whole (invariant: understood-or-untouched).
pub fn decode<'a>(
    content: &RevisionContent,
    secrets: impl IntoIterator<Item = &'a KeySecret, IntoIter: Clone>,
) -> Result<State, FormatError> {
    let secrets = secrets.into_iter();
    let mut state = State::default();
    for (resource, list) in provider_lists::lists(&content.config)? {
        let mut keys = ResourceKeys { write: list.writer(), read: Vec::new() };
        for found in list.keys {
            keys.insert(found.id);
            state.keys.entry(found.id).or_insert_with(|| {
                let secret = secrets.clone().find(|secret| is_same(&found, secret));
                secret.map_or_else(|| unbacked(found, &content.plugins), Key::of)
            });
        }
        state.resources.insert(resource, keys);
    }
    Ok(state)
}

/// Keys are equal by mode, key bytes and number, so KMS keys by number alone (openshift: key-equality).
fn is_same(found: &ListedKey<'_>, secret: &KeySecret) -> bool {
    found.id == secret.id && found.mode == secret.mode && found.material == secret.material
}

/// The key as it is deployed.
fn unbacked(found: ListedKey<'_>, plugins: &BTreeMap<KeyId, PluginRecord>) -> Key {
    let ListedKey { id, mode, material, kms } = found;
    let kms = kms.zip(plugins.get(&id)).map(|(kms, plugin)| {
        Arc::new(KmsKey {
            provider: KmsConfiguration { name: id.to_string(), ..kms.clone() },
            plugin: plugin.clone(),
            key_check: None,
        })
    });
    Key { id, mode, material, kms, migrated: Vec::new(), backed: false }
}

/// The revision of this state. `deployed` has the providers of KMS keys without plugin data: they are carried
/// over as they are (decision 0004). OpenShift's controllers leave them out
/// (openshift: unbacked-kms-key-keeps-its-provider).
pub fn encode(state: &State, deployed: Option<&RevisionContent>) -> RevisionContent {
    let mut plugins = BTreeMap::new();
    let entries = state
        .resources
        .iter()
        .map(|(resource, keys)| ResourceConfiguration {
            resources: Some(vec![resource.to_string()]),
            providers: encode_providers(resource, keys, state, deployed, &mut plugins),
        })
        .collect();
    RevisionContent::new(EncryptionConfiguration::new(entries), plugins)
}

fn encode_providers(
    resource: &GroupResource,
    keys: &ResourceKeys,
    state: &State,
    deployed: Option<&RevisionContent>,
    plugins: &mut BTreeMap<KeyId, PluginRecord>,
) -> Vec<ProviderConfiguration> {
    let identity = || ProviderConfiguration { identity: Some(Identity {}), ..Default::default() };
    let mut providers = Vec::new();
    let mut placeholders = Vec::new();
    if keys.write.is_none() {
        providers.push(identity());
    }
    let others = keys.read.iter().filter(|id| Some(**id) != keys.write);
    for (index, id) in keys.write.iter().chain(others).enumerate() {
        let Some(key) = state.key(*id) else { continue };
        match key.mode {
            Mode::Identity => {
                // Once is enough (openshift: identity-once).
                if index == 0 && providers.is_empty() {
                    providers.push(identity());
                }
                placeholders.push(local(Mode::Aesgcm, key));
            }
            Mode::Kms => {
                if let Some(kms) = &key.kms {
                    plugins.entry(key.id).or_insert_with(|| kms.plugin.clone());
                    providers.push(kms_provider(KmsConfiguration {
                        name: names::kms_provider(key.id, resource),
                        ..kms.provider.clone()
                    }));
                } else {
                    let name = names::kms_provider(key.id, resource);
                    let entry = deployed.and_then(|deployed| deployed_entry(deployed, resource, key.id));
                    // Never left out: otherwise the next key would be the writer.
                    providers.push(kms_provider(entry.unwrap_or_else(|| KmsConfiguration {
                        api_version: "v2".to_owned(),
                        name,
                        cachesize: None,
                        endpoint: names::endpoint(key.id),
                        timeout: "10s".to_owned(),
                    })));
                }
            }
            mode => providers.push(local(mode, key)),
        }
    }
    if providers.first().is_none_or(|first| first.identity.is_none()) {
        providers.push(identity());
    }
    providers.append(&mut placeholders);
    providers
}

/// The key's provider in the list of this resource, else that of another resource with the name for this one.
fn deployed_entry(
    deployed: &RevisionContent,
    resource: &GroupResource,
    id: KeyId,
) -> Option<KmsConfiguration> {
    let list = resource.to_string();
    let of_key = |kms: &&KmsConfiguration| {
        kms.name.split_once('_').is_some_and(|(number, _)| number.parse() == Ok(id))
    };
    let found = |own: bool| {
        let lists = deployed.config.resources.iter();
        lists
            .filter(|entry| own == entry.resources.iter().flatten().any(|other| *other == list))
            .flat_map(|entry| &entry.providers)
            .filter_map(|provider| provider.kms.as_ref())
            .find(of_key)
            .cloned()
    };
    let renamed = |kms| KmsConfiguration { name: names::kms_provider(id, resource), ..kms };
    found(true).or_else(|| found(false).map(renamed))
}

fn kms_provider(kms: KmsConfiguration) -> ProviderConfiguration {
    ProviderConfiguration { kms: Some(kms), ..Default::default() }
}

fn local(mode: Mode, key: &Key) -> ProviderConfiguration {
    let keys = Some(KeysConfiguration {
        keys: vec![NamedKey { name: key.id.to_string(), secret: STANDARD.encode(key.material.expose()) }],
    });
    match mode {
        Mode::Aescbc => ProviderConfiguration { aescbc: keys, ..Default::default() },
        Mode::Secretbox => ProviderConfiguration { secretbox: keys, ..Default::default() },
        _ => ProviderConfiguration { aesgcm: keys, ..Default::default() },
    }
}
