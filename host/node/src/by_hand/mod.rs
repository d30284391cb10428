//! What an admin does once on a node, by hand: replace a credential without the API ([`recover()`]), and install a revision
//! before the API server first starts ([`join()`], [`restore()`]); or for the cluster: create the Secret of a revision again
//! ([`republish()`]).
//!
//! What may come in: the node's disk, what decides there (core's `next` and `first_steps`), the other API servers for a
//! node that joins, and those of the cluster for `republish`. What never does: a decision of its own about what runs.

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

/// The node.
#[derive(Clone, Debug)]
pub struct ByHand {
    /// Its name, which is its `EncryptionNode`'s too.
    pub node: String,
    /// Where everything is.
    pub paths: Paths,
    /// Who plugins run as.
    pub owner: Owner,
    /// Deadlines and pauses of decisions.
    pub policy: Policy,
    /// Limit of one call to a plugin.
    pub plugin_timeout: Duration,
}

impl ByHand {
    /// With the defaults of an agent.
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
