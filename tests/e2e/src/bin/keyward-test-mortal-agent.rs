//! The node agent, killed after every step: its next start finds the node between two steps.
//!
//! The agent itself does not know of this. It logs each completed step, and a subscriber of its log ends the
//! process then, as SIGKILL would: no destructor runs, nothing is flushed.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use keyward_core::node::Policy;
use keyward_node::{Agent, Settings};
use tokio_util::sync::CancellationToken;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// The arguments of `keyward node-agent` that tests use.
#[derive(Parser)]
struct Arguments {
    /// `node-agent`
    command: String,
    #[arg(long)]
    node: String,
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Seconds, for example `2s`
    #[arg(long, value_parser = seconds)]
    probe_interval: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').and_then(|number| number.parse().ok());
    number.map(Duration::from_secs).ok_or_else(|| format!("{text} is not a whole number of seconds"))
}

/// Ends the process after a step.
struct Death;

impl<S: Subscriber> Layer<S> for Death {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut seen = Seen::default();
        event.record(&mut seen);
        if seen.step && seen.done {
            std::process::abort();
        }
    }
}

#[derive(Default)]
struct Seen {
    step: bool,
    done: bool,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.step |= field.name() == "step";
        self.done |= field.name() == "message" && format!("{value:?}") == "done";
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    anyhow::ensure!(arguments.command == "node-agent", "unknown command {}", arguments.command);
    // In this order: the line is written before the process ends.
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(lines.with_filter(tracing_subscriber::filter::LevelFilter::INFO))
        .with(Death)
        .init();
    keyward_test_cluster::use_one_tls_provider();
    let policy = Policy { probe_interval: arguments.probe_interval, ..Policy::default() };
    let settings = Settings { policy, ..Settings::new(arguments.node, arguments.kubeconfig) };
    Agent::new(settings).await?.run(CancellationToken::new()).await;
    Ok(())
}
