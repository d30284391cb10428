//! `keyward node-agent`: settings, signals, and the agent they belong to; and what is done by hand on a node.

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
    /// What is done once, by hand
    #[command(subcommand)]
    once: Option<Once>,
    #[command(flatten)]
    run: Option<Run>,
}

#[derive(Clone, Debug, Subcommand)]
enum Once {
    /// Make a kubeadm node's API server ready for Keyward
    Prepare(Box<prepare::Args>),
    /// Replace a credential of a plugin on this node, without the API
    Recover(Box<recover::Args>),
    /// Create the Secret of a revision again from this node's disk
    Republish(republish::Args),
    /// Install an exported revision on a node whose disk is lost
    Restore(Box<restore::Args>),
}

#[derive(Clone, Debug, ClapArgs)]
struct Run {
    /// The node's name, which is its EncryptionNode's too [env: NODE_NAME=]
    // Not clap's `env`: that counts as given, so that the agent's other arguments would be missing from each command below
    // where the variable is set, as it is in the agent's own container.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Path of the kubeconfig with the node's own credential
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Put all paths but the sockets' below this folder
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Where the local API server's metrics are read [default: the kubeconfig's server]
    #[arg(long, value_name = "URL")]
    metrics_url: Option<String>,
    /// The name in the local API server's certificate
    #[arg(long, value_name = "NAME", default_value = "kubernetes.default.svc")]
    server_name: String,
    /// How often running plugins are probed
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    probe_interval: Duration,
    /// Every so many probes go beyond Status: an Encrypt/Decrypt round trip, and the key check
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    full_probe_every: u32,
    /// Limit of one call to a plugin
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    plugin_timeout: Duration,
    /// Limit of one call to the API server
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    call_timeout: Duration,
    /// How often the API server looks at its encryption configuration
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    file_poll: Duration,
    /// How long a plugin may take until it accepts on its socket
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    start_deadline: Duration,
    /// How long a plugin goes on after the API server has loaded a configuration without it
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    drain: Duration,
    /// User and group that plugins run as, and that own their files [default: 65532, where this machine has it]
    #[arg(long, value_name = "UID")]
    plugin_uid: Option<u32>,
}

/// Runs until SIGTERM or SIGINT. Plugins go on: they are static pods.
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
    ensure!(args.root.is_absolute(), "--root must be an absolute path: it stands in the plugins' pods");
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
    let stop = crate::stop::until_asked()?;
    Agent::new(settings).await?.run(stop).await;
    Ok(ExitCode::SUCCESS)
}
