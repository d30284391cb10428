//! The groups of tests, and what belongs to each.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::ValueEnum;
use keyward_test_tools::Tools;

use super::built::{Built, TestProgram};
use crate::fuzz::TARGETS;

/// A group of tests, in the order in which they run: the fast ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Group {
    /// Host crates and test libraries; examples in documentation
    Unit,
    /// Provider modules and their SDK: their own tests, and the modules' fixtures
    Providers,
    /// Provider modules that loop, exhaust memory or import functions
    Hostile,
    /// The simulator
    Sim,
    /// Parsers of external input, fuzzed for half a minute in total
    Fuzz,
    /// The KMS v2 server that the tests use as a vendor's plugin
    Kms,
    /// The harness itself: nodes, API servers, static pods
    Cluster,
    /// Keyward on a real control plane with a real KMS
    E2e,
    /// The same on three control-plane nodes
    Nodes,
    /// Long runs of the same: every change between modes, losses, an operator that is killed
    Life,
}

const KMS: &str = "keyward-test-kms-plugin";
const CLUSTER: &str = "keyward-test-cluster";
const E2E: &str = "keyward-test-e2e";
const HOSTILE: &str = "keyward-test-hostile";
const SIM: &str = "keyward-test-sim";
/// Test programs with several nodes.
const NODES: [&str; 1] = ["nodes"];
/// Test programs of the long group.
const LIFE: [&str; 3] = ["moves", "losses", "killed"];
/// The time of all fuzz targets together. Longer runs use `cargo xtask fuzz`.
const FUZZ_SECONDS: u64 = 36;

impl Group {
    pub(crate) const ALL: [Self; 10] = [
        Self::Unit,
        Self::Providers,
        Self::Hostile,
        Self::Sim,
        Self::Fuzz,
        Self::Kms,
        Self::Cluster,
        Self::E2e,
        Self::Nodes,
        Self::Life,
    ];

    /// The environment variables that make the group smaller if no group is named. Without them, all groups
    /// take a quarter of an hour longer.
    pub(crate) fn sizes(self) -> Vec<(&'static str, &'static str)> {
        match self {
            Self::Life => vec![("KEYWARD_TEST_MOVES", "4"), ("KEYWARD_TEST_KILLS", "2")],
            Self::Nodes => vec![("KEYWARD_TEST_PHASES", "2"), ("KEYWARD_TEST_DOWN", "15")],
            _ => Vec::new(),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Providers => "providers",
            Self::Hostile => "hostile",
            Self::Sim => "sim",
            Self::Fuzz => "fuzz",
            Self::Kms => "kms",
            Self::Cluster => "cluster",
            Self::E2e => "e2e",
            Self::Nodes => "nodes",
            Self::Life => "life",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Unit => "host crates, and the examples in their documentation",
            Self::Providers => "provider modules and their fixtures",
            Self::Hostile => "provider modules that misbehave",
            Self::Sim => "the simulator",
            Self::Fuzz => "parsers of external input, for half a minute in total",
            Self::Kms => "the KMS v2 server of the tests",
            Self::Cluster => "nodes, API servers and static pods of the harness",
            Self::E2e => "Keyward on a real control plane with a real KMS",
            Self::Nodes => "the same on three control-plane nodes",
            Self::Life => "every change between modes, losses, an operator that is killed",
        }
    }

    /// Whether it runs etcd, API servers or OpenBao.
    pub(crate) fn needs_cluster(self) -> bool {
        matches!(self, Self::Kms | Self::Cluster | Self::E2e | Self::Nodes | Self::Life)
    }

    /// Whether its programs mostly wait, so that several run at the same time.
    pub(crate) fn waits(self) -> bool {
        self.needs_cluster()
    }

    /// Whether it loads provider modules.
    pub(crate) fn needs_modules(self) -> bool {
        matches!(self, Self::Providers | Self::E2e | Self::Nodes | Self::Life)
    }

    /// Whether a test program of this workspace belongs to it; each belongs to exactly one.
    pub(crate) fn has(self, program: &TestProgram) -> bool {
        let group = match program.package.as_str() {
            KMS => Self::Kms,
            E2E if NODES.contains(&program.target.as_str()) => Self::Nodes,
            E2E if LIFE.contains(&program.target.as_str()) => Self::Life,
            E2E => Self::E2e,
            HOSTILE => Self::Hostile,
            SIM => Self::Sim,
            // The harness's unit tests need no cluster.
            CLUSTER if program.integration => Self::Cluster,
            _ => Self::Unit,
        };
        group == self
    }

    /// Commands that it runs beside this workspace's test programs.
    pub(crate) fn commands(self, tools: &Tools, built: &Built) -> Result<Vec<(String, Command)>> {
        Ok(match self {
            Self::Unit => {
                let mut examples = tools.cargo();
                examples.args(["test", "--quiet", "--workspace", "--doc"]);
                vec![("examples in documentation".to_owned(), examples)]
            }
            Self::Providers => {
                let mut commands = vec![("provider crates and their SDK".to_owned(), provider_crates(tools))];
                commands.extend(fixtures(tools, built)?);
                commands
            }
            Self::Fuzz => {
                let mut fuzz = Command::new(built.binary("xtask")?);
                let each = FUZZ_SECONDS / TARGETS.len() as u64;
                fuzz.args(["fuzz", "--seconds", &each.to_string()]);
                vec![("fuzz targets".to_owned(), fuzz)]
            }
            _ => Vec::new(),
        })
    }
}

/// The fixtures of each module, run with the command that its author uses.
fn fixtures(tools: &Tools, built: &Built) -> Result<Vec<(String, Command)>> {
    let keyward = built.binary("keyward")?;
    let mut modules: Vec<PathBuf> =
        fs::read_dir(tools.modules())?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    modules.retain(|path| path.extension().is_some_and(|extension| extension == "wasm"));
    modules.sort();
    let command = |module: PathBuf| {
        let name = module.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut command = Command::new(&keyward);
        command.args(["provider", "test"]).arg(&module).arg("--fixtures");
        command.arg(tools.root().join("providers").join(&name).join("fixtures"));
        (format!("fixtures of {name}"), command)
    };
    Ok(modules.into_iter().map(command).collect())
}

/// The tests of the provider modules' workspace, compiled for this machine.
fn provider_crates(tools: &Tools) -> Command {
    let mut cargo = tools.cargo();
    cargo.args(["test", "--workspace", "--manifest-path", "providers/Cargo.toml"]);
    cargo.env("CARGO_TARGET_DIR", tools.target().join("providers-build"));
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_program_belongs_to_exactly_one_group() {
        for package in ["keyward-core", KMS, CLUSTER, E2E, HOSTILE, SIM, "xtask"] {
            for integration in [false, true] {
                let program = TestProgram::named(package, integration);
                let groups: Vec<_> = Group::ALL.into_iter().filter(|group| group.has(&program)).collect();
                assert_eq!(groups.len(), 1, "{package} {groups:?}");
            }
        }
    }
}
