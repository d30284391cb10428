//! `cargo xtask fuzz`: runs the targets of fuzz/ one after another, each for a while.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use keyward_test_tools::{Tools, progress};

/// Every target of fuzz/Cargo.toml.
pub(crate) const TARGETS: [&str; 6] =
    ["key_secret", "revision", "encryption_configuration", "evaluation", "digest", "names"];
/// Maximum input in bytes: enough for key secrets and for configurations of a few keys.
const LONGEST: u32 = 16 * 1024;
/// An input that takes more seconds, or more memory, is a finding.
const SLOWEST_SECONDS: u32 = 10;
const MOST_MIB: u32 = 1024;

#[derive(Args)]
pub(crate) struct Options {
    /// Number of seconds that each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Targets to run [default: all]
    #[arg(value_parser = TARGETS)]
    targets: Vec<String>,
}

/// Prints the number of executions of each target, and ends with `N passed, N failed`.
pub(crate) fn run(tools: &Tools, options: &Options) -> Result<ExitCode> {
    let named: Vec<&str> = options.targets.iter().map(String::as_str).collect();
    let targets = if named.is_empty() { TARGETS.to_vec() } else { named };
    let fuzzer = Fuzzer::prepare(tools)?;
    let mut failed = 0;
    for target in &targets {
        let started = Instant::now();
        match fuzzer.run(target, options.seconds) {
            Ok(executions) => {
                println!(
                    "{target:<26} {executions:>12} executions in {}",
                    progress::spoken(started.elapsed())
                );
            }
            Err(error) => {
                failed += 1;
                println!("{target:<26} FINDING: {error:#}");
            }
        }
    }
    println!("{} passed, {failed} failed", targets.len() - failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Fuzzer {
    programs: PathBuf,
    seeds: PathBuf,
    corpora: PathBuf,
    findings: PathBuf,
}

impl Fuzzer {
    /// Builds the targets. Core's property tests write the seeds.
    fn prepare(tools: &Tools) -> Result<Self> {
        let folder = tools.target().join("fuzz");
        let mut build = tools.cargo();
        // Builds the whole workspace, as every other build does, so that only core and the targets are
        // compiled again, with counters. With overflow checks and without a sanitizer: all code is safe Rust,
        // so findings are panics and hangs.
        build.args(["build", "--workspace", "--features", "keyward-fuzz/targets"]);
        build.args(TARGETS.iter().flat_map(|target| ["--bin".to_owned(), program(target)]));
        build.env("RUSTC_WORKSPACE_WRAPPER", tools.root().join("fuzz/instrumented"));
        let log = |name: &str| tools.target().join("tools").join(format!("{name}.log"));
        progress::run("building the fuzz targets", build, &log("fuzz"))?;

        let seeds = folder.join("seeds");
        let mut write = tools.cargo();
        // With `--package`, cargo would resolve other features and build much again.
        write.args(["test", "--workspace", "--test", "properties", "seeds::"]);
        write.env("KEYWARD_FUZZ_SEEDS", &seeds);
        progress::run("writing seeds of valid objects", write, &log("fuzz-seeds"))?;
        let programs = tools.target().join("debug");
        Ok(Self { programs, seeds, corpora: folder.join("corpus"), findings: folder.join("findings") })
    }

    /// Runs a target and returns the number of executions. The error describes the finding and how to
    /// reproduce it.
    fn run(&self, target: &str, seconds: u64) -> Result<u64> {
        let (corpus, findings) = (self.corpora.join(target), self.findings.join(target));
        for folder in [&corpus, &findings] {
            fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        let mut command = Command::new(self.programs.join(program(target)));
        // libFuzzer stores new inputs in the first folder.
        command.arg(&corpus).arg(self.seeds.join(target));
        command.arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1");
        command.arg(format!("-max_len={LONGEST}")).arg(format!("-timeout={SLOWEST_SECONDS}"));
        command.arg(format!("-rss_limit_mb={MOST_MIB}"));
        command.arg(format!("-artifact_prefix={}/", findings.display()));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting the fuzz target {target}"))?;
        let mut executions = None;
        let (mut finding, mut more) = (Vec::new(), 0);
        let stderr = child.stderr.take().context("the fuzz target's output")?;
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
                executions = count.trim().parse().ok();
            }
            // The message of a panic follows the line with its place.
            more = if is_finding(&line) { 3 } else { more };
            if more > 0 {
                more -= 1;
                finding.push(line);
            }
        }
        let status = child.wait().with_context(|| format!("waiting for the fuzz target {target}"))?;
        match executions {
            Some(executions) if status.success() => Ok(executions),
            _ => bail!(
                "{status}\n  {}\n  to reproduce: {} FILE",
                finding.join("\n  "),
                self.programs.join(program(target)).display()
            ),
        }
    }
}

/// The program of a target. Cargo puts it in the folder of all programs, so its name has a prefix.
fn program(target: &str) -> String {
    format!("fuzz_{target}")
}

/// Whether a line describes a finding: the panic, libFuzzer's report of it, and the path of the input.
fn is_finding(line: &str) -> bool {
    ["panicked at", "ERROR: libFuzzer", "SUMMARY", "Test unit written"].iter().any(|word| line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_of_the_manifest_is_run() {
        let manifest = include_str!("../../fuzz/Cargo.toml");
        let mut names: Vec<&str> = manifest
            .lines()
            .filter_map(|line| line.strip_prefix("path = \"targets/")?.strip_suffix(".rs\""))
            .collect();
        names.sort_unstable();
        let mut run = TARGETS.to_vec();
        run.sort_unstable();
        assert_eq!(names, run);
    }
}
