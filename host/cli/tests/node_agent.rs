//! `keyward node-agent` as it is called in the agent's own container, whose environment names the node.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise

use std::process::Command;

use rstest::rstest;

/// Exit code and standard error, with or without the node's name in the environment.
fn said(args: &[&str], node: Option<&str>) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
    command.arg("node-agent").args(args).env_remove("NODE_NAME");
    if let Some(node) = node {
        command.env("NODE_NAME", node);
    }
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// None of them asks for what the agent needs.
#[rstest]
#[case::recover(&["recover", "--key", "1", "--file", "secret-id=/nonexistent/secret-id"])]
#[case::restore(&["restore", "--bundle", "/nonexistent/bundle", "--identity", "/nonexistent/key"])]
#[case::prepare(&["prepare", "--check", "--manifest-only"])]
fn what_is_done_by_hand_needs_nothing_of_the_agents(
    #[case] args: &[&str],
    #[values(None, Some("cp-1"))] node: Option<&str>,
) {
    let folder = tempfile::tempdir().unwrap();
    let args = [args, &["--root", folder.path().to_str().unwrap()]].concat();
    let (code, said) = said(&args, node);
    assert!(code != Some(0) && !said.contains("--kubeconfig"), "{code:?}: {said}");
    // It came as far as looking.
    assert!(said.contains("/nonexistent/") || said.contains(folder.path().to_str().unwrap()), "{said}");
}

#[rstest]
#[case::nothing(&[], None, "--kubeconfig")]
#[case::only_the_name(&["--node", "cp-1"], None, "--kubeconfig")]
#[case::no_name(&["--kubeconfig", "/nonexistent/kubeconfig"], None, "--node is missing")]
fn what_the_agent_needs_is_named(#[case] args: &[&str], #[case] node: Option<&str>, #[case] expected: &str) {
    let (code, said) = said(args, node);
    assert!(code != Some(0) && said.contains(expected), "{code:?}: {said}");
}

/// The name is taken from there; it gets as far as the disk.
#[test]
fn the_agent_takes_its_name_from_the_environment() {
    let args = ["--kubeconfig", "/nonexistent/kubeconfig", "--root", "/dev/null"];
    let (code, said) = said(&args, Some("cp-1"));
    assert!(code != Some(0) && said.contains("/dev/null"), "{code:?}: {said}");
}
