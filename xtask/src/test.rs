//! `cargo xtask test`: compiles everything once, in one graph, so that no crate is built twice with other
//! features. Then it runs the test programs of each group one after another.

mod built;
mod groups;
mod tally;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use keyward_test_tools::{BIN_DIR, Tools, progress};

pub(crate) use built::Built;
use groups::Group;
use tally::Tally;

#[derive(Args)]
pub(crate) struct Options {
    /// Groups to run [default: all, and of `life` and `nodes` a part]
    #[arg(value_enum)]
    groups: Vec<Group>,
    /// Count an ignored test as a failed one
    #[arg(long)]
    nothing_ignored: bool,
}

impl Options {
    /// The options of CI.
    pub(crate) fn everything() -> Self {
        Self { groups: Vec::new(), nothing_ignored: true }
    }
}

/// Runs the groups. The last line of the output ends with `N passed, N failed`.
pub(crate) fn run(tools: &Tools, options: &Options) -> ExitCode {
    let wanted: BTreeSet<Group> = match options.groups.as_slice() {
        [] => Group::ALL.into_iter().collect(),
        named => named.iter().copied().collect(),
    };
    let smaller = options.groups.is_empty();
    let mut total = Tally::default();
    let mut summary = Vec::new();
    match prepare(tools, &wanted) {
        Ok(built) => {
            if !built.is_complete() {
                progress::say("the workspace does not build; only the crates that built are tested");
                total += Tally::one_failure();
            }
            for group in wanted {
                progress::say(&format!("\n== {}: {}", group.name(), group.about()));
                let started = Instant::now();
                let tally = run_group(tools, &built, group, smaller);
                summary.push(format!(
                    "{:<10} {:>8}   {tally}",
                    group.name(),
                    progress::spoken(started.elapsed())
                ));
                total += tally;
            }
        }
        Err(error) => {
            progress::say(&format!("error: {error:#}"));
            total += Tally::one_failure();
        }
    }
    println!("\n{}", summary.join("\n"));
    if options.nothing_ignored && total.ignored > 0 {
        println!("{} ignored tests count as failed, because of --nothing-ignored", total.ignored);
        total = total.with_ignored_as_failed();
    }
    println!("{total}");
    if total.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn prepare(tools: &Tools, wanted: &BTreeSet<Group>) -> Result<Built> {
    if wanted.iter().any(|group| group.needs_cluster()) {
        tools.control_plane()?;
        tools.bao()?;
    }
    if wanted.iter().any(|group| group.needs_modules()) {
        tools.providers()?;
    }
    Built::everything(tools)
}

fn one_by_one(programs: impl Iterator<Item = (String, Command)>) -> Tally {
    let mut tally = Tally::default();
    for (what, command) in programs {
        progress::say(&what);
        tally += tally::of(command, &mut std::io::stdout());
    }
    tally
}

/// Runs two programs at a time, because they mostly wait. The output of a program is printed when it has
/// ended.
fn side_by_side(programs: Vec<(String, Command)>) -> Tally {
    let left = Mutex::new(programs.into_iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let total = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((what, command)) = next() {
                    let mut output = Vec::new();
                    let tally = tally::of(command, &mut output);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    *total += tally;
                    progress::say(&what);
                    // A closed standard output must not stop the tests.
                    let _ = std::io::stdout().write_all(&output);
                }
            });
        }
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one group. `smaller` runs only a part of the groups that take long.
fn run_group(tools: &Tools, built: &Built, group: Group, smaller: bool) -> Tally {
    // A size that is set in the environment wins.
    let sizes = group.sizes().into_iter().filter(|(name, _)| smaller && std::env::var_os(name).is_none());
    let programs = built.tests().filter(|program| group.has(program)).map(|program| {
        let mut command = Command::new(&program.executable);
        command.current_dir(&program.folder);
        command.env("CARGO_MANIFEST_DIR", &program.folder).env(BIN_DIR, built.folder()).envs(sizes.clone());
        (format!("-- {} ({})", program.package, program.target), command)
    });
    let mut tally = if group.waits() { side_by_side(programs.collect()) } else { one_by_one(programs) };
    match group.commands(tools, built) {
        Ok(commands) => {
            for (what, mut command) in commands {
                progress::say(&format!("-- {what}"));
                command.env(BIN_DIR, built.folder());
                tally += tally::of(command, &mut std::io::stdout());
            }
        }
        Err(error) => {
            progress::say(&format!("error: {error:#}"));
            tally += Tally::one_failure();
        }
    }
    tally
}
