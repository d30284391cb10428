//! The node's disk: reads its state, and is the only place that changes it.
//!
//! Every file is written under a name that begins with a dot, synced and renamed, and its folder is synced.
//! So a file exists whole or not at all, whenever the agent stops. The agent's memory is below
//! `/var/lib/keyward`. Every function blocks: callers on the runtime use `spawn_blocking`.

mod act;
pub(crate) mod atomic;
mod kept;
mod look;
mod ports;
mod records;
mod recovered;
#[cfg(test)]
mod tests;

use std::fs::File;

pub(crate) use kept::{StoredRevisions, stored_revisions};
use keyward_core::ids::hex;
pub(crate) use look::knows;
pub(crate) use records::has_memory;
pub(crate) use recovered::Recoveries;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use crate::error::AgentError;
use crate::paths::Paths;
use crate::settings::Owner;

/// The disk of one node, locked by one agent.
#[derive(Debug)]
pub struct Disk {
    node: String,
    paths: Paths,
    owner: Owner,
    /// Locked while the agent runs. The kernel releases the lock when the process ends, however it ends.
    lock: Option<File>,
}

/// The disk as read without the lock, which an agent may hold.
#[derive(Debug)]
pub(crate) struct UnlockedDisk(Disk);

impl UnlockedDisk {
    /// Takes no lock and changes nothing.
    pub(crate) fn new(node: &str, paths: Paths, owner: Owner) -> Self {
        Self(Disk { node: node.to_owned(), paths, owner, lock: None })
    }

    /// The state of the disk.
    pub(crate) fn look(&self) -> Result<keyward_core::node::Disk, AgentError> {
        Ok(self.0.look()?.disk)
    }
}

impl Disk {
    /// Creates the agent's folders, locks the disk, and removes unfinished files of an earlier agent.
    pub fn open(node: &str, paths: Paths, owner: Owner) -> Result<Self, AgentError> {
        let ours =
            [paths.state(), paths.instances(), paths.revisions(), paths.configurations(), paths.recovered()];
        for folder in ours {
            atomic::private_folder(&folder)?;
        }
        let path = paths.lock();
        let lock = atomic::open_private(&path).map_err(AgentError::io("opening", &path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => AgentError::Locked { path: path.clone() },
            other => AgentError::io("locking", &path)(other.into()),
        })?;
        let disk = Self { node: node.to_owned(), paths, owner, lock: Some(lock) };
        disk.remove_leftovers()?;
        Ok(disk)
    }

    fn remove_leftovers(&self) -> Result<(), AgentError> {
        let paths = &self.paths;
        let mut folders = vec![
            paths.state(),
            paths.instances(),
            paths.revisions(),
            paths.configurations(),
            paths.edited(),
            paths.manifests(),
        ];
        folders.extend(paths.config().parent().map(ToOwned::to_owned));
        for parent in [paths.plugins(), paths.sockets().to_owned()] {
            folders.extend(atomic::entries(&parent)?.into_iter().map(|name| parent.join(name)));
        }
        for folder in folders {
            atomic::remove_leftovers(&folder)?;
        }
        Recoveries::new(paths.clone()).remove_leftovers()
    }
}

/// SHA-256 in hex. It shows whether a file has changed since it was written.
fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
