//! A program that a test runs beside the nodes, such as the operator.

use std::path::PathBuf;
use std::process::ExitStatus;

use anyhow::{Context, Result};

use crate::guarded::Guarded;

/// A guarded program with its output in a file. It is stopped when this is dropped.
pub struct Process {
    name: String,
    guarded: Guarded,
    output: PathBuf,
}

impl Process {
    pub(crate) fn new(name: &str, guarded: Guarded, output: PathBuf) -> Self {
        Self { name: name.to_owned(), guarded, output }
    }

    /// The file with its standard output and standard error.
    pub fn output_file(&self) -> &std::path::Path {
        &self.output
    }

    /// Its output so far.
    pub fn output(&self) -> Result<String> {
        let bytes = std::fs::read(&self.output).with_context(|| format!("output of {}", self.name))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Its process id on the host, to read /proc; only while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.guarded.program()
    }

    /// Its exit status, once it has exited.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.guarded.ended()
    }

    /// Sends SIGTERM, and SIGKILL after the grace period. Returns when the process has exited.
    pub fn stop(mut self) -> Option<ExitStatus> {
        self.guarded.stop();
        self.guarded.ended()
    }

    /// Sends SIGKILL, as in a crash. Returns when the process has exited.
    pub fn kill9(mut self) {
        self.guarded.kill();
    }
}
