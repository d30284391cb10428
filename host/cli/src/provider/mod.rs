//! `keyward provider`: what the author of a provider module uses. It runs modules in the engine that production runs, and
//! needs no cluster.

mod fixtures;
mod inspect;
mod test;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use keyward_engine::{Engine, Options};

use crate::providers;

/// Arguments of `keyward provider`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Show what a module says of itself, and what its calls cost
    Inspect(inspect::Args),
    /// Run a module's fixtures
    Test(test::Args),
    /// Fill the cache of compiled modules; the operator runs it
    #[command(name = providers::COMPILE, hide = true)]
    Compile(providers::Providers),
}

/// Runs the command; exit 1 where a fixture fails.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Inspect(args) => inspect::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Compile(providers) => providers.load().map(|_| ExitCode::SUCCESS),
    }
}

/// The module, loaded as the operator loads it, but compiled anew: an author's file changes all the time.
fn load(module: &Path) -> anyhow::Result<Engine> {
    Engine::open_file(module, Options::default())
        .with_context(|| format!("the provider module {} is refused", module.display()))
}

/// YAML as JSON values. `no` and `on` are text, as in YAML 1.2: a message may well be "no".
fn yaml(text: &str) -> anyhow::Result<serde_json::Value> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).context("it is not YAML")
}
