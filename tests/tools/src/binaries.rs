//! The binaries of this workspace that the harness starts as processes.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{Tools, progress};

/// The variable with the folder of binaries that are already built from these sources. `cargo xtask` sets it
/// when everything is prepared, including provider modules, so that not every test asks cargo.
pub const BIN_DIR: &str = "KEYWARD_TEST_BIN_DIR";

/// A binary of this workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// `keyward` itself.
    Keyward,
    /// The KMS v2 server with the flags of a real plugin.
    KmsPlugin,
    /// Guards the harness's processes, and acts as a node's kubelet.
    TestNode,
    /// The node agent, killed after each step.
    MortalAgent,
}

impl Binary {
    /// The file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keyward => "keyward",
            Self::KmsPlugin => "keyward-test-kms-plugin",
            Self::TestNode => "keyward-test-node",
            Self::MortalAgent => "keyward-test-mortal-agent",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Keyward => "keyward",
            Self::KmsPlugin => "keyward-test-kms-plugin",
            Self::TestNode => "keyward-test-cluster",
            Self::MortalAgent => "keyward-test-e2e",
        }
    }
}

impl Tools {
    /// The binary, built from the current sources in the caller's profile.
    pub fn binary(&self, binary: Binary) -> Result<PathBuf> {
        if let Some(folder) = env::var_os(BIN_DIR).map(PathBuf::from) {
            let path = folder.join(binary.name());
            if !path.is_file() {
                bail!("{BIN_DIR} has no {}; unset it to have it built", path.display());
            }
            return Ok(path);
        }
        let _lock = self.lock()?;
        let release = !cfg!(debug_assertions);
        let path = self.target().join(if release { "release" } else { "debug" }).join(binary.name());
        let mut cargo = self.cargo();
        cargo.args(["build", "--package", binary.package(), "--bin", binary.name()]);
        if release {
            cargo.arg("--release");
        }
        progress::run(&format!("building {}", binary.name()), cargo, &self.log(binary.name()))?;
        Ok(path)
    }

    /// A cargo command for this workspace.
    pub fn cargo(&self) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(self.root()).env("CARGO_TARGET_DIR", self.target());
        cargo
    }
}
