//! The next configuration as tables (openshift: read-keys-come-first, openshift: switch-to-identity,
//! openshift: deleted-local-key-secret), in that page's notation (openshift: provider-list-notation).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]

use keyward_core::formats::encryption_config::{
    EncryptionConfiguration, Identity, KeysConfiguration, KmsConfiguration, NamedKey, ProviderConfiguration,
    ResourceConfiguration,
};
use keyward_core::formats::key_secret::{KeySecret, KmsKey, NULL_KEY};
use keyward_core::formats::revision::{PluginRecord, RevisionContent};
use keyward_core::ids::{GroupResource, KeyId, Mode};
use keyward_core::machine::{self, Facts, Key, Step};
use keyward_core::{SecretBytes, names};
use rstest::rstest;
use serde_json::json;

fn material(mode: Mode, id: u64) -> Vec<u8> {
    if mode.is_local() { vec![u8::try_from(id).unwrap(); 32] } else { NULL_KEY.to_vec() }
}

fn plugin(id: u64) -> PluginRecord {
    PluginRecord {
        kms: json!({"type": "Test", "test": {"key": id}}),
        referenced: Default::default(),
        accepted: None,
        salt: Some(SecretBytes::new(vec![7; 32])),
    }
}

fn provider(id: u64, name: String) -> KmsConfiguration {
    KmsConfiguration {
        api_version: "v2".into(),
        name,
        cachesize: None,
        endpoint: names::endpoint(KeyId(id)),
        timeout: "10s".into(),
    }
}

/// `aescbc:6` or `kms:7!` (`!`: migrated for secrets).
fn secret(text: &str) -> KeySecret {
    let (text, migrated) = text.strip_suffix('!').map_or((text, false), |text| (text, true));
    let (mode, id) = text.split_once(':').unwrap();
    let id: u64 = id.parse().unwrap();
    let mode = match mode {
        "kms" => Mode::Kms,
        other => Mode::parse(other).unwrap(),
    };
    let kms = (mode == Mode::Kms).then(|| KmsKey {
        provider: provider(id, id.to_string()),
        plugin: plugin(id),
        key_check: None,
    });
    let mut key =
        KeySecret::new(KeyId(id), mode, SecretBytes::new(material(mode, id)), kms, "test".to_owned());
    if migrated {
        key.migrated = vec![GroupResource::parse("secrets")];
    }
    key
}

fn secrets(text: &str) -> Vec<KeySecret> {
    let mut keys: Vec<KeySecret> = text.split_whitespace().map(secret).collect();
    keys.sort_by_key(|key| std::cmp::Reverse(key.id));
    keys
}

/// `aescbc:6,kms:5,identity,aesgcm:4`, for secrets; `-` for no configuration. Behind `identity`, `aesgcm:N`
/// is the number of an identity key (openshift: identity-keys).
fn content(text: &str) -> Option<RevisionContent> {
    if text == "-" {
        return None;
    }
    let mut seen_identity = false;
    let mut plugins = std::collections::BTreeMap::new();
    let providers = text
        .split(',')
        .map(|each| {
            if each == "identity" {
                seen_identity = true;
                return ProviderConfiguration { identity: Some(Identity {}), ..Default::default() };
            }
            let (mode, id) = each.split_once(':').unwrap();
            let number: u64 = id.parse().unwrap();
            if mode == "kms" {
                plugins.insert(KeyId(number), plugin(number));
                return ProviderConfiguration {
                    kms: Some(provider(number, format!("{id}_secrets"))),
                    ..Default::default()
                };
            }
            let is_number = mode == "aesgcm" && seen_identity;
            let bytes = if is_number { NULL_KEY.to_vec() } else { vec![u8::try_from(number).unwrap(); 32] };
            use base64::Engine as _;
            let keys = Some(KeysConfiguration {
                keys: vec![NamedKey {
                    name: id.to_owned(),
                    secret: base64::engine::general_purpose::STANDARD.encode(bytes),
                }],
            });
            match mode {
                "aescbc" => ProviderConfiguration { aescbc: keys, ..Default::default() },
                "aesgcm" => ProviderConfiguration { aesgcm: keys, ..Default::default() },
                _ => ProviderConfiguration { secretbox: keys, ..Default::default() },
            }
        })
        .collect();
    let entry = ResourceConfiguration { resources: Some(vec!["secrets".into()]), providers };
    Some(RevisionContent::new(EncryptionConfiguration::new(vec![entry]), plugins))
}

fn next(config: &str, keys: &str) -> (String, Step) {
    let secrets = secrets(keys);
    let content = content(config);
    let state = content.as_ref().map(|content| machine::decode(content, &secrets).unwrap());
    let backed: Vec<Key> = secrets.iter().map(Key::of).collect();
    let desired =
        machine::desired(state.as_ref(), &backed, &[GroupResource::parse("secrets")], &Facts::default());
    let encoded = machine::encode(&desired.state, content.as_ref());
    (encoded.config.lists().remove("secrets").unwrap_or_default().join(","), desired.step)
}

#[rstest]
#[case::a_first_key_is_read_before_it_writes("-", "kms:1", "identity,kms:1", Step::ReadKeys)]
#[case::then_it_writes("identity,kms:1", "kms:1", "kms:1,identity", Step::WriteKey)]
#[case::then_it_waits_for_the_migration("kms:1,identity", "kms:1", "kms:1,identity", Step::Migrating)]
#[case::and_settles("kms:1,identity", "kms:1!", "kms:1,identity", Step::Settled)]
#[case::a_second_key_is_read_first("kms:1,identity", "kms:1! kms:2", "kms:1,kms:2,identity", Step::ReadKeys)]
#[case::a_second_key_then_writes(
    "kms:1,kms:2,identity",
    "kms:1! kms:2",
    "kms:2,kms:1,identity",
    Step::WriteKey
)]
#[case::one_predecessor_stays("kms:2,kms:1,identity", "kms:1! kms:2!", "kms:2,kms:1,identity", Step::Settled)]
#[case::older_ones_leave(
    "kms:3,kms:2,kms:1,identity",
    "kms:1! kms:2! kms:3!",
    "kms:3,kms:2,identity",
    Step::Settled
)]
#[case::older_ones_stay_until_it_is_migrated(
    "kms:3,kms:2,kms:1,identity",
    "kms:1! kms:2! kms:3",
    "kms:3,kms:2,kms:1,identity",
    Step::Migrating
)]
#[case::identity_is_a_key_of_its_own(
    "aescbc:1,identity",
    "aescbc:1! identity:2",
    "aescbc:1,identity,aesgcm:2",
    Step::ReadKeys
)]
#[case::identity_then_writes(
    "aescbc:1,identity,aesgcm:2",
    "aescbc:1! identity:2",
    "identity,aescbc:1,aesgcm:2",
    Step::WriteKey
)]
#[case::kms_after_identity(
    "identity,kms:1,aesgcm:2",
    "kms:1! identity:2! kms:3",
    "identity,kms:3,kms:1,aesgcm:2",
    Step::ReadKeys
)]
// The page's example: secret 6 is deleted (openshift: deleted-local-key-secret).
#[case::a_deleted_aes_key_stays(
    "aescbc:6,aescbc:5,identity",
    "aescbc:5! aescbc:4",
    "aescbc:6,aescbc:5,aescbc:4,identity",
    Step::ReadKeys
)]
#[case::the_next_one_is_added(
    "aescbc:6,aescbc:5,aescbc:4,identity",
    "aescbc:7 aescbc:5! aescbc:4",
    "aescbc:6,aescbc:7,aescbc:5,aescbc:4,identity",
    Step::ReadKeys
)]
#[case::and_promoted(
    "aescbc:6,aescbc:7,aescbc:5,aescbc:4,identity",
    "aescbc:7 aescbc:5! aescbc:4",
    "aescbc:7,aescbc:6,aescbc:5,aescbc:4,identity",
    Step::WriteKey
)]
#[case::keys_between_survive(
    "aescbc:7,aescbc:6,aescbc:5,aescbc:4,identity",
    "aescbc:7! aescbc:5! aescbc:4",
    "aescbc:7,aescbc:6,aescbc:5,identity",
    Step::Settled
)]
#[case::all_deleted_changes_nothing(
    "aescbc:6,aescbc:5,identity",
    "",
    "aescbc:6,aescbc:5,identity",
    Step::NoKeys
)]
// OpenShift removes the provider of a deleted KMS key secret (openshift: deleted-kms-key-secret); Keyward
// does not (decision 0004).
#[case::a_deleted_kms_key_keeps_its_provider(
    "kms:13,kms:12,identity",
    "kms:12! aescbc:11",
    "kms:13,kms:12,aescbc:11,identity",
    Step::ReadKeys
)]
#[case::a_deleted_old_kms_key_keeps_its_provider(
    "kms:13,kms:12,aescbc:11,identity",
    "kms:13 aescbc:11!",
    "kms:13,kms:12,aescbc:11,identity",
    Step::Migrating
)]
#[case::the_only_kms_key_deleted("kms:13,identity", "", "kms:13,identity", Step::NoKeys)]
// There is no second identity (openshift: identity-once).
#[case::an_identity_key_without_configuration(
    "-",
    "aescbc:1 identity:2",
    "identity,aescbc:1,aesgcm:2",
    Step::ReadKeys
)]
fn the_next_configuration(
    #[case] config: &str,
    #[case] keys: &str,
    #[case] expected: &str,
    #[case] step: Step,
) {
    assert_eq!(next(config, keys), (expected.to_owned(), step));
}

#[test]
fn plugin_data_of_an_unbacked_key_is_carried_over() {
    let deployed = content("kms:13,kms:12,identity").unwrap();
    let state = machine::decode(&deployed, &secrets("kms:12!")).unwrap();
    let again = machine::encode(&state, Some(&deployed));
    assert_eq!(again, deployed, "nothing is lost: {:?}", again.config);
    assert!(again.plugins.contains_key(&KeyId(13)));
}

#[test]
fn a_configuration_encodes_as_go_writes_it() {
    let text = String::from_utf8(content("kms:1,identity").unwrap().config.encode()).unwrap();
    assert_eq!(
        text,
        concat!(
            r#"{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{"resources":["secrets"],"#,
            r#""providers":[{"kms":{"apiVersion":"v2","name":"1_secrets","endpoint":"unix:///var/run/kmsplugin/kms-1/kms.sock","timeout":"10s"}},"#,
            r#"{"identity":{}}]}]}"#,
            "\n"
        )
    );
}

/// A list that begins with `identity` does not show whether an identity key in it writes. If such a key
/// leaves, `identity` still writes: another key might not be readable everywhere yet
/// (invariant: read-before-write).
#[test]
fn an_identity_key_that_leaves_makes_no_other_key_the_write_key() {
    let keys: Vec<Key> = secrets("kms:2! aescbc:1").iter().map(Key::of).collect();
    let with_identity = content("identity,kms:2,aescbc:1,aesgcm:3").unwrap();
    let state = machine::decode(&with_identity, &secrets("identity:3 kms:2! aescbc:1")).unwrap();
    let facts = Facts { leaving: [KeyId(3)].into(), ..Facts::default() };
    let without = machine::without(&state, &keys, &facts, &|_, _| true);
    assert_eq!(machine::encode(&without, None).config.lists()["secrets"], ["identity", "kms:2", "aescbc:1"]);
}

/// The successor of a forgotten write key is not an older identity key, because encryption is still requested
/// (invariant: no-unrequested-plain-text), and not a key whose key check is refused. A key that every API
/// server has loaded is preferred (invariant: read-before-write).
#[rstest]
#[case::read_key("kms:3,aescbc:1,identity", "kms:3! aescbc:1", "", "", "aescbc:1,identity")]
#[case::no_identity_key_from_before(
    "kms:3,identity,aesgcm:2",
    "kms:3! identity:2",
    "",
    "",
    "kms:3,identity,aesgcm:2"
)]
#[case::an_identity_key_after_it("kms:3,identity", "identity:4 kms:3!", "", "", "identity,aesgcm:4")]
#[case::no_refused_one("kms:1,kms:2,identity", "kms:2! kms:1!", "2", "", "kms:1,kms:2,identity")]
#[case::one_that_all_have(
    "kms:2,kms:3,aescbc:1,identity",
    "kms:3! kms:2! aescbc:1",
    "",
    "1",
    "aescbc:1,kms:3,identity"
)]
#[case::else_any_that_reads(
    "kms:2,kms:3,aescbc:1,identity",
    "kms:3! kms:2! aescbc:1",
    "",
    "9",
    "kms:3,aescbc:1,identity"
)]
fn the_successor_of_a_forgotten_write_key(
    #[case] deployed: &str,
    #[case] keys: &str,
    #[case] refused: &str,
    #[case] everywhere: &str,
    #[case] expected: &str,
) {
    let known = secrets(keys);
    let state = machine::decode(&content(deployed).unwrap(), &known).unwrap();
    let writer = state.write_key(&GroupResource::parse("secrets")).unwrap().id;
    let ids = |text: &str| text.split_terminator(',').map(|id| id.parse().unwrap()).collect();
    let facts = Facts { leaving: [writer].into(), refused: ids(refused), ..Facts::default() };
    let backed: Vec<Key> = known.iter().filter(|key| key.id != writer).map(Key::of).collect();
    let all: std::collections::BTreeSet<KeyId> = ids(everywhere);
    let without = machine::without(&state, &backed, &facts, &|_, id| all.is_empty() || all.contains(&id));
    assert_eq!(machine::encode(&without, None).config.lists()["secrets"].join(","), expected);
}
