//! Finds or builds the tools of tests and demo beside this workspace's crates: the control plane, OpenBao,
//! Go, provider modules, and the binaries that the harness starts as processes.
//!
//! What may come in: one file for each tool, which prints what it does, caches below `target/` and rebuilds
//! only if its inputs changed. What never does: starting a server (the cluster harness does), a Kubernetes
//! client, tokio. `cargo xtask` depends on this crate alone, so that it starts at once on a fresh machine.
//!
//! All functions block, and may take minutes the first time. Each step prints its title ([`progress`]).

mod apt;
mod bao;
mod binaries;
mod componentize;
mod control_plane;
mod faketime;
mod go;
pub mod progress;
mod providers;
mod python;
mod stamp;
mod wasm;

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use apt::install as apt_install;
pub use binaries::{BIN_DIR, Binary};
pub use control_plane::{ControlPlane, Program};

/// The tools of one checkout.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
    target: PathBuf,
}

impl Tools {
    /// The tools of the checkout from which this crate was built. `CARGO_TARGET_DIR` moves the cache.
    pub fn here() -> Self {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => root.join(folder),
            None => root.join("target"),
        };
        Self { root, target }
    }

    /// The checkout's top folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target folder, where everything built or installed is cached.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The folder of built provider modules, as `NAME.wasm`.
    pub fn modules(&self) -> PathBuf {
        self.target.join("providers")
    }

    fn folder(&self) -> PathBuf {
        self.target.join("tools")
    }

    fn log(&self, step: &str) -> PathBuf {
        self.folder().join(format!("{step}.log"))
    }

    /// Allows one preparation at a time on this checkout: parallel test binaries must not build the same tool
    /// twice.
    fn lock(&self) -> Result<File> {
        fs::create_dir_all(self.folder()).with_context(|| format!("creating {}", self.folder().display()))?;
        let path = self.folder().join(".lock");
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress::say("waiting for another run that prepares the tools");
                file.lock().with_context(|| format!("locking {}", path.display()))?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
        Ok(file)
    }
}

/// The first program of this name in `PATH`.
fn in_path(name: &str) -> Option<PathBuf> {
    let paths = env::var_os("PATH")?;
    env::split_paths(&paths).map(|folder| folder.join(name)).find(|path| path.is_file())
}
