//! `keyward node-agent prepare`.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::join;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// A node that joins: register it, and install the revision in force before its API server first starts
    #[arg(long)]
    join: bool,
    #[command(flatten)]
    joining: join::Joining,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    if args.join {
        return join::run(args.joining).await;
    }
    bail!("node-agent prepare is built with --join only yet")
}
