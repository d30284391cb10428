//! `keyward node-agent republish`: the Secret of a revision, created again from this node's disk.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use keyward_core::ids::Revision;
use keyward_core::names;
use keyward_node::{Connection, Paths, Republished, Settings};

use crate::output::print;

/// Limit of one call: an API server may wait for a plugin that does not answer before it says that it cannot read.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Example:\n  keyward node-agent republish --dry-run\n  keyward node-agent republish\n\nFor a Secret encryption-config-N that is gone from etcd. It is created and never replaced, and nothing changes on the node."
)]
pub(crate) struct Args {
    /// Which kept revision [default: the one in force on this node]
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// Check everything, and create nothing
    #[arg(long)]
    dry_run: bool,
    /// Kubeconfig of an admin [default: /etc/kubernetes/admin.conf]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The folder that all paths are below
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    ensure!(args.root.is_absolute(), "--root must be an absolute path");
    let kubeconfig = args.kubeconfig.unwrap_or_else(|| args.root.join("etc/kubernetes/admin.conf"));
    // No object of this node is asked for, so that its name does not matter.
    let settings = Settings { call_timeout: PATIENCE, ..Settings::new("", kubeconfig) };
    let connection = Connection::new(&settings).await?;
    let said = |line: &str| print(&format!("{line}\n")).unwrap_or_default();
    let asked = args.revision.map(Revision);
    let paths = Paths::new(args.root);
    let (revision, outcome) = keyward_node::republish(&paths, &connection, asked, args.dry_run, said).await?;
    let secret = format!("secret {:?} in {}", names::revision_secret(revision), names::NAMESPACE);
    print(&match outcome {
        Republished::Created => {
            format!("{secret} is created: the operator continues from revision {revision}\n")
        }
        Republished::WouldCreate => format!("dry run: {secret} would be created\n"),
        Republished::Exists => format!("{secret} exists with the same data: there is nothing to do\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}
