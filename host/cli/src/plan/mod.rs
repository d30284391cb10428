//! `keyward plan`: shows what a change would do, before an admin makes it.

mod objects;
mod offline;
mod table;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args as ClapArgs, ValueEnum};

use crate::providers::Providers;

/// The output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Text for people
    #[default]
    Table,
    /// JSON, documented and stable (docs/reference/cli.md)
    Json,
    /// The same as YAML
    Yaml,
}

/// Exit code 0: nothing would change, 2: something would change, 1: an error or a violation.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  keyward plan --current live.yaml --desired new.yaml\n  keyward plan -f new.yaml\n  keyward plan --objects dump.yaml --platform openshift -o json"
)]
pub(crate) struct Args {
    /// The current object: a ClusterEncryption or an OpenShift APIServer; - for standard input
    #[arg(long, value_name = "FILE", requires = "desired")]
    current: Option<String>,
    /// The desired object
    #[arg(long, value_name = "FILE", requires = "current")]
    desired: Option<String>,
    /// The desired object, compared with the live cluster
    #[arg(short = 'f', long = "filename", value_name = "FILE", conflicts_with = "current")]
    file: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    dump: objects::DumpArgs,
    #[command(flatten)]
    providers: Providers,
    #[command(flatten)]
    connection: crate::connection::Connection,
}

/// Runs the command.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    if !args.dump.objects.is_empty() {
        return objects::run(&args.dump, args.output, &args.providers);
    }
    match (&args.current, &args.desired, &args.file) {
        (Some(current), Some(desired), None) => offline::run(current, desired, args.output, &args.providers),
        (None, None, Some(file)) => {
            Box::pin(crate::live::plan(file, args.output, &args.providers, &args.connection)).await
        }
        _ => bail!(
            "nothing to plan; give -f NEW.yaml, --current OLD.yaml and --desired NEW.yaml, or --objects FILE…"
        ),
    }
}

pub(crate) use offline::{Current, Plan, Unknown, verdict, violation};
