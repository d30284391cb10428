//! `keyward node-agent`: flags and signals of the agent, and the commands that an admin runs on a node.

mod join;
mod place;
mod prepare;
mod recover;
mod republish;
mod restore;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args as ClapArgs, Subcommand};
use keyward_core::node::Policy;
use keyward_node::{Agent, Owner, Paths, Settings};
use keyward_operator::settings::duration;

/// Example: `keyward node-agent --node cp-1 --kubeconfig /etc/kubernetes/keyward/agent.kubeconfig`.
#[derive(Clone, Debug, ClapArgs)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Example:\n  keyward node-agent --node cp-1 --kubeconfig /etc/kubernetes/keyward/agent.kubeconfig"
)]
pub(crate) struct Args {
    /// Commands that an admin runs once
    #[command(subcommand)]
    once: Option<Once>,
    #[command(flatten)]
    run: Option<Run>,
}

#[derive(Clone, Debug, Subcommand)]
enum Once {
    /// Prepare the API server of a kubeadm node for Keyward
    Prepare(Box<prepare::Args>),
    /// Replace a credential of a plugin on this node, without the API
    Recover(Box<recover::Args>),
    /// Recreate the Secret of a revision from this node's disk
    Republish(republish::Args),
    /// Install an exported revision on a node whose disk is lost
    Restore(Box<restore::Args>),
}

#[derive(Clone, Debug, ClapArgs)]
struct Run {
    /// Name of the node and of its EncryptionNode [env: NODE_NAME=]
    // Not clap's `env`: a variable counts as a given argument. In the agent's own container, where it is set,
    // each subcommand would then require the agent's other arguments.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Path of the kubeconfig with the node's own credential
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Root folder of all paths except those of sockets
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// URL of the local API server, for its metrics [default: the kubeconfig's server]
    #[arg(long, value_name = "URL")]
    metrics_url: Option<String>,
    /// Name in the certificate of the local API server
    #[arg(long, value_name = "NAME", default_value = "kubernetes.default.svc")]
    server_name: String,
    /// Interval between probes of a running plugin
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    probe_interval: Duration,
    /// Every Nth probe is complete: Status, an Encrypt/Decrypt round trip, and the key check
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    full_probe_every: u32,
    /// Timeout of one call to a plugin
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    plugin_timeout: Duration,
    /// Timeout of one call to the API server
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    call_timeout: Duration,
    /// Interval at which the API server reads its encryption configuration
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    file_poll: Duration,
    /// Time that a plugin has until it accepts connections on its socket
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    start_deadline: Duration,
    /// Time that a plugin keeps running after the API server has loaded a configuration without it
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    drain: Duration,
    /// User and group ID of plugins and of their files [default: 65532 if it exists on this machine]
    #[arg(long, value_name = "UID")]
    plugin_uid: Option<u32>,
}

/// Runs until SIGTERM or SIGINT. Plugins keep running, because they are static pods.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    match (args.once, args.run) {
        (Some(Once::Prepare(args)), _) => Box::pin(prepare::run(*args)).await,
        (Some(Once::Recover(args)), _) => recover::run(*args).await,
        (Some(Once::Republish(args)), _) => republish::run(args).await,
        (Some(Once::Restore(args)), _) => restore::run(*args).await,
        (None, Some(args)) => Box::pin(agent(args)).await,
        (None, None) => bail!("--node and --kubeconfig are missing; see keyward node-agent --help"),
    }
}

async fn agent(args: Run) -> Result<ExitCode> {
    let node = args.node.or_else(|| std::env::var("NODE_NAME").ok()).filter(|name| !name.is_empty());
    let node = node.context("--node is missing, and NODE_NAME is not set")?;
    ensure!(args.root.is_absolute(), "--root must be an absolute path, because the plugins' Pods contain it");
    let policy = Policy {
        probe_interval: args.probe_interval,
        file_poll: args.file_poll,
        start_deadline: args.start_deadline,
        drain: args.drain,
        ..Policy::default()
    };
    let mut settings = Settings {
        paths: Paths::new(args.root),
        policy,
        metrics_url: args.metrics_url,
        server_name: args.server_name,
        call_timeout: args.call_timeout,
        plugin_timeout: args.plugin_timeout,
        full_probe_every: args.full_probe_every,
        ..Settings::new(node, args.kubeconfig)
    };
    if let Some(uid) = args.plugin_uid {
        settings.owner = Owner { uid, gid: uid };
    }
    let stop = crate::stop::on_signal()?;
    Agent::new(settings).await?.run(stop).await;
    Ok(ExitCode::SUCCESS)
}
