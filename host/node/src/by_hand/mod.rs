//! The commands that an admin runs once on a node: replace a credential without the API ([`recover()`]),
//! install a revision before the API server first starts ([`join()`], [`restore()`]), or recreate the Secret
//! of a revision for the cluster ([`republish()`]).
//!
//! The commands use the node's disk, core's decisions (`next` and `first_steps`), another API server for a
//! joining node, and the cluster's API servers for `republish`. They never decide on their own what runs.

mod drive;
mod install;
mod join;
mod recover;
mod replacement;
mod republish;

use std::time::Duration;

use keyward_core::node::Policy;

pub use install::{Kept, restore};
pub use join::{Joined, join};
pub use recover::{Recovery, recover};
pub use republish::{Republished, republish};

use crate::paths::Paths;
use crate::settings::Owner;

/// The settings of a command on a node.
#[derive(Clone, Debug)]
pub struct CommandSettings {
    /// The name of the node and of its `EncryptionNode`.
    pub node: String,
    /// The paths of all files.
    pub paths: Paths,
    /// The user that plugins run as.
    pub owner: Owner,
    /// Deadlines and pauses of decisions.
    pub policy: Policy,
    /// Limit of one call to a plugin.
    pub plugin_timeout: Duration,
}

impl CommandSettings {
    /// The settings with the defaults of an agent.
    pub fn new(node: impl Into<String>, paths: Paths) -> Self {
        Self {
            node: node.into(),
            paths,
            owner: Owner::here(),
            policy: Policy::default(),
            plugin_timeout: Duration::from_secs(10),
        }
    }
}
