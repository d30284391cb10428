//! A configuration that is not understood as a whole: nothing replaces it, and the condition names revision
//! and field (invariant: understood-or-untouched). A configuration in another form than Keyward's that is
//! understood loses nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise

mod support;

use k8s_openapi::ByteString;
use keyward_core::ids::ConfigHash;
use keyward_core::names;
use keyward_core::outcome::Action;
use rstest::rstest;
use serde_json::{Value, json};
use support::World;

const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// A cluster with everything under one AES key. The configuration in force was changed, and every API server
/// has loaded the changed one, as a dump shows it.
fn changed(change: impl Fn(&mut Value)) -> (World, u64) {
    let (mut world, revision, hash) = edited(change);
    for node in &mut world.objects.encryption_nodes {
        let status = node.status.as_mut().unwrap();
        status.loaded_hash = Some(hash.clone());
        status.installed_hash = Some(hash.clone());
        node.spec.config_hash = Some(hash.clone());
    }
    (world, revision)
}

/// The same, but no API server has loaded it.
fn edited(change: impl Fn(&mut Value)) -> (World, u64, ConfigHash) {
    let mut world = World::new(&["node-1", "node-2"]);
    world.want("aescbc");
    world.settle();
    let (revision, content) = world.revisions().pop().unwrap();
    assert_eq!(world.config()["secrets"], "aescbc:1,identity");
    let mut config: Value = serde_json::from_slice(content.bytes.expose()).unwrap();
    change(&mut config);
    let bytes = config.to_string().into_bytes();
    let hash = ConfigHash::of(&bytes);
    let name = format!("encryption-config-{revision}");
    let secret = world.objects.secrets.iter_mut().find(|secret| secret.metadata.name.as_ref() == Some(&name));
    secret.unwrap().data.as_mut().unwrap().insert(names::CONFIG_KEY.to_owned(), ByteString(bytes));
    (world, revision, hash)
}

fn entry<'a>(config: &'a mut Value, resource: &str) -> &'a mut Value {
    let entries = config["resources"].as_array_mut().unwrap();
    entries.iter_mut().find(|entry| entry["resources"] == json!([resource])).unwrap()
}

fn insert(config: &mut Value, at: usize, provider: Value) {
    entry(config, "secrets")["providers"].as_array_mut().unwrap().insert(at, provider);
}

#[rstest]
#[case::key_that_has_a_name(
    |config: &mut Value| insert(config, 1, json!({"secretbox": {"keys": [{"name": "key1", "secret": KEY}]}})),
    "resources[1].providers[1].secretbox.keys[0].name: is not a keyID: a positive number without leading zeros"
)]
#[case::writer_that_has_a_name(
    |config: &mut Value| insert(config, 0, json!({"secretbox": {"keys": [{"name": "key1", "secret": KEY}]}})),
    "resources[1].providers[0].secretbox.keys[0].name: is not a keyID: a positive number without leading zeros"
)]
#[case::wildcard(
    |config: &mut Value| entry(config, "secrets")["resources"] = json!(["*."]),
    "resources[1].resources[0]: wildcards are not supported; name each resource"
)]
#[case::wildcard_of_everything(
    |config: &mut Value| {
        let providers = entry(config, "secrets")["providers"].clone();
        config["resources"].as_array_mut().unwrap().push(json!({"resources": ["*.*"], "providers": providers}));
    },
    "resources[2].resources[0]: wildcards are not supported; name each resource"
)]
#[case::unknown_provider(
    |config: &mut Value| insert(config, 0, json!({"aesgcmsiv": {"keys": []}})),
    "resources[1].providers[0]: has an unknown field; known are aesgcm, aescbc, secretbox, identity, kms"
)]
#[case::not_base64(
    |config: &mut Value| insert(config, 0, json!({"aescbc": {"keys": [{"name": "2", "secret": "%"}]}})),
    "resources[1].providers[0].aescbc.keys[0].secret: is not a key in base64"
)]
#[case::no_keys(
    |config: &mut Value| insert(config, 0, json!({"aescbc": {"keys": []}})),
    "resources[1].providers[0].aescbc.keys: at least one is required"
)]
#[case::kms_of_somebody_else(
    |config: &mut Value| insert(config, 0, json!({"kms": {"apiVersion": "v2", "name": "2_vault", "endpoint": "unix:///a"}})),
    "resources[1].providers[0].kms.name: must be 2_secrets: values of secrets are stored under this name"
)]
#[case::no_providers(
    |config: &mut Value| entry(config, "secrets")["providers"] = json!([]),
    "resources[1].providers: at least one is required"
)]
fn a_configuration_that_is_not_understood_is_left_alone(#[case] change: fn(&mut Value), #[case] why: &str) {
    let (mut world, revision) = changed(change);
    let shown = format!("revision {revision}: failed to decode EncryptionConfiguration: {why}");
    // For every request: the same mode, another mode, plain text.
    for mode in ["aescbc", "secretbox", "identity"] {
        world.want(mode);
        for _ in 0..20 {
            let outcome = world.reconcile();
            let actions: Vec<Value> = outcome.actions.iter().map(Action::describe).collect();
            assert_eq!(actions, Vec::<Value>::new());
        }
        let expected = format!("True RevisionUnreadable {shown}");
        assert_eq!(world.condition("EncryptionRolloutControllerDegraded"), expected);
        assert_eq!(world.condition("Progressing"), expected);
    }
}

/// The remedy: the operator recreates the Secret from the status and the key secrets.
#[test]
fn an_edited_revision_that_is_deleted_is_recreated() {
    let (mut world, revision, hash) = edited(|config| entry(config, "secrets")["resources"] = json!(["*."]));
    world.reconcile();
    assert!(world.condition("Progressing").starts_with("True RevisionUnreadable"));
    let name = format!("encryption-config-{revision}");
    world.objects.secrets.retain(|secret| secret.metadata.name.as_ref() != Some(&name));
    world.settle();
    let (again, content) = world.revisions().pop().unwrap();
    assert_eq!(again, revision);
    assert_ne!(content.hash(), hash);
    assert_eq!(world.config()["secrets"], "aescbc:1,identity");
    assert!(world.condition("Encrypted").starts_with("True EncryptionCompleted"));
}

/// The API server appends the lists of all entries that name a resource, and reads with every key of a
/// provider.
#[test]
fn another_form_that_is_understood_loses_no_key() {
    let (mut world, _) = changed(|config| {
        let own = entry(config, "secrets")["providers"][0].clone();
        let two = json!([{"name": "3", "secret": KEY}, {"name": "2", "secret": "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=\n"}]);
        let both = json!(["secrets", "configmaps"]);
        config["resources"] = json!([
            {"resources": both, "providers": [own]},
            {"resources": ["secrets"], "providers": [{"secretbox": {"keys": two}}, {"identity": {}}]},
            {"resources": ["configmaps"], "providers": [{"identity": {}}]},
        ]);
    });
    world.reconcile();
    assert_eq!(world.config()["secrets"], "aescbc:1,secretbox:3,secretbox:2,identity");
    assert_eq!(world.config()["configmaps"], "aescbc:1,identity");
}
