//! Flags that select the node on which an admin runs a command.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use keyward_node::{CommandSettings, Owner, Paths};

/// The node, with the same settings as its agent.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Place {
    /// Name of the node [default: this machine's hostname]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node: Option<String>,
    /// Root folder of all paths except those of sockets
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(super) root: PathBuf,
    /// User and group ID of plugins, as configured for the agent [default: 65532 if it exists on this
    /// machine]
    #[arg(long, value_name = "UID")]
    plugin_uid: Option<u32>,
}

impl Place {
    pub(crate) fn find(self) -> Result<CommandSettings> {
        ensure!(
            self.root.is_absolute(),
            "--root must be an absolute path, because the plugins' Pods contain it"
        );
        let node = match self.node {
            Some(node) => node,
            None => std::fs::read_to_string("/proc/sys/kernel/hostname")
                .context("cannot read this machine's hostname; give the node's name with --node")?
                .trim()
                .to_lowercase(),
        };
        let mut place = CommandSettings::new(node, Paths::new(self.root));
        if let Some(uid) = self.plugin_uid {
            place.owner = Owner { uid, gid: uid };
        }
        Ok(place)
    }
}
