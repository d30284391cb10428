//! What should be deployed next. The steps are OpenShift's (openshift: no-backed-keys-no-change,
//! openshift: read-keys-come-first, openshift: write-key-needs-all-servers,
//! openshift: prune-after-migration), with three additions. Their order keeps every object readable at every API
//! server (invariant: readable-everywhere).
//!
//! Before the first step abandoned and forgotten keys leave (decision 0005, decision 0015). With the last
//! step, resources that left the list are decrypted, and then their entries leave (decision 0011). In the
//! last step KMS keys leave that nothing needs any more (decision 0007).

use std::collections::BTreeSet;

use super::{Key, ResourceKeys, State};
use crate::ids::{GroupResource, KeyId, Mode};

/// The rule that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Abandoned or forgotten keys leave (decision 0005, decision 0015).
    Dropped,
    /// No backed key, or nothing to encrypt (openshift: no-backed-keys-no-change).
    NoKeys,
    /// Read keys were added, or the newest one is unbacked (openshift: read-keys-come-first).
    ReadKeys,
    /// The newest backed key becomes the write key (openshift: write-key-needs-all-servers).
    WriteKey,
    /// The write key is not migrated yet (openshift: prune-after-migration).
    Migrating,
    /// A resource that left the list will be written in plain text (decision 0011).
    Decrypt,
    /// Resources that left the list are being decrypted (decision 0011).
    Decrypting,
    /// Read keys leave, except for the needed ones (openshift: prune-after-migration).
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

/// What the decision needs besides configuration and keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Keys that leave even if something is stored under them: abandoned keys, which no revision ever had as
    /// the writer, and forgotten keys (`spec.forget`).
    pub leaving: BTreeSet<KeyId>,
    /// Keys whose key check is refused on some node: none of them replaces a writer that leaves.
    pub refused: BTreeSet<KeyId>,
    /// Resources that left the list and are completely rewritten in plain text.
    pub decrypted: BTreeSet<GroupResource>,
    /// What etcd still has from before the end of the write key's migrations.
    pub history: EtcdHistory,
    /// Every object of every resource was seen under the write key again since its migration ended
    /// (invariant: verify-before-leaving). No key leaves before, also if a record says that everything is
    /// migrated. With [`EtcdHistory::NotTracked`] it does not count.
    pub verified: bool,
}

/// Deleted and overwritten values in etcd, which watches and exact lists still decrypt
/// (kubernetes: old-values-are-decrypted).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EtcdHistory {
    /// Nothing observes the history: KMS keys stay as long as local keys (openshift: one-predecessor-stays).
    #[default]
    NotTracked,
    /// Old values may still be there.
    Kept,
    /// Old values cannot be read any more.
    Compacted,
}

/// The state to deploy after `deployed` (absent: nothing was ever deployed). `backed` are the usable keys,
/// newest first: not abandoned, not forgotten, and decodable.
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
    // There is nothing to encrypt: an EncryptionConfiguration without resources is not valid.
    if state.resources.is_empty() {
        return Desired { state, step: Step::NoKeys };
    }
    if remove_keys(&mut state, backed, facts, &|_, _| true) {
        return Desired { state, step: Step::Dropped };
    }

    // (openshift: no-backed-keys-no-change)
    let Some(newest) = backed.first() else { return Desired { state, step: Step::NoKeys } };

    // For the targets (openshift: read-keys-come-first). A resource that left the list keeps the keys that it
    // has.
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

    // (openshift: write-key-needs-all-servers)
    let written_with = |state: &State, target: &GroupResource| state.resources.get(target)?.write;
    if targets.iter().any(|target| written_with(&state, target) != Some(newest.id)) {
        for target in targets {
            if let Some(keys) = state.resources.get_mut(target) {
                keys.write = Some(newest.id);
            }
        }
        return Desired { state, step: Step::WriteKey };
    }

    // (openshift: prune-after-migration)
    if !scan_for.iter().all(|resource| newest.migrated.contains(resource)) {
        return Desired { state, step: Step::Migrating };
    }
    if let Some(step) = decrypt(&mut state, targets, facts) {
        return Desired { state, step };
    }
    let oldest_needed = needed.all.last().map_or(newest.id, |key| key.id);
    let kms: BTreeSet<KeyId> =
        state.keys.values().filter(|key| key.mode == Mode::Kms).map(|key| key.id).collect();
    let proven = facts.verified || facts.history == EtcdHistory::NotTracked;
    for target in targets.iter().filter(|_| proven) {
        let Some(keys) = state.resources.get_mut(target) else { continue };
        // A KMS provider stays exactly as long as etcd's history may need it (decision 0007): even a plugin
        // that nothing needs can block API servers. OpenShift's controllers keep one predecessor, needed or
        // not (openshift: one-predecessor-stays).
        keys.read.retain(|id| match facts.history {
            EtcdHistory::Kept if kms.contains(id) => true,
            EtcdHistory::Compacted if kms.contains(id) => *id >= newest.id,
            _ => *id >= oldest_needed,
        });
    }
    forget_unused(&mut state);
    Desired { state, step: Step::Settled }
}

/// The same lists without the keys that leave. `everywhere` returns whether every API server reads a resource
/// with a key.
pub fn without(
    state: &State,
    backed: &[Key],
    facts: &Facts,
    everywhere: &dyn Fn(&GroupResource, KeyId) -> bool,
) -> State {
    let mut state = state.clone();
    remove_keys(&mut state, backed, facts, everywhere);
    state
}

/// Whether a key may replace a writer that leaves. The admin accepted the loss of data, not the end of
/// encryption, so an identity key from before the writer may not (invariant: no-unrequested-plain-text).
/// Neither may a key whose KEK is another one by now.
pub fn may_replace_writer(key: &Key, writer: KeyId, facts: &Facts) -> bool {
    let plain_before = key.mode == Mode::Identity && key.id < writer;
    key.backed && !plain_before && !facts.leaving.contains(&key.id) && !facts.refused.contains(&key.id)
}

/// Removes keys from every list. If one of them writes, it is replaced by the newest other key that every API
/// server can read with, else by the newest key that may replace it. If there is none, it stays: nothing is
/// written in plain text instead (invariant: no-unrequested-plain-text).
fn remove_keys(
    state: &mut State,
    backed: &[Key],
    facts: &Facts,
    everywhere: &dyn Fn(&GroupResource, KeyId) -> bool,
) -> bool {
    let leaving = &facts.leaving;
    if leaving.is_empty() {
        return false;
    }
    let mut changed = false;
    let keys_of = state.keys.clone();
    for (resource, keys) in &mut state.resources {
        // `identity` stays the writer: a list that begins with it does not show whether the identity key was
        // already the writer (`codec`), and it is not known whether every API server has any other key of the
        // list.
        let is_identity = |id: KeyId| keys_of.get(&id).is_some_and(|key| key.mode == Mode::Identity);
        if keys.write.is_some_and(|id| leaving.contains(&id) && is_identity(id)) {
            keys.write = None;
        }
        if let Some(writer) = keys.write.filter(|id| leaving.contains(id)) {
            let fits =
                |id: &&KeyId| keys_of.get(id).is_some_and(|key| may_replace_writer(key, writer, facts));
            let known = keys.read.iter().filter(fits).find(|id| everywhere(resource, **id));
            let known = known.or_else(|| keys.read.iter().find(fits)).copied();
            let other = || backed.iter().find(|key| may_replace_writer(key, writer, facts)).map(|key| key.id);
            if let Some(next) = known.or_else(other) {
                keys.insert(next);
                keys.write = Some(next);
                changed = true;
            }
        }
        let before = keys.read.len();
        let write = keys.write;
        keys.read.retain(|id| !leaving.contains(id) || write == Some(*id));
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

/// Decrypts the resources that left the list (decision 0011): `identity` becomes their writer, then
/// everything is rewritten, then their entries leave.
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
    // One entry leaves while another resource is still being decrypted.
    step.or(gone.then_some(Step::Decrypting))
}

fn forget_unused(state: &mut State) {
    let used: BTreeSet<KeyId> = state.resources.values().flat_map(|keys| keys.read.iter().copied()).collect();
    state.keys.retain(|id, _| used.contains(id));
}

/// The needed keys (openshift: read-keys-come-first).
struct NeededToRead<'a> {
    all: Vec<&'a Key>,
    /// `all` ends with a key that nothing stored needs.
    one_more: bool,
}

impl<'a> NeededToRead<'a> {
    /// The keys that the configuration has to contain. A KMS key that nothing needs stays while it is there,
    /// and never comes back (decision 0007), if it is known when it may leave.
    fn inserted(&self, history: EtcdHistory) -> impl Iterator<Item = &&'a Key> {
        let extra = self.one_more.then(|| self.all.len().saturating_sub(1));
        let extra = extra.filter(|_| history != EtcdHistory::NotTracked);
        self.all
            .iter()
            .enumerate()
            .filter(move |(index, key)| Some(*index) != extra || key.mode != Mode::Kms)
            .map(|(_, key)| key)
    }
}

/// The shortest list of the newest keys that reads everything, and one more.
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
    /// Removes every other resource, and the keys that only they had.
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
