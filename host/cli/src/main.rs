//! The one binary, `keyward`: parses the command line and wires the crates together.
//!
//! What may come in: flags, output for people, the choice of crates. What never does: decisions (core makes
//! them), and cluster I/O that the operator or an agent also does (their crates have it).

mod bundle;
mod connection;
mod crds;
#[cfg(test)]
mod deployed;
mod export;
mod gone;
mod health_reporter;
mod input;
mod live;
mod node_agent;
mod operator;
mod operator_seen;
mod output;
mod pause;
mod plan;
mod provider;
mod providers;
mod status;
mod stop;
mod wishes;

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

/// The maximum number of runtime threads. The work waits for API servers nearly all the time, and each
/// further thread of a large machine only costs memory.
const WORKERS: usize = 4;

#[derive(Parser)]
#[command(name = "keyward", version, about = "Encryption at rest for Kubernetes", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Format of log lines
    #[arg(long, global = true, env = "KEYWARD_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// Text for people
    #[default]
    Text,
    /// JSON, one object per line
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator
    Operator {
        #[command(flatten)]
        args: Box<operator::Args>,
        #[command(flatten)]
        providers: providers::Providers,
    },
    /// Run the agent of a control-plane node
    NodeAgent(Box<node_agent::Args>),
    /// Report the health of the KMS plugins beside an API server (OpenShift)
    #[command(alias = "kms-health-reporter")]
    HealthReporter(Box<health_reporter::Args>),
    /// Show what a change would do, and why; exit code 0: nothing, 2: something, 1: an error
    Plan(Box<plan::Args>),
    /// Show keys, nodes, plugins, migrations, and what Keyward waits for
    Status(status::Args),
    /// Re-encrypt everything now, under a new key with the same KEK
    Reencrypt(wishes::Reencrypt),
    /// Stop the operator's writes until `keyward resume`
    Pause(pause::Pause),
    /// End a pause, and list the writes that follow
    Resume(pause::Resume),
    /// Forget a key whose KEK is gone for good, and accept that what is stored under it is lost
    ForgetKey(wishes::ForgetKey),
    /// Write a revision to an encrypted file, for disaster recovery
    Export(export::Args),
    /// Print the CRDs
    Crds(crds::Args),
    /// Inspect and test a provider module, as its author
    Provider(provider::Args),
}

impl Command {
    /// A long-running command logs what it does. Any other command prints its result, and logs warnings only.
    fn default_level(&self) -> &'static str {
        match self {
            Self::Operator { .. } | Self::NodeAgent(_) | Self::HealthReporter(_) => "info",
            _ => "warn",
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // 0 for help and version, 1 for a wrong argument: 2 means that `plan` found a change.
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    log(cli.log_format, cli.command.default_level());
    // One TLS provider for the whole process.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider is already installed");
    }
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    match runtime.block_on(run(cli.command)) {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Operator { args, providers } => {
            let engine = tokio::task::spawn_blocking(move || {
                providers.compile_separately();
                providers.load()
            });
            let engine = engine.await??;
            let evaluator = engine as Arc<dyn keyward_core::provider::Evaluator>;
            Box::pin(operator::run(*args, evaluator)).await
        }
        Command::NodeAgent(args) => Box::pin(node_agent::run(*args)).await,
        Command::HealthReporter(args) => Box::pin(health_reporter::run(*args)).await,
        Command::Plan(args) => Box::pin(plan::run(*args)).await,
        Command::Status(args) => status::run(args).await,
        Command::Reencrypt(args) => wishes::reencrypt(args).await,
        Command::Pause(args) => pause::pause(args).await,
        Command::Resume(args) => pause::resume(args).await,
        Command::ForgetKey(args) => wishes::forget_key(args).await,
        Command::Export(args) => export::run(args).await,
        Command::Crds(args) => crds::run(&args),
        Command::Provider(args) => provider::run(args),
    }
}

/// Errors read `error: what; what to do`, and never show a backtrace.
fn failed(error: &anyhow::Error) -> ExitCode {
    let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
    eprintln!("error: {}", chain.join(": "));
    ExitCode::from(1)
}

fn log(format: LogFormat, level: &str) {
    use tracing_subscriber::EnvFilter;
    // The caller of each failed request logs it with its purpose. The client's own log line has neither.
    let usual = || EnvFilter::new(format!("{level},kube_client::client::builder=off"));
    let filter = EnvFilter::try_from_env("KEYWARD_LOG").unwrap_or_else(|_| usual());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(false).init(),
        LogFormat::Json => lines.json().init(),
    }
}
