//! `keyward node-agent prepare`: a kubeadm node's API server is told where its encryption configuration is, and what would
//! make it anew is told the same. What is to be changed is shown first; what was is kept.

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
use plan::Plan;

/// Something is missing: what `--check` tells.
const MISSING: u8 = 2;

#[allow(clippy::struct_excessive_bools)] // flags
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "On each control-plane node, one after another; before `kubeadm upgrade` with --check.\n\nExample:\n  keyward node-agent prepare\n  keyward node-agent prepare --check\n  keyward node-agent prepare --join --kubeconfig admin.conf"
)]
pub(crate) struct Args {
    /// Change nothing, and name what is missing; exit 0 nothing, 2 something
    #[arg(long, conflicts_with = "yes")]
    check: bool,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
    /// Leave the cluster out: ClusterConfiguration is neither read nor changed, so that `kubeadm upgrade` undoes this
    #[arg(long)]
    manifest_only: bool,
    /// With --manifest-only: this cluster has had no revision yet, so its API server may begin without encryption
    #[arg(long, requires = "manifest_only")]
    begin_unencrypted: bool,
    /// A node that joins: register it, and install the revision in force before its API server first starts
    #[arg(long, conflicts_with_all = ["check", "yes", "manifest_only", "begin_unencrypted"])]
    join: bool,
    /// With --join: how long the operator may take to tell the node its revision
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration, requires = "join")]
    timeout: Duration,
    /// Kubeconfig of an admin, and with --join of another API server [default: /etc/kubernetes/admin.conf; with --join none]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    if args.join {
        let kubeconfig =
            args.kubeconfig.context("--join needs --kubeconfig: the node asks another API server")?;
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
    plan.may_be_carried_out()?;
    for fault in &plan.faults {
        print(&format!("wrong: {fault}\n"))?;
    }
    if plan.is_done() {
        print("this node is prepared: there is nothing to do\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&plan.shown(&files))?;
    if !args.yes && !asked()? {
        print("nothing was done\n")?;
        return Ok(ExitCode::from(1));
    }
    carry_out(&files, &plan).await?;
    Ok(ExitCode::SUCCESS)
}

fn check(plan: &Plan) -> Result<ExitCode> {
    let lacks = plan.lacks();
    for lack in &lacks {
        print(&format!("missing: {lack}\n"))?;
    }
    for fault in &plan.faults {
        print(&format!("wrong: {fault}\n"))?;
    }
    if lacks.is_empty() && plan.faults.is_empty() {
        print("this node is prepared\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(MISSING))
}

fn asked() -> Result<bool> {
    ensure!(std::io::stdin().is_terminal(), "nobody is there to be asked; say --yes");
    print("\nCarry this out? The kubelet then restarts kube-apiserver on this node. [y/N] ")?;
    std::io::stdout().flush().context("standard output")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("standard input")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The API server is told last: whatever it then reads is there, and wherever this stops it can be said again.
async fn carry_out(files: &Files, plan: &Plan) -> Result<()> {
    if plan.installs_revision_zero() {
        files.install_revision_zero()?;
        print(&format!("revision 0 is installed: {}\n", files.config_path().display()))?;
    }
    if let Some(cluster) = &plan.cluster
        && !cluster.edited.missing.is_empty()
    {
        let kept = files.keep("ClusterConfiguration.yaml", &cluster.text)?;
        cluster.write().await?;
        print(&format!("{} is changed; what it was is kept in {}\n", cluster::NAME, kept.display()))?;
    }
    if !plan.edited.missing.is_empty() {
        let kept = files.keep("kube-apiserver.yaml", &plan.manifest)?;
        files.replace_manifest(&plan.edited.text)?;
        let manifest = files.manifest_path();
        print(&format!("{} is changed; what it was is kept in {}\n", manifest.display(), kept.display()))?;
        print(
            "the kubelet restarts kube-apiserver; wait until it is ready before the next node: \
             kubectl get --raw /readyz\n",
        )?;
    }
    Ok(())
}
