//! `cargo xtask ci`: every check that a change must pass. Each check runs even if an earlier one failed.

use std::process::{Command, ExitCode};
use std::thread;

use anyhow::{Context, Result};
use keyward_test_tools::{Tools, progress};

use crate::test;

pub(crate) fn run(tools: &Tools) -> Result<ExitCode> {
    let preparing = prepare(tools);
    let mut failed = Vec::new();
    for (name, mut command) in checks(tools) {
        progress::say(&format!("== {name}"));
        if !command.status().context("starting cargo")?.success() {
            failed.push(name);
        }
    }
    // The tests run last, so that a run ends with their `N passed, N failed`.
    for name in &failed {
        progress::say(&format!("== {name}: failed"));
    }
    // A failed preparation is repeated, and reported, by the step that needs it. No test runs at the same
    // time.
    let _ = preparing.join();
    let tested = test::run(tools, &test::Options::everything());
    Ok(if failed.is_empty() { tested } else { ExitCode::FAILURE })
}

/// Fetches and builds what tests need beside this workspace's crates, while the checks run: much of that time
/// is waiting for the network and for linking.
fn prepare(tools: &Tools) -> thread::JoinHandle<()> {
    let tools = tools.clone();
    thread::spawn(move || {
        let prepared = tools.control_plane().and_then(|_| tools.bao()).and_then(|_| tools.providers());
        if let Err(error) = prepared {
            progress::say(&format!("preparing the tests: {error:#}"));
        }
    })
}

/// The same three checks for both workspaces: the host, and the provider modules with their SDK.
fn checks(tools: &Tools) -> Vec<(String, Command)> {
    let build = tools.target().join("providers-build");
    // Includes code that only a fuzzer builds.
    let fuzz: &[&str] = &["--features", "keyward-fuzz/targets"];
    let mut checks = Vec::new();
    for (whose, manifest, target, features) in [
        ("", "Cargo.toml", tools.target(), fuzz),
        (" of the providers", "providers/Cargo.toml", build.as_path(), &[]),
    ] {
        let mut add = |name: &str, command: &str, arguments: &[&[&str]]| {
            let mut cargo = tools.cargo();
            cargo.args([command, "--manifest-path", manifest]).args(arguments.concat());
            cargo.env("CARGO_TARGET_DIR", target).env("RUSTDOCFLAGS", "-D warnings");
            checks.push((format!("{name}{whose}"), cargo));
        };
        add("formatting", "fmt", &[&["--all", "--check"]]);
        let lints = ["--quiet", "--workspace", "--all-targets"];
        add("lints", "clippy", &[&lints, features, &["--", "-D", "warnings"]]);
        // There are no examples. With `--examples` cargo also resolves the features that tests need, as the
        // lints do, so it checks nothing a second time.
        let documented = ["--lib", "--bins", "--examples", "--no-deps", "--document-private-items"];
        add("documentation", "doc", &[&["--quiet", "--workspace"], &documented]);
    }
    checks
}
