//! Every format round-trips, and no decoder panics on unknown input.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use keyward_core::api::{KeyCheck, PluginSettings};
use keyward_core::formats::encryption_config::{EncryptionConfiguration, KmsConfiguration, REVISION_ZERO};
use keyward_core::formats::key_secret::{KeySecret, KmsKey, NULL_KEY};
use keyward_core::formats::revision::{
    AcceptedPlugin, PluginRecord, RevisionContent, decode_plugins, encode_plugins,
};
use keyward_core::ids::{ConfigHash, GroupResource, KeyId, Mode, RemoteKeyId, Revision};
use keyward_core::provider::{Container, KeyRef, ModuleDigest, Plugin, ReferenceKind};
use keyward_core::{SecretBytes, formats};
use proptest::prelude::*;
use serde_json::json;

fn record() -> PluginRecord {
    let reference = |kind, name: &str, key: &str| KeyRef { kind, name: name.into(), key: key.into() };
    PluginRecord {
        kms: json!({"type": "Test", "test": {"zebra": 1, "address": "https://kms.example.com"}}),
        referenced: BTreeMap::from([
            (reference(ReferenceKind::Secret, "app-role", "secret-id"), SecretBytes::new(b"s3cret".to_vec())),
            (
                reference(ReferenceKind::ConfigMap, "ca-bundle", "ca_bundle.crt"),
                SecretBytes::new(b"PEM".to_vec()),
            ),
        ]),
        accepted: Some(AcceptedPlugin {
            image: Some("registry.example.com/plugin@sha256:00".into()),
            template: Plugin::Managed(Container {
                command: vec![],
                args: vec![],
                env: vec![],
                files: vec![],
                ports: vec!["health".into()],
                health: None,
                cpu_request_millis: 10,
                memory_request_mib: 64,
                settings: BTreeMap::new(),
            }),
            settings: PluginSettings::default(),
            module_digest: Some(ModuleDigest("sha256:ab".into())),
        }),
        salt: Some(SecretBytes::new(vec![1; 32])),
    }
}

fn key() -> KeySecret {
    let kms = KmsKey {
        provider: KmsConfiguration {
            api_version: "v2".into(),
            name: "7".into(),
            cachesize: None,
            endpoint: "unix:///var/run/kmsplugin/kms-7/kms.sock".into(),
            timeout: "10s".into(),
        },
        plugin: record(),
        key_check: Some(KeyCheck {
            ciphertext: "Y2lwaGVy".into(),
            remote_key_id: RemoteKeyId("kek-1".into()),
            annotations: BTreeMap::new(),
            plaintext_sha256: "00".into(),
        }),
    };
    let material = SecretBytes::new(NULL_KEY.to_vec());
    let mut key = KeySecret::new(KeyId(7), Mode::Kms, material, Some(kms), "kms-provider-changed".into());
    key.external_reason = "because".into();
    key.migrated = vec![GroupResource::parse("secrets"), GroupResource::parse("routes.route.openshift.io")];
    key.migrated_at = Some("2026-05-08T12:34:56Z".parse().unwrap());
    key.write_published = Some(Revision(3));
    key
}

#[test]
fn a_key_secret_round_trips() {
    let key = key();
    let secret = key.encode("keyward-system", "kube-apiserver").unwrap();
    assert_eq!(secret.metadata.name.as_deref(), Some("encryption-key-kube-apiserver-7"));
    let annotations = secret.metadata.annotations.as_ref().unwrap();
    assert_eq!(
        annotations["encryption.apiserver.operator.openshift.io/migrated-resources"],
        r#"{"resources":[{"Group":"","Resource":"secrets"},{"Group":"route.openshift.io","Resource":"routes"}]}"#
    );
    assert_eq!(
        annotations["encryption.apiserver.operator.openshift.io/migrated-timestamp"],
        "2026-05-08T12:34:56Z"
    );
    let data = secret.data.as_ref().unwrap();
    assert!(data.contains_key(
        "encryption.apiserver.operator.openshift.io-kms-plugin-configmap-ca-bundle_ca_bundle.crt"
    ));
    assert_eq!(KeySecret::decode(&secret).unwrap(), key);
}

#[test]
fn lower_case_migrated_resources_are_read() {
    let mut secret = key().encode("n", "kube-apiserver").unwrap();
    secret.metadata.annotations.as_mut().unwrap().insert(
        "encryption.apiserver.operator.openshift.io/migrated-resources".into(),
        r#"{"resources":[{"group":"","resource":"secrets"}]}"#.into(),
    );
    assert_eq!(KeySecret::decode(&secret).unwrap().migrated, vec![GroupResource::parse("secrets")]);
}

#[test]
fn decode_failures_name_the_secret_and_the_key() {
    let broken = |change: &dyn Fn(&mut Secret)| {
        let mut secret = key().encode("keyward-system", "kube-apiserver").unwrap();
        change(&mut secret);
        KeySecret::decode(&secret).unwrap_err().to_string()
    };
    let prefix = "encryption.apiserver.operator.openshift.io";
    assert_eq!(
        broken(&|s| s.metadata.name = Some("encryption-key-kube-apiserver-x".into())),
        "secret keyward-system/encryption-key-kube-apiserver-x has an invalid name"
    );
    assert_eq!(
        broken(&|s| {
            s.metadata.annotations.as_mut().unwrap().insert(format!("{prefix}/mode"), "rot13".into());
        }),
        "secret keyward-system/encryption-key-kube-apiserver-7 has invalid mode: rot13"
    );
    assert_eq!(
        broken(&|s| {
            s.data.as_mut().unwrap().remove(&format!("{prefix}-kms-plugin-config"));
        }),
        format!("{prefix}-kms-plugin-config can not be empty, when mode is KMS")
    );
    assert!(
        broken(&|s| {
            let key = format!("{prefix}-kms-plugin-secret-noseparator");
            s.data.as_mut().unwrap().insert(key, ByteString(vec![1]));
        })
        .contains("malformed secret data key")
    );
}

#[test]
fn the_digest_is_of_what_runs_and_of_nothing_else() {
    let record = record();
    let digest = record.digest(KeyId(7)).unwrap();
    let mut other = record.clone();
    other.accepted.as_mut().unwrap().module_digest = None;
    assert_eq!(other.digest(KeyId(7)).unwrap(), digest, "the module that rendered it is not compared");
    let entries = formats::digest::digest(other.salt.as_ref().unwrap(), &other.entries(KeyId(7)));
    assert_eq!(entries, digest, "it is of the entries as they are written");
    let mut other = record.clone();
    other.accepted.as_mut().unwrap().image = Some("registry.example.com/plugin@sha256:01".into());
    assert_ne!(other.digest(KeyId(7)).unwrap(), digest);
    let mut other = record.clone();
    *other.referenced.values_mut().next().unwrap() = SecretBytes::new(b"new".to_vec());
    assert_ne!(other.digest(KeyId(7)).unwrap(), digest);
    let mut other = record;
    other.salt = Some(SecretBytes::new(vec![2; 32]));
    assert_ne!(other.digest(KeyId(7)).unwrap(), digest, "keyed: it publishes nothing");
}

#[test]
fn a_revision_round_trips_through_its_secret() {
    let config = EncryptionConfiguration::decode(REVISION_ZERO.as_bytes()).unwrap();
    assert_eq!(config.encode(), REVISION_ZERO.as_bytes(), "byte for byte");
    let content = RevisionContent::new(config, BTreeMap::from([(KeyId(7), record())]));
    let data = content.encode();
    assert!(data.contains_key("kms-plugin-secret-app-role_secret-id-7"), "{:?}", data.keys());
    let again = RevisionContent::decode("encryption-config-1", &data).unwrap().unwrap();
    assert_eq!(again, content);
    assert_eq!(again.digests(), content.digests());
}

#[test]
fn what_follows_from_a_revision_follows_its_changes() {
    let config = EncryptionConfiguration::decode(REVISION_ZERO.as_bytes()).unwrap();
    let content = RevisionContent::new(config, BTreeMap::from([(KeyId(7), record())]));
    let (hash, digest) = (content.hash(), content.digest(KeyId(7)).unwrap().clone());
    assert_eq!(Some(&digest), content.digests().get(&KeyId(7)));
    let mut other = content.clone();
    other.bytes = SecretBytes::new(b"other".to_vec());
    other.plugins.get_mut(&KeyId(7)).unwrap().salt = Some(SecretBytes::new(vec![2; 32]));
    assert_ne!(other, content);
    assert_eq!(other.hash(), ConfigHash::of(b"other"));
    assert_eq!(other.digest(KeyId(7)), other.plugins[&KeyId(7)].digest(KeyId(7)).as_ref());
    assert_ne!(other.digest(KeyId(7)), Some(&digest));
    assert_eq!(
        (content.hash(), content.digest(KeyId(7))),
        (hash, Some(&digest)),
        "the first one is as it was"
    );
    assert_eq!(other.digest(KeyId(8)), None);
}

#[test]
fn plugin_keys_are_parsed_as_on_openshift() {
    let mut data = encode_plugins(&BTreeMap::from([(KeyId(7), record())]));
    data.insert("kms-plugin-secret-nodash".into(), SecretBytes::new(vec![1]));
    data.insert("kms-plugin-config-".into(), SecretBytes::new(vec![1]));
    assert_eq!(decode_plugins("s", &data).unwrap().len(), 1, "no dash and no number: another kind of key");
    data.insert("kms-plugin-secret-a_b-x".into(), SecretBytes::new(vec![1]));
    assert_eq!(
        decode_plugins("s", &data).unwrap_err().to_string(),
        "invalid keyID \"x\": must be a non-negative integer"
    );
}

#[test]
fn no_secret_is_in_debug_output() {
    let text = format!("{:?}", key());
    assert!(!text.contains("s3cret") && !text.contains("115, 51"), "{text}");
}

#[test]
fn yaml_configurations_are_read_with_upstream_defaults() {
    let text = "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n- resources: [secrets]\n  providers:\n  - kms: {name: a, endpoint: 'unix:///a'}\n  - identity: {}\n";
    let config = EncryptionConfiguration::decode(text.as_bytes()).unwrap();
    let kms = config.resources[0].providers[0].kms.as_ref().unwrap();
    assert_eq!((kms.timeout.as_str(), kms.api_version.as_str()), ("3s", "v1"));
}

proptest! {
    #[test]
    fn decoders_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), key in "[a-z0-9_.-]{0,60}") {
        let _ = EncryptionConfiguration::decode(&bytes);
        let mut secret = key_secret_with(&key, &bytes);
        let _ = KeySecret::decode(&secret);
        secret.metadata.name = Some(key.clone());
        let _ = KeySecret::decode(&secret);
        let data = BTreeMap::from([
            (key, SecretBytes::new(bytes.clone())),
            ("encryption-config".to_owned(), SecretBytes::new(bytes)),
        ]);
        let _ = RevisionContent::decode("s", &data);
    }
}

fn key_secret_with(key_name: &str, bytes: &[u8]) -> Secret {
    let mut secret = key().encode("n", "kube-apiserver").unwrap();
    let data = secret.data.as_mut().unwrap();
    data.insert(format!("encryption.apiserver.operator.openshift.io-{key_name}"), ByteString(bytes.to_vec()));
    secret
}
