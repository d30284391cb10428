//! `cargo xtask bench`: prepares everything, then hands over to the program of tests/bench, built as it ships.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use keyward_test_tools::{BIN_DIR, Tools};

#[derive(Args)]
pub(crate) struct Options {
    /// Benchmarks to run; all of them where none is named
    names: Vec<String>,
}

pub(crate) fn run(tools: &Tools, options: &Options) -> Result<ExitCode> {
    tools.control_plane()?;
    tools.bao()?;
    tools.providers()?;
    let mut cargo = tools.cargo();
    cargo.args(["run", "--release", "--package", "keyward-test-bench", "--"]).args(&options.names);
    // A folder of binaries named for tests has those of the development profile; what is measured is what ships.
    cargo.env_remove(BIN_DIR);
    let status = cargo.status().context("starting cargo")?;
    ensure!(status.success(), "the benchmarks ended with {status}");
    Ok(ExitCode::SUCCESS)
}
