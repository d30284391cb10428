//! Re-encryption, and its verification before an older key leaves. Only this controller starts migrations.
//!
//! A migration that failed is tried again for what it left, after pauses that grow. One that succeeded is evidence for its
//! resource; before a provider leaves that evidence is looked at again, by another attempt that goes through every object.

use super::{Deployed, Deployment, Turn, evidence, health};
use crate::api::{
    ConditionStatus, EarlierAttempts, EncryptionMigrationSpec, EncryptionMigrationStatus, MigrationPhase,
};
use crate::formats::key_secret::KeySecret;
use crate::ids::{GroupResource, KeyId, RemoteKeyId, Revision};
use crate::machine::{History, Step};
use crate::outcome::{Action, migration_idle_fact};
use crate::snapshot::{Snapshot, StoredMigration};
use std::time::Duration;

/// The pause before the first retry of a failed migration; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(30);
/// The longest such pause.
const LONGEST_RETRY: Duration = Duration::from_mins(30);
/// On OpenShift a failed migration is tried again after so long (CONTRACT 3.3).
const OPENSHIFT_RETRY: Duration = Duration::from_mins(5);
/// A migration without progress for so long has nobody who runs it.
const IDLE: Duration = Duration::from_hours(1);
/// What a migration waits for is trouble when it waits for so long.
const PATIENCE: Duration = Duration::from_mins(1);
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
            continues: None,
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
    let Deployment::Converged { content, revision } = deployment else { return };
    evidence::keep_unbroken(snapshot, turn);
    if !settled {
        return;
    }
    // A write that was on its way when the last server switched may still carry the old key.
    let converged_for = turn.since(snapshot, "converged", format!("{revision}/{}", content.hash().0));
    let mut report = Report::default();
    let mut recorded = false;
    for (wish, secret) in wishes(snapshot, deployed, *revision) {
        let existing = snapshot.migrations.get(wish.resource);
        let ours = existing.filter(|migration| {
            // What a remote rotation moved to is part of the wish only when that is what is wished for.
            wish.is(migration) || secret.is_some_and(|secret| evidence::is_for(snapshot, migration, secret))
        });
        let is_recorded = secret.is_some_and(|secret| secret.migrated.contains(wish.resource));
        match ours {
            Some(migration) if evidence::succeeded(migration) => match secret {
                // One a pass: the second would depend on a resourceVersion that the first has moved on.
                Some(secret) if !is_recorded => {
                    report.under_way.push(wish.resource);
                    if !recorded {
                        recorded = true;
                        record(snapshot, secret, wish.resource, turn);
                    }
                }
                _ => look_again(snapshot, deployed, &wish, migration, converged_for, &mut report, turn),
            },
            // That of a remote rotation is followed where that is decided.
            Some(migration) if is_recorded && !wish.is(migration) && !migration.spec.verifies() => {}
            Some(migration) => follow(snapshot, wish.resource, migration, &mut report, turn),
            None if converged_for < snapshot.wanted.request_timeout => {
                report.under_way.push(wish.resource);
                let left = snapshot.wanted.request_timeout.saturating_sub(converged_for);
                turn.wait_until(
                    "WritesInFlight",
                    format!(
                        "revision {revision} is loaded everywhere; writes under way may carry the old key for {:?} (spec.apiServer.requestTimeout)",
                        snapshot.wanted.request_timeout
                    ),
                    "converged",
                    snapshot.wanted.request_timeout,
                );
                turn.again_after(left);
            }
            None => {
                report.under_way.push(wish.resource);
                match health::gate(snapshot, content, &content.kms_keys(), "re-encryption") {
                    Some(why) => turn.wait("PluginUnhealthy", why),
                    None => start(&wish, existing, 0, turn),
                }
            }
        }
    }
    for (resource, why) in &snapshot.history_trouble {
        report
            .trouble
            .push(format!("whether etcd still holds old values of {resource} cannot be seen: {why}"));
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
            format!(
                "every object of {what} is looked at again before older keys leave the configuration{notes}"
            ),
        );
    }
}

/// On OpenShift another migrator's success lets keys leave (CONTRACT 3.3), and proves less than Keyward's own: it passes
/// over an object whose patch is answered with 404 or 409, and looks at no object again.
fn by_another(snapshot: &Snapshot, deployed: &Deployed<'_>, turn: &mut Turn) {
    let newest = deployed.newest().and_then(|key| snapshot.key(key.id));
    let Some(key) = newest.filter(|key| snapshot.openshift().is_some() && !key.migrated.is_empty()) else {
        return;
    };
    let message = by_another_message(&key.migrated.iter().collect::<Vec<_>>(), &format!("key {}", key.id));
    turn.explain(message.clone());
    turn.notice(false, "MigratedByAnother", message);
}

/// The same words in `plan`. `key`: under which the other migrator stores everything.
pub fn by_another_message(resources: &[&GroupResource], key: &str) -> String {
    format!(
        "{}: the migration to {key} is another migrator's, which passes over objects that are answered with 404 or 409: its success does not prove that nothing is stored under an older key. The configuration follows it all the same; keep the KEKs of older keys until etcd was scanned",
        list(resources)
    )
}

/// What is under way, what is wrong with it, and what may pass.
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

/// A migration that succeeded, where it was recorded already: is its evidence enough for what waits for it?
fn look_again<'a>(
    snapshot: &Snapshot,
    deployed: &Deployed<'_>,
    wish: &Wish<'a>,
    migration: &StoredMigration,
    converged_for: Duration,
    report: &mut Report<'a>,
    turn: &mut Turn,
) {
    let asked = deployed.facts.history != History::Untold;
    let status = &migration.status;
    let decrypts = wish.spec.key_id == evidence::NO_KEY;
    let compacted = snapshot.compacted.contains(wish.resource);
    let leaves = if decrypts { compacted } else { deployed.waits_for_verification };
    if !asked && !decrypts {
        return;
    }
    if asked && status.end_version.is_none() {
        // Nothing shows when it ended.
        report.under_way.push(wish.resource);
        let earlier = EarlierAttempts { start_version: status.start_version.clone(), ..Default::default() };
        again(wish.resource, migration, earlier, turn);
    } else if asked && leaves && !evidence::verified(snapshot, wish.resource, migration) {
        report.under_way.push(wish.resource);
        let in_flight = snapshot.wanted.request_timeout.saturating_sub(converged_for);
        if !in_flight.is_zero() {
            return turn.again_after(in_flight);
        }
        turn.explain(format!("{}: the evidence is looked at again before older keys leave", wish.resource));
        // From its own start: a server that was away since the first attempt may have written under an older key.
        again(wish.resource, migration, from_its_own_start(migration), turn);
    } else if decrypts {
        report.under_way.push(wish.resource);
        let what = wish.resource;
        turn.wait(
            "HistoryNotCompacted",
            format!("{what} is decrypted; its entry leaves once etcd has compacted what was before"),
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
        turn.explain(format!("{resource}: not every API server was seen with this configuration since the verification began, so it begins again"));
        return again(resource, migration, from_its_own_start(migration), turn);
    }
    if migration.current && status.phase == MigrationPhase::Failed {
        report.trouble.push(failed(snapshot, resource, migration, turn));
        return;
    }
    if let Some(earlier) = spec.continues.as_ref().filter(|earlier| is_retry(earlier)) {
        let objects = match earlier.objects.as_slice() {
            [] => String::new(),
            [first, rest @ ..] if rest.is_empty() => format!(" for {first}"),
            [first, rest @ ..] => format!(" for {first} and {} more", rest.len()),
        };
        report.trouble.push(format!(
            "migration of {resource} for key \"{}\" failed, and is tried again{objects}",
            spec.key_id
        ));
    }
    let of_this_attempt = if migration.current { status.done } else { 0 };
    let value = format!("{}/{}/{of_this_attempt}", spec.key_secret_uid, spec.attempt);
    // While Keyward is paused nobody runs it, which the pause reports; that time does not count afterwards.
    let age = match snapshot.wanted.paused {
        Some(_) => Duration::ZERO,
        None => turn.since(snapshot, migration_idle_fact(resource), value),
    };
    if age >= IDLE {
        report.trouble.push(format!(
            "the migration of {resource} has made no progress for {} minutes; see whether what runs migrations is up",
            age.as_secs() / 60
        ));
    }
    if !migration.current {
        return;
    }
    if let Some(waiting) = &status.waiting {
        let why = format!("re-encryption of {resource} waits since {}: {}", waiting.since, waiting.message);
        let since = waiting.since.parse::<jiff::Timestamp>().ok();
        let age = since.and_then(|since| Duration::try_from(snapshot.now.duration_since(since)).ok());
        if age.is_some_and(|age| age >= PATIENCE) { &mut report.trouble } else { &mut report.notes }
            .push(why);
    }
    if status.failed > 0 {
        report.notes.push(format!("not rewritten so far: {}", names(status)));
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
    let waits =
        |id: KeyId| asked && (deployed.waits_for_verification || deployed.kms_keys().any(|key| key.id < id));
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

/// Whether an attempt is for what a failed one left. One that was broken off has no start to continue from.
fn is_retry(earlier: &EarlierAttempts) -> bool {
    earlier.failures > 0 && earlier.start_version.is_some()
}

/// A verification of every object. A server that was away before it begins may have written under an older key.
fn from_its_own_start(migration: &StoredMigration) -> EarlierAttempts {
    let ended = migration.status.end_version.clone();
    match migration.spec.continues.as_ref().filter(|_| migration.spec.verifies()) {
        None => EarlierAttempts { end_version: ended, ..Default::default() },
        // One that was broken off: what has been written since it ended is younger in etcd's history.
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
    start(&Wish { resource, spec }, Some(migration), attempt, turn);
}

/// A failed migration is tried again after a while, for what it left. Answers what to report.
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
    // Where the operator has restarted since, the wall clock counts: at worst an attempt comes too early.
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

/// What failed, the first three by name.
fn names(status: &EncryptionMigrationStatus) -> String {
    let failures = &status.failures;
    let each: Vec<String> =
        failures.iter().take(3).map(|failure| format!("{}: {}", failure.object, failure.message)).collect();
    let all = status.failed.max(u64::try_from(failures.len()).unwrap_or_default());
    let more = all.saturating_sub(u64::try_from(each.len()).unwrap_or_default());
    format!(
        "{}{}",
        if each.is_empty() { "no object was named".to_owned() } else { each.join("; ") },
        if more > 0 { format!("; and {more} more") } else { String::new() }
    )
}

/// As Go prints a slice: `[core/configmaps core/secrets]`.
pub(super) fn list(resources: &[&GroupResource]) -> String {
    let each: Vec<String> =
        resources.iter().map(|r| format!("{}/{}", r.group_or_core(), r.resource)).collect();
    format!("[{}]", each.join(" "))
}
