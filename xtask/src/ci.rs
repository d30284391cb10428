//! `cargo xtask ci`: every check that a change must pass, each one tried even when an earlier one failed.

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
    // Last, so that its `N passed, N failed` is what a run ends with.
    for name in &failed {
        progress::say(&format!("== {name}: failed"));
    }
    // What went wrong in there is tried again, and told, where it is needed. No test runs beside it.
    let _ = preparing.join();
    let tested = test::run(tools, &test::Options::everything());
    Ok(if failed.is_empty() { tested } else { ExitCode::FAILURE })
}

/// What tests need beside this workspace's crates, fetched and built while the checks run: much of it is waiting for the
/// network and for the one last thing that is linked.
fn prepare(tools: &Tools) -> thread::JoinHandle<()> {
    let tools = tools.clone();
    thread::spawn(move || {
        let prepared = tools.control_plane().and_then(|_| tools.bao()).and_then(|_| tools.providers());
        if let Err(error) = prepared {
            progress::say(&format!("preparing the tests: {error:#}"));
        }
    })
}

/// The same three checks of both workspaces: the host's, and the providers' with their SDK.
fn checks(tools: &Tools) -> Vec<(String, Command)> {
    let build = tools.target().join("providers-build");
    // Also what only a fuzzer builds.
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
        // There are no examples. Where cargo looks for them it resolves the features of what tests need, too: as for the
        // lints, so that nothing that those looked at is looked at once more.
        let documented = ["--lib", "--bins", "--examples", "--no-deps", "--document-private-items"];
        add("documentation", "doc", &[&["--quiet", "--workspace"], &documented]);
    }
    checks
}
