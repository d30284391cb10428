//! A replacement credential that an admin gave this node while the API could not deliver one (decision 0048):
//! values for one key's plugin, laid over the data of the revisions that were stored here at the time.
//!
//! A revision with other data for that key is newer, and not covered: once it is installed, the record of
//! the replacement is removed. Until then neither a restart nor a reboot returns to the revision's own data.

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
    /// The key of the plugin.
    pub key_id: KeyId,
    /// Counts the replacements of this key on this node: the latest one is in force.
    pub number: u32,
    /// The digests of the revisions' data that it covers.
    pub replaces: BTreeSet<PluginDigest>,
    /// The values.
    pub values: ReferencedData,
    /// The salt for the digest of the resulting data, which is a new digest.
    pub salt: SecretBytes,
    /// It failed: nothing uses it any more, and the instance that it started stops.
    pub rolled_back: bool,
}

impl Recovered {
    /// Whether it is laid over data of this digest.
    pub fn covers(&self, digest: &PluginDigest) -> bool {
        self.replaces.contains(digest)
    }

    /// The data with its values. Only existing values are replaced: the rendering references no others.
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

    /// The resulting data and their digest, if it covers a revision's data.
    pub fn over(&self, content: &RevisionContent) -> Option<(PluginDigest, PluginRecord)> {
        let digest = content.digest(self.key_id)?;
        let record = content.plugins.get(&self.key_id).filter(|_| self.covers(digest))?;
        let record = self.applied(record);
        Some((record.digest(self.key_id)?, record))
    }

    /// The instance of the resulting data.
    pub(super) fn instance(&self, content: &RevisionContent) -> Option<Instance> {
        self.over(content).map(|(digest, _)| Instance::new(self.key_id, &digest))
    }
}

/// The replacement that is in force for a key's data in a revision.
pub fn in_force<'a>(
    recovered: &'a [Recovered],
    key_id: KeyId,
    content: &RevisionContent,
) -> Option<&'a Recovered> {
    let digest = content.digest(key_id)?;
    let of_key =
        recovered.iter().filter(|found| found.key_id == key_id && !found.rolled_back && found.covers(digest));
    of_key.max_by_key(|found| found.number)
}

/// A key's data in a revision as this node runs it.
pub(super) fn effective<'a>(
    recovered: &[Recovered],
    key_id: KeyId,
    content: &'a RevisionContent,
) -> Option<(Option<PluginDigest>, Cow<'a, PluginRecord>)> {
    if let Some((digest, record)) = in_force(recovered, key_id, content).and_then(|found| found.over(content))
    {
        return Some((Some(digest), Cow::Owned(record)));
    }
    let record = content.plugins.get(&key_id)?;
    Some((content.digest(key_id).cloned(), Cow::Borrowed(record)))
}
