//! Re-encryption, and its verification before an older key leaves. Every migration is started here.
//!
//! A migration that failed is tried again for what it left, after pauses that grow (decision 0055). One that
//! succeeded is evidence for its resource. Before a provider leaves, another attempt goes through every
//! object and verifies that evidence (invariant: verify-before-leaving).

use super::{Deployed, Deployment, Turn, evidence, health};
use crate::api::{
    ConditionStatus, EarlierAttempts, EncryptionMigrationSpec, EncryptionMigrationStatus, MigrationFailure,
    MigrationPhase,
};
use crate::formats::key_secret::KeySecret;
use crate::ids::{GroupResource, KeyId, RemoteKeyId, Revision};
use crate::machine::{EtcdHistory, Step};
use crate::outcome::{Action, migration_idle_fact};
use crate::snapshot::{Snapshot, StoredMigration};
use std::time::Duration;

/// The pause before the first retry of a failed migration; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(30);
/// The longest such pause.
const LONGEST_RETRY: Duration = Duration::from_mins(30);
/// On OpenShift a failed migration is tried again after this time (openshift: retry-failed-migration).
const OPENSHIFT_RETRY: Duration = Duration::from_mins(5);
/// After this time without progress it is reported that nothing seems to run the migration.
const IDLE: Duration = Duration::from_hours(1);
/// After this time the wait of a migration is reported as a problem.
const PATIENCE: Duration = Duration::from_mins(1);
const DEGRADED: &str = "EncryptionMigrationControllerDegraded";
const PROGRESSING: &str = "EncryptionMigrationControllerProgressing";

/// The migration of one resource as it should be.
pub(super) struct DesiredMigration<'a> {
    pub(super) resource: &'a GroupResource,
    pub(super) spec: EncryptionMigrationSpec,
}

impl<'a> DesiredMigration<'a> {
    /// Everything under this key, or under the remote key id after a rotation in the KMS.
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
            continues: None,
        };
        Self { resource, spec }
    }

    /// Everything in plain text, as this revision writes it.
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

    /// Whether a stored migration is exactly this one.
    pub(super) fn is(&self, migration: &StoredMigration) -> bool {
        migration.spec.is_same_migration(&self.spec)
    }
}

/// The migration controller. `settled`: what is deployed is what should be deployed.
pub(super) fn decide(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    deployed: &Deployed<'_>,
    settled: bool,
    turn: &mut Turn,
) {
    let Deployment::Converged { content, revision } = deployment else { return };
    evidence::keep_unbroken(snapshot, turn);
    if !settled {
        return;
    }
    // A write in flight when the last server switched may still use the old key
    // (kubernetes: writes-in-flight-keep-the-old-key).
    let converged_for = turn.since(snapshot, "converged", format!("{revision}/{}", content.hash().0));
    let mut report = Report::default();
    let mut recorded = false;
    for (wanted, secret) in desired_migrations(snapshot, deployed, *revision) {
        let existing = snapshot.migrations.get(wanted.resource);
        let ours = existing.filter(|migration| {
            // A migration to this key counts for any remote key id; `rotation.rs` decides about those.
            wanted.is(migration) || secret.is_some_and(|secret| evidence::is_for(snapshot, migration, secret))
        });
        let is_recorded = secret.is_some_and(|secret| secret.migrated.contains(wanted.resource));
        match ours {
            Some(migration) if evidence::succeeded(migration) => match secret {
                // One resource a pass: the first write changes the resourceVersion that a second one would
                // depend on.
                Some(secret) if !is_recorded => {
                    report.under_way.push(wanted.resource);
                    if !recorded {
                        recorded = true;
                        record(snapshot, secret, wanted.resource, turn);
                    }
                }
                _ => verify(snapshot, deployed, &wanted, migration, converged_for, &mut report, turn),
            },
            // The migration after a rotation is followed in `rotation.rs`.
            Some(migration) if is_recorded && !wanted.is(migration) && !migration.spec.verifies() => {}
            Some(migration) => follow(snapshot, wanted.resource, migration, &mut report, turn),
            None if converged_for < snapshot.wanted.request_timeout => {
                report.under_way.push(wanted.resource);
                let left = snapshot.wanted.request_timeout.saturating_sub(converged_for);
                turn.wait_until(
                    "WritesInFlight",
                    format!(
                        "every API server has loaded revision {revision}; writes in flight may still use the old key for {:?} (spec.apiServer.requestTimeout)",
                        snapshot.wanted.request_timeout
                    ),
                    "converged",
                    snapshot.wanted.request_timeout,
                );
                turn.again_after(left);
            }
            None => {
                report.under_way.push(wanted.resource);
                match health::gate(snapshot, content, &content.kms_keys(), "re-encryption") {
                    Some(why) => turn.wait("PluginUnhealthy", why),
                    None => start(&wanted, existing, 0, turn),
                }
            }
        }
    }
    for (resource, why) in &snapshot.history_trouble {
        report
            .trouble
            .push(format!("it is not known whether etcd still stores old values of {resource}: {why}"));
    }
    by_another(snapshot, deployed, turn);
    report.publish(turn);
    if matches!(deployed.desired.step, Step::Migrating | Step::Decrypting) {
        let notes: String = report.notes.iter().map(|note| format!("; {note}")).collect();
        turn.wait("Migrating", format!("re-encrypting {}{notes}", list(&report.under_way)));
    } else if !report.under_way.is_empty() {
        let notes: String = report.notes.iter().map(|note| format!("; {note}")).collect();
        let what = list(&report.under_way);
        turn.wait(
            "Verifying",
            format!("verifying every object of {what} before older keys leave the configuration{notes}"),
        );
    }
}

/// On OpenShift keys leave by another migrator's success (openshift: success-of-another-migrator). It proves
/// less than Keyward's own: that migrator skips an object whose patch is answered with 404 or 409, and does
/// not check any object again.
fn by_another(snapshot: &Snapshot, deployed: &Deployed<'_>, turn: &mut Turn) {
    let newest = deployed.newest().and_then(|key| snapshot.key(key.id));
    let Some(key) = newest.filter(|key| snapshot.openshift().is_some() && !key.migrated.is_empty()) else {
        return;
    };
    let message = by_another_message(&key.migrated.iter().collect::<Vec<_>>(), &format!("key {}", key.id));
    turn.explain(message.clone());
    turn.notice(false, "MigratedByAnother", message);
}

/// The message. `plan` shows the same one. `key`: the key to which the other migrator migrates everything.
pub fn by_another_message(resources: &[&GroupResource], key: &str) -> String {
    format!(
        "{}: another migrator runs the migration to {key}. It skips objects that the API server answers with 404 or 409, so its success does not prove that nothing is stored under an older key. The older keys leave the configuration nevertheless; keep their KEKs until you have scanned etcd",
        list(resources)
    )
}

/// The migrations under way, their problems, and notes about what may pass.
#[derive(Default)]
pub(super) struct Report<'a> {
    pub(super) under_way: Vec<&'a GroupResource>,
    pub(super) trouble: Vec<String>,
    pub(super) notes: Vec<String>,
}

impl Report<'_> {
    pub(super) fn publish(&self, turn: &mut Turn) {
        if self.under_way.is_empty() {
            turn.condition(PROGRESSING, ConditionStatus::False, "AsExpected", "");
        } else {
            let message = format!("migrating resources to a new write key: {}", list(&self.under_way));
            turn.condition(PROGRESSING, ConditionStatus::True, "Migrating", &message);
        }
        turn.degraded(DEGRADED, (!self.trouble.is_empty()).then(|| ("Error", self.trouble.join("; "))));
    }
}

/// A migration that succeeded and is recorded: is its evidence enough for the steps that wait for it?
fn verify<'a>(
    snapshot: &Snapshot,
    deployed: &Deployed<'_>,
    wanted: &DesiredMigration<'a>,
    migration: &StoredMigration,
    converged_for: Duration,
    report: &mut Report<'a>,
    turn: &mut Turn,
) {
    let is_tracked = deployed.facts.history != EtcdHistory::NotTracked;
    let status = &migration.status;
    let decrypts = wanted.spec.key_id == evidence::NO_KEY;
    let compacted = snapshot.compacted.contains(wanted.resource);
    let leaves = if decrypts { compacted } else { deployed.waits_for_verification };
    if !is_tracked && !decrypts {
        return;
    }
    if is_tracked && status.end_version.is_none() {
        // It is not known when it ended.
        report.under_way.push(wanted.resource);
        let earlier = EarlierAttempts { start_version: status.start_version.clone(), ..Default::default() };
        again(wanted.resource, migration, earlier, turn);
    } else if is_tracked && leaves && !evidence::verified(snapshot, wanted.resource, migration) {
        report.under_way.push(wanted.resource);
        let in_flight = snapshot.wanted.request_timeout.saturating_sub(converged_for);
        if !in_flight.is_zero() {
            return turn.again_after(in_flight);
        }
        turn.explain(format!("{}: verifying every object before older keys leave", wanted.resource));
        // From a start of its own: a server that was away during the first attempt may have written under an
        // older key since.
        again(wanted.resource, migration, from_its_own_start(migration), turn);
    } else if decrypts {
        report.under_way.push(wanted.resource);
        let what = wanted.resource;
        turn.wait(
            "HistoryNotCompacted",
            format!("{what} is decrypted; its entry leaves when etcd has compacted the history from before"),
        );
        turn.again_after(snapshot.wanted.request_timeout);
    }
}

/// A migration that has not succeeded yet.
pub(super) fn follow<'a>(
    snapshot: &Snapshot,
    resource: &'a GroupResource,
    migration: &StoredMigration,
    report: &mut Report<'a>,
    turn: &mut Turn,
) {
    report.under_way.push(resource);
    let (spec, status) = (&migration.spec, &migration.status);
    let is_over = migration.current && status.phase == MigrationPhase::Failed;
    if spec.verifies() && !is_over && !evidence::is_unbroken(snapshot, resource, migration) {
        turn.explain(format!("{resource}: the cluster was not seen converged all the time since the verification began; the verification starts again"));
        return again(resource, migration, from_its_own_start(migration), turn);
    }
    if migration.current && status.phase == MigrationPhase::Failed {
        report.trouble.push(failed(snapshot, resource, migration, turn));
        return;
    }
    if let Some(earlier) = spec.continues.as_ref().filter(|earlier| is_retry(earlier)) {
        let objects = match earlier.objects.as_slice() {
            [] => String::new(),
            [first] => format!(" for {first}"),
            [first, rest @ ..] => format!(" for {first} and {} more", rest.len()),
        };
        report.trouble.push(format!(
            "migration of {resource} for key \"{}\" failed and is tried again{objects}",
            spec.key_id
        ));
    }
    let of_this_attempt = if migration.current { status.done } else { 0 };
    let value = format!("{}/{}/{of_this_attempt}", spec.key_secret_uid, spec.attempt);
    // While Keyward is paused no migration runs, and the pause is reported. That time does not count
    // afterwards.
    let age = match snapshot.wanted.paused {
        Some(_) => Duration::ZERO,
        None => turn.since(snapshot, migration_idle_fact(resource), value),
    };
    if age >= IDLE {
        report.trouble.push(format!(
            "the migration of {resource} has made no progress for {} minutes; check whether the migration engine runs",
            age.as_secs() / 60
        ));
    }
    if !migration.current {
        return;
    }
    if let Some(waiting) = &status.waiting {
        let why = format!(
            "re-encryption of {resource} has been waiting since {}: {}",
            waiting.since, waiting.message
        );
        let since = waiting.since.parse::<jiff::Timestamp>().ok();
        let age = since.and_then(|since| Duration::try_from(snapshot.now.duration_since(since)).ok());
        if age.is_some_and(|age| age >= PATIENCE) { &mut report.trouble } else { &mut report.notes }
            .push(why);
    }
    if status.failed > 0 {
        report.notes.push(format!("objects that are not rewritten yet: {}", names(status)));
    }
}

/// Every resource of which something has to be rewritten: objects that are not under the write key yet;
/// resources that left the list and are not in plain text yet; and, if an older KMS provider waits to leave,
/// resources without evidence.
fn desired_migrations<'a>(
    snapshot: &'a Snapshot,
    deployed: &'a Deployed<'_>,
    revision: Revision,
) -> Vec<(DesiredMigration<'a>, Option<&'a KeySecret>)> {
    let mut migrations = Vec::new();
    let state = &deployed.desired.state;
    let is_tracked = deployed.facts.history != EtcdHistory::NotTracked;
    let waits = |id: KeyId| {
        is_tracked && (deployed.waits_for_verification || deployed.kms_keys().any(|key| key.id < id))
    };
    for resource in state.resources.keys() {
        if !snapshot.wanted.resources.contains(resource) {
            if state.is_plain(resource) && !deployed.facts.decrypted.contains(resource) {
                migrations.push((DesiredMigration::decrypt(snapshot, resource, revision), None));
            }
            continue;
        }
        let Some(key) = state.write_key(resource).filter(|key| key.backed) else { continue };
        let Some(secret) = snapshot.key(key.id) else { continue };
        let done = secret.migrated.contains(resource);
        if !done || waits(key.id) && deployed.desired.step == Step::Settled {
            migrations.push((DesiredMigration::of(snapshot, resource, secret, None), Some(secret)));
        }
    }
    migrations
}

fn record(snapshot: &Snapshot, secret: &KeySecret, resource: &GroupResource, turn: &mut Turn) {
    let mut key = secret.clone();
    key.migrated.push(resource.clone());
    key.migrated.sort();
    key.migrated_at = Some(snapshot.now);
    turn.explain(format!("{resource}: everything is stored under key {}", key.id));
    turn.act(Action::RecordMigrated { resource: resource.clone(), key: Box::new(key) });
}

pub(super) fn start(
    wanted: &DesiredMigration<'_>,
    existing: Option<&StoredMigration>,
    attempt: u32,
    turn: &mut Turn,
) {
    turn.explain(match wanted.spec.key_id {
        evidence::NO_KEY => format!("decryption of {} starts", wanted.resource),
        key => format!("re-encryption of {} under key {key} starts", wanted.resource),
    });
    turn.act(Action::StartMigration {
        resource: wanted.resource.clone(),
        spec: Box::new(EncryptionMigrationSpec { attempt, ..wanted.spec.clone() }),
        resource_version: existing.map(|migration| migration.resource_version.clone()),
    });
}

/// Whether an attempt is a retry for the objects that a failed one left. An attempt after an interruption has no
/// start version to continue from.
fn is_retry(earlier: &EarlierAttempts) -> bool {
    earlier.failures > 0 && (earlier.start_version.is_some() || earlier.end_version.is_none())
}

/// A verification of every object, from a start of its own: a server that was away before it begins may have
/// written under an older key.
fn from_its_own_start(migration: &StoredMigration) -> EarlierAttempts {
    let ended = migration.status.end_version.clone();
    match migration.spec.continues.as_ref().filter(|_| migration.spec.verifies()) {
        None => EarlierAttempts { end_version: ended, ..Default::default() },
        // An interrupted verification: what was written since it ended is newer in etcd's history.
        Some(earlier) => EarlierAttempts {
            end_version: ended.or_else(|| earlier.end_version.clone()),
            failures: earlier.failures.max(1),
            ..Default::default()
        },
    }
}

/// Another attempt of the same request.
fn again(resource: &GroupResource, migration: &StoredMigration, earlier: EarlierAttempts, turn: &mut Turn) {
    let attempt = migration.spec.attempt.saturating_add(1);
    let spec = EncryptionMigrationSpec { attempt, continues: Some(earlier), ..migration.spec.clone() };
    if spec.verifies() {
        evidence::begin_unbroken(resource, &spec, turn);
    }
    start(&DesiredMigration { resource, spec }, Some(migration), attempt, turn);
}

/// A failed migration is tried again after a pause, for what it left. Returns what to report.
pub(super) fn failed(
    snapshot: &Snapshot,
    resource: &GroupResource,
    migration: &StoredMigration,
    turn: &mut Turn,
) -> String {
    let (spec, status) = (&migration.spec, &migration.status);
    let earlier = spec.continues.clone().unwrap_or_default();
    let pause = match snapshot.openshift() {
        Some(_) => OPENSHIFT_RETRY,
        None => FIRST_RETRY.saturating_mul(1 << earlier.failures.min(16)).min(LONGEST_RETRY),
    };
    let fact = format!("migration-failed/{resource}");
    let seen_for = turn.since(snapshot, fact, format!("{}/{}", spec.key_secret_uid, spec.attempt));
    // If the operator has restarted since, the wall clock counts: at worst an attempt comes too early.
    let ended = status.finished_at.as_ref().filter(|_| snapshot.openshift().is_none());
    let ended = ended.and_then(|at| at.parse::<jiff::Timestamp>().ok());
    let age = ended
        .and_then(|ended| Duration::try_from(snapshot.now.duration_since(ended)).ok())
        .map_or(seen_for, |age| age.max(seen_for));
    let next = ended.and_then(|ended| ended.checked_add(pause).ok());
    if age >= pause {
        let all_named = status.listed && u64::try_from(status.failures.len()) == Ok(status.failed);
        let objects = status.failures.iter().map(|failure| failure.object.clone());
        let failures = earlier.failures.saturating_add(1);
        let left = if spec.verifies() && !evidence::is_unbroken(snapshot, resource, migration) {
            EarlierAttempts { failures, ..from_its_own_start(migration) }
        } else {
            EarlierAttempts {
                start_version: status.start_version.clone().or(earlier.start_version),
                end_version: earlier.end_version,
                objects: objects.filter(|_| all_named).collect(),
                failures,
            }
        };
        again(resource, migration, left, turn);
    } else {
        turn.again_after(pause.saturating_sub(age));
    }
    let why = status.refused.clone().unwrap_or_else(|| names(status));
    let next = next.map(|next| format!("; the next attempt begins at {next}")).unwrap_or_default();
    format!("migration of {resource} for key \"{}\" failed: {why}{next}", spec.key_id)
}

/// The objects that failed, the first three by name: in an order that does not change while the same objects fail.
fn names(status: &EncryptionMigrationStatus) -> String {
    let mut failures: Vec<&MigrationFailure> = status.failures.iter().collect();
    failures.sort_by_key(|failure| &failure.object);
    let each: Vec<String> =
        failures.iter().take(3).map(|failure| format!("{}: {}", failure.object, failure.message)).collect();
    let all = status.failed.max(u64::try_from(failures.len()).unwrap_or_default());
    let more = all.saturating_sub(u64::try_from(each.len()).unwrap_or_default());
    format!(
        "{}{}",
        if each.is_empty() { "no object is named".to_owned() } else { each.join("; ") },
        if more > 0 { format!("; and {more} more") } else { String::new() }
    )
}

/// As Go prints a slice: `[core/configmaps core/secrets]`.
pub(super) fn list(resources: &[&GroupResource]) -> String {
    let each: Vec<String> =
        resources.iter().map(|r| format!("{}/{}", r.group_or_core(), r.resource)).collect();
    format!("[{}]", each.join(" "))
}
