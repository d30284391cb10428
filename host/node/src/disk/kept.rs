//! The revisions that a disk keeps, and the one that is in force there, for a command that only reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyward_core::formats::revision::RevisionContent;
use keyward_core::ids::{ConfigHash, Revision};
use keyward_core::names;

use super::{atomic, records};
use crate::error::AgentError;
use crate::paths::Paths;

/// As read, beside the agent that may hold this disk.
#[derive(Debug, Default)]
pub(crate) struct KeptRevisions {
    /// Each kept revision, or why its file is not understood.
    pub(crate) revisions: BTreeMap<Revision, Result<Arc<RevisionContent>, String>>,
    /// The hash of the configuration file.
    pub(crate) file: Option<ConfigHash>,
    /// The hash that the API server was last seen to have loaded, as the agent recorded it.
    pub(crate) loaded: Option<ConfigHash>,
    /// The revision that was to be in force when the agent saw a configuration that somebody edited by hand.
    pub(crate) drift: Option<Revision>,
}

/// Takes no lock, and changes nothing.
pub(crate) fn kept_revisions(paths: &Paths) -> Result<KeptRevisions, AgentError> {
    let mut revisions = BTreeMap::new();
    let folder = paths.revisions();
    for entry in atomic::entries(&folder)? {
        let Some(revision) = entry.strip_suffix(".json").and_then(|n| n.parse().ok()).map(Revision) else {
            continue;
        };
        let path = paths.revision(revision);
        // Another spelling of the number is not the agent's file.
        if !path.ends_with(&entry) {
            continue;
        }
        let content = match records::read_revision(&path, &names::revision_secret(revision)) {
            Ok(Some(content)) => Ok(Arc::new(content)),
            // The agent has deleted it since the folder was listed, or it is a Secret without a configuration.
            Ok(None) => continue,
            Err(AgentError::Corrupt { why, .. }) => Err(why),
            Err(error) => return Err(error),
        };
        revisions.insert(revision, content);
    }
    let file = atomic::read(&paths.config())?.map(|bytes| ConfigHash::of(&bytes));
    let memory = match records::memory(paths) {
        Ok(remembered) => remembered.memory,
        // The configuration file shows the same.
        Err(AgentError::Corrupt { .. }) => records::Memory::default(),
        Err(error) => return Err(error),
    };
    Ok(KeptRevisions { revisions, file, loaded: memory.loaded, drift: memory.drift })
}
