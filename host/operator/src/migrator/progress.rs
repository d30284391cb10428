//! What a run reports: the status of its `EncryptionMigration`. Pure.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use keyward_core::api::{EncryptionMigration, EncryptionMigrationStatus, MigrationPhase};

use super::track::Track;
use super::verdict::Failures;
use crate::ages::whole_seconds;

/// Where a run stands.
#[derive(Debug)]
pub(super) struct Progress {
    generation: i64,
    pub(super) track: Track,
    pub(super) failures: Failures,
    /// Objects in all, as far as known.
    total: u64,
    rate: Rate,
    /// Of the collection, from after the last rewrite.
    pub(super) end_version: Option<String>,
}

impl Progress {
    /// Goes on from a status of the same generation; any other is about an earlier key, and says nothing.
    pub(super) fn resumed(migration: &EncryptionMigration, now: Instant) -> Self {
        let generation = migration.metadata.generation.unwrap_or_default();
        let before = migration
            .status
            .clone()
            .filter(|status| status.observed_generation == generation && !is_over(status.phase))
            .unwrap_or_default();
        Self {
            generation,
            total: before.total,
            rate: Rate::new(before.done, now),
            track: Track::resumed(before.done, before.cursor),
            failures: Failures::resumed(before.failures),
            end_version: None,
        }
    }

    /// A page has this many objects, and so many follow.
    pub(super) fn listed(&mut self, on_page: usize, remaining: u64) {
        self.total = self.track.done() + u64::try_from(on_page).unwrap_or(u64::MAX).saturating_add(remaining);
    }

    /// The status while the run is under way.
    pub(super) fn running(&mut self, now: Instant) -> EncryptionMigrationStatus {
        let rate = self.rate.at(self.track.done(), now);
        EncryptionMigrationStatus {
            observed_generation: self.generation,
            phase: MigrationPhase::Running,
            done: self.track.done(),
            total: self.total.max(self.track.done()),
            rate,
            cursor: self.track.cursor().map(ToOwned::to_owned),
            failures: self.failures.kept().to_vec(),
            finished_at: None,
            end_version: None,
        }
    }

    /// The status at the end.
    pub(super) fn finished(&mut self, now: Instant, wall: Timestamp) -> EncryptionMigrationStatus {
        let phase = if self.failures.is_empty() { MigrationPhase::Succeeded } else { MigrationPhase::Failed };
        let done = self.track.done();
        EncryptionMigrationStatus {
            phase,
            total: done,
            cursor: None,
            finished_at: Some(whole_seconds(wall).to_string()),
            end_version: self.end_version.clone().filter(|version| !version.is_empty()),
            ..self.running(now)
        }
    }
}

/// Whether a phase is the last one of its generation.
pub(super) fn is_over(phase: MigrationPhase) -> bool {
    matches!(phase, MigrationPhase::Succeeded | MigrationPhase::Failed)
}

/// Whether there is something to do for this object.
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
            ..Default::default()
        }
    }

    #[test]
    fn restart_goes_on_at_the_cursor_and_another_generation_begins_anew() {
        let now = Instant::now();
        let same = Progress::resumed(&migration(2, Some(status(MigrationPhase::Running))), now);
        assert_eq!((same.track.done(), same.track.cursor()), (5, Some("n/e")));
        let other = Progress::resumed(&migration(3, Some(status(MigrationPhase::Running))), now);
        assert_eq!((other.track.done(), other.track.cursor()), (0, None));
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
        progress.listed(2, 3);
        for name in ["n/a", "n/b"] {
            let ticket = progress.track.issue();
            progress.track.finish(ticket, name.to_owned());
        }
        let running = progress.running(now + Duration::from_secs(1));
        assert_eq!((running.done, running.total, running.rate), (2, 5, 2));
        assert_eq!(progress.finished(now, Timestamp::UNIX_EPOCH).phase, MigrationPhase::Succeeded);
        progress.failures.add("n/c".into(), "no".into());
        let ended = progress.finished(now, Timestamp::UNIX_EPOCH);
        assert_eq!((ended.phase, ended.cursor, ended.total), (MigrationPhase::Failed, None, 2));
    }
}
