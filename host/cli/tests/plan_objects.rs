//! `keyward plan --objects` on a dump, with the real binary and the real provider module. Results are
//! compared as a whole.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use keyward_test_tools::Tools;
use rstest::rstest;
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn plan(files: &[&str], platform: &str, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyward"))
        .args(["plan", "--platform", platform, "--providers"])
        .arg(Tools::here().providers().unwrap())
        .args(more)
        .arg("--objects")
        .args(files.iter().map(|name| fixture(name)))
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn answer(files: &[&str], platform: &str, more: &[&str]) -> Value {
    let output = plan(files, platform, &[&["-o", "json"], more].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    for secret in ["fake-role", "fake-secret-id", "fake-key", "ZmFrZS"] {
        assert!(!printed.contains(secret), "no secret byte: {printed}");
    }
    serde_json::from_str(&printed).unwrap()
}

/// The result is compared as a whole, and is the same each time.
#[rstest]
#[case("kubernetes-kms.yaml", "kubernetes", &[], "kubernetes-kms.expected.json")]
#[case("kubernetes-aescbc.json", "kubernetes", &["--now", "2026-05-08T12:00:30Z"], "kubernetes-aescbc-waits.expected.json")]
#[case("kubernetes-aescbc.json", "kubernetes", &["--now", "2026-05-08T12:01:00Z"], "kubernetes-aescbc.expected.json")]
#[case("openshift.yaml", "openshift", &["--now", "2026-05-08T12:00:00Z"], "openshift.expected.json")]
fn dump_gives_the_expected_decision(
    #[case] dump: &str,
    #[case] platform: &str,
    #[case] more: &[&str],
    #[case] expected: &str,
) {
    let decision = answer(&[dump], platform, more);
    assert_eq!(decision, answer(&[dump], platform, more), "the same input gives the same result");
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(fixture(expected)).unwrap()).unwrap();
    assert_eq!(decision, expected, "{}", serde_json::to_string_pretty(&decision).unwrap());
}

#[test]
fn operand_flag_decides_only_for_that_operand() {
    let decision = answer(&["openshift.yaml"], "openshift", &["--operand", "openshift-apiserver"]);
    let operands = decision["operands"].as_array().unwrap();
    assert_eq!(operands.len(), 1);
    assert_eq!(operands[0]["operand"], "openshift-apiserver");
    assert_eq!(operands[0]["converged"], false);
    assert_eq!(
        operands[0]["waiting"],
        "APIServerRevisionNotConverged: API server pod apiserver-y is pending"
    );
    assert_eq!(operands[0]["actions"], json!([]));
}

/// The hash was computed separately, with the fields in Go's order (openshift: config-hash). The dump has
/// another order.
#[test]
fn hash_is_that_of_openshifts_controllers() {
    let decision = answer(&["openshift.yaml"], "openshift", &["--operand", "openshift-kube-apiserver"]);
    let actions = &decision["operands"][0]["actions"];
    assert_eq!(
        *actions,
        json!([{"kind": "RequirePreflight", "hash": "2y19Mg==", "for": "new-key", "keyID": 3}]),
        "{decision:#}"
    );
}

#[test]
fn without_the_now_flag_the_newest_time_in_the_objects_counts() {
    // Leases were renewed 20 s after the revision had converged: writes may still be in flight.
    let decision = answer(&["kubernetes-aescbc.json"], "kubernetes", &[]);
    let waiting = decision["operands"][0]["waiting"].as_str().unwrap();
    assert!(waiting.starts_with("WritesInFlight"), "{waiting}");
}

#[test]
fn table_shows_convergence_and_actions() {
    let output = plan(&["openshift.yaml"], "openshift", &["--operand", "openshift-oauth-apiserver"]);
    let printed = text(&output.stdout);
    assert!(printed.starts_with("openshift-oauth-apiserver\n  converged   yes\n"), "{printed}");
    let done = "RecordMigrated resource oauthauthorizetokens.oauth.openshift.io, keyID 4";
    assert!(printed.contains(done), "{printed}");
}

#[test]
fn ignored_and_missing_kinds_are_noted_on_standard_error() {
    let output = plan(&["kubernetes-kms.yaml"], "kubernetes", &[]);
    let error = text(&output.stderr);
    assert!(error.contains("note: ignored 1 object of kind v1/Service"), "{error}");
    let output = plan(&["openshift.yaml"], "kubernetes", &[]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("note: the dump contains no Lease"), "{error}");
    assert!(error.contains("error: the dump contains no ClusterEncryption/cluster"), "{error}");
}

#[test]
fn mistakes_name_file_and_document_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.yaml");
    let bad = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {token: '@fake-secret-id'}\n";
    std::fs::write(&path, bad).unwrap();
    let output = plan(&[path.to_str().unwrap()], "kubernetes", &[]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    let expected =
        format!("error: {}: document 2: v1/Secret s: its data.token cannot be read\n", path.display());
    assert_eq!(error, expected);
}

#[rstest]
#[case(&["--operand", "etcd"], "error: operand etcd does not exist on kubernetes; use kube-apiserver")]
#[case(&["--now", "yesterday"], "invalid value 'yesterday' for '--now")]
fn wrong_flags_are_named(#[case] more: &[&str], #[case] expected: &str) {
    let output = plan(&["kubernetes-kms.yaml"], "kubernetes", more);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
}
