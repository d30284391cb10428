//! From a state to a configuration and back nothing is lost (openshift: provider-order,
//! openshift: providers-to-keys, decision 0004).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keyward_core::SecretBytes;
use keyward_core::formats::encryption_config::KmsConfiguration;
use keyward_core::formats::key_secret::KeySecret;
use keyward_core::formats::revision::{PluginRecord, RevisionContent};
use keyward_core::ids::{GroupResource, KeyId, Mode};
use keyward_core::machine::{self, Key, ResourceKeys, State};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::subsequence;

use crate::any;

/// Keys with everything that they need, by number.
fn keys() -> impl Strategy<Value = BTreeMap<KeyId, Key>> {
    let key = (1..40_u64, any::mode()).prop_flat_map(|(id, mode)| {
        let id = KeyId(id);
        let kms = if mode == Mode::Kms {
            (any::kms_configuration(id.to_string()), any::record()).prop_map(Some).boxed()
        } else {
            Just(None).boxed()
        };
        (any::material(mode), kms).prop_map(move |(material, kms)| {
            let kms = kms.map(|(provider, plugin)| {
                let provider = KmsConfiguration { api_version: "v2".to_owned(), ..provider };
                Arc::new(keyward_core::formats::key_secret::KmsKey { provider, plugin, key_check: None })
            });
            Key { id, mode, material, kms, migrated: Vec::new(), backed: false }
        })
    });
    vec(key, 1..6).prop_map(|keys| keys.into_iter().map(|key| (key.id, key)).collect())
}

fn state() -> impl Strategy<Value = State> {
    keys().prop_flat_map(|keys| {
        let ids: Vec<KeyId> = keys.keys().rev().copied().collect();
        let count = ids.len();
        let of_resource = (subsequence(ids, 0..=count), any::<prop::sample::Index>(), any::<bool>());
        let modes: BTreeMap<KeyId, Mode> = keys.iter().map(|(id, key)| (*id, key.mode)).collect();
        btree_map(any::resource(), of_resource, 1..4).prop_map(move |resources| {
            let resources: BTreeMap<GroupResource, ResourceKeys> = resources
                .into_iter()
                .map(|(resource, (read, index, plain))| {
                    // Without a write key, the first identity key counts as the write key
                    // (openshift: providers-to-keys).
                    let plain = plain && read.iter().all(|id| modes[id] != Mode::Identity);
                    let write = (!plain && !read.is_empty()).then(|| *index.get(&read));
                    (resource, ResourceKeys { write, read })
                })
                .collect();
            let used: BTreeSet<KeyId> =
                resources.values().flat_map(|keys| keys.read.iter().copied()).collect();
            State {
                keys: keys
                    .iter()
                    .filter(|(id, _)| used.contains(id))
                    .map(|(id, key)| (*id, key.clone()))
                    .collect(),
                resources,
            }
        })
    })
}

/// Key secrets of the deployed keys.
fn secrets_of(state: &State, of: &BTreeSet<u64>) -> Vec<KeySecret> {
    state
        .keys
        .values()
        .filter(|key| of.contains(&key.id.0))
        .map(|key| {
            let kms = key.kms.as_deref().cloned();
            KeySecret::new(key.id, key.mode, key.material.clone(), kms, String::new())
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_configuration_that_is_decoded_and_encoded_keeps_every_provider(content in any::deployed(), backed in btree_set(1..40_u64, 0..40)) {
        let unbacked = machine::decode(&content, &[]).unwrap();
        for secrets in [Vec::new(), secrets_of(&unbacked, &backed)] {
            let again = machine::encode(&machine::decode(&content, &secrets).unwrap(), Some(&content));
            let (before, after) = (content.config.lists(), again.config.lists());
            prop_assert_eq!(before, after);
            // Each entry as it was, names and endpoints too.
            let entries = |content: &RevisionContent| {
                let mut resources = content.config.resources.clone();
                resources.sort_by(|a, b| a.resources.cmp(&b.resources));
                resources
            };
            prop_assert!(entries(&content) == entries(&again), "{:#?}\n{:#?}", content.config, again.config);
            let kms = content.kms_keys();
            let data = |content: &RevisionContent| -> BTreeMap<KeyId, PluginRecord> {
                content.plugins.iter().filter(|(id, _)| kms.contains(id)).map(|(id, record)| (*id, record.clone())).collect()
            };
            prop_assert_eq!(data(&content), data(&again), "and what their plugins need");
        }
    }

    #[test]
    fn a_state_that_is_encoded_and_decoded_keeps_write_and_read_keys(state in state()) {
        let content = machine::encode(&state, None);
        let again = machine::decode(&content, &[]).unwrap();
        prop_assert_eq!(&again, &state);
        // And through the Secret that it is stored in.
        let stored = RevisionContent::decode("encryption-config-1", &content.encode()).unwrap().unwrap();
        prop_assert_eq!(&stored, &content);
        prop_assert_eq!(machine::decode(&stored, &[]).unwrap(), state);
    }

    /// Plain text is written only if the state says so, and every list can read it
    /// (invariant: no-unrequested-plain-text).
    #[test]
    fn identity_writes_exactly_where_the_state_says_so(state in state()) {
        let content = machine::encode(&state, None);
        for (resource, keys) in &state.resources {
            let list = &content.config.lists()[&resource.to_string()];
            let plain = keys.write.is_none_or(|id| state.keys[&id].mode == Mode::Identity);
            prop_assert_eq!(list[0] == "identity", plain, "{:?}", list);
            prop_assert_eq!(list.iter().filter(|name| *name == "identity").count(), 1, "{:?}", list);
        }
        prop_assert_eq!(content.key_ids(), state.keys.keys().copied().collect::<BTreeSet<_>>());
    }

    /// A key is backed only by a key secret with the same key.
    #[test]
    fn only_the_same_key_is_backed(content in any::deployed(), backed in btree_set(1..40_u64, 0..40), other in any::secret(32..33)) {
        let unbacked = machine::decode(&content, &[]).unwrap();
        let secrets = secrets_of(&unbacked, &backed);
        for key in machine::decode(&content, &secrets).unwrap().keys.values() {
            prop_assert_eq!(key.backed, backed.contains(&key.id.0));
        }
        let forged: Vec<KeySecret> = secrets
            .into_iter()
            .filter(|secret| secret.mode.is_local())
            .map(|mut secret| {
                secret.material = SecretBytes::new([other.expose(), b"!"].concat());
                secret
            })
            .collect();
        prop_assert!(machine::decode(&content, &forged).unwrap().keys.values().all(|key| !key.backed));
    }
}
