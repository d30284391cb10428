//! CONTRACT 2.3, exactly, where DESIGN.md's "Decisions" do not say otherwise: what should be deployed next.
//!
//! Decisions 5 and 15 come before S1: abandoned and forgotten keys leave. Decisions 11 comes with S4: what left the list
//! is decrypted, then its entry leaves. Decisions 7 is part of S4: KMS keys that nothing needs any more.

use std::collections::BTreeSet;

use super::{Key, ResourceKeys, State};
use crate::ids::{GroupResource, KeyId, Mode};

/// Which rule had the last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Keys that were abandoned, or given up by the admin, leave (Decisions 5 and 15).
    Dropped,
    /// S1: no backed key, or nothing to encrypt.
    NoKeys,
    /// S2: read keys were added, or the newest is unbacked.
    ReadKeys,
    /// S3: the newest backed key becomes write key.
    WriteKey,
    /// S4: the write key is not migrated yet.
    Migrating,
    /// Decisions 11: a resource that left the list is to be written in plain text from now on.
    Decrypt,
    /// Decisions 11: what left the list is being decrypted.
    Decrypting,
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

/// What is known beside configuration and keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Keys that leave whatever needs them: abandoned ones that no revision ever had first, and those that the admin gave
    /// up (`spec.forget`).
    pub dropped: BTreeSet<KeyId>,
    /// Keys whose key check some node refuses: none of them takes over from a key that leaves.
    pub refused: BTreeSet<KeyId>,
    /// Resources that left the list and of which everything was rewritten in plain text.
    pub decrypted: BTreeSet<GroupResource>,
    /// What etcd still holds from before the end of the write key's migrations.
    pub history: History,
    /// Every object of every resource was seen under the write key once more since its migration ended. No key leaves
    /// before, whoever recorded what as migrated; where nobody looks ([`History::Untold`]) it does not count.
    pub verified: bool,
}

/// Deleted and overwritten values in etcd, which watches and exact lists still decrypt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum History {
    /// Nobody looks: KMS keys are kept as CONTRACT 2.3 keeps any key.
    #[default]
    Untold,
    /// Old values may be there.
    Kept,
    /// They cannot be read any more.
    Compacted,
}

/// The state to deploy after `deployed` (absent: nothing was ever deployed). `backed` are the usable keys, newest
/// first: neither abandoned, nor given up, nor undecodable.
pub fn desired(
    deployed: Option<&State>,
    backed: &[Key],
    targets: &[GroupResource],
    facts: &Facts,
) -> Desired {
    let mut state = deployed.cloned().unwrap_or_default();
    let covered_before: BTreeSet<GroupResource> =
        state.resources.keys().filter(|resource| targets.contains(resource)).cloned().collect();
    for target in targets {
        state.resources.entry(target.clone()).or_default();
    }
    // Nothing is asked for that could be encrypted: an EncryptionConfiguration without resources is none.
    if state.resources.is_empty() {
        return Desired { state, step: Step::NoKeys };
    }
    if drop_keys(&mut state, backed, facts, &|_, _| true) {
        return Desired { state, step: Step::Dropped };
    }

    // CONTRACT 2.3, S1
    let Some(newest) = backed.first() else { return Desired { state, step: Step::NoKeys } };

    // CONTRACT 2.3, S2, for the targets: what left the list keeps the keys that it has.
    let scan_for = if deployed.is_some() { covered_before } else { targets.iter().cloned().collect() };
    let needed = needed_to_read(backed, scan_for.clone());
    let mut changed = false;
    for target in targets {
        let Some(keys) = state.resources.get_mut(target) else { continue };
        for key in needed.inserted(facts.history) {
            changed |= keys.insert(key.id);
        }
    }
    for key in needed.inserted(facts.history) {
        state.keys.entry(key.id).or_insert_with(|| (*key).clone());
    }
    let newest_unbacked =
        targets.iter().any(|target| state.read_keys(target).next().is_none_or(|newest| !newest.backed));
    if changed || newest_unbacked {
        return Desired { state, step: Step::ReadKeys };
    }

    // CONTRACT 2.3, S3
    let written_with = |state: &State, target: &GroupResource| state.resources.get(target)?.write;
    if targets.iter().any(|target| written_with(&state, target) != Some(newest.id)) {
        for target in targets {
            if let Some(keys) = state.resources.get_mut(target) {
                keys.write = Some(newest.id);
            }
        }
        return Desired { state, step: Step::WriteKey };
    }

    // CONTRACT 2.3, S4
    if !scan_for.iter().all(|resource| newest.migrated.contains(resource)) {
        return Desired { state, step: Step::Migrating };
    }
    if let Some(step) = decrypt(&mut state, targets, facts) {
        return Desired { state, step };
    }
    let oldest_needed = needed.all.last().map_or(newest.id, |key| key.id);
    let kms: BTreeSet<KeyId> =
        state.keys.values().filter(|key| key.mode == Mode::Kms).map(|key| key.id).collect();
    let proven = facts.verified || facts.history == History::Untold;
    for target in targets.iter().filter(|_| proven) {
        let Some(keys) = state.resources.get_mut(target) else { continue };
        // Decisions 7: a KMS provider stays while etcd's history may need it, and not a moment longer: a plugin that
        // nothing needs is a way to lock oneself out. CONTRACT 2.3 keeps one predecessor, needed or not.
        keys.read.retain(|id| match facts.history {
            History::Kept if kms.contains(id) => true,
            History::Compacted if kms.contains(id) => *id >= newest.id,
            _ => *id >= oldest_needed,
        });
    }
    forget_unused(&mut state);
    Desired { state, step: Step::Settled }
}

/// The same lists without the keys that leave. `everywhere` tells which keys every API server reads a resource with.
pub fn without(
    state: &State,
    backed: &[Key],
    facts: &Facts,
    everywhere: &dyn Fn(&GroupResource, KeyId) -> bool,
) -> State {
    let mut state = state.clone();
    drop_keys(&mut state, backed, facts, everywhere);
    state
}

/// Whether a key may take over from a writer that leaves: the admin gave up what is stored, not encryption, so that an
/// identity key from before the writer does not (S9), nor one whose KEK is another by now.
pub fn may_take_over(key: &Key, writer: KeyId, facts: &Facts) -> bool {
    let plain_before = key.mode == Mode::Identity && key.id < writer;
    key.backed && !plain_before && !facts.dropped.contains(&key.id) && !facts.refused.contains(&key.id)
}

/// Takes keys out of every list. Where one of them writes, the newest other key that every API server can read with
/// takes over, else the newest that may. Where there is none, it stays: nothing is written in plain text for it (S9).
fn drop_keys(
    state: &mut State,
    backed: &[Key],
    facts: &Facts,
    everywhere: &dyn Fn(&GroupResource, KeyId) -> bool,
) -> bool {
    let dropped = &facts.dropped;
    if dropped.is_empty() {
        return false;
    }
    let mut changed = false;
    let keys_of = state.keys.clone();
    for (resource, keys) in &mut state.resources {
        // `identity` writes on: a list that begins with it does not tell whether the key of that mode was already the
        // writer (`codec`), and nobody knows that every API server has any other key of the list.
        let is_identity = |id: KeyId| keys_of.get(&id).is_some_and(|key| key.mode == Mode::Identity);
        if keys.write.is_some_and(|id| dropped.contains(&id) && is_identity(id)) {
            keys.write = None;
        }
        if let Some(writer) = keys.write.filter(|id| dropped.contains(id)) {
            let fits = |id: &&KeyId| keys_of.get(id).is_some_and(|key| may_take_over(key, writer, facts));
            let known = keys.read.iter().filter(fits).find(|id| everywhere(resource, **id));
            let known = known.or_else(|| keys.read.iter().find(fits)).copied();
            let other = || backed.iter().find(|key| may_take_over(key, writer, facts)).map(|key| key.id);
            if let Some(next) = known.or_else(other) {
                keys.insert(next);
                keys.write = Some(next);
                changed = true;
            }
        }
        let before = keys.read.len();
        let write = keys.write;
        keys.read.retain(|id| !dropped.contains(id) || write == Some(*id));
        changed |= keys.read.len() != before;
    }
    for key in backed {
        let used = state.resources.values().any(|keys| keys.read.contains(&key.id));
        if used {
            state.keys.entry(key.id).or_insert_with(|| key.clone());
        }
    }
    forget_unused(state);
    changed
}

/// Decisions 11: identity becomes the writer of what left the list, then everything is rewritten, then its entry leaves.
fn decrypt(state: &mut State, targets: &[GroupResource], facts: &Facts) -> Option<Step> {
    let left: Vec<GroupResource> =
        state.resources.keys().filter(|resource| !targets.contains(resource)).cloned().collect();
    let mut step = None;
    let mut gone = false;
    for resource in left {
        if !state.is_plain(&resource) {
            state.resources.entry(resource).and_modify(|keys| keys.write = None);
            step = Some(Step::Decrypt);
        } else if facts.decrypted.contains(&resource) {
            state.resources.remove(&resource);
            gone = true;
        } else {
            step = step.or(Some(Step::Decrypting));
        }
    }
    if gone {
        forget_unused(state);
    }
    // The entry of one leaves though another is still being decrypted.
    step.or(gone.then_some(Step::Decrypting))
}

fn forget_unused(state: &mut State) {
    let used: BTreeSet<KeyId> = state.resources.values().flat_map(|keys| keys.read.iter().copied()).collect();
    state.keys.retain(|id, _| used.contains(id));
}

/// S2's set E.
struct NeededToRead<'a> {
    all: Vec<&'a Key>,
    /// `all` ends with a key that nothing stored needs.
    one_more: bool,
}

impl<'a> NeededToRead<'a> {
    /// What has to stand in the configuration. A KMS key that nothing needs is kept while it is there, and never comes
    /// back (Decisions 7), where it is known that it may leave at all.
    fn inserted(&self, history: History) -> impl Iterator<Item = &&'a Key> {
        let extra = self.one_more.then(|| self.all.len().saturating_sub(1));
        let extra = extra.filter(|_| history != History::Untold);
        self.all
            .iter()
            .enumerate()
            .filter(move |(index, key)| Some(*index) != extra || key.mode != Mode::Kms)
            .map(|(_, key)| key)
    }
}

/// The minimal newest-first prefix that reads everything, plus one more.
fn needed_to_read(backed: &[Key], mut uncovered: BTreeSet<GroupResource>) -> NeededToRead<'_> {
    for (index, key) in backed.iter().enumerate() {
        uncovered.retain(|resource| !key.migrated.contains(resource));
        if uncovered.is_empty() {
            let all: Vec<&Key> = backed.iter().take(index + 2).collect();
            let one_more = all.len() == index + 2;
            return NeededToRead { all, one_more };
        }
    }
    NeededToRead { all: backed.iter().collect(), one_more: false }
}

impl State {
    /// Leaves out every other resource, and the keys that only they had.
    pub fn retain(&mut self, resources: &[GroupResource]) {
        self.resources.retain(|resource, _| resources.contains(resource));
        forget_unused(self);
    }

    /// Whether `identity` writes this resource.
    pub fn is_plain(&self, resource: &GroupResource) -> bool {
        let write = self.resources.get(resource).map(|keys: &ResourceKeys| keys.write);
        match write {
            None | Some(None) => true,
            Some(Some(id)) => self.key(id).is_some_and(|key| key.mode == Mode::Identity),
        }
    }
}
