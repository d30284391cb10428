//! `keyward plan --current --desired` as an admin runs it: the real binary, the real provider module.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use keyward_test_tools::Tools;
use rstest::rstest;
use serde_json::{Value, json};

fn image(n: u8) -> String {
    format!("registry.example.com/vault/kms@sha256:{}", format!("{n:02x}").repeat(32))
}

/// The current spelling.
fn today() -> Value {
    json!({
        "kmsPluginImage": image(1),
        "vaultAddress": "https://vault.example.com:8200",
        "vaultNamespace": "team",
        "tls": {"caBundle": {"name": "ca"}},
        "authentication": {"type": "AppRole", "appRole": {"secret": {"name": "approle"}}},
        "vaultKeyPath": "transit/keys/a",
    })
}

/// An earlier spelling of the same KEK.
fn second() -> Value {
    json!({
        "vaultKMSPluginImage": image(1),
        "vaultAddress": "https://vault.example.com:8200",
        "vaultNamespace": "team",
        "tls": {"caBundle": {"name": "ca"}},
        "approleSecretRef": {"name": "approle"},
        "transitMount": "transit",
        "transitKey": "a",
    })
}

/// The current spelling with changes; `null` removes a field.
fn with(changes: Value) -> Value {
    let mut config = today();
    for (field, value) in changes.as_object().unwrap() {
        if value.is_null() {
            config.as_object_mut().unwrap().remove(field);
        } else {
            config[field] = value.clone();
        }
    }
    config
}

struct Files(tempfile::TempDir);

impl Files {
    fn object(&self, name: &str, encryption: Value) -> PathBuf {
        self.spec(name, json!({"encryption": encryption}))
    }

    fn spec(&self, name: &str, spec: Value) -> PathBuf {
        self.write(
            name,
            json!({
                "apiVersion": "encryption.keyward.dev/v1alpha1",
                "kind": "ClusterEncryption",
                "metadata": {"name": "cluster"},
                "spec": spec,
            }),
        )
    }

    fn api_server(&self, name: &str, spec: Value) -> PathBuf {
        self.write(
            name,
            json!({
                "apiVersion": "config.openshift.io/v1",
                "kind": "APIServer",
                "metadata": {"name": "cluster"},
                "spec": spec,
            }),
        )
    }

    fn write(&self, name: &str, object: Value) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, object.to_string()).unwrap();
        path
    }
}

fn kms(config: &Value) -> Value {
    json!({"type": "KMS", "kms": {"type": "Vault", "vault": config}})
}

/// The exit code, and everything that was printed.
fn between(current: &Path, desired: &Path, more: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_keyward"))
        .arg("plan")
        .arg("--current")
        .arg(current)
        .arg("--desired")
        .arg(desired)
        .arg("--providers")
        .arg(Tools::here().providers().unwrap())
        .args(more)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn specs(current: Value, desired: Value, more: &[&str]) -> (Option<i32>, String) {
    let files = Files(tempfile::tempdir().unwrap());
    between(&files.spec("current.yaml", current), &files.spec("desired.yaml", desired), more)
}

fn plan(current: Value, desired: Value, more: &[&str]) -> Output {
    plan_with(&Tools::here().providers().unwrap(), current, desired, more)
}

fn plan_with(modules: &Path, current: Value, desired: Value, more: &[&str]) -> Output {
    let files = Files(tempfile::tempdir().unwrap());
    Command::new(env!("CARGO_BIN_EXE_keyward"))
        .arg("plan")
        .arg("--current")
        .arg(files.object("current.yaml", current))
        .arg("--desired")
        .arg(files.object("desired.yaml", desired))
        .arg("--providers")
        .arg(modules)
        .args(more)
        .output()
        .unwrap()
}

#[rstest]
#[case::nothing(today(), today(), "none", 0, &[])]
#[case::image_only(today(), with(json!({"kmsPluginImage": image(2)})), "in-place", 2, &["kmsPluginImage"])]
#[case::server_name(today(), with(json!({"tls": {"caBundle": {"name": "ca"}, "serverName": "vault.internal"}})), "in-place", 2, &["tls.serverName"])]
#[case::namespace(today(), with(json!({"vaultNamespace": "other"})), "new-key", 2, &["vaultNamespace"])]
#[case::no_namespace(today(), with(json!({"vaultNamespace": null})), "new-key", 2, &["vaultNamespace"])]
#[case::trailing_slash(today(), with(json!({"vaultAddress": "https://vault.example.com:8200/"})), "none", 0, &["vaultAddress"])]
#[case::host_case(today(), with(json!({"vaultAddress": "https://VAULT.example.com:8200"})), "none", 0, &["vaultAddress"])]
#[case::default_port(with(json!({"vaultAddress": "https://vault.example.com"})), with(json!({"vaultAddress": "https://vault.example.com:443"})), "none", 0, &["vaultAddress"])]
#[case::another_port(today(), with(json!({"vaultAddress": "https://vault.example.com:8300"})), "new-key", 2, &["vaultAddress"])]
#[case::ipv6(with(json!({"vaultAddress": "https://[2001:db8::1]:8200"})), with(json!({"vaultAddress": "https://[2001:0db8:0:0::1]:8200/"})), "none", 0, &["vaultAddress"])]
#[case::key_path(today(), with(json!({"vaultKeyPath": "transit/keys/b"})), "new-key", 2, &["vaultKeyPath"])]
#[case::two_changes_of_which_one_makes_a_key(today(), with(json!({"kmsPluginImage": image(2), "vaultKeyPath": "transit/keys/b"})), "new-key", 2, &["kmsPluginImage", "vaultKeyPath"])]
#[case::another_spelling(today(), second(), "in-place", 2, &["transitKey", "vaultKeyPath"])]
#[case::and_back(second(), today(), "in-place", 2, &["transitKey", "vaultKeyPath"])]
fn effect_follows_from_the_kek_and_the_normal_form(
    #[case] current: Value,
    #[case] desired: Value,
    #[case] effect: &str,
    #[case] code: i32,
    #[case] fields: &[&str],
) {
    let output = plan(kms(&current), kms(&desired), &["-o", "json"]);
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["effect"], effect, "{text}");
    for field in fields {
        let found = answer["fields"].as_array().unwrap().iter().find(|f| f["field"] == *field);
        let found = found.unwrap_or_else(|| panic!("{field} is shown: {text}"));
        assert!(!found["reason"].as_str().unwrap().is_empty(), "each field has a reason: {text}");
    }
    // No field has a greater effect than the total.
    let order = ["none", "in-place", "re-encrypt", "new-key", "decrypt"];
    let rank = |value: &Value| order.iter().position(|e| value == e).unwrap();
    for field in answer["fields"].as_array().unwrap() {
        assert!(rank(&field["effect"]) <= rank(&answer["effect"]), "{text}");
    }
}

#[test]
fn effect_of_a_field_is_lowered_to_the_total_with_the_reason_same_kek() {
    let output = plan(kms(&today()), kms(&second()), &["-o", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let path = answer["fields"].as_array().unwrap().iter().find(|f| f["field"] == "vaultKeyPath").unwrap();
    assert_eq!((path["effect"].as_str(), path["reason"].as_str()), (Some("in-place"), Some("same KEK")));
    assert!(!answer["warnings"].as_array().unwrap().is_empty(), "the earlier spelling gives a warning");
}

#[test]
fn violations_name_the_field_and_exit_1() {
    let desired = with(json!({"vaultAddress": "http://vault.example.com/v1?x=y"}));
    let output = plan(kms(&today()), kms(&desired), &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for message in ["must use the 'https' scheme", "must not contain a path", "must not have a query"] {
        assert!(
            text.contains(&format!("error: spec.encryption.kms.vault.vaultAddress: {message}")),
            "{text}"
        );
    }
}

#[test]
fn table_has_field_change_effect_and_reason() {
    let desired = with(json!({"kmsPluginImage": image(2), "vaultKeyPath": "transit/keys/b"}));
    let output = plan(kms(&today()), kms(&desired), &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    let row = text.lines().find(|line| line.starts_with("vaultKeyPath")).unwrap();
    let cells: Vec<&str> = row.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(cells, ["vaultKeyPath", "transit/keys/a → transit/keys/b", "new key", "names another KEK"]);
    assert!(text.contains("⇒ a new key (Vault); then everything is re-encrypted under it"), "{text}");
}

#[test]
fn another_mode_is_a_new_key() {
    let output = plan(kms(&today()), json!({"type": "aescbc"}), &["-o", "json"]);
    assert_eq!(output.status.code(), Some(2));
    let output = plan(json!({}), json!({"type": "identity"}), &["-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "nothing was encrypted, and nothing will be");
    let output = plan(json!({}), json!({"type": "rot13"}), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("unknown encryption mode configured: rot13"));
}

#[test]
fn unknown_provider_type_is_named() {
    let output = plan(json!({}), json!({"type": "KMS", "kms": {"type": "Nimbus", "nimbus": {}}}), &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.starts_with(
            "error: unsupported KMS provider type \"Nimbus\"; loaded providers: External, Vault"
        ),
        "{text}"
    );
}

fn external(config: Value) -> Value {
    json!({"type": "KMS", "kms": {"type": "External", "external": config}})
}

#[rstest]
#[case::written_out(json!({"type": "KMS"}), external(json!({})), "none", 0)]
#[case::with_its_endpoint(json!({"type": "KMS"}), external(json!({"endpoint": "unix:///var/run/kmsplugin/kms.sock"})), "none", 0)]
#[case::elsewhere(json!({"type": "KMS"}), external(json!({"endpoint": "unix:///run/kms.sock"})), "new-key", 2)]
#[case::and_back(external(json!({"endpoint": "unix:///run/kms.sock"})), json!({"type": "KMS"}), "new-key", 2)]
#[case::from_nothing(json!({}), json!({"type": "KMS"}), "new-key", 2)]
#[case::to_a_managed_one(json!({"type": "KMS"}), kms(&today()), "new-key", 2)]
#[case::the_same(json!({"type": "KMS"}), json!({"type": "KMS"}), "none", 0)]
fn type_kms_alone_means_an_external_plugin(
    #[case] current: Value,
    #[case] desired: Value,
    #[case] effect: &str,
    #[case] code: i32,
) {
    let output = plan(current, desired, &["-o", "json"]);
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["effect"], effect, "{text}");
}

/// Without the module `External`, the message is OpenShift's (openshift: encryption-type).
#[test]
fn type_kms_alone_needs_kms_config_if_the_external_module_is_not_loaded() {
    let modules = tempfile::tempdir().unwrap();
    std::fs::copy(Tools::here().providers().unwrap().join("vault.wasm"), modules.path().join("vault.wasm"))
        .unwrap();
    let message =
        "spec.encryption.kms: kms config is required when encryption type is KMS, and forbidden otherwise";
    let output = plan_with(modules.path(), json!({}), json!({"type": "KMS"}), &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("error: {message}")), "{text}");
    let output = plan_with(modules.path(), json!({"type": "KMS"}), kms(&today()), &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("the current object: {message}")), "{text}");
}

const LOCAL: &str = "aescbc";

/// Change, effect, exit code, resources that are re-encrypted, decrypted, and not confirmed.
#[rstest]
#[case::leaves(json!({"resources": ["configmaps"]}), "none", 0, &[], &[], &["secrets"])]
#[case::leaves_confirmed(json!({"resources": ["configmaps"], "decrypt": ["secrets"]}), "decrypt", 2, &[], &["secrets"], &[])]
#[case::never_encrypted(json!({"decrypt": ["widgets.example.com"]}), "none", 0, &[], &[], &[])]
#[case::joins(json!({"resources": ["configmaps", "secrets", "widgets.example.com"]}), "re-encrypt", 2, &["widgets.example.com"], &[], &[])]
#[case::one_joins_and_one_leaves(json!({"resources": ["configmaps", "widgets.example.com"], "decrypt": ["secrets"]}),
    "decrypt", 2, &["widgets.example.com"], &["secrets"], &[])]
#[case::identity(json!({"encryption": {"type": "identity"}}), "decrypt", 2, &[], &["configmaps", "secrets"], &[])]
#[case::another_mode_takes_along_what_is_not_confirmed(
    json!({"encryption": {"type": "aesgcm"}, "resources": ["configmaps"]}), "new-key", 2, &["configmaps", "secrets"], &[], &["secrets"])]
#[case::token(json!({"reencrypt": "1"}), "new-key", 2, &["configmaps", "secrets"], &[], &[])]
fn plan_lists_resources_that_are_re_encrypted_decrypted_and_unconfirmed(
    #[case] change: Value,
    #[case] effect: &str,
    #[case] code: i32,
    #[case] reencrypts: &[&str],
    #[case] decrypts: &[&str],
    #[case] unconfirmed: &[&str],
) {
    let current = json!({"encryption": {"type": LOCAL}});
    let mut desired = current.clone();
    for (field, value) in change.as_object().unwrap() {
        desired[field] = value.clone();
    }
    let (exit, text) = specs(current.clone(), desired.clone(), &["-o", "json"]);
    assert_eq!(exit, Some(code), "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["effect"], effect, "{text}");
    assert_eq!(answer["reencrypts"], json!(reencrypts), "{text}");
    assert_eq!(answer["decrypts"], json!(decrypts), "{text}");
    assert_eq!(answer["unconfirmed"], json!(unconfirmed), "{text}");

    let (_, text) = specs(current, desired, &[]);
    let decrypted = format!("⇒ decrypt {}: everything is stored in plain text", decrypts.join(", "));
    assert_eq!(text.contains(&decrypted), !decrypts.is_empty(), "{text}");
    assert_eq!(text.contains("warning: spec.encryption: "), !decrypts.is_empty(), "{text}");
    assert_eq!(text.contains("add secrets to spec.decrypt"), !unconfirmed.is_empty(), "{text}");
}

#[rstest]
#[case::misspelled(json!({"encrytion": {"type": LOCAL}}), "error: spec.encrytion: unknown field; did you mean \"encryption\"?")]
#[case::empty(json!({}), "error: spec.encryption.type: Required value")]
#[case::type_missing(json!({"encryption": {}}), "error: spec.encryption.type: Required value")]
#[case::type_empty(json!({"encryption": {"type": ""}}), "error: spec.encryption.type: Required value")]
#[case::mode_in_another_case(json!({"encryption": {"type": "AESCBC"}}), "configured: AESCBC; did you mean \"aescbc\"?")]
#[case::kms_in_another_case(json!({"encryption": {"type": "kms"}}), "configured: kms; did you mean \"KMS\"?")]
#[case::provider_in_another_case(json!({"encryption": {"type": "KMS", "kms": {"type": "vault", "vault": {}}}}),
    "unsupported KMS provider type \"vault\"; loaded providers: External, Vault; did you mean \"Vault\"?")]
#[case::field_of_a_provider(json!({"encryption": {"type": "KMS", "kms": {"type": "Vault", "Vault": {}}}}),
    "error: spec.encryption.kms.Vault: unknown field; did you mean \"vault\"?")]
#[case::in_both_lists(json!({"encryption": {"type": LOCAL}, "decrypt": ["secrets"]}), "error: spec.decrypt: secrets: it is also in spec.resources")]
fn mistake_in_the_spec_is_one_error(#[case] desired: Value, #[case] message: &str) {
    let (exit, text) = specs(json!({"encryption": {"type": LOCAL}}), desired, &[]);
    assert_eq!(exit, Some(1), "{text}");
    assert!(text.contains(message), "{text}");
    assert!(!text.contains("⇒"), "a spec with a mistake has no effect: {text}");
    assert_eq!(text.matches("error: ").count(), 1, "one mistake gives one message: {text}");
}

/// As the operator reads it: an older version accepted the resource, and it stays encrypted (decision 0063).
#[test]
fn refused_resource_that_is_already_encrypted_is_a_warning() {
    let spec = |mode: &str, resources: &[&str]| json!({"encryption": {"type": mode}, "resources": resources});
    let current = spec(LOCAL, &["secrets", "services"]);
    let (exit, text) = specs(current.clone(), spec("aesgcm", &["secrets", "services"]), &[]);
    assert_eq!(exit, Some(2), "{text}");
    assert!(text.contains("warning: spec.resources: services: the API server reads these"), "{text}");
    let (exit, text) = specs(current.clone(), spec(LOCAL, &["secrets", "secrets", "services"]), &[]);
    assert_eq!(exit, Some(0), "{text}");
    assert!(text.contains("warning: spec.resources: secrets: it is listed twice"), "{text}");
    for (current, resource) in
        [(current, "endpoints"), (spec("identity", &["secrets", "services"]), "services")]
    {
        let (exit, text) = specs(current, spec(LOCAL, &["secrets", resource]), &[]);
        assert_eq!(exit, Some(1), "{text}");
        assert!(text.contains(&format!("error: spec.resources: {resource}: ")), "{text}");
    }
}

#[test]
fn on_openshift_plan_warns_what_the_success_of_another_migrator_does_not_prove() {
    let files = Files(tempfile::tempdir().unwrap());
    let current = files.api_server("current.yaml", json!({"encryption": {"type": LOCAL}}));
    let desired = files.api_server("desired.yaml", json!({"encryption": {"type": "aesgcm"}}));
    let (exit, text) = between(&current, &desired, &[]);
    assert_eq!(exit, Some(2), "{text}");
    assert!(text.contains("another migrator runs the migration to the new key"), "{text}");
    let (_, text) =
        specs(json!({"encryption": {"type": LOCAL}}), json!({"encryption": {"type": "aesgcm"}}), &[]);
    assert!(!text.contains("another migrator"), "Keyward's own engine patches each object: {text}");
}

#[test]
fn on_openshift_an_empty_type_is_identity_and_plan_warns() {
    let files = Files(tempfile::tempdir().unwrap());
    let current = files.api_server("current.yaml", json!({"encryption": {"type": LOCAL}, "audit": {}}));
    let desired = files.api_server("desired.yaml", json!({"encryption": {"type": ""}, "audit": {}}));
    let (exit, text) = between(&current, &desired, &[]);
    assert_eq!(exit, Some(2), "{text}");
    for part in ["warning: spec.encryption.type: it is empty", "⇒ decrypt ", "routes.route.openshift.io"] {
        assert!(text.contains(part), "{text}");
    }
    let misspelled = files.api_server("desired.yaml", json!({"encrytion": {"type": LOCAL}}));
    let (exit, text) = between(&current, &misspelled, &[]);
    assert_eq!(exit, Some(1), "{text}");
    assert!(text.contains("spec.encrytion: unknown field; did you mean \"encryption\"?"), "{text}");
}

#[rstest]
#[case::elsewhere("unix:///run/kms/kms.sock", Some("mount the host's folder /run/kms at /run/kms"))]
#[case::the_other_path(
    "unix:///run/kmsplugin/kms.sock",
    Some("mount the host's folder /run/kmsplugin at /run/kmsplugin")
)]
#[case::beside("unix:///var/run/kmsplugins/kms.sock", Some("mount the host's folder /var/run/kmsplugins"))]
#[case::within("unix:///var/run/kmsplugin/vault/kms.sock", None)]
fn socket_outside_the_mounted_folder_is_a_warning(#[case] endpoint: &str, #[case] message: Option<&str>) {
    let desired = json!({"encryption": external(json!({"endpoint": endpoint}))});
    let (exit, text) = specs(json!({"encryption": {"type": "identity"}}), desired, &[]);
    assert_eq!(exit, Some(2), "{text}");
    assert_eq!(
        text.contains("warning: spec.encryption.kms: the plugin listens at"),
        message.is_some(),
        "{text}"
    );
    assert!(text.contains(message.unwrap_or_default()), "{text}");
}

#[test]
fn request_to_forget_a_key_is_a_change_with_a_warning() {
    let current = json!({"encryption": {"type": LOCAL}});
    let mut desired = current.clone();
    desired["forget"] = json!([{"keyID": 3, "requestedAt": "2026-05-08T12:34:56Z"}]);
    let (exit, text) = specs(current.clone(), desired.clone(), &[]);
    assert_eq!(exit, Some(2), "{text}");
    for part in [
        "forget   forgets key 3 and what is stored under it",
        "warning: spec.forget: forgets key 3: what is stored under it becomes unreadable",
        "⇒ forget key 3",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("nothing changes"), "{text}");
    let (_, text) = specs(current.clone(), desired.clone(), &["-o", "json"]);
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&answer["effect"], &answer["forgetKeyIDs"]), (&json!("forget"), &json!([3])), "{text}");
    // An existing request and a removed request have no effect.
    for after in [desired.clone(), current] {
        let (exit, text) = specs(desired.clone(), after, &[]);
        assert_eq!(exit, Some(0), "{text}");
        assert!(!text.contains("⇒ forget"), "{text}");
    }
}

#[test]
fn pause_that_begins_or_ends_is_a_change() {
    let current = json!({"encryption": {"type": LOCAL}});
    let mut paused = current.clone();
    paused["paused"] = json!({"reason": "the KMS moves", "by": "ada"});
    for (from, to, effect, line) in [
        (current.clone(), paused.clone(), "pause", "⇒ pause: only the status is written"),
        (paused.clone(), current, "resume", "⇒ resume: the withheld writes follow"),
    ] {
        let (exit, text) = specs(from.clone(), to.clone(), &[]);
        assert_eq!(exit, Some(2), "{text}");
        assert!(text.contains(line) && !text.contains("nothing changes"), "{text}");
        let (_, text) = specs(from, to, &["-o", "json"]);
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["effect"], effect, "{text}");
        assert_eq!(answer["fields"][0]["field"], "paused", "{text}");
    }
    // Another change waits for the end of the pause.
    let mut other = paused.clone();
    other["encryption"]["type"] = json!("aesgcm");
    let (exit, text) = specs(paused, other, &[]);
    assert_eq!(exit, Some(2), "{text}");
    assert!(text.contains("⇒ paused: this change starts when spec.paused is removed"), "{text}");
}

#[test]
fn unchanged_spec_mentions_a_kek_only_in_mode_kms() {
    for mode in [LOCAL, "identity"] {
        let spec = json!({"encryption": {"type": mode}});
        let (exit, text) = specs(spec.clone(), spec, &[]);
        assert_eq!(exit, Some(0), "{text}");
        assert!(text.contains("⇒ nothing changes") && !text.contains("KEK"), "{text}");
    }
    let spec = json!({"encryption": kms(&today())});
    let (_, text) = specs(spec.clone(), spec, &[]);
    assert!(text.contains("⇒ nothing changes: the same KEK with the same connection"), "{text}");
}
