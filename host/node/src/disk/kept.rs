//! Reads the revisions that are stored on a node, and which of them is in force there, for a command that
//! only reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyward_core::formats::revision::RevisionContent;
use keyward_core::ids::{ConfigHash, Revision};
use keyward_core::names;

use super::{atomic, records};
use crate::error::AgentError;
use crate::paths::Paths;

/// The state of the disk, read while an agent may hold its lock.
#[derive(Debug, Default)]
pub(crate) struct StoredRevisions {
    /// Each stored revision, or why its file cannot be understood.
    pub(crate) revisions: BTreeMap<Revision, Result<Arc<RevisionContent>, String>>,
    /// The hash of the configuration file.
    pub(crate) file: Option<ConfigHash>,
    /// The last loaded hash that the agent observed and recorded.
    pub(crate) loaded: Option<ConfigHash>,
    /// The revision that should have been in force when the agent found a manually edited configuration.
    pub(crate) drift: Option<Revision>,
}

/// Takes no lock and changes nothing.
pub(crate) fn stored_revisions(paths: &Paths) -> Result<StoredRevisions, AgentError> {
    let mut revisions = BTreeMap::new();
    let folder = paths.revisions();
    for entry in atomic::entries(&folder)? {
        let Some(revision) = entry.strip_suffix(".json").and_then(|n| n.parse().ok()).map(Revision) else {
            continue;
        };
        let path = paths.revision(revision);
        // A file with another spelling of the number is not the agent's.
        if !path.ends_with(&entry) {
            continue;
        }
        let content = match records::read_revision(&path, &names::revision_secret(revision)) {
            Ok(Some(content)) => Ok(Arc::new(content)),
            // The agent has deleted it since the folder was listed, or it contains no configuration.
            Ok(None) => continue,
            Err(AgentError::Corrupt { why, .. }) => Err(why),
            Err(error) => return Err(error),
        };
        revisions.insert(revision, content);
    }
    let file = atomic::read(&paths.config())?.map(|bytes| ConfigHash::of(&bytes));
    let memory = match records::memory(paths) {
        Ok(remembered) => remembered.memory,
        // The configuration file is used instead.
        Err(AgentError::Corrupt { .. }) => records::Memory::default(),
        Err(error) => return Err(error),
    };
    Ok(StoredRevisions { revisions, file, loaded: memory.loaded, drift: memory.drift })
}
