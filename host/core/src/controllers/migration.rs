//! Re-encryption: CONTRACT 3.3, and DESIGN.md, "Migration engine". Only this controller starts migrations.

use super::{Deployed, Deployment, Turn, evidence, health};
use crate::api::{ConditionStatus, EncryptionMigrationSpec, MigrationPhase};
use crate::formats::key_secret::KeySecret;
use crate::ids::{GroupResource, KeyId, RemoteKeyId, Revision};
use crate::machine::{History, Step};
use crate::outcome::Action;
use crate::snapshot::{Snapshot, StoredMigration};
use std::time::Duration;

/// CONTRACT 3.3, 3: a failed migration is tried again after so long.
const RETRY_AFTER: Duration = Duration::from_mins(5);
const DEGRADED: &str = "EncryptionMigrationControllerDegraded";
const PROGRESSING: &str = "EncryptionMigrationControllerProgressing";

/// One resource's migration as it should be.
pub(super) struct Wish<'a> {
    pub(super) resource: &'a GroupResource,
    pub(super) spec: EncryptionMigrationSpec,
}

impl<'a> Wish<'a> {
    /// Everything under this key, or under what a remote rotation moved to.
    pub(super) fn of(
        snapshot: &Snapshot,
        resource: &'a GroupResource,
        key: &KeySecret,
        remote: Option<RemoteKeyId>,
    ) -> Self {
        let spec = EncryptionMigrationSpec {
            operand: snapshot.component.clone(),
            resource: resource.to_string(),
            key_id: key.id,
            key_secret_uid: key.uid.clone(),
            since: evidence::writer_since(snapshot, key),
            remote_key_id: remote,
            attempt: 0,
        };
        Self { resource, spec }
    }

    /// Everything in plain text, which this revision writes.
    fn decrypt(snapshot: &Snapshot, resource: &'a GroupResource, since: Revision) -> Self {
        let spec = EncryptionMigrationSpec {
            operand: snapshot.component.clone(),
            resource: resource.to_string(),
            key_id: evidence::NO_KEY,
            since,
            ..Default::default()
        };
        Self { resource, spec }
    }

    /// Whether a stored migration is for just this.
    pub(super) fn is(&self, migration: &StoredMigration) -> bool {
        migration.spec.is_same_wish(&self.spec)
    }
}

/// The migration controller. `settled`: what is deployed is what should be.
pub(super) fn decide(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    deployed: &Deployed<'_>,
    settled: bool,
    turn: &mut Turn,
) {
    let (Deployment::Converged { content, revision }, true) = (deployment, settled) else { return };
    // A write that was on its way when the last server switched may still carry the old key.
    let converged_for = turn.since(snapshot, "converged", content.hash().0);
    let mut trouble = Vec::new();
    let mut under_way: Vec<&GroupResource> = Vec::new();
    let mut recorded = false;
    for (wish, secret) in wishes(snapshot, deployed, *revision) {
        let existing = snapshot.migrations.get(wish.resource);
        let ours = existing.filter(|migration| {
            // What a remote rotation moved to is part of the wish only when that is what is wished for.
            wish.is(migration) || secret.is_some_and(|secret| evidence::is_for(snapshot, migration, secret))
        });
        let evidence_only = secret.is_some_and(|secret| secret.migrated.contains(wish.resource));
        if evidence_only && ours.is_some_and(|m| !evidence::succeeded(m) || m.status.end_version.is_some()) {
            continue;
        }
        under_way.push(wish.resource);
        match ours {
            Some(migration) if evidence_only => {
                start(&wish, Some(migration), migration.spec.attempt.saturating_add(1), turn);
            }
            Some(migration) if evidence::succeeded(migration) => {
                if secret.is_none() {
                    let what = wish.resource;
                    turn.wait(
                        "HistoryNotCompacted",
                        format!(
                            "{what} is decrypted; its entry leaves once etcd has compacted what was before"
                        ),
                    );
                    turn.again_after(snapshot.wanted.request_timeout);
                }
                // One a turn: the second would depend on a resourceVersion that the first has moved on.
                if let Some(secret) = secret.filter(|_| !recorded) {
                    recorded = true;
                    record(snapshot, secret, wish.resource, turn);
                }
            }
            Some(migration) if migration.current && migration.status.phase == MigrationPhase::Failed => {
                trouble.push(failed(snapshot, &wish, migration, turn));
            }
            Some(_) => {}
            None if converged_for < snapshot.wanted.request_timeout => {
                let left = snapshot.wanted.request_timeout.saturating_sub(converged_for);
                turn.wait(
                    "WritesInFlight",
                    format!(
                        "revision {revision} is loaded everywhere; writes under way may carry the old key for {:?} (spec.apiServer.requestTimeout)",
                        snapshot.wanted.request_timeout
                    ),
                );
                turn.again_after(left);
            }
            None => match health::gate(snapshot, content, &content.kms_keys(), "re-encryption") {
                Some(why) => turn.wait("PluginUnhealthy", why),
                None => start(&wish, existing, 0, turn),
            },
        }
    }
    tell(&under_way, &trouble, turn);
    if matches!(deployed.desired.step, Step::Migrating | Step::Decrypting) {
        turn.wait("Migrating", format!("re-encrypting {}", list(&under_way)));
    }
}

/// Every resource of which something has to be rewritten: what the write key has not got yet, what left the list and is
/// not plain yet, and, where an older KMS provider waits for it, what there is no evidence of any more.
fn wishes<'a>(
    snapshot: &'a Snapshot,
    deployed: &'a Deployed<'_>,
    revision: Revision,
) -> Vec<(Wish<'a>, Option<&'a KeySecret>)> {
    let mut wishes = Vec::new();
    let state = &deployed.desired.state;
    let asked = deployed.facts.history != History::Untold;
    let waits = |id: KeyId| asked && deployed.kms_keys().any(|key| key.id < id);
    for resource in state.resources.keys() {
        if !snapshot.wanted.resources.contains(resource) {
            if state.is_plain(resource) && !deployed.facts.decrypted.contains(resource) {
                wishes.push((Wish::decrypt(snapshot, resource, revision), None));
            }
            continue;
        }
        let Some(key) = state.write_key(resource).filter(|key| key.backed) else { continue };
        let Some(secret) = snapshot.key(key.id) else { continue };
        let done = secret.migrated.contains(resource);
        if !done || waits(key.id) && deployed.desired.step == Step::Settled {
            wishes.push((Wish::of(snapshot, resource, secret, None), Some(secret)));
        }
    }
    wishes
}

fn record(snapshot: &Snapshot, secret: &KeySecret, resource: &GroupResource, turn: &mut Turn) {
    let mut key = secret.clone();
    key.migrated.push(resource.clone());
    key.migrated.sort();
    key.migrated_at = Some(snapshot.now);
    turn.explain(format!("{resource}: everything is stored under key {}", key.id));
    turn.act(Action::RecordMigrated { resource: resource.clone(), key: Box::new(key) });
}

pub(super) fn start(wish: &Wish<'_>, existing: Option<&StoredMigration>, attempt: u32, turn: &mut Turn) {
    turn.explain(match wish.spec.key_id {
        evidence::NO_KEY => format!("{} is decrypted", wish.resource),
        key => format!("{} is re-encrypted under key {key}", wish.resource),
    });
    turn.act(Action::StartMigration {
        resource: wish.resource.clone(),
        spec: Box::new(EncryptionMigrationSpec { attempt, ..wish.spec.clone() }),
        resource_version: existing.map(|migration| migration.resource_version.clone()),
    });
}

/// A failed migration is tried again after a while. Answers what to tell.
pub(super) fn failed(
    snapshot: &Snapshot,
    wish: &Wish<'_>,
    migration: &StoredMigration,
    turn: &mut Turn,
) -> String {
    let fact = format!("migration-failed/{}", wish.resource);
    let age = turn.since(snapshot, fact, format!("{}/{}", wish.spec.key_secret_uid, migration.spec.attempt));
    if age >= RETRY_AFTER {
        start(wish, Some(migration), migration.spec.attempt.saturating_add(1), turn);
    } else {
        turn.again_after(RETRY_AFTER.saturating_sub(age));
    }
    let failures = &migration.status.failures;
    let each: Vec<String> =
        failures.iter().take(3).map(|failure| format!("{}: {}", failure.object, failure.message)).collect();
    let more = failures.len().saturating_sub(each.len());
    format!(
        "migration of {} for key \"{}\" failed: {}{}",
        wish.resource,
        wish.spec.key_id,
        if each.is_empty() { "no object was named".to_owned() } else { each.join("; ") },
        if more > 0 { format!("; and {more} more") } else { String::new() }
    )
}

pub(super) fn tell(under_way: &[&GroupResource], trouble: &[String], turn: &mut Turn) {
    if under_way.is_empty() {
        turn.condition(PROGRESSING, ConditionStatus::False, "AsExpected", "");
    } else {
        let message = format!("migrating resources to a new write key: {}", list(under_way));
        turn.condition(PROGRESSING, ConditionStatus::True, "Migrating", &message);
    }
    turn.degraded(DEGRADED, (!trouble.is_empty()).then(|| ("Error", trouble.join("; "))));
}

/// As Go prints a slice: `[core/configmaps core/secrets]`.
pub(super) fn list(resources: &[&GroupResource]) -> String {
    let each: Vec<String> =
        resources.iter().map(|r| format!("{}/{}", r.group_or_core(), r.resource)).collect();
    format!("[{}]", each.join(" "))
}
