//! What the state machine is told beside configuration and keys: which keys may leave whatever holds them, which
//! resources were decrypted, and whether etcd still holds old values (DESIGN.md, Decisions 5, 7, 11, 15).

use std::collections::BTreeSet;

use super::{Deployment, Turn, abandon};
use crate::api::{EncryptionMigrationSpec, MigrationPhase};
use crate::formats::key_secret::KeySecret;
use crate::ids::{GroupResource, KeyId, PluginDigest, Revision};
use crate::machine::{Facts, History, State};
use crate::outcome::VERIFYING_FACTS;
use crate::snapshot::{Snapshot, StoredMigration};

/// The `keyID` of a migration that decrypts.
pub(super) const NO_KEY: KeyId = KeyId(0);

/// What is known.
pub(super) fn facts(snapshot: &Snapshot, deployment: &Deployment<'_>, state: Option<&State>) -> Facts {
    let abandoned = snapshot.keys.iter().filter(|key| key.is_abandoned()).map(|key| key.id);
    let given_up = abandoned.chain(snapshot.wanted.forget.iter().copied());
    let dropped: BTreeSet<KeyId> = given_up.chain(vanished(snapshot, deployment)).collect();
    let decrypted = match deployment {
        Deployment::Converged { revision, .. } => decrypted(snapshot, *revision),
        _ => BTreeSet::new(),
    };
    Facts {
        dropped,
        refused: refused(snapshot, deployment),
        decrypted,
        history: history(snapshot, state),
        verified: for_newest(snapshot, state, |resource, migration| verified(snapshot, resource, migration)),
    }
}

/// Keys of the configuration whose plugins do not decrypt their canary on some node.
fn refused(snapshot: &Snapshot, deployment: &Deployment<'_>) -> BTreeSet<KeyId> {
    let (Deployment::Converged { content, .. } | Deployment::Rolling { content, .. }) = deployment else {
        return BTreeSet::new();
    };
    let told: Vec<&PluginDigest> = snapshot
        .servers
        .values()
        .filter_map(|server| server.status())
        .flat_map(|status| &status.kek_mismatch)
        .collect();
    if told.is_empty() {
        return BTreeSet::new();
    }
    content.digests().into_iter().filter(|(_, digest)| told.contains(&digest)).map(|(id, _)| id).collect()
}

/// Keys on their way, newer than any that is loaded everywhere, whose secrets are gone again: the configuration that is being rolled out adds them as read keys, and
/// a KMS key without its secret has no canary, so that no node could ever finish (OBJECTS.md, "Between revisions", b).
/// What was loaded everywhere before does not have them, and no revision has them first: nothing is stored under them.
fn vanished(snapshot: &Snapshot, deployment: &Deployment<'_>) -> BTreeSet<KeyId> {
    let Deployment::Rolling { content, .. } = deployment else { return BTreeSet::new() };
    let before = match (snapshot.last_converged, snapshot.content(snapshot.last_converged)) {
        _ if snapshot.openshift().is_some() => return BTreeSet::new(),
        (_, Some(before)) => before.key_ids(),
        // A status that was lost says so too: only while the first revision is there are all of them.
        (Revision(0), None) if snapshot.revisions.contains_key(&Revision(1)) => BTreeSet::new(),
        (_, None) => return BTreeSet::new(),
    };
    let undecodable = |id: KeyId| snapshot.undecodable.keys().any(|name| KeyId::from_name(name) == Some(id));
    let exists = |id: KeyId| snapshot.key(id).is_some() || undecodable(id);
    // One that was given up and taken back is no new key: something is stored under it.
    let is_new = |id: KeyId| before.iter().all(|known| *known < id);
    let new = content.key_ids().into_iter().filter(|id| is_new(*id) && !exists(*id));
    new.filter(|id| abandon::writes_nowhere(snapshot, *id) && !abandon::may_write_plain(snapshot, *id))
        .collect()
}

/// Resources whose plain text was written since this revision is loaded everywhere, which was verified, and of which etcd
/// holds nothing older.
/// A revision's number never comes back: what was decrypted before the resource was encrypted again proves nothing.
fn decrypted(snapshot: &Snapshot, revision: Revision) -> BTreeSet<GroupResource> {
    let looked_at = snapshot.openshift().is_none();
    let done = |resource: &GroupResource, migration: &StoredMigration| {
        succeeded(migration)
            && (!looked_at
                || snapshot.compacted.contains(resource) && verified(snapshot, resource, migration))
            && migration.spec.key_id == NO_KEY
            && migration.spec.since == revision
    };
    snapshot
        .migrations
        .iter()
        .filter(|(resource, m)| done(resource, m))
        .map(|(resource, _)| resource.clone())
        .collect()
}

fn history(snapshot: &Snapshot, state: Option<&State>) -> History {
    match snapshot.openshift() {
        Some(_) => History::Untold,
        None if compacted(snapshot, state) => History::Compacted,
        None => History::Kept,
    }
}

/// Whether every resource's migration to the newest key ended before what etcd still holds.
fn compacted(snapshot: &Snapshot, state: Option<&State>) -> bool {
    for_newest(snapshot, state, |resource, migration| {
        snapshot.compacted.contains(resource) && succeeded(migration)
    })
}

/// Whether this holds of every resource's migration to the newest key.
fn for_newest(
    snapshot: &Snapshot,
    state: Option<&State>,
    holds: impl Fn(&GroupResource, &StoredMigration) -> bool,
) -> bool {
    let Some(newest) = snapshot.usable().next() else { return false };
    let Some(state) = state else { return false };
    let mut resources = state.resources.keys().chain(&snapshot.wanted.resources);
    resources.all(|resource| {
        let migration = snapshot.migrations.get(resource);
        migration.is_some_and(|m| holds(resource, m) && is_for(snapshot, m, newest))
    })
}

/// The engine went through all objects once more after a migration had succeeded, and found none under another key; and
/// since that began no API server can have written under another one.
pub(super) fn verified(snapshot: &Snapshot, resource: &GroupResource, migration: &StoredMigration) -> bool {
    succeeded(migration) && migration.spec.verifies() && is_unbroken(snapshot, resource, migration)
}

/// The fact that this operator has seen the whole cluster converged in every pass since it began an attempt. A server that
/// loads an older configuration (a restored machine) writes under an older key, and what is newer than the attempt's start
/// would count as rewritten. So the fact is recorded with the attempt, kept only by passes that find the cluster converged,
/// and never recorded later: another operator, or this one after a restart, begins the verification again.
fn unbroken(resource: &GroupResource, spec: &EncryptionMigrationSpec) -> (String, String) {
    let value = format!("{}/{}/{}/{}", spec.key_id, spec.key_secret_uid, spec.since, spec.attempt);
    (format!("{VERIFYING_FACTS}{resource}"), value)
}

/// Whether the cluster has been converged without a break since this attempt began.
pub(super) fn is_unbroken(
    snapshot: &Snapshot,
    resource: &GroupResource,
    migration: &StoredMigration,
) -> bool {
    let (fact, value) = unbroken(resource, &migration.spec);
    snapshot.ages.get(&fact).is_some_and(|age| age.value == value)
}

/// With the attempt that begins.
pub(super) fn begin_unbroken(resource: &GroupResource, spec: &EncryptionMigrationSpec, turn: &mut Turn) {
    let (fact, value) = unbroken(resource, spec);
    turn.record(fact, value);
}

/// In each pass that finds the cluster converged.
pub(super) fn keep_unbroken(snapshot: &Snapshot, turn: &mut Turn) {
    for (resource, migration) in &snapshot.migrations {
        if migration.spec.verifies() && is_unbroken(snapshot, resource, migration) {
            begin_unbroken(resource, &migration.spec, turn);
        }
    }
}

/// The engine reports the end of just this wish.
pub(super) fn succeeded(migration: &StoredMigration) -> bool {
    migration.current && migration.status.phase == MigrationPhase::Succeeded
}

/// By the key secret's UID: a number that came back is another key (CONTRACT 5, 11). And by the revision that made the key
/// the writer: one that was wished for before, by whoever and however late, is about an earlier time as the writer.
pub(super) fn is_for(snapshot: &Snapshot, migration: &StoredMigration, key: &KeySecret) -> bool {
    let spec = &migration.spec;
    spec.key_id == key.id && spec.key_secret_uid == key.uid && spec.since == writer_since(snapshot, key)
}

/// The revision that last made a key a write key. OpenShift's migrations cannot carry it.
pub(super) fn writer_since(snapshot: &Snapshot, key: &KeySecret) -> Revision {
    let recorded = key.write_published.filter(|_| snapshot.openshift().is_none());
    recorded.unwrap_or_default()
}
