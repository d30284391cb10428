//! What is encoded is decoded to the same, and what could not be read again is not written.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use keyward_core::SecretBytes;
use keyward_core::formats::FormatError;
use keyward_core::formats::encryption_config::EncryptionConfiguration;
use keyward_core::formats::envelope;
use keyward_core::formats::key_secret::{KeySecret, NULL_KEY};
use keyward_core::formats::revision::{RevisionContent, decode_plugins, encode_plugins};
use keyward_core::ids::{GroupResource, KeyId, Mode};
use keyward_core::names;
use keyward_core::provider::{KeyRef, ReferenceKind};
use proptest::prelude::*;

use crate::any;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn key_secrets(key in any::key_secret()) {
        let secret = key.encode("keyward-system", "kube-apiserver").unwrap();
        let again = KeySecret::decode(&secret).unwrap();
        prop_assert_eq!(&again, &key);
        prop_assert_eq!(again.encode("keyward-system", "kube-apiserver").unwrap(), secret);
        if let (Some(a), Some(b)) = (&key.kms, &again.kms) {
            // The order of the admin's fields too: requests for evaluation are compared as text.
            prop_assert_eq!(a.plugin.kms.to_string(), b.plugin.kms.to_string());
            prop_assert_eq!(a.plugin.digest(key.id), b.plugin.digest(key.id));
        }
    }

    /// As it goes through an API server: base64 in JSON.
    #[test]
    fn key_secrets_as_json(key in any::key_secret()) {
        let secret = key.encode("keyward-system", "kube-apiserver").unwrap();
        let json = serde_json::to_vec(&secret).unwrap();
        prop_assert_eq!(KeySecret::decode(&serde_json::from_slice(&json).unwrap()).unwrap(), key);
    }

    #[test]
    fn migrated_resources_in_any_case_of_letters(
        migrated in proptest::collection::vec(any::resource(), 1..4),
        upper in proptest::collection::vec(any::<bool>(), 40),
    ) {
        let mut key = KeySecret::new(KeyId(1), Mode::Aescbc, SecretBytes::new(vec![1; 32]), None, String::new());
        key.migrated = migrated;
        let mut secret = key.encode("n", "kube-apiserver").unwrap();
        let annotation = secret.metadata.annotations.as_mut().unwrap().get_mut(names::ANNOTATION_MIGRATED_RESOURCES).unwrap();
        let mut flips = upper.iter().cycle();
        for name in ["resources", "Group", "Resource"] {
            let spelled: String = name
                .chars()
                .map(|c| if *flips.next().unwrap() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
                .collect();
            *annotation = annotation.replace(&format!("\"{name}\":"), &format!("\"{spelled}\":"));
        }
        prop_assert_eq!(KeySecret::decode(&secret).unwrap().migrated, key.migrated);
    }

    #[test]
    fn revisions(content in any::deployed()) {
        let data = content.encode();
        let again = RevisionContent::decode("encryption-config-1", &data).unwrap().unwrap();
        prop_assert_eq!(&again, &content);
        prop_assert_eq!(again.encode(), data);
        prop_assert_eq!(again.hash(), content.hash());
        prop_assert_eq!(again.digests(), content.digests());
    }

    /// A candidate is the same without a configuration.
    #[test]
    fn candidates(plugins in any::plugins()) {
        let data = encode_plugins(&plugins);
        prop_assert_eq!(decode_plugins(names::PREFLIGHT_SECRET, &data).unwrap(), plugins);
        prop_assert_eq!(RevisionContent::decode(names::PREFLIGHT_SECRET, &data).unwrap(), None);
    }

    /// A key secret and a revision contain the same data of a key, so a key that is created from a candidate
    /// runs the same.
    #[test]
    fn a_key_made_from_a_candidate_runs_the_same(id in any::<u64>(), kms in any::kms_key(KeyId(7))) {
        let mut kms = kms;
        kms.provider.name = id.to_string();
        let stored = encode_plugins(&BTreeMap::from([(KeyId(id), kms.plugin.clone())]));
        let candidate = decode_plugins("s", &stored).unwrap().remove(&KeyId(id)).unwrap();
        kms.plugin = candidate.clone();
        let key = KeySecret::new(KeyId(id), Mode::Kms, SecretBytes::new(NULL_KEY.to_vec()), Some(kms), String::new());
        let again = KeySecret::decode(&key.encode("n", "c").unwrap()).unwrap().kms.unwrap().plugin.clone();
        prop_assert!(again.runs_the_same(&candidate));
        prop_assert_eq!(again.digest(KeyId(id)), candidate.digest(KeyId(id)));
    }

    #[test]
    fn configurations_as_json(config in any::configuration()) {
        let bytes = config.encode();
        let again = EncryptionConfiguration::decode(&bytes).unwrap();
        prop_assert_eq!(again.encode(), bytes);
        prop_assert_eq!(again, config);
    }

    #[test]
    fn configurations_as_yaml(config in any::configuration()) {
        // Quoted: YAML 1.1 reads some plain scalars in another way than the YAML 1.2 that is written here.
        let options = serde_saphyr::ser_options! { quote_all: true, prefer_block_scalars: false };
        let yaml = serde_saphyr::to_string_with_options(&config, options).unwrap();
        prop_assert!(serde_json::from_str::<serde_json::Value>(&yaml).is_err(), "this is to be about YAML: {}", yaml);
        prop_assert_eq!(EncryptionConfiguration::decode(yaml.as_bytes()).unwrap(), config);
    }

    #[test]
    fn kms_envelopes(kms in any::<u64>().prop_flat_map(|id| any::kms_configuration(id.to_string()))) {
        prop_assert_eq!(envelope::decode_kms(&envelope::encode_kms(&kms)).unwrap(), kms);
    }

    #[test]
    fn plugin_envelopes(kms in any::kms_object()) {
        let again = envelope::decode_plugin(&envelope::encode_plugin(&kms)).unwrap();
        prop_assert_eq!(again.to_string(), kms.to_string(), "as the admin wrote it, in that order");
        prop_assert_eq!(again, kms);
    }

    /// Encoding refuses what decoding rejects (openshift: referenced-data-keys).
    #[test]
    fn names_keys_and_values_that_cannot_be_read_are_not_written(
        key in any::key_secret().prop_filter("KMS", |key| key.kms.is_some()),
        kind in any::reference_kind(),
        (name, data_key, value) in prop_oneof![
            (any::OBJECT_NAME, any::DATA_KEY, Just(vec![])),
            (any::OBJECT_NAME, Just(String::new()), Just(vec![1])),
            (Just(String::new()), any::DATA_KEY, Just(vec![1])),
            ("[a-z]{0,5}_[a-z_]{0,5}", any::DATA_KEY, Just(vec![1])),
        ],
    ) {
        let mut key = key;
        let reference = KeyRef { kind, name, key: data_key };
        let kms = std::sync::Arc::make_mut(key.kms.as_mut().unwrap());
        kms.plugin.referenced.insert(reference, SecretBytes::new(value));
        let error = key.encode("keyward-system", "kube-apiserver").unwrap_err();
        let malformed = matches!(error, FormatError::MalformedReferenceKey { .. });
        prop_assert!(malformed, "{}", error);
        prop_assert!(error.to_string().contains(&key.id.to_string()), "{}", error);
    }

    /// The same from the other side, as somebody else may have written it.
    #[test]
    fn malformed_data_keys_are_rejected(
        key in any::key_secret().prop_filter("KMS", |key| key.kms.is_some()),
        kind in any::reference_kind(),
        rest in "(_[a-z]{0,5}|[a-z]{0,5}_|[a-z.-]{0,9})",
    ) {
        let mut secret = key.encode("keyward-system", "kube-apiserver").unwrap();
        let prefix = match kind {
            ReferenceKind::Secret => names::DATA_KMS_PLUGIN_SECRET,
            ReferenceKind::ConfigMap => names::DATA_KMS_PLUGIN_CONFIGMAP,
        };
        secret.data.as_mut().unwrap().insert(format!("{prefix}{rest}"), ByteString(vec![1]));
        let error = KeySecret::decode(&secret).unwrap_err();
        let shown = format!("secret keyward-system/{} has malformed {kind} data key", secret.metadata.name.as_ref().unwrap());
        prop_assert!(error.to_string().starts_with(&shown), "{}", error);
    }

    /// A key that encrypts has bytes (openshift: key-secret-errors).
    #[test]
    fn keys_without_material_are_neither_written_nor_read(key in any::key_secret()) {
        let mut empty = key.clone();
        empty.material = SecretBytes::default();
        let mut secret = key.encode("n", "c").unwrap();
        secret.data.as_mut().unwrap().insert(names::DATA_KEY.to_owned(), ByteString(vec![]));
        if key.mode == Mode::Identity {
            prop_assert_eq!(KeySecret::decode(&secret).unwrap(), key, "identity is exempt");
        } else {
            let is_empty = |error: FormatError| matches!(error, FormatError::EmptyKey { .. });
            prop_assert!(is_empty(KeySecret::decode(&secret).unwrap_err()));
            prop_assert!(is_empty(empty.encode("n", "c").unwrap_err()));
        }
    }
}

/// Go writes a nil list as null, and reads it, or nothing, as an empty one.
#[test]
fn migrated_resources_that_go_takes_for_none_are_none() {
    let key = KeySecret::new(KeyId(1), Mode::Aescbc, SecretBytes::new(vec![1; 32]), None, String::new());
    for text in [r#"{"resources":null}"#, "{}", r#"{"Resources":[]}"#] {
        let mut secret = key.encode("n", "c").unwrap();
        let annotations = secret.metadata.annotations.as_mut().unwrap();
        annotations.insert(names::ANNOTATION_MIGRATED_RESOURCES.to_owned(), text.to_owned());
        assert_eq!(KeySecret::decode(&secret).unwrap().migrated, Vec::<GroupResource>::new(), "{text}");
    }
}

/// An envelope has exactly one provider, `kms` (openshift: kms-configuration-envelope).
#[test]
fn an_envelope_with_anything_beside_the_kms_configuration_is_none() {
    let envelope = |resources: &str| {
        let text = format!(
            r#"{{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":{resources}}}"#
        );
        envelope::decode_kms(text.as_bytes())
    };
    let kms = r#""kms":{"apiVersion":"v2","name":"7","endpoint":"unix:///a","timeout":"10s"}"#;
    assert!(envelope(&format!(r#"[{{"resources":null,"providers":[{{{kms}}}]}}]"#)).is_ok());
    for refused in [
        "[]".to_owned(),
        format!(r#"[{{"resources":["secrets"],"providers":[{{{kms}}}]}}]"#),
        format!(r#"[{{"resources":null,"providers":[{{{kms}}},{{"identity":{{}}}}]}}]"#),
        format!(r#"[{{"resources":null,"providers":[{{{kms},"identity":{{}}}}]}}]"#),
        r#"[{"resources":null,"providers":[{"identity":{}}]}]"#.to_owned(),
        format!(r#"[{{"resources":null,"providers":[{{{}}}]}}]"#, kms.replace("\"7\"", "\"7_secrets\"")),
    ] {
        assert_eq!(envelope(&refused), Err(FormatError::Envelope), "{refused}");
    }
}
