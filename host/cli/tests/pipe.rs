//! Output into a pipe whose reader stops early: `keyward crds | head -1`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise

use std::path::Path;
use std::process::Command;

use keyward_test_hostile::Forge;

/// Runs `keyward` with a closed standard output. Returns the exit code and standard error.
fn unread(args: &[&str]) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_keyward"))
        .args(args)
        .env_remove("KEYWARD_PROVIDERS")
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn closed_output_is_not_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("acme.wasm");
    std::fs::write(&module, Forge::sound("Acme", "acme").component().unwrap()).unwrap();
    let fixtures = "cases:\n- name: itself\n  describe: {providerType: Acme}\n";
    std::fs::write(folder.path().join("a.yaml"), fixtures).unwrap();
    for args in [
        &["crds", "--plain"][..],
        &["crds", "--providers", path(folder.path())],
        &["provider", "inspect", path(&module)],
        &["provider", "inspect", path(&module), "-o", "json"],
        &["provider", "test", path(&module), "--fixtures", path(folder.path())],
    ] {
        let (code, error) = unread(args);
        assert_eq!(code, Some(0), "{args:?}: {error}");
        assert!(!error.contains("panicked"), "{args:?}: {error}");
    }
}

#[test]
fn failing_command_still_fails_with_a_closed_output() {
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("acme.wasm");
    std::fs::write(&module, Forge::sound("Acme", "acme").component().unwrap()).unwrap();
    let fixtures = "cases:\n- name: itself\n  describe: {providerType: Other}\n";
    std::fs::write(folder.path().join("a.yaml"), fixtures).unwrap();
    let (code, error) = unread(&["provider", "test", path(&module), "--fixtures", path(folder.path())]);
    assert_eq!(code, Some(1), "{error}");
}
