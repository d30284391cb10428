//! `keyward node-agent restore`: installs an exported revision on a node whose disk is lost.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use keyward_node::Kept;

use super::place::Place;
use crate::bundle::{Bundle, Opener};

/// Maximum length of a bundle.
const LONGEST: u64 = 16 << 20;

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Example:\n  keyward node-agent restore --bundle keyward-4.age --identity key.txt\n\nFor a node whose disk is lost, before its API server starts. A node that already has a configuration is not changed."
)]
pub(crate) struct Args {
    /// The bundle, as written by keyward export
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// File with the age identity that the bundle was encrypted for, as age-keygen writes it
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "passphrase_file",
        conflicts_with = "passphrase_file"
    )]
    identity: Option<PathBuf>,
    /// File with the passphrase in its first line
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
        (None, None) => bail!("give --identity or --passphrase-file"),
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
        "installing revision {revision}, exported {made}, on node {}: its API server will read and write with it. If the data in etcd is from another time, the operator continues from that data\n",
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
        "the API server may start. It becomes ready when the node's agent has verified that its plugins decrypt the key checks\n",
    );
    crate::output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
