//! `keyward node-agent prepare`: sets the flags and mounts of a kubeadm node's API server, in its manifest
//! and in ClusterConfiguration, from which kubeadm recreates the manifest
//! (kubernetes: kubeadm-makes-the-manifest-again). It shows the changes first, and keeps the previous
//! versions.

mod cluster;
mod plan;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use keyward_node::Paths;
use keyward_node::kubeadm::Files;
use keyward_operator::settings::duration;

use super::join;
use super::place::Place;
use crate::output::print;
use cluster::Cluster;
use plan::{Plan, Texts};

/// Something is missing or wrong.
const MISSING: u8 = 2;

#[allow(clippy::struct_excessive_bools)] // flags
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Run it on one control-plane node after another, and with --check before `kubeadm upgrade`.\n\nExample:\n  keyward node-agent prepare\n  keyward node-agent prepare --check\n  keyward node-agent prepare --join --kubeconfig admin.conf"
)]
pub(crate) struct Args {
    /// Change nothing, and list what is missing; exit code 0: nothing, 2: something
    #[arg(long, conflicts_with = "yes")]
    check: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Do not read or change ClusterConfiguration; `kubeadm upgrade` would undo the change
    #[arg(long)]
    manifest_only: bool,
    /// With --manifest-only: the cluster has had no revision yet, so the API server may start without
    /// encryption
    #[arg(long, requires = "manifest_only")]
    begin_unencrypted: bool,
    /// Prepare a joining node: register it, and install the revision in force before its API server first
    /// starts
    #[arg(long, conflicts_with_all = ["check", "yes", "manifest_only", "begin_unencrypted"])]
    join: bool,
    /// With --join: time that the operator has to set the node's revision
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration, requires = "join")]
    timeout: Duration,
    /// Kubeconfig of an admin [default: /etc/kubernetes/admin.conf]; with --join required, and of another API
    /// server
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    if args.join {
        let kubeconfig =
            args.kubeconfig.context("--join needs --kubeconfig, because the node uses another API server")?;
        return join::run(args.place, kubeconfig, args.timeout).await;
    }
    let root = args.place.root;
    let kubeconfig = args.kubeconfig.unwrap_or_else(|| root.join("etc/kubernetes/admin.conf"));
    let cluster = if args.manifest_only { None } else { Some(Cluster::read(kubeconfig).await?) };
    let files = Files::new(Paths::new(root));
    let plan = Plan::of(&files, cluster, args.begin_unencrypted)?;
    for note in &plan.notes {
        print(&format!("note: {note}\n"))?;
    }
    if args.check {
        return check(&plan);
    }
    let texts = plan.may_be_carried_out()?;
    for fault in &plan.faults {
        print(&format!("wrong: {fault}\n"))?;
    }
    if plan.is_done() {
        print("this node is prepared; there is nothing to do\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&plan.shown(&files, &texts))?;
    if !args.yes && !confirmed()? {
        print("nothing was changed\n")?;
        return Ok(ExitCode::from(1));
    }
    carry_out(&files, &plan, &texts).await?;
    Ok(ExitCode::SUCCESS)
}

fn check(plan: &Plan) -> Result<ExitCode> {
    let lacks = plan.lacks();
    for lack in &lacks {
        print(&format!("missing: {lack}\n"))?;
    }
    let wrong: Vec<&String> = plan.refusals.iter().chain(&plan.faults).collect();
    for fault in &wrong {
        print(&format!("wrong: {fault}\n"))?;
    }
    if lacks.is_empty() && wrong.is_empty() {
        print("this node is prepared\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(MISSING))
}

fn confirmed() -> Result<bool> {
    ensure!(std::io::stdin().is_terminal(), "standard input is not a terminal; run it with --yes");
    print("\nApply these changes? The kubelet then restarts kube-apiserver on this node. [y/N] ")?;
    std::io::stdout().flush().context("standard output")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("standard input")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Changes the manifest last, so that the restarted API server finds everything that it reads
/// (decision 0073). If it stops earlier, it can be run again.
async fn carry_out(files: &Files, plan: &Plan, texts: &Texts<'_>) -> Result<()> {
    if plan.installs_revision_zero() {
        files.install_revision_zero()?;
        print(&format!("revision 0 is installed: {}\n", files.config_path().display()))?;
    }
    if let (Some(cluster), Some(text)) = (&plan.cluster, texts.cluster)
        && cluster.text != text
    {
        let kept = files.keep("ClusterConfiguration.yaml", &cluster.text)?;
        cluster.write(text).await?;
        print(&format!(
            "{} is changed; the previous version is kept in {}\n",
            cluster::NAME,
            kept.display()
        ))?;
    }
    if plan.manifest != texts.manifest {
        let kept = files.keep("kube-apiserver.yaml", &plan.manifest)?;
        files.replace_manifest(texts.manifest)?;
        let manifest = files.manifest_path();
        print(&format!(
            "{} is changed; the previous version is kept in {}\n",
            manifest.display(),
            kept.display()
        ))?;
        print(
            "the kubelet restarts kube-apiserver; wait until it is ready before the next node: \
             kubectl get --raw /readyz\n",
        )?;
    }
    Ok(())
}
