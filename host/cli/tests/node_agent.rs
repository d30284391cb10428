//! `keyward node-agent`, with and without the node's name in the environment, as in the agent's own
//! container.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise

use std::process::Command;

use rstest::rstest;

/// Exit code and standard error, with or without the node's name in the environment.
fn run(args: &[&str], node: Option<&str>) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
    command.arg("node-agent").args(args).env_remove("NODE_NAME");
    if let Some(node) = node {
        command.env("NODE_NAME", node);
    }
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// None of these commands requires the agent's flags.
#[rstest]
#[case::recover(&["recover", "--key", "1", "--file", "secret-id=/nonexistent/secret-id"])]
#[case::restore(&["restore", "--bundle", "/nonexistent/bundle", "--identity", "/nonexistent/key"])]
#[case::prepare(&["prepare", "--check", "--manifest-only"])]
fn commands_of_an_admin_need_no_flags_of_the_agent(
    #[case] args: &[&str],
    #[values(None, Some("cp-1"))] node: Option<&str>,
) {
    let folder = tempfile::tempdir().unwrap();
    let args = [args, &["--root", folder.path().to_str().unwrap()]].concat();
    let (code, error) = run(&args, node);
    assert!(code != Some(0) && !error.contains("--kubeconfig"), "{code:?}: {error}");
    // The arguments were accepted, and the command failed on a file.
    assert!(error.contains("/nonexistent/") || error.contains(folder.path().to_str().unwrap()), "{error}");
}

#[rstest]
#[case::nothing(&[], None, "--kubeconfig")]
#[case::only_the_name(&["--node", "cp-1"], None, "--kubeconfig")]
#[case::no_name(&["--kubeconfig", "/nonexistent/kubeconfig"], None, "--node is missing")]
fn missing_flags_of_the_agent_are_named(
    #[case] args: &[&str],
    #[case] node: Option<&str>,
    #[case] expected: &str,
) {
    let (code, error) = run(args, node);
    assert!(code != Some(0) && error.contains(expected), "{code:?}: {error}");
}

/// The agent accepts the name, and fails on the disk.
#[test]
fn the_agent_takes_its_name_from_the_environment() {
    let args = ["--kubeconfig", "/nonexistent/kubeconfig", "--root", "/dev/null"];
    let (code, error) = run(&args, Some("cp-1"));
    assert!(code != Some(0) && error.contains("/dev/null"), "{code:?}: {error}");
}
