//! A program that a test runs beside the nodes, such as the operator.

use std::path::PathBuf;
use std::process::ExitStatus;

use anyhow::{Context, Result};

use crate::guarded::Guarded;

/// A guarded program with its output in a file. Dropped, it is stopped.
pub struct Process {
    name: String,
    guarded: Guarded,
    output: PathBuf,
}

impl Process {
    pub(crate) fn new(name: &str, guarded: Guarded, output: PathBuf) -> Self {
        Self { name: name.to_owned(), guarded, output }
    }

    /// The file that has its standard output and error.
    pub fn output_file(&self) -> &std::path::Path {
        &self.output
    }

    /// What it has said so far.
    pub fn output(&self) -> Result<String> {
        let bytes = std::fs::read(&self.output).with_context(|| format!("output of {}", self.name))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Its process id on the host, once it was started and while it runs: for /proc.
    pub fn pid(&self) -> Option<u32> {
        self.guarded.program()
    }

    /// How it ended, once it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.guarded.ended()
    }

    /// SIGTERM, and SIGKILL after the grace that it was started with. Returns when it is gone.
    pub fn stop(mut self) -> Option<ExitStatus> {
        self.guarded.stop();
        self.guarded.ended()
    }

    /// SIGKILL, as a crash would have it. Returns when it is gone.
    pub fn kill9(mut self) {
        self.guarded.kill();
    }
}
