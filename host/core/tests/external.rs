//! `type: KMS` without `kms` (decision 0079): an external plugin, if a provider module of that type is
//! loaded.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]

mod support;

use keyward_core::formats::key_secret::KeySecret;
use keyward_core::provider::Plugin;
use rstest::rstest;
use serde_json::json;
use support::World;

const ENDPOINT: &str = "unix:///var/run/kmsplugin/kms.sock";
const REQUIRED: &str = "kms config is required when encryption type is KMS, and forbidden otherwise";

fn key(world: &World, number: u64) -> KeySecret {
    let name = format!("encryption-key-kube-apiserver-{number}");
    let found = world.objects.secrets.iter().find(|s| s.metadata.name.as_deref() == Some(name.as_str()));
    KeySecret::decode(found.expect("a key secret")).unwrap()
}

/// The endpoints of the configuration in force.
fn endpoints(world: &World) -> Vec<String> {
    let (_, content) = world.revisions().pop().unwrap();
    let providers = content.config.resources.iter().flat_map(|entry| &entry.providers);
    providers.filter_map(|provider| Some(provider.kms.as_ref()?.endpoint.clone())).collect()
}

#[test]
fn kms_alone_means_the_plugin_that_somebody_else_runs() {
    let mut world = World::new(&["a", "b"]);
    world.external = true;
    world.want("KMS");
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:1,identity");
    assert_eq!(endpoints(&world), [ENDPOINT, ENDPOINT], "verbatim, for secrets and config maps");
    let kms = key(&world, 1).kms.unwrap();
    assert_eq!(
        kms.plugin.kms,
        json!({"type": "External", "external": {}}),
        "the resulting provider configuration is stored"
    );
    assert_eq!(kms.plugin.accepted.clone().unwrap().template, Plugin::External(ENDPOINT.into()));
    assert!(kms.key_check.is_some(), "preflight applies as for any other key");
    assert_eq!(
        world.condition("Encrypted"),
        "True EncryptionCompleted All resources encrypted: configmaps, secrets"
    );
}

#[test]
fn writing_it_out_changes_nothing_and_another_endpoint_makes_a_key() {
    let mut world = World::new(&["a"]);
    world.external = true;
    world.want("KMS");
    world.settle();
    world.log.clear();
    world.spec().encryption.kms = Some(json!({"type": "External", "external": {"endpoint": ENDPOINT}}));
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:1,identity");
    assert!(!world.kinds().contains(&"CreateKey".to_owned()), "{:?}", world.kinds());
    world.spec().encryption.kms =
        Some(json!({"type": "External", "external": {"endpoint": "unix:///run/kms/other.sock"}}));
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity");
    assert!(endpoints(&world).contains(&"unix:///run/kms/other.sock".to_owned()));
}

#[test]
fn from_there_to_a_plugin_that_keyward_runs_and_back() {
    let mut world = World::new(&["a", "b"]);
    world.external = true;
    world.want("KMS");
    world.settle();
    world.want_kms("k", "image");
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity");
    assert_eq!(key(&world, 2).internal_reason, "kms-provider-changed");
    assert!(endpoints(&world).contains(&ENDPOINT.to_owned()), "the first is still read");
    world.want("KMS");
    world.settle();
    assert!(world.config()["secrets"].starts_with("kms:3,kms:2"), "{:?}", world.config());
}

#[test]
fn where_no_module_knows_it_the_kms_config_is_required() {
    let mut world = World::new(&["a"]);
    world.want("KMS");
    world.settle();
    assert!(world.objects.secrets.is_empty(), "nothing is created");
    let degraded = world.condition("EncryptionKeyControllerDegraded");
    assert_eq!(degraded, format!("True Error spec.encryption.kms: {REQUIRED}"));
}

#[test]
fn a_provider_that_is_written_is_named_where_no_module_knows_it() {
    let mut world = World::new(&["a"]);
    world.want("KMS");
    world.spec().encryption.kms = Some(json!({"type": "External", "external": {}}));
    world.settle();
    let degraded = world.condition("EncryptionKeyControllerDegraded");
    assert!(degraded.contains("unsupported KMS provider type \"External\""), "{degraded}");
}

/// A missing module is no reason to change the deployed configuration.
#[test]
fn a_module_that_is_gone_changes_nothing() {
    let mut world = World::new(&["a"]);
    world.external = true;
    world.want("KMS");
    world.settle();
    let before = world.config();
    world.external = false;
    world.log.clear();
    world.settle();
    assert_eq!(world.config(), before);
    assert_eq!(world.kinds(), Vec::<String>::new());
    assert!(world.condition("EncryptionKeyControllerDegraded").contains(REQUIRED));
}

#[rstest]
#[case::plain("identity")]
#[case::local("aescbc")]
fn kms_config_with_another_type_is_a_mistake(#[case] mode: &str) {
    let mut world = World::new(&["a"]);
    world.external = true;
    world.want(mode);
    world.spec().encryption.kms = Some(json!({"type": "External", "external": {}}));
    world.settle();
    assert!(world.objects.secrets.is_empty());
    let degraded = world.condition("EncryptionKeyControllerDegraded");
    assert_eq!(degraded, format!("True Error spec.encryption.kms: {REQUIRED}"));
}
