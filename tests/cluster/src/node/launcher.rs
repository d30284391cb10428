//! How guarded processes are started on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use keyward_test_tools::{Binary, Tools};

use crate::isolation::Isolation;

/// The way into namespaces, and the binary that is the first process in them.
#[derive(Debug, Clone)]
pub(crate) struct Launcher {
    isolation: Isolation,
    test_node: PathBuf,
}

impl Launcher {
    /// Finds out what works here, and builds the binary where it is not built.
    pub(crate) fn find(tools: &Tools) -> Result<Self> {
        Ok(Self { isolation: Isolation::detect()?, test_node: tools.binary(Binary::TestNode)? })
    }

    pub(crate) fn is_rootless(&self) -> bool {
        self.isolation == Isolation::UserNamespace
    }

    /// A program with its first arguments; the caller adds the others.
    pub(crate) fn guard(&self, grace: Duration, program: &Path, arguments: &[String]) -> Command {
        let mut command = self.isolation.unshare(false);
        command
            .arg(&self.test_node)
            .args(["guard", &grace.as_millis().to_string()])
            .arg(program)
            .args(arguments);
        command
    }

    /// A node.
    pub(crate) fn node(&self, config: &Path) -> Command {
        let mut command = self.isolation.unshare(true);
        command.arg(&self.test_node).arg("node").arg(config);
        command
    }

    /// `nsenter` into what this `unshare` process made.
    pub(crate) fn enter(&self, unshare: u32) -> Command {
        self.isolation.enter(unshare)
    }
}
