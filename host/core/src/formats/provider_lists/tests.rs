use rstest::rstest;
use serde_json::{Value, json};

use super::*;

const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
const NULL: &str = "AAAAAAAAAAAAAAAAAAAAAA==";

fn config(entries: &Value) -> EncryptionConfiguration {
    let config = json!({
        "kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", "resources": entries,
    });
    EncryptionConfiguration::decode(config.to_string().as_bytes()).unwrap()
}

fn local(kind: &str, names: &[&str]) -> Value {
    let keys: Vec<Value> = names.iter().map(|name| json!({"name": name, "secret": KEY})).collect();
    json!({kind: {"keys": keys}})
}

fn null(id: &str) -> Value {
    json!({"aesgcm": {"keys": [{"name": id, "secret": NULL}]}})
}

fn identity() -> Value {
    json!({"identity": {}})
}

fn kms(name: &str) -> Value {
    json!({"kms": {"apiVersion": "v2", "name": name, "endpoint": "unix:///a", "timeout": "3s"}})
}

fn entry(resources: &Value, providers: &[Value]) -> Value {
    json!({"resources": resources, "providers": providers})
}

/// `secrets: 2 aescbc, 1 aescbc; writer 2`, one per resource.
fn understood(entries: &Value) -> Result<Vec<String>, String> {
    let config = config(entries);
    let lists = lists(&config).map_err(|error| error.to_string())?;
    let text = lists.iter().map(|(resource, list)| {
        let keys: Vec<String> = list.keys.iter().map(|key| format!("{} {}", key.id, key.mode)).collect();
        let writer = list.writer().map_or("none".to_owned(), |id| id.to_string());
        let plain = if list.writes_plain { ", in plain text" } else { "" };
        format!("{resource}: {}; writer {writer}{plain}", keys.join(", "))
    });
    Ok(text.collect())
}

#[test]
fn entry_for_several_resources_gives_a_list_for_each() {
    let entries =
        json!([entry(&json!(["secrets", "configmaps"]), &[local("aescbc", &["2", "1"]), identity()])]);
    assert_eq!(
        understood(&entries).unwrap(),
        ["configmaps: 2 aescbc, 1 aescbc; writer 2", "secrets: 2 aescbc, 1 aescbc; writer 2"]
    );
}

#[test]
fn lists_of_entries_for_the_same_resource_are_appended() {
    let one = |providers: &[Value]| entry(&json!(["secrets"]), providers);
    let entries = json!([
        one(&[local("aescbc", &["1"])]),
        one(&[identity(), local("secretbox", &["2"]), local("aescbc", &["1"])])
    ]);
    assert_eq!(understood(&entries).unwrap(), ["secrets: 1 aescbc, 2 secretbox; writer 1"]);
    let entries = json!([one(&[identity()]), one(&[local("secretbox", &["2"]), null("3")])]);
    assert_eq!(understood(&entries).unwrap(), ["secrets: 2 secretbox, 3 identity; writer 3, in plain text"]);
}

#[test]
fn base64_with_line_breaks_and_trailing_bits_decodes_to_the_same_key() {
    let with = |name: &str, secret: &str| json!({"aesgcm": {"keys": [{"name": name, "secret": secret}]}});
    let entries = json!([
        entry(
            &json!(["secrets"]),
            &[identity(), with("1", "AAAAAAAAAAAA\r\nAAAAAAAAAB==\n"), local("aescbc", &["2"])]
        ),
        entry(&json!(["configmaps"]), &[identity(), with("1", NULL)]),
    ]);
    assert_eq!(
        understood(&entries).unwrap(),
        [
            "configmaps: 1 identity; writer 1, in plain text",
            "secrets: 1 identity, 2 aescbc; writer 1, in plain text"
        ]
    );
}

#[rstest]
#[case::core_wildcard(json!(["*."]), "resources[0].resources[0]: wildcards are not supported; name each resource")]
#[case::wildcard_of_everything(json!(["*.*"]), "resources[0].resources[0]: wildcards are not supported; name each resource")]
#[case::wildcard_of_a_group(json!(["secrets", "*.apps"]), "resources[0].resources[1]: wildcards are not supported; name each resource")]
#[case::capitals(json!(["Secrets"]), "resources[0].resources[0]: is not a resource such as `secrets` or `deployments.apps`, in lower case")]
#[case::empty_name(json!([""]), "resources[0].resources[0]: is not a resource such as `secrets` or `deployments.apps`, in lower case")]
#[case::no_group_behind_the_dot(json!(["secrets."]), "resources[0].resources[0]: is not a resource such as `secrets` or `deployments.apps`, in lower case")]
#[case::twice(json!(["secrets", "secrets"]), "resources[0].resources[1]: is given twice")]
#[case::none(json!([]), "resources[0].resources: at least one is required")]
#[case::null(Value::Null, "resources[0].resources: at least one is required")]
fn resources_that_are_not_understood_are_refused(#[case] resources: Value, #[case] why: &str) {
    let error = understood(&json!([entry(&resources, &[local("aescbc", &["1"]), identity()])])).unwrap_err();
    assert_eq!(error, format!("failed to decode EncryptionConfiguration: {why}"));
}

#[rstest]
#[case::name_of_a_key(local("aescbc", &["1", "key1"]), "providers[1].aescbc.keys[1].name: is not a keyID: a positive number without leading zeros")]
#[case::leading_zero(local("secretbox", &["01"]), "providers[1].secretbox.keys[0].name: is not a keyID: a positive number without leading zeros")]
#[case::zero(local("aesgcm", &["0"]), "providers[1].aesgcm.keys[0].name: is not a keyID: a positive number without leading zeros")]
#[case::beyond_64_bits(local("aesgcm", &["18446744073709551616"]), "providers[1].aesgcm.keys[0].name: is not a keyID: a positive number without leading zeros")]
#[case::not_base64(json!({"aescbc": {"keys": [{"name": "1", "secret": "%"}]}}), "providers[1].aescbc.keys[0].secret: is not a key in base64")]
#[case::empty(json!({"aescbc": {"keys": [{"name": "1", "secret": ""}]}}), "providers[1].aescbc.keys[0].secret: is not a key in base64")]
#[case::no_keys(json!({"aescbc": {"keys": []}}), "providers[1].aescbc.keys: at least one is required")]
#[case::of_no_kind(json!({}), "providers[1]: must be exactly one of aesgcm, aescbc, secretbox, identity and kms")]
#[case::null_identity(json!({"identity": null}), "providers[1]: must be exactly one of aesgcm, aescbc, secretbox, identity and kms")]
#[case::of_two_kinds(
    json!({"identity": {}, "aescbc": {"keys": [{"name": "1", "secret": KEY}]}}),
    "providers[1]: must be exactly one of aesgcm, aescbc, secretbox, identity and kms"
)]
#[case::kms_of_another_resource(
    kms("1_configmaps"),
    "providers[1].kms.name: must be 1_secrets: values of secrets are stored under this name"
)]
#[case::kms_with_a_leading_zero(
    kms("01_secrets"),
    "providers[1].kms.name: is not a keyID: a positive number without leading zeros"
)]
#[case::kms_v1(
    json!({"kms": {"name": "1_secrets", "endpoint": "unix:///a"}}),
    "providers[1].kms.apiVersion: must be v2"
)]
fn providers_that_are_not_understood_are_refused(#[case] provider: Value, #[case] why: &str) {
    let error = understood(&json!([entry(&json!(["secrets"]), &[identity(), provider])])).unwrap_err();
    assert_eq!(error, format!("failed to decode EncryptionConfiguration: resources[0].{why}"));
}

#[rstest]
#[case("vault", "invalid plugin name \"vault\": expected format keyID_resourceName")]
#[case("x_secrets", "invalid keyID \"x\": must be a non-negative integer")]
fn kms_providers_without_a_key_id_are_refused(#[case] name: &str, #[case] why: &str) {
    let error = understood(&json!([entry(&json!(["secrets"]), &[kms(name)])])).unwrap_err();
    assert_eq!(error, why);
}

#[test]
fn missing_providers_and_writers_are_refused() {
    let error = understood(&json!([entry(&json!(["secrets"]), &[])])).unwrap_err();
    assert_eq!(
        error,
        "failed to decode EncryptionConfiguration: resources[0].providers: at least one is required"
    );
    let error = understood(&json!([entry(&json!(["secrets"]), &[null("1"), identity()])])).unwrap_err();
    assert_eq!(
        error,
        "failed to decode EncryptionConfiguration: resources[0].providers[0].aesgcm.keys[0]: is a key that consists of zeros, and the API server would write with it; put `identity` first"
    );
}
