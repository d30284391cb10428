//! `cargo xtask ci`: every check that a change must pass, each one tried even when an earlier one failed.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use keyward_test_tools::{Tools, progress};

use crate::test;

pub(crate) fn run(tools: &Tools) -> Result<ExitCode> {
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
    let tested = test::run(tools, &test::Options::everything());
    Ok(if failed.is_empty() { tested } else { ExitCode::FAILURE })
}

/// The same three checks of both workspaces: the host's, and the providers' with their SDK.
fn checks(tools: &Tools) -> Vec<(String, Command)> {
    let build = tools.target().join("providers-build");
    let mut checks = Vec::new();
    for (whose, manifest, target) in
        [("", "Cargo.toml", tools.target()), (" of the providers", "providers/Cargo.toml", build.as_path())]
    {
        let mut add = |name: &str, command: &str, arguments: &[&str]| {
            let mut cargo = tools.cargo();
            cargo.args([command, "--manifest-path", manifest]).args(arguments);
            cargo.env("CARGO_TARGET_DIR", target).env("RUSTDOCFLAGS", "-D warnings");
            checks.push((format!("{name}{whose}"), cargo));
        };
        add("formatting", "fmt", &["--all", "--check"]);
        add("lints", "clippy", &["--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]);
        add("documentation", "doc", &["--quiet", "--workspace", "--no-deps", "--document-private-items"]);
    }
    // Their lints would compile everything with a fuzzer's instrumentation once more.
    let mut cargo = tools.cargo();
    cargo.args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]);
    checks.push(("formatting of the fuzz targets".to_owned(), cargo));
    checks
}
