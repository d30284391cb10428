//! libfaketime from Debian, which gives one process a wrong clock.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{Tools, apt};

impl Tools {
    /// The path of the library to preload.
    pub fn faketime(&self) -> Result<PathBuf> {
        let _lock = self.lock()?;
        if let Some(found) = find() {
            return Ok(found);
        }
        apt::install("a node with a wrong clock", &["libfaketime"], &self.log("apt"))?;
        find().context("package libfaketime has no libfaketime.so.1 in Debian's multiarch folder")
    }
}

fn find() -> Option<PathBuf> {
    let folder = Path::new("/usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    Some(folder.join("faketime/libfaketime.so.1")).filter(|path| path.is_file())
}
