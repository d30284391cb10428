//! `cargo xtask bench`: prepares everything, then runs the program of tests/bench, built as it ships.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;
use keyward_test_tools::{BIN_DIR, Tools, progress};

#[derive(Args)]
pub(crate) struct Options {
    /// Benchmarks to run [default: all]
    names: Vec<String>,
}

/// The benchmarks' program and all programs that it starts. One build, so that they share every dependency.
const PACKAGES: [&str; 4] =
    ["keyward", "keyward-test-bench", "keyward-test-cluster", "keyward-test-kms-plugin"];

pub(crate) fn run(tools: &Tools, options: &Options) -> Result<ExitCode> {
    tools.control_plane()?;
    tools.bao()?;
    tools.providers()?;
    progress::say("building the release programs (about a quarter of an hour the first time)");
    let mut cargo = tools.cargo();
    cargo.args(["build", "--release", "--quiet", "--bins"]);
    cargo.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    ensure!(cargo.status().context("starting cargo")?.success(), "the release build failed");
    let folder = tools.target().join("release");
    let mut bench = Command::new(folder.join("keyward-test-bench"));
    bench.args(&options.names).current_dir(tools.root()).env(BIN_DIR, &folder);
    let status = bench.status().context("starting the benchmarks")?;
    ensure!(status.success(), "the benchmarks ended with {status}");
    Ok(ExitCode::SUCCESS)
}
