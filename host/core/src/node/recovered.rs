//! What an admin replaced on this node by hand while the API could not give it (DESIGN.md, Decisions 12): values of one
//! key's plugin, laid over the data of the revisions that were there at the time.
//!
//! A revision with other data for that key is newer, and not covered: once it is installed, what was replaced by hand is
//! forgotten. Until then neither a restart nor a reboot goes back to the revision's own.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::instance::Instance;
use crate::SecretBytes;
use crate::formats::ReferencedData;
use crate::formats::revision::{PluginRecord, RevisionContent};
use crate::ids::{KeyId, PluginDigest};

/// One replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Whose plugin.
    pub key_id: KeyId,
    /// Counts the replacements of this key on this node: of two, the later holds.
    pub number: u32,
    /// The data that it covers, by the digests of revisions.
    pub replaces: BTreeSet<PluginDigest>,
    /// The values.
    pub values: ReferencedData,
    /// Keys the digest of what comes of it: another one than any before.
    pub salt: SecretBytes,
    /// It failed: nothing is built on it any more, and what it started stops.
    pub withdrawn: bool,
}

impl Recovered {
    /// Whether it is laid over data of this digest.
    pub fn covers(&self, digest: &PluginDigest) -> bool {
        self.replaces.contains(digest)
    }

    /// The data with its values. Only what was there is replaced: nothing else is referred to.
    pub fn applied(&self, record: &PluginRecord) -> PluginRecord {
        let mut record = record.clone();
        for (source, value) in &mut record.referenced {
            if let Some(replaced) = self.values.get(source) {
                *value = replaced.clone();
            }
        }
        record.salt = Some(self.salt.clone());
        record
    }

    /// What comes of it on top of a revision's data, where it covers them: data and their digest.
    pub fn over(&self, content: &RevisionContent) -> Option<(PluginDigest, PluginRecord)> {
        let digest = content.digest(self.key_id)?;
        let record = content.plugins.get(&self.key_id).filter(|_| self.covers(digest))?;
        let record = self.applied(record);
        Some((record.digest(self.key_id)?, record))
    }

    /// The instance that comes of it on top of a revision's data.
    pub(super) fn instance(&self, content: &RevisionContent) -> Option<Instance> {
        self.over(content).map(|(digest, _)| Instance::new(self.key_id, &digest))
    }
}

/// The replacement that holds for a key's data in a revision.
pub fn in_force<'a>(
    recovered: &'a [Recovered],
    key_id: KeyId,
    content: &RevisionContent,
) -> Option<&'a Recovered> {
    let digest = content.digest(key_id)?;
    let of_key = recovered.iter().filter(|one| one.key_id == key_id && !one.withdrawn && one.covers(digest));
    of_key.max_by_key(|one| one.number)
}

/// A key's data in a revision as this node runs it.
pub(super) fn effective<'a>(
    recovered: &[Recovered],
    key_id: KeyId,
    content: &'a RevisionContent,
) -> Option<(Option<PluginDigest>, Cow<'a, PluginRecord>)> {
    if let Some((digest, record)) = in_force(recovered, key_id, content).and_then(|one| one.over(content)) {
        return Some((Some(digest), Cow::Owned(record)));
    }
    let record = content.plugins.get(&key_id)?;
    Some((content.digest(key_id).cloned(), Cow::Borrowed(record)))
}
