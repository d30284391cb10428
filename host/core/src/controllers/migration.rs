//! Re-encryption: CONTRACT 3.3, and DESIGN.md, "Migration engine". Only this controller starts migrations.

use super::{Deployed, Deployment, Turn};
use crate::api::{ConditionStatus, MigrationPhase};
use crate::formats::key_secret::KeySecret;
use crate::ids::GroupResource;
use crate::machine::Step;
use crate::outcome::Action;
use crate::snapshot::{Snapshot, StoredMigration};
use std::time::Duration;

/// CONTRACT 3.3, 3: a failed migration is tried again after so long.
const RETRY_AFTER: Duration = Duration::from_mins(5);
const DEGRADED: &str = "EncryptionMigrationControllerDegraded";
const PROGRESSING: &str = "EncryptionMigrationControllerProgressing";

/// The migration controller. `settled`: what is deployed is what should be.
pub(super) fn decide(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    deployed: &Deployed<'_>,
    settled: bool,
    turn: &mut Turn,
) {
    let (Deployment::Converged { content, revision }, true) = (deployment, settled) else { return };
    let hash = content.hash().0;
    // A write that was on its way when the last server switched may still carry the old key.
    let converged_for = turn.since(snapshot, "converged", hash);
    let mut trouble = Vec::new();
    let mut under_way: Vec<&GroupResource> = Vec::new();
    let mut recorded = false;
    let resources: Vec<&GroupResource> = deployed.desired.state.resources.keys().collect();
    for resource in resources {
        let Some(key) = deployed.desired.state.write_key(resource) else { continue };
        let Some(secret) = snapshot.key(key.id).filter(|_| key.backed) else { continue };
        if secret.migrated.contains(resource) {
            continue;
        }
        under_way.push(resource);
        let existing = snapshot.migrations.get(resource);
        let ours = existing.filter(|migration| {
            migration.spec.key_id == key.id && migration.spec.key_secret_uid == secret.uid
        });
        match ours {
            Some(migration) if migration.current && migration.status.phase == MigrationPhase::Succeeded => {
                // One a turn: the second would depend on a resourceVersion that the first has moved on.
                if !recorded {
                    recorded = true;
                    record(snapshot, secret, resource, turn);
                }
            }
            Some(migration) if migration.current && migration.status.phase == MigrationPhase::Failed => {
                trouble.push(failed(snapshot, secret, resource, migration, turn));
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
            None => start(secret, resource, existing, 0, turn),
        }
    }
    tell(&under_way, &trouble, turn);
    if deployed.desired.step == Step::Migrating {
        turn.wait("Migrating", format!("re-encrypting {}", list(&under_way)));
    }
}

fn record(snapshot: &Snapshot, secret: &KeySecret, resource: &GroupResource, turn: &mut Turn) {
    let mut key = secret.clone();
    key.migrated.push(resource.clone());
    key.migrated.sort();
    key.migrated_at = Some(snapshot.now);
    turn.explain(format!("{resource}: everything is stored under key {}", key.id));
    turn.act(Action::RecordMigrated { resource: resource.clone(), key: Box::new(key) });
}

fn start(
    secret: &KeySecret,
    resource: &GroupResource,
    existing: Option<&StoredMigration>,
    attempt: u32,
    turn: &mut Turn,
) {
    turn.explain(format!("{resource} is re-encrypted under key {}", secret.id));
    turn.act(Action::StartMigration {
        resource: resource.clone(),
        key_id: secret.id,
        key_secret_uid: secret.uid.clone(),
        remote_key_id: None,
        attempt,
        resource_version: existing.map(|migration| migration.resource_version.clone()),
    });
}

fn failed(
    snapshot: &Snapshot,
    secret: &KeySecret,
    resource: &GroupResource,
    migration: &StoredMigration,
    turn: &mut Turn,
) -> String {
    let fact = format!("migration-failed/{resource}");
    let value = format!("{}/{}", secret.uid, migration.spec.attempt);
    let age = turn.since(snapshot, fact, value);
    if age >= RETRY_AFTER {
        start(secret, resource, Some(migration), migration.spec.attempt.saturating_add(1), turn);
    } else {
        turn.again_after(RETRY_AFTER.saturating_sub(age));
    }
    let failures = &migration.status.failures;
    let each: Vec<String> =
        failures.iter().take(3).map(|failure| format!("{}: {}", failure.object, failure.message)).collect();
    let more = failures.len().saturating_sub(each.len());
    format!(
        "migration of {resource} for key \"{}\" failed: {}{}",
        secret.id,
        if each.is_empty() { "no object was named".to_owned() } else { each.join("; ") },
        if more > 0 { format!("; and {more} more") } else { String::new() }
    )
}

fn tell(under_way: &[&GroupResource], trouble: &[String], turn: &mut Turn) {
    if under_way.is_empty() {
        turn.condition(PROGRESSING, ConditionStatus::False, "AsExpected", "");
    } else {
        let message = format!("migrating resources to a new write key: {}", list(under_way));
        turn.condition(PROGRESSING, ConditionStatus::True, "Migrating", &message);
    }
    turn.degraded(DEGRADED, (!trouble.is_empty()).then(|| ("Error", trouble.join("; "))));
}

/// As Go prints a slice: `[core/configmaps core/secrets]`.
fn list(resources: &[&GroupResource]) -> String {
    let each: Vec<String> =
        resources.iter().map(|r| format!("{}/{}", r.group_or_core(), r.resource)).collect();
    format!("[{}]", each.join(" "))
}
