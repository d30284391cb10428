//! `cargo xtask test`: compiles everything once, in one graph, so that no crate is built twice with other
//! features. Then it runs the test programs of each group one after another.

mod built;
mod groups;
mod tally;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use keyward_test_tools::{BIN_DIR, Tools, progress};

pub(crate) use built::Built;
use groups::Group;
use tally::Tally;

/// Programs that mostly wait run so many at a time.
const SIDE_BY_SIDE: usize = 2;

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
            let runs = wanted.iter().map(|group| (*group, jobs(tools, &built, *group, smaller)));
            let (queued, alone): (Vec<_>, Vec<_>) = runs.partition(|(group, _)| group.waits());
            for (group, jobs) in alone {
                progress::say(&format!("\n== {}: {}", group.name(), group.about()));
                let done = run_queue(jobs, 1);
                summary.extend(done.iter().map(|(group, done)| done.line(*group)));
                total += done.into_values().map(|done| done.tally).sum::<Tally>();
            }
            if !queued.is_empty() {
                let names: Vec<&str> = queued.iter().map(|(group, _)| group.name()).collect();
                let started = Instant::now();
                progress::say(&format!("\n== {}: {SIDE_BY_SIDE} programs at a time", names.join(", ")));
                // The longest group first, so that none of its programs is the last one alone.
                let jobs = queued.into_iter().rev().flat_map(|(_, jobs)| jobs).collect();
                let done = run_queue(jobs, SIDE_BY_SIDE);
                summary.extend(done.iter().map(|(group, done)| done.line(*group)));
                summary.push(format!(
                    "{} side by side: {}",
                    names.join(", "),
                    progress::spoken(started.elapsed())
                ));
                total += done.into_values().map(|done| done.tally).sum::<Tally>();
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

/// One program to run.
struct Job {
    group: Group,
    name: String,
    /// An error counts as a failed test.
    command: Result<Command>,
}

/// The programs of a group, after they have run.
#[derive(Default)]
struct Done {
    tally: Tally,
    /// The sum over the programs.
    took: Duration,
}

impl Done {
    fn line(&self, group: Group) -> String {
        format!("{:<10} {:>8}   {}", group.name(), progress::spoken(self.took), self.tally)
    }
}

/// Runs the jobs in order, some at a time. One at a time, the output is printed as it comes; otherwise when a program has
/// ended.
fn run_queue(jobs: Vec<Job>, at_a_time: usize) -> BTreeMap<Group, Done> {
    let queue = Mutex::new(jobs.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let all = Mutex::new(BTreeMap::<Group, Done>::new());
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                while let Some(job) = next() {
                    let group = job.group;
                    let started = Instant::now();
                    let tally = if at_a_time == 1 {
                        progress::say(&job.name);
                        run_job(job, &mut std::io::stdout())
                    } else {
                        let (name, mut output) = (job.name.clone(), Vec::new());
                        let tally = run_job(job, &mut output);
                        let took = progress::spoken(started.elapsed());
                        let _ = writeln!(output, "{name}: {took}");
                        progress::say(&name);
                        // A closed standard output must not stop the tests.
                        let _ = std::io::stdout().lock().write_all(&output);
                        tally
                    };
                    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                    let done = all.entry(group).or_default();
                    done.tally += tally;
                    done.took += started.elapsed();
                }
            });
        }
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn run_job(job: Job, output: &mut impl Write) -> Tally {
    match job.command {
        Ok(command) => tally::of(command, output),
        Err(error) => {
            progress::say(&format!("error: {error:#}"));
            Tally::one_failure()
        }
    }
}

/// What a group runs. `smaller` is a part of the groups that take long.
fn jobs(tools: &Tools, built: &Built, group: Group, smaller: bool) -> Vec<Job> {
    // A size that is set in the environment wins.
    let sizes = group.sizes().into_iter().filter(|(name, _)| smaller && std::env::var_os(name).is_none());
    let programs = built.tests().filter(|program| group.has(program)).map(|program| {
        let mut command = Command::new(&program.executable);
        command.current_dir(&program.folder);
        command.env("CARGO_MANIFEST_DIR", &program.folder).env(BIN_DIR, built.folder()).envs(sizes.clone());
        Job { group, name: format!("-- {} ({})", program.package, program.target), command: Ok(command) }
    });
    let mut jobs: Vec<Job> = programs.collect();
    match group.commands(tools, built) {
        Ok(commands) => jobs.extend(commands.into_iter().map(|(name, mut command)| {
            command.env(BIN_DIR, built.folder());
            Job { group, name: format!("-- {name}"), command: Ok(command) }
        })),
        Err(error) => jobs.push(Job { group, name: group.name().to_owned(), command: Err(error) }),
    }
    jobs
}
