//! `keyward plan --objects` as it is run on a dump: the real binary, the real provider module, answers compared whole.

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
    let said = text(&output.stdout);
    for secret in ["fake-role", "fake-secret-id", "fake-key", "ZmFrZS"] {
        assert!(!said.contains(secret), "no secret byte: {said}");
    }
    serde_json::from_str(&said).unwrap()
}

/// Compared whole, and the same each time.
#[rstest]
#[case("kubernetes-kms.yaml", "kubernetes", &[], "kubernetes-kms.expected.json")]
#[case("kubernetes-aescbc.json", "kubernetes", &["--now", "2026-05-08T12:00:30Z"], "kubernetes-aescbc-waits.expected.json")]
#[case("kubernetes-aescbc.json", "kubernetes", &["--now", "2026-05-08T12:01:00Z"], "kubernetes-aescbc.expected.json")]
#[case("openshift.yaml", "openshift", &["--now", "2026-05-08T12:00:00Z"], "openshift.expected.json")]
fn the_whole_decision(
    #[case] dump: &str,
    #[case] platform: &str,
    #[case] more: &[&str],
    #[case] expected: &str,
) {
    let said = answer(&[dump], platform, more);
    assert_eq!(said, answer(&[dump], platform, more), "the same input, the same answer");
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(fixture(expected)).unwrap()).unwrap();
    assert_eq!(said, expected, "{}", serde_json::to_string_pretty(&said).unwrap());
}

#[test]
fn one_operand_alone() {
    let said = answer(&["openshift.yaml"], "openshift", &["--operand", "openshift-apiserver"]);
    let operands = said["operands"].as_array().unwrap();
    assert_eq!(operands.len(), 1);
    assert_eq!(operands[0]["operand"], "openshift-apiserver");
    assert_eq!(operands[0]["converged"], false);
    assert_eq!(
        operands[0]["waiting"],
        "APIServerRevisionNotConverged: API server pod apiserver-y is pending"
    );
    assert_eq!(operands[0]["actions"], json!([]));
}

/// CONTRACT 1.7, computed apart: the fields in Go's order, whatever order they were written in.
#[test]
fn the_hash_is_that_of_openshifts_controllers() {
    let said = answer(&["openshift.yaml"], "openshift", &["--operand", "openshift-kube-apiserver"]);
    let actions = &said["operands"][0]["actions"];
    assert_eq!(
        *actions,
        json!([{"kind": "RequirePreflight", "hash": "2y19Mg==", "for": "new-key", "keyID": 3}]),
        "{said:#}"
    );
}

#[test]
fn without_now_it_is_the_newest_time_of_the_objects() {
    // Leases were renewed 20 s after the revision had converged: writes may still be under way.
    let said = answer(&["kubernetes-aescbc.json"], "kubernetes", &[]);
    let waiting = said["operands"][0]["waiting"].as_str().unwrap();
    assert!(waiting.starts_with("WritesInFlight"), "{waiting}");
}

#[test]
fn the_table_is_for_people() {
    let output = plan(&["openshift.yaml"], "openshift", &["--operand", "openshift-oauth-apiserver"]);
    let said = text(&output.stdout);
    assert!(said.starts_with("openshift-oauth-apiserver\n  converged   yes\n"), "{said}");
    let done = "RecordMigrated resource oauthauthorizetokens.oauth.openshift.io, keyID 4";
    assert!(said.contains(done), "{said}");
}

#[test]
fn what_is_not_looked_at_is_told_on_standard_error() {
    let output = plan(&["kubernetes-kms.yaml"], "kubernetes", &[]);
    let told = text(&output.stderr);
    assert!(told.contains("note: 1 of v1/Service: nothing is decided from it"), "{told}");
    let output = plan(&["openshift.yaml"], "kubernetes", &[]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("note: there is no Lease among the objects"), "{told}");
    assert!(told.contains("error: there is no ClusterEncryption/cluster among the objects"), "{told}");
}

#[test]
fn mistakes_name_file_and_document_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.yaml");
    let bad = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {token: '@fake-secret-id'}\n";
    std::fs::write(&path, bad).unwrap();
    let output = plan(&[path.to_str().unwrap()], "kubernetes", &[]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    let expected =
        format!("error: {}: document 2: v1/Secret s: its data.token cannot be read\n", path.display());
    assert_eq!(told, expected);
}

#[rstest]
#[case(&["--operand", "etcd"], "error: there is no operand etcd on kubernetes; it has kube-apiserver")]
#[case(&["--now", "yesterday"], "invalid value 'yesterday' for '--now")]
fn wrong_flags_are_named(#[case] more: &[&str], #[case] told: &str) {
    let output = plan(&["kubernetes-kms.yaml"], "kubernetes", more);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(told), "{}", text(&output.stderr));
}
