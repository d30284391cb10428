//! `keyward node-agent republish`: recreates the Secret of a revision from this node's disk.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use keyward_core::ids::Revision;
use keyward_core::names;
use keyward_node::{Connection, Paths, Republished, Settings};

use crate::output::print;

/// Timeout of one call: an API server may wait for a plugin that does not answer before it reports that it
/// cannot read.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Example:\n  keyward node-agent republish --dry-run\n  keyward node-agent republish\n\nFor a Secret encryption-config-N that is gone from etcd. The command creates it, never replaces it, and changes nothing\non the node."
)]
pub(crate) struct Args {
    /// Number of a revision on this node's disk [default: the one in force on this node]
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// Check everything, and create nothing
    #[arg(long)]
    dry_run: bool,
    /// Kubeconfig of an admin [default: /etc/kubernetes/admin.conf]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Root folder of all paths
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    ensure!(args.root.is_absolute(), "--root must be an absolute path");
    let kubeconfig = args.kubeconfig.unwrap_or_else(|| args.root.join("etc/kubernetes/admin.conf"));
    // The command reads no object of this node, so the node's name does not matter.
    let settings = Settings { call_timeout: PATIENCE, ..Settings::new("", kubeconfig) };
    let connection = Connection::new(&settings).await?;
    let report = |line: &str| print(&format!("{line}\n")).unwrap_or_default();
    let requested = args.revision.map(Revision);
    let paths = Paths::new(args.root);
    let (revision, outcome) =
        keyward_node::republish(&paths, &connection, requested, args.dry_run, report).await?;
    let secret = format!("secret {:?} in {}", names::revision_secret(revision), names::NAMESPACE);
    print(&match outcome {
        Republished::Created => {
            format!("{secret} created; the operator continues from revision {revision}\n")
        }
        Republished::WouldCreate => format!("dry run: {secret} would be created\n"),
        Republished::Exists => {
            format!("{secret} already exists with the same data; there is nothing to do\n")
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
