//! `keyward node-agent restore`: an exported revision on a node whose disk is lost.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use keyward_node::Kept;

use super::place::Place;
use crate::bundle::{Bundle, Opener};

/// No bundle is longer.
const LONGEST: u64 = 16 << 20;

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Example:\n  keyward node-agent restore --bundle keyward-4.age --identity key.txt\n\nFor a node whose disk is lost, before its API server starts. A node that has a configuration of its own is left alone."
)]
pub(crate) struct Args {
    /// What keyward export wrote
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// The age identity that it was encrypted to, as age-keygen writes it
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "passphrase_file",
        conflicts_with = "passphrase_file"
    )]
    identity: Option<PathBuf>,
    /// The passphrase, in the first line of this file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let place = args.place.find()?;
    let opener = match (&args.identity, &args.passphrase_file) {
        (_, Some(file)) => Opener::by_passphrase(file)?,
        (Some(file), None) => Opener::by_identities(file)?,
        (None, None) => bail!("--identity or --passphrase-file is missing"),
    };
    let path = args.bundle;
    let named = path.display().to_string();
    let open = move || -> Result<Bundle> {
        ensure!(std::fs::metadata(&path)?.len() <= LONGEST, "it is longer than any bundle");
        Bundle::open(&std::fs::read(&path)?, &opener)
    };
    let bundle = tokio::task::spawn_blocking(open).await?.with_context(|| format!("--bundle {named}"))?;
    let (revision, made) = (bundle.revision, bundle.created_at.clone());
    crate::output::print(&format!(
        "revision {revision}, exported {made}, is about to be installed on node {}: its API server will read and write by it. Where etcd's data are from another time, the operator goes on from there\n",
        place.node
    ))?;
    let kept = Kept {
        revision,
        data: bundle.data,
        key_checks: bundle.key_checks,
        highest_key_id: bundle.highest_key_id,
    };
    let done = keyward_node::restore(&place, kept).await?;
    let mut text: String = done.iter().map(|step| format!("done: {step}\n")).collect();
    text.push_str(
        "the API server may start. It becomes ready once the node's agent has seen its plugins decrypt the key checks\n",
    );
    crate::output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
