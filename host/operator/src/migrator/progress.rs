//! The progress of a run, as it reports it in the status of its `EncryptionMigration`. Pure.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use keyward_core::api::{EncryptionMigration, EncryptionMigrationStatus, MigrationPhase, MigrationWait};

use super::failures::Failures;
use super::track::Track;
use crate::ages::whole_seconds;

/// The progress of a run.
#[derive(Debug)]
pub(super) struct Progress {
    generation: i64,
    pub(super) track: Track,
    pub(super) failures: Failures,
    /// Every object was listed and tried.
    pub(super) listed: bool,
    /// Only the objects that an earlier attempt left are tried.
    only_left: bool,
    /// The collection is listed again, for failed objects without a name.
    pub(super) lists_again: bool,
    /// Objects in total, as far as known.
    total: u64,
    rate: Rate,
    /// An object with a newer version is under the write key.
    pub(super) start_version: Option<String>,
    /// The version of the collection after the last rewrite.
    pub(super) end_version: Option<String>,
    /// Why no object can be rewritten at all.
    pub(super) refused: Option<String>,
    pub(super) waiting: Option<MigrationWait>,
}

impl Progress {
    /// Continues from a status of the same generation. A status of another generation is about an earlier attempt; of
    /// that one only `spec.continues` counts (decision 0055).
    pub(super) fn resumed(migration: &EncryptionMigration, now: Instant) -> Self {
        let generation = migration.metadata.generation.unwrap_or_default();
        let before = migration
            .status
            .clone()
            .filter(|status| status.observed_generation == generation && !is_over(status.phase));
        let earlier = migration.spec.continues.clone().unwrap_or_default();
        let left = Some(earlier.objects).filter(|objects| !objects.is_empty());
        let is_fresh = before.is_none();
        let before = before.unwrap_or_default();
        let failures = match &left {
            Some(objects) if is_fresh => Failures::left(objects),
            _ => Failures::resumed(&before, now),
        };
        Self {
            generation,
            total: if is_fresh { failures.count() } else { before.total },
            rate: Rate::new(before.done, now),
            track: Track::resumed(before.done, before.cursor),
            failures,
            listed: before.listed || left.is_some(),
            only_left: left.is_some(),
            lists_again: false,
            start_version: before.start_version.or(earlier.start_version),
            // An attempt that was interrupted, or failed, may have rewritten something.
            end_version: earlier.end_version.filter(|_| is_fresh && earlier.failures == 0),
            refused: None,
            waiting: before.waiting,
        }
    }

    /// A page has this many objects, and `remaining` follow.
    pub(super) fn listed_page(&mut self, on_page: usize, remaining: u64) {
        self.total = self.track.done() + u64::try_from(on_page).unwrap_or(u64::MAX).saturating_add(remaining);
    }

    /// An object is under the write key, or gone. `again`: it failed before.
    pub(super) fn done(&mut self, object: &str, outcome: &'static str, again: bool) {
        self.failures.remove(object);
        self.waiting = None;
        if outcome == "rewritten" {
            // The old value can still be read from etcd's history.
            self.end_version = None;
        }
        if again && self.only_left {
            self.track.count();
        }
    }

    /// Begins at the start: the API server does not list behind the cursor.
    pub(super) fn restart(&mut self) {
        self.track = Track::default();
    }

    /// No object exists any more: those that failed are gone, too.
    pub(super) fn nothing_is_left(&mut self) {
        self.failures = Failures::default();
        self.listed = true;
    }

    /// Whether the collection has to be listed again: more objects failed than have a name, and those with a name are
    /// done.
    pub(super) fn must_list_again(&mut self) -> bool {
        let again = self.failures.kept().is_empty() && self.failures.forget_unnamed();
        if again {
            self.restart();
            (self.listed, self.lists_again) = (false, true);
        }
        again
    }

    /// The run pauses.
    pub(super) fn wait(&mut self, message: String, wall: Timestamp) {
        let since = self.waiting.take().map(|waiting| waiting.since);
        let since = since.unwrap_or_else(|| whole_seconds(wall).to_string());
        self.waiting = Some(MigrationWait { since, message });
    }

    /// The status while the run is in progress.
    pub(super) fn running(&mut self, now: Instant) -> EncryptionMigrationStatus {
        let rate = self.rate.at(self.track.done(), now);
        EncryptionMigrationStatus {
            observed_generation: self.generation,
            phase: MigrationPhase::Running,
            done: self.track.done(),
            total: self.total.max(self.track.done()),
            rate,
            cursor: self.track.cursor().map(ToOwned::to_owned),
            start_version: self.start_version.clone(),
            listed: self.listed,
            failed: self.failures.count(),
            failures: self.failures.kept(),
            refused: self.refused.clone(),
            waiting: self.waiting.clone(),
            finished_at: None,
            end_version: None,
        }
    }

    /// The status at the end: it succeeded only if every object was tried, and none failed.
    pub(super) fn finished(&mut self, now: Instant, wall: Timestamp) -> EncryptionMigrationStatus {
        self.waiting = None;
        let end_version = self.end_version.clone().filter(|version| !version.is_empty());
        let all_done = self.listed && self.refused.is_none() && self.failures.count() == 0;
        let phase = if all_done { MigrationPhase::Succeeded } else { MigrationPhase::Failed };
        let done = self.track.done();
        EncryptionMigrationStatus {
            phase,
            total: if self.only_left { self.total } else { done },
            cursor: None,
            finished_at: Some(whole_seconds(wall).to_string()),
            end_version: end_version.filter(|_| all_done),
            ..self.running(now)
        }
    }
}

/// Whether a phase is the last one of its generation.
pub(super) fn is_over(phase: MigrationPhase) -> bool {
    matches!(phase, MigrationPhase::Succeeded | MigrationPhase::Failed)
}

/// Whether this migration has to run.
pub(super) fn is_due(migration: &EncryptionMigration) -> bool {
    let status = migration.status.as_ref();
    migration.metadata.deletion_timestamp.is_none()
        && !status.is_some_and(|status| {
            Some(status.observed_generation) == migration.metadata.generation && is_over(status.phase)
        })
}

/// Objects a second, over the run so far.
#[derive(Debug)]
struct Rate {
    first: u64,
    began: Instant,
}

impl Rate {
    fn new(done: u64, now: Instant) -> Self {
        Self { first: done, began: now }
    }

    fn at(&mut self, done: u64, now: Instant) -> u64 {
        let took = now.saturating_duration_since(self.began).max(Duration::from_millis(1));
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        done.saturating_sub(self.first).saturating_mul(1000) / millis.max(1)
    }
}

#[cfg(test)]
mod tests {
    use keyward_core::api::EarlierAttempts;

    use super::*;

    fn migration(generation: i64, status: Option<EncryptionMigrationStatus>) -> EncryptionMigration {
        let mut migration =
            EncryptionMigration::new("m", keyward_core::api::EncryptionMigrationSpec::default());
        migration.metadata.generation = Some(generation);
        migration.status = status;
        migration
    }

    fn status(phase: MigrationPhase) -> EncryptionMigrationStatus {
        EncryptionMigrationStatus {
            observed_generation: 2,
            phase,
            done: 5,
            total: 9,
            cursor: Some("n/e".into()),
            start_version: Some("7".into()),
            ..Default::default()
        }
    }

    #[test]
    fn restart_continues_at_the_cursor_and_another_generation_starts_again() {
        let now = Instant::now();
        let same = Progress::resumed(&migration(2, Some(status(MigrationPhase::Running))), now);
        assert_eq!((same.track.done(), same.track.cursor()), (5, Some("n/e")));
        assert_eq!(same.start_version.as_deref(), Some("7"));
        let other = Progress::resumed(&migration(3, Some(status(MigrationPhase::Running))), now);
        assert_eq!((other.track.done(), other.track.cursor()), (0, None));
        assert_eq!(other.start_version, None, "a version that is not in the spec is about another attempt");
    }

    fn continues(objects: &[&str], end_version: Option<&str>) -> EncryptionMigration {
        let mut migration = migration(3, Some(status(MigrationPhase::Failed)));
        migration.spec.continues = Some(EarlierAttempts {
            start_version: Some("7".into()),
            end_version: end_version.map(ToOwned::to_owned),
            objects: objects.iter().map(|&object| object.to_owned()).collect(),
            failures: u32::from(!objects.is_empty()),
        });
        migration
    }

    #[test]
    fn next_attempt_tries_only_the_objects_that_the_last_one_left() {
        let now = Instant::now();
        let mut progress = Progress::resumed(&continues(&["n/a", "n/b"], None), now);
        assert!(progress.listed);
        assert_eq!(progress.failures.due(now, Duration::ZERO), ["n/a", "n/b"]);
        progress.done("n/a", "rewritten", true);
        let running = progress.running(now);
        assert_eq!((running.done, running.total, running.failed), (1, 2, 1));
        progress.done("n/b", "gone", true);
        let ended = progress.finished(now, Timestamp::UNIX_EPOCH);
        assert_eq!((ended.phase, ended.done, ended.total), (MigrationPhase::Succeeded, 2, 2));
        assert_eq!(ended.start_version.as_deref(), Some("7"));
    }

    #[test]
    fn verification_that_rewrites_nothing_keeps_the_end_version() {
        let now = Instant::now();
        let verifies = continues(&[], Some("9"));
        let mut progress = Progress::resumed(&verifies, now);
        assert!(!progress.listed, "every object is tried");
        progress.done("n/a", "current", false);
        assert_eq!(progress.end_version.as_deref(), Some("9"));
        progress.done("n/b", "rewritten", false);
        assert_eq!(progress.end_version, None, "the old value is in etcd's history");
        let interrupted =
            EncryptionMigrationStatus { observed_generation: 3, ..status(MigrationPhase::Running) };
        let resumed = Progress::resumed(&EncryptionMigration { status: Some(interrupted), ..verifies }, now);
        assert_eq!(resumed.end_version, None, "it may have rewritten something");
        let retry = Progress::resumed(&continues(&["n/c"], Some("9")), now);
        assert_eq!(retry.end_version, None, "the attempt that failed may have rewritten something");
    }

    #[test]
    fn failures_without_a_name_are_found_by_listing_again() {
        let now = Instant::now();
        let mut progress = Progress::resumed(&migration(1, None), now);
        for n in 0..101 {
            progress.failures.add(format!("n/{n}"), "m".into(), now);
        }
        progress.listed = true;
        assert!(!progress.must_list_again(), "a hundred are left");
        for n in 0..100 {
            progress.done(&format!("n/{n}"), "rewritten", true);
        }
        assert_eq!(progress.finished(now, Timestamp::UNIX_EPOCH).phase, MigrationPhase::Failed);
        assert!(progress.must_list_again() && !progress.listed && !progress.must_list_again());
    }

    #[test]
    fn migration_succeeds_only_if_every_object_was_tried_and_none_was_refused() {
        let now = Instant::now();
        let mut progress = Progress::resumed(&migration(1, None), now);
        assert_eq!(progress.finished(now, Timestamp::UNIX_EPOCH).phase, MigrationPhase::Failed);
        progress.listed = true;
        assert_eq!(progress.finished(now, Timestamp::UNIX_EPOCH).phase, MigrationPhase::Succeeded);
        progress.refused = Some("no".into());
        assert_eq!(progress.finished(now, Timestamp::UNIX_EPOCH).phase, MigrationPhase::Failed);
    }

    #[test]
    fn migration_without_objects_succeeds_after_earlier_failures() {
        let now = Instant::now();
        let mut progress = Progress::resumed(&continues(&["n/a", "n/b"], None), now);
        progress.nothing_is_left();
        progress.end_version = Some("9".into());
        let ended = progress.finished(now, Timestamp::UNIX_EPOCH);
        assert_eq!((ended.phase, ended.failed), (MigrationPhase::Succeeded, 0));
        assert_eq!(ended.end_version.as_deref(), Some("9"), "etcd's history is checked as for any other");
    }

    #[test]
    fn wait_keeps_its_beginning_until_an_object_is_done() {
        let mut progress = Progress::resumed(&migration(1, None), Instant::now());
        progress.wait("a".into(), Timestamp::UNIX_EPOCH);
        progress.wait("b".into(), Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(9));
        let waiting = progress.waiting.clone().unwrap();
        assert_eq!((waiting.since.as_str(), waiting.message.as_str()), ("1970-01-01T00:00:00Z", "b"));
        progress.done("n/a", "current", false);
        assert_eq!(progress.waiting, None);
    }

    #[test]
    fn finished_generation_is_not_due_and_the_next_one_is() {
        for phase in [MigrationPhase::Succeeded, MigrationPhase::Failed] {
            assert!(!is_due(&migration(2, Some(status(phase)))));
            assert!(is_due(&migration(3, Some(status(phase)))));
        }
        assert!(is_due(&migration(2, Some(status(MigrationPhase::Running)))));
        assert!(is_due(&migration(1, None)));
    }

    #[test]
    fn one_failure_makes_the_end_a_failure() {
        let now = Instant::now();
        let mut progress = Progress::resumed(&migration(1, None), now);
        progress.listed_page(2, 3);
        for name in ["n/a", "n/b"] {
            let ticket = progress.track.issue();
            progress.track.finish(ticket, name.to_owned());
        }
        let running = progress.running(now + Duration::from_secs(1));
        assert_eq!((running.done, running.total, running.rate), (2, 5, 2));
        progress.listed = true;
        assert_eq!(progress.finished(now, Timestamp::UNIX_EPOCH).phase, MigrationPhase::Succeeded);
        progress.failures.add("n/c".into(), "no".into(), now);
        let ended = progress.finished(now, Timestamp::UNIX_EPOCH);
        assert_eq!((ended.phase, ended.cursor, ended.total), (MigrationPhase::Failed, None, 2));
    }
}
