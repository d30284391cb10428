//! Which node something is done on by hand.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use keyward_node::{ByHand, Owner, Paths};

/// The node, as its agent knows it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Place {
    /// The node's name [default: this machine's hostname]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node: Option<String>,
    /// Put all paths but the sockets' below this folder
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(super) root: PathBuf,
    /// User and group that plugins run as, as the agent was told [default: 65532, where this machine has it]
    #[arg(long, value_name = "UID")]
    plugin_uid: Option<u32>,
}

impl Place {
    pub(crate) fn find(self) -> Result<ByHand> {
        ensure!(self.root.is_absolute(), "--root must be an absolute path: it stands in the plugins' pods");
        let node = match self.node {
            Some(node) => node,
            None => std::fs::read_to_string("/proc/sys/kernel/hostname")
                .context("this machine's hostname; give the node's name by --node")?
                .trim()
                .to_lowercase(),
        };
        let mut place = ByHand::new(node, Paths::new(self.root));
        if let Some(uid) = self.plugin_uid {
            place.owner = Owner { uid, gid: uid };
        }
        Ok(place)
    }
}
