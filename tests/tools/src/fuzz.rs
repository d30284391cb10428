//! cargo-fuzz, which builds fuzz targets with libFuzzer's instrumentation.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{Tools, in_path, progress};

/// What is installed where the machine has none.
const VERSION: &str = "0.13.2";

impl Tools {
    /// cargo-fuzz, installed from crates.io where it is not there.
    pub fn cargo_fuzz(&self) -> Result<PathBuf> {
        if let Some(path) = in_path("cargo-fuzz") {
            return Ok(path);
        }
        let root = self.folder().join("cargo-fuzz");
        let program = root.join("bin/cargo-fuzz");
        let _lock = self.lock()?;
        if !runs(&program) {
            progress::say("cargo-fuzz is not installed: installing it from crates.io (a few minutes, once)");
            let mut cargo = self.cargo();
            cargo.args(["install", "cargo-fuzz", "--locked", "--version", VERSION, "--root"]).arg(&root);
            cargo.env_remove("CARGO_TARGET_DIR");
            progress::run(&format!("installing cargo-fuzz {VERSION}"), cargo, &self.log("cargo-fuzz"))?;
        }
        Ok(program)
    }
}

fn runs(program: &Path) -> bool {
    let status = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
