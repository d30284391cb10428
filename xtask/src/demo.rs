//! `cargo xtask demo`: prepares everything, then runs the program `keyward-demo` of tests/e2e, which has the
//! cluster harness.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;
use keyward_test_tools::{BIN_DIR, Tools};

use crate::test::Built;

#[derive(Args)]
pub(crate) struct Options {
    /// Keep everything running at the end, and print how to connect
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(tools: &Tools, options: &Options) -> Result<ExitCode> {
    let built = Built::everything(tools)?;
    ensure!(built.is_complete(), "the workspace does not build");
    tools.control_plane()?;
    tools.bao()?;
    tools.providers()?;
    let mut demo = Command::new(built.binary("keyward-demo")?);
    demo.current_dir(tools.root()).env(BIN_DIR, built.folder());
    if options.keep {
        demo.arg("--keep");
    }
    let status = demo.status().context("starting the demo")?;
    ensure!(status.success(), "the demo ended with {status}");
    Ok(ExitCode::SUCCESS)
}
