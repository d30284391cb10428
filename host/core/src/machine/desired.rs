//! CONTRACT 2.3, exactly, where DESIGN.md's "Decisions" do not say otherwise: what should be deployed next.

use std::collections::BTreeSet;

use super::{Key, State};
use crate::ids::{GroupResource, KeyId};

/// Which rule had the last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// S1: no backed key, or nothing to encrypt.
    NoKeys,
    /// S2: read keys were added, or the newest is unbacked.
    ReadKeys,
    /// S3: the newest backed key becomes write key.
    WriteKey,
    /// S4: the write key is not migrated yet.
    Migrating,
    /// S4: read keys beyond the needed ones leave.
    Settled,
}

/// What should be deployed next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The state.
    pub state: State,
    /// The rule that made it.
    pub step: Step,
}

/// The state to deploy after `deployed` (absent: nothing was ever deployed). `backed` are the usable keys, newest
/// first: neither abandoned nor undecodable.
pub fn desired(deployed: Option<&State>, backed: &[Key], targets: &[GroupResource]) -> Desired {
    let mut state = deployed.cloned().unwrap_or_default();
    // CONTRACT 2.3 looks at the targets alone, and drops the others without decrypting them (CONTRACT 5, 15). DESIGN.md,
    // Decisions 11, decrypts them first; until a rule of its own does that, what left the list stays encrypted, and
    // counts: no key that it needs may leave (S3).
    let covered_before: BTreeSet<GroupResource> = state.resources.keys().cloned().collect();
    for target in targets {
        state.resources.entry(target.clone()).or_default();
    }
    // Nothing is asked for that could be encrypted: an EncryptionConfiguration without resources is none.
    if state.resources.is_empty() {
        return Desired { state, step: Step::NoKeys };
    }

    // S1
    let Some(newest) = backed.first() else { return Desired { state, step: Step::NoKeys } };

    // S2
    let scan_for =
        if deployed.is_some() { covered_before.clone() } else { targets.iter().cloned().collect() };
    let needed = needed_to_read(backed, scan_for);
    let mut changed = false;
    let resources: Vec<GroupResource> = state.resources.keys().cloned().collect();
    for resource in &resources {
        let Some(keys) = state.resources.get_mut(resource) else { continue };
        for key in &needed {
            changed |= keys.insert(key.id);
        }
    }
    for key in &needed {
        state.keys.entry(key.id).or_insert_with(|| (*key).clone());
    }
    let newest_unbacked =
        resources.iter().any(|resource| state.read_keys(resource).next().is_none_or(|newest| !newest.backed));
    if changed || newest_unbacked {
        return Desired { state, step: Step::ReadKeys };
    }

    // S3
    if state.resources.values().any(|keys| keys.write != Some(newest.id)) {
        for keys in state.resources.values_mut() {
            keys.write = Some(newest.id);
        }
        return Desired { state, step: Step::WriteKey };
    }

    // S4
    if !covered_before.iter().all(|resource| newest.migrated.contains(resource)) {
        return Desired { state, step: Step::Migrating };
    }
    if let Some(oldest_needed) = needed.last().map(|key| key.id) {
        for keys in state.resources.values_mut() {
            keys.read.retain(|id| *id >= oldest_needed);
        }
        let used: BTreeSet<KeyId> =
            state.resources.values().flat_map(|keys| keys.read.iter().copied()).collect();
        state.keys.retain(|id, _| used.contains(id));
    }
    Desired { state, step: Step::Settled }
}

/// The minimal newest-first prefix that reads everything, plus one more.
fn needed_to_read(backed: &[Key], mut uncovered: BTreeSet<GroupResource>) -> Vec<&Key> {
    for (index, key) in backed.iter().enumerate() {
        uncovered.retain(|resource| !key.migrated.contains(resource));
        if uncovered.is_empty() {
            return backed.iter().take(index + 2).collect();
        }
    }
    backed.iter().collect()
}
