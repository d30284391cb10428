//! `keyward plan`: what a change would do, before anybody makes it.

mod objects;
mod offline;
mod table;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args as ClapArgs, ValueEnum};

use crate::providers::Providers;

/// How the answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// Documented and stable (docs/cli.md).
    Json,
    /// The same.
    Yaml,
}

/// Exit codes: 0 nothing would change, 2 something would, 1 an error or a violation.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  keyward plan --current live.yaml --desired new.yaml\n  keyward plan -f new.yaml\n  keyward plan --objects dump.yaml --platform openshift -o json"
)]
pub(crate) struct Args {
    /// The object as it is: a ClusterEncryption or an OpenShift APIServer; - for standard input
    #[arg(long, value_name = "FILE", requires = "desired")]
    current: Option<String>,
    /// The object as it is to be
    #[arg(long, value_name = "FILE", requires = "current")]
    desired: Option<String>,
    /// The object as it is to be, against the live cluster
    #[arg(short = 'f', long = "filename", value_name = "FILE", conflicts_with = "current")]
    file: Option<String>,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    dump: objects::DumpArgs,
    #[command(flatten)]
    providers: Providers,
    #[command(flatten)]
    connection: crate::connection::Connection,
}

/// Plans.
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
