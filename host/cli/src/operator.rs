//! `keyward operator`: flags and signals of the operator.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use keyward_core::provider::Evaluator;
use keyward_operator::migrator::MigrationSettings;
use keyward_operator::settings::duration;
use keyward_operator::{Operator, Settings};

use crate::connection::Connection;

/// The platform whose objects the operator manages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Platform {
    /// `ClusterEncryption/cluster` and Keyward's own node agents.
    #[default]
    Kubernetes,
    /// `APIServer/cluster` and the cluster's operators.
    Openshift,
}

/// Example: `keyward operator --platform kubernetes --listen 0.0.0.0:8440`.
#[derive(Clone, Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  keyward operator --platform kubernetes --providers /usr/share/keyward/providers --listen 0.0.0.0:8440"
)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// Path of a token that is renewed, for a Pod that mounts nothing else from the API
    #[arg(long, value_name = "FILE", requires = "ca_file", conflicts_with_all = ["kubeconfig", "context"])]
    token_file: Option<PathBuf>,
    /// Path of the cluster's CA, with --token-file
    #[arg(long, value_name = "FILE", requires = "token_file")]
    ca_file: Option<PathBuf>,
    /// Platform whose objects the operator manages
    #[arg(long, value_enum, default_value_t)]
    platform: Platform,
    /// Address of /metrics, /readyz and /livez; port 0 chooses a free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8440")]
    listen: SocketAddr,
    /// Duration of the leader's Lease without renewal; at least 2s
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    lease_duration: Duration,
    /// Timeout of one call to the API server
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    call_timeout: Duration,
    /// Interval of reconcile passes without any change
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    resync: Duration,
    /// Number of objects that are re-encrypted at the same time, over all resources
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    migration_concurrency: u16,
    /// Time that the current work has after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration)]
    shutdown_timeout: Duration,
}

/// Runs until SIGTERM or SIGINT. It then finishes the current write, stores the migration's cursor and
/// releases the Lease.
pub(crate) async fn run(args: Args, evaluator: Arc<dyn Evaluator>) -> Result<ExitCode> {
    if args.platform == Platform::Openshift {
        bail!("--platform openshift is not supported yet; `keyward plan` understands its objects");
    }
    if args.lease_duration < Duration::from_secs(2) {
        bail!("--lease-duration must be at least 2s: the Lease is renewed three times in that time");
    }
    let providers: Vec<String> = evaluator.descriptors().into_iter().map(|d| d.provider_type).collect();
    tracing::info!(?providers, "provider modules loaded");

    let mounted = args.token_file.zip(args.ca_file);
    let connection = keyward_operator::Connection {
        mounted: mounted.map(|(token_file, ca_file)| keyward_operator::Mounted { token_file, ca_file }),
        kubeconfig: args.connection.kubeconfig,
        context: args.connection.context,
    };
    let client = keyward_operator::connect(&connection).await?;
    let settings = Settings {
        listen: args.listen,
        lease_duration: args.lease_duration,
        call_timeout: args.call_timeout,
        resync: args.resync,
        shutdown: args.shutdown_timeout,
        migration: MigrationSettings {
            concurrency: args.migration_concurrency.into(),
            ..MigrationSettings::default()
        },
        ..Settings::default()
    };
    let operator = Operator::bind(client, evaluator, settings).await?;
    println!("listening on http://{}", operator.address());
    Box::pin(operator.run(crate::stop::on_signal()?)).await?;
    Ok(ExitCode::SUCCESS)
}
