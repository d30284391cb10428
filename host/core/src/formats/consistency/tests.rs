use serde_json::{Value, json};

use super::*;
use crate::SecretBytes;
use crate::formats::key_secret::{KmsKey, NULL_KEY};
use crate::formats::revision::PluginRecord;
use crate::ids::Mode;
use crate::provider::KeyRef;

fn config(secrets: Value, configmaps: Value) -> EncryptionConfiguration {
    let entry = |resource: &str, provider: Value| json!({"resources": [resource], "providers": [provider]});
    let config = json!({
        "kind": "EncryptionConfiguration",
        "apiVersion": "apiserver.config.k8s.io/v1",
        "resources": [entry("secrets", secrets), entry("configmaps", configmaps)],
    });
    EncryptionConfiguration::decode(config.to_string().as_bytes()).unwrap()
}

fn aes(kind: &str, id: &str, secret: &str) -> Value {
    json!({kind: {"keys": [{"name": id, "secret": secret}]}})
}

fn kms(name: &str, endpoint: &str) -> Value {
    json!({"kms": {"apiVersion": "v2", "name": name, "endpoint": endpoint, "timeout": "10s"}})
}

#[test]
fn entries_of_all_resources_agree_on_each_key() {
    let check = |secrets, configmaps| {
        same_in_all_resources(&config(secrets, configmaps)).map_err(|error| error.to_string())
    };
    assert_eq!(check(aes("aescbc", "1", "QQ=="), aes("aescbc", "1", "QQ==")), Ok(()));
    assert_eq!(check(aes("aescbc", "1", "QQ=="), aes("aescbc", "2", "Qg==")), Ok(()));
    assert_eq!(check(kms("1_secrets", "unix:///a"), kms("1_configmaps", "unix:///a")), Ok(()));
    let keys = Err("key mismatch for keyID 1: keys from different resources must be identical".to_owned());
    assert_eq!(check(aes("aescbc", "1", "QQ=="), aes("aescbc", "1", "Qg==")), keys);
    assert_eq!(check(aes("aescbc", "1", "QQ=="), aes("aesgcm", "1", "QQ==")), keys);
    assert_eq!(check(kms("1_secrets", "unix:///a"), aes("aesgcm", "1", "QQ==")), keys);
    assert_eq!(check(aes("aescbc", "1", "QUE="), aes("aescbc", "1", "QU\nF=")), Ok(()), "the same bytes");
    let configs =
        Err("KMS plugin config mismatch for keyID 1: configs from different resources must be identical"
            .to_owned());
    assert_eq!(check(kms("1_secrets", "unix:///a"), kms("1_configmaps", "unix:///b")), configs);
    assert_eq!(check(aes("aesgcm", "1", "QQ=="), kms("1_configmaps", "unix:///a")), configs);
}

#[test]
fn two_key_secrets_with_the_same_number_agree() {
    let key = |endpoint: &str, config: &str, secret: &[u8], ca: &[u8]| {
        let reference = |kind, key: &str| KeyRef { kind, name: "a".to_owned(), key: key.to_owned() };
        let referenced = [
            (reference(ReferenceKind::Secret, "token"), SecretBytes::new(secret.to_vec())),
            (reference(ReferenceKind::ConfigMap, "ca"), SecretBytes::new(ca.to_vec())),
        ];
        let kms = KmsKey {
            provider: KmsConfiguration {
                api_version: "v2".to_owned(),
                name: "7".to_owned(),
                cachesize: None,
                endpoint: endpoint.to_owned(),
                timeout: "10s".to_owned(),
            },
            plugin: PluginRecord {
                kms: json!({"type": "Test", "test": config}),
                referenced: referenced.into(),
                accepted: None,
                salt: None,
            },
            key_check: None,
        };
        let material = SecretBytes::new(NULL_KEY.to_vec());
        KeySecret::new(KeyId(7), Mode::Kms, material, Some(kms), String::new())
    };
    let one = key("unix:///a", "a", b"1", b"1");
    let check = |other: &KeySecret| same_key(&one, other).map_err(|error| error.to_string());
    assert_eq!(check(&key("unix:///a", "a", b"1", b"1")), Ok(()));
    let config = "KMS plugin config mismatch for keyID 7: configs from different resources must be identical";
    assert_eq!(check(&key("unix:///b", "a", b"1", b"1")), Err(config.into()));
    assert_eq!(check(&key("unix:///a", "b", b"1", b"1")), Err(config.into()));
    let secret =
        "KMS secret data mismatch for keyID 7: secret data from different resources must be identical";
    assert_eq!(check(&key("unix:///a", "a", b"2", b"1")), Err(secret.into()));
    let map =
        "KMS configmap data mismatch for keyID 7: configmap data from different resources must be identical";
    assert_eq!(check(&key("unix:///a", "a", b"1", b"2")), Err(map.into()));
}
