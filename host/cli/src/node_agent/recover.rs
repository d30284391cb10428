//! `keyward node-agent recover`.

use std::process::ExitCode;

use anyhow::{Result, bail};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {}

#[allow(clippy::unused_async)]
pub(crate) async fn run(_: Args) -> Result<ExitCode> {
    bail!("node-agent recover is not built yet")
}
