//! Builds the command lines of guarded processes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use keyward_test_tools::{Binary, Tools};

use crate::isolation::Isolation;

/// How namespaces are made, and the binary of the first process in them.
#[derive(Debug, Clone)]
pub(crate) struct Launcher {
    isolation: Isolation,
    test_node: PathBuf,
}

impl Launcher {
    /// Detects how this machine makes namespaces, and builds the binary if it is missing.
    pub(crate) fn find(tools: &Tools) -> Result<Self> {
        Ok(Self { isolation: Isolation::detect()?, test_node: tools.binary(Binary::TestNode)? })
    }

    pub(crate) fn is_rootless(&self) -> bool {
        self.isolation == Isolation::UserNamespace
    }

    /// The command for a program with its first arguments; the caller adds the others.
    pub(crate) fn guard(&self, grace: Duration, program: &Path, arguments: &[String]) -> Command {
        let mut command = self.isolation.unshare(false);
        command
            .arg(&self.test_node)
            .args(["guard", &grace.as_millis().to_string()])
            .arg(program)
            .args(arguments);
        command
    }

    /// The command for a node.
    pub(crate) fn node(&self, config: &Path) -> Command {
        let mut command = self.isolation.unshare(true);
        command.arg(&self.test_node).arg("node").arg(config);
        command
    }

    /// `nsenter` into the namespaces of this `unshare` process.
    pub(crate) fn enter(&self, unshare: u32) -> Command {
        self.isolation.enter(unshare)
    }
}
