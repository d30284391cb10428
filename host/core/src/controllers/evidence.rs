//! What the state machine decides from, besides configuration and keys: which keys leave even if they are
//! needed, which resources are decrypted, and whether etcd still has old values (decision 0005,
//! decision 0007, decision 0011, decision 0015, decision 0057).

use std::collections::BTreeSet;

use super::{Deployment, Turn, abandon};
use crate::api::{EncryptionMigrationSpec, MigrationPhase};
use crate::formats::key_secret::KeySecret;
use crate::ids::{GroupResource, KeyId, PluginDigest, Revision};
use crate::machine::{EtcdHistory, Facts, State};
use crate::outcome::VERIFYING_FACTS;
use crate::snapshot::{Snapshot, StoredMigration};

/// The `keyID` of a migration that decrypts.
pub(super) const NO_KEY: KeyId = KeyId(0);

/// The facts of this snapshot.
pub(super) fn facts(snapshot: &Snapshot, deployment: &Deployment<'_>, state: Option<&State>) -> Facts {
    let abandoned = snapshot.keys.iter().filter(|key| key.is_abandoned()).map(|key| key.id);
    let unwanted = abandoned.chain(snapshot.wanted.forget.iter().copied());
    let leaving: BTreeSet<KeyId> = unwanted.chain(lost_new_keys(snapshot, deployment)).collect();
    let decrypted = match deployment {
        Deployment::Converged { revision, .. } => decrypted(snapshot, *revision),
        _ => BTreeSet::new(),
    };
    Facts {
        leaving,
        refused: refused(snapshot, deployment),
        decrypted,
        history: history(snapshot, state),
        verified: for_newest(snapshot, state, |resource, migration| verified(snapshot, resource, migration)),
    }
}

/// Keys of the configuration whose plugins do not decrypt their key check on some node.
fn refused(snapshot: &Snapshot, deployment: &Deployment<'_>) -> BTreeSet<KeyId> {
    let (Deployment::Converged { content, .. } | Deployment::Rolling { content, .. }) = deployment else {
        return BTreeSet::new();
    };
    let reported: Vec<&PluginDigest> = snapshot
        .servers
        .values()
        .filter_map(|server| server.status())
        .flat_map(|status| &status.kek_mismatch)
        .collect();
    if reported.is_empty() {
        return BTreeSet::new();
    }
    content.digests().into_iter().filter(|(_, digest)| reported.contains(&digest)).map(|(id, _)| id).collect()
}

/// New keys that are lost: newer than any key that is loaded everywhere, and their secrets are gone. The
/// configuration that is being rolled out adds them as read keys. A KMS key without its secret has no key
/// check, so no node could ever finish (objects: between-revisions). The configuration that was loaded
/// everywhere before does not have them, and no revision has them as writer, so nothing is stored under them.
fn lost_new_keys(snapshot: &Snapshot, deployment: &Deployment<'_>) -> BTreeSet<KeyId> {
    let Deployment::Rolling { content, .. } = deployment else { return BTreeSet::new() };
    let before = match (snapshot.last_converged, snapshot.content(snapshot.last_converged)) {
        _ if snapshot.openshift().is_some() => return BTreeSet::new(),
        (_, Some(before)) => before.key_ids(),
        // A lost status shows revision 0 too. Only if the first revision exists, all of them do.
        (Revision(0), None) if snapshot.revisions.contains_key(&Revision(1)) => BTreeSet::new(),
        (_, None) => return BTreeSet::new(),
    };
    let undecodable = |id: KeyId| snapshot.undecodable.keys().any(|name| KeyId::from_name(name) == Some(id));
    let exists = |id: KeyId| snapshot.key(id).is_some() || undecodable(id);
    // A forgotten key can come back, if the request is removed. It is not new: something is stored under it.
    let is_new = |id: KeyId| before.iter().all(|known| *known < id);
    let new = content.key_ids().into_iter().filter(|id| is_new(*id) && !exists(*id));
    new.filter(|id| abandon::writes_nowhere(snapshot, *id) && !abandon::may_write_plain(snapshot, *id))
        .collect()
}

/// Resources whose plain text was written since this revision was loaded everywhere, which are verified, and
/// of which etcd has nothing older. Revision numbers never come back, so a decryption from before the
/// resource was encrypted again does not count.
fn decrypted(snapshot: &Snapshot, revision: Revision) -> BTreeSet<GroupResource> {
    let is_tracked = snapshot.openshift().is_none();
    let done = |resource: &GroupResource, migration: &StoredMigration| {
        succeeded(migration)
            && (!is_tracked
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

fn history(snapshot: &Snapshot, state: Option<&State>) -> EtcdHistory {
    match snapshot.openshift() {
        Some(_) => EtcdHistory::NotTracked,
        None if compacted(snapshot, state) => EtcdHistory::Compacted,
        None => EtcdHistory::Kept,
    }
}

/// Whether every resource's migration to the newest key ended before the oldest version that etcd still has
/// (invariant: history-stays-readable).
fn compacted(snapshot: &Snapshot, state: Option<&State>) -> bool {
    for_newest(snapshot, state, |resource, migration| {
        snapshot.compacted.contains(resource) && succeeded(migration)
    })
}

/// Whether this holds for every resource's migration to the newest key.
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

/// Whether the engine went through all objects again after a migration had succeeded, and found none under
/// another key; and no API server can have written under another key since that began
/// (invariant: verify-before-leaving).
pub(super) fn verified(snapshot: &Snapshot, resource: &GroupResource, migration: &StoredMigration) -> bool {
    succeeded(migration) && migration.spec.verifies() && is_unbroken(snapshot, resource, migration)
}

/// The fact that this operator observed the whole cluster as converged in every pass since it began an
/// attempt (invariant: verification-needs-convergence). A server that loads an older configuration, such as a
/// restored machine, writes under an older key, and what it writes would count as rewritten, since it is
/// newer than the attempt's start. So the fact is recorded with the attempt, is kept only by passes that find
/// the cluster converged, and is never recorded later. After a restart, and with another operator, the
/// verification begins again.
fn unbroken(resource: &GroupResource, spec: &EncryptionMigrationSpec) -> (String, String) {
    let value = format!("{}/{}/{}/{}", spec.key_id, spec.key_secret_uid, spec.since, spec.attempt);
    (format!("{VERIFYING_FACTS}{resource}"), value)
}

/// Whether the cluster has stayed converged since this attempt began.
pub(super) fn is_unbroken(
    snapshot: &Snapshot,
    resource: &GroupResource,
    migration: &StoredMigration,
) -> bool {
    let (fact, value) = unbroken(resource, &migration.spec);
    snapshot.ages.get(&fact).is_some_and(|age| age.value == value)
}

/// Records the fact with the attempt that begins.
pub(super) fn begin_unbroken(resource: &GroupResource, spec: &EncryptionMigrationSpec, turn: &mut Turn) {
    let (fact, value) = unbroken(resource, spec);
    turn.record(fact, value);
}

/// Keeps the fact in a pass that finds the cluster converged.
pub(super) fn keep_unbroken(snapshot: &Snapshot, turn: &mut Turn) {
    for (resource, migration) in &snapshot.migrations {
        if migration.spec.verifies() && is_unbroken(snapshot, resource, migration) {
            begin_unbroken(resource, &migration.spec, turn);
        }
    }
}

/// Whether the engine reports that exactly this request succeeded.
pub(super) fn succeeded(migration: &StoredMigration) -> bool {
    migration.current && migration.status.phase == MigrationPhase::Succeeded
}

/// Whether a migration is for this key and this publication. The key secret's UID distinguishes a key whose
/// number came back (openshift: migration-is-for-one-key-secret). The revision that made the key the writer
/// distinguishes a request from an earlier time as the writer, even if that request is written
/// later (decision 0056).
pub(super) fn is_for(snapshot: &Snapshot, migration: &StoredMigration, key: &KeySecret) -> bool {
    let spec = &migration.spec;
    spec.key_id == key.id && spec.key_secret_uid == key.uid && spec.since == writer_since(snapshot, key)
}

/// The revision that last made a key the write key. OpenShift's migrations cannot record it.
pub(super) fn writer_since(snapshot: &Snapshot, key: &KeySecret) -> Revision {
    let recorded = key.write_published.filter(|_| snapshot.openshift().is_none());
    recorded.unwrap_or_default()
}
