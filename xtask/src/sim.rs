//! `cargo xtask sim`: builds and runs the simulator.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;
use keyward_test_tools::Tools;

#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Arguments of the simulator: `--schedules N --seed S`, `--complete large`, `--mutants`, `--replay WAY`,
    /// `--help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(tools: &Tools, options: &Options) -> Result<ExitCode> {
    let mut cargo = tools.cargo();
    cargo.args(["build", "--quiet", "--package", "keyward-test-sim"]);
    ensure!(cargo.status().context("starting cargo")?.success(), "the simulator does not build");
    let mut sim = Command::new(tools.target().join("debug/keyward-sim"));
    sim.args(&options.arguments).current_dir(tools.root());
    let status = sim.status().context("starting the simulator")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
