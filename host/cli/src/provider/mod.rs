//! `keyward provider`: commands for the author of a provider module. They run modules in the production
//! engine, and need no cluster.

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
    /// Show a module's description and the cost of its calls
    Inspect(inspect::Args),
    /// Run a module's fixtures
    Test(test::Args),
    /// Fill the cache of compiled modules; the operator runs this command
    #[command(name = providers::COMPILE, hide = true)]
    Compile(providers::Providers),
}

/// Runs the command. The exit code is 1 if a fixture fails.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Inspect(args) => inspect::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Compile(providers) => providers.load().map(|_| ExitCode::SUCCESS),
    }
}

/// Loads the module as the operator does, but without the cache, because an author's file changes often.
fn load(module: &Path) -> anyhow::Result<Engine> {
    Engine::open_file(module, Options::default())
        .with_context(|| format!("the provider module {} was not loaded", module.display()))
}

/// YAML as JSON values. `no` and `on` are strings, as in YAML 1.2, because a message may be "no".
fn yaml(text: &str) -> anyhow::Result<serde_json::Value> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).context("it is not YAML")
}
