//! Objects that could not be rewritten so far: they are retried within the run, and named in the status. Pure.

use std::time::{Duration, Instant};

use keyward_core::api::{EncryptionMigrationStatus, MigrationFailure};

/// The first hundred failures by name, and the number of the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Failures {
    kept: Vec<Failing>,
    more: u64,
}

#[derive(Clone, Debug)]
struct Failing {
    object: String,
    message: String,
    /// `None` if it failed for long enough in an earlier attempt.
    since: Option<Instant>,
    /// Whether it was retried after every object was tried.
    retried: bool,
}

impl Failures {
    const KEPT: usize = 100;

    /// The failures of an earlier run of the same attempt.
    pub(super) fn resumed(status: &EncryptionMigrationStatus, now: Instant) -> Self {
        let named = |failure: &MigrationFailure| Failing {
            object: failure.object.clone(),
            message: failure.message.clone(),
            since: Some(now),
            retried: false,
        };
        let kept: Vec<Failing> = status.failures.iter().map(named).collect();
        let known = u64::try_from(kept.len()).unwrap_or(u64::MAX);
        Self { kept, more: status.failed.saturating_sub(known) }
    }

    /// The failures that an earlier attempt left. They failed for long enough then: each is tried once.
    pub(super) fn left(objects: &[String]) -> Self {
        let named = |object: &String| Failing {
            object: object.clone(),
            message: "not tried again yet".to_owned(),
            since: None,
            retried: false,
        };
        Self { kept: objects.iter().map(named).collect(), more: 0 }
    }

    pub(super) fn add(&mut self, object: String, message: String, now: Instant) {
        if let Some(known) = self.kept.iter_mut().find(|failing| failing.object == object) {
            known.message = message;
        } else if self.kept.len() < Self::KEPT {
            self.kept.push(Failing { object, message, since: Some(now), retried: false });
        } else {
            self.more += 1;
        }
    }

    /// An object failed again.
    pub(super) fn failed_again(&mut self, object: &str, message: String) {
        if let Some(known) = self.kept.iter_mut().find(|failing| failing.object == object) {
            (known.message, known.retried) = (message, true);
        }
    }

    /// An object is under the write key, or gone.
    pub(super) fn remove(&mut self, object: &str) {
        self.kept.retain(|failing| failing.object != object);
    }

    /// The objects to retry: an outage that is shorter than `patience` fails no object.
    pub(super) fn due(&self, now: Instant, patience: Duration) -> Vec<String> {
        let is_over = |failing: &&Failing| {
            let failed_for = failing.since.map(|since| now.saturating_duration_since(since));
            failing.retried && failed_for.is_none_or(|failed_for| failed_for >= patience)
        };
        self.kept.iter().filter(|failing| !is_over(failing)).map(|failing| failing.object.clone()).collect()
    }

    /// The one that failed last.
    pub(super) fn last(&self) -> Option<String> {
        self.kept.last().map(|failing| failing.object.clone())
    }

    /// Forgets failures beyond the first hundred, which have no name: another pass over the collection retries them.
    pub(super) fn forget_unnamed(&mut self) -> bool {
        std::mem::take(&mut self.more) > 0
    }

    pub(super) fn kept(&self) -> Vec<MigrationFailure> {
        let each = self.kept.iter();
        each.map(|failing| MigrationFailure {
            object: failing.object.clone(),
            message: failing.message.clone(),
        })
        .collect()
    }

    pub(super) fn count(&self) -> u64 {
        u64::try_from(self.kept.len()).unwrap_or(u64::MAX).saturating_add(self.more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_mins(1);

    #[test]
    fn first_hundred_failures_are_named_once_each_and_the_others_are_counted() {
        let now = Instant::now();
        let mut failures = Failures::default();
        for n in 0..120 {
            failures.add(format!("n/{n}"), "m".into(), now);
            failures.add("n/0".into(), "again".into(), now);
        }
        assert_eq!((failures.kept().len(), failures.count()), (100, 120));
        assert_eq!(failures.kept()[0].message, "again");
        assert_eq!(failures.kept()[99].object, "n/99");
    }

    #[test]
    fn object_is_retried_until_it_failed_for_long_enough() {
        let now = Instant::now();
        let mut failures = Failures::default();
        failures.add("n/a".into(), "m".into(), now);
        let later = now + 2 * PATIENCE;
        assert_eq!(failures.due(later, PATIENCE), ["n/a"], "at least once after every object was tried");
        failures.failed_again("n/a", "m".into());
        assert_eq!(failures.due(now + PATIENCE / 2, PATIENCE), ["n/a"], "a short outage fails no object");
        assert!(failures.due(later, PATIENCE).is_empty());
        failures.remove("n/a");
        assert_eq!(failures.count(), 0);
    }

    #[test]
    fn object_that_an_earlier_attempt_left_is_tried_once() {
        let now = Instant::now();
        let mut failures = Failures::left(&["n/a".to_owned()]);
        assert_eq!(failures.due(now, PATIENCE), ["n/a"]);
        failures.failed_again("n/a", "m".into());
        assert!(failures.due(now, PATIENCE).is_empty());
    }

    #[test]
    fn count_continues_after_a_restart() {
        let now = Instant::now();
        let mut failures = Failures::default();
        (0..130).for_each(|n| failures.add(format!("n/{n}"), "m".into(), now));
        let status = EncryptionMigrationStatus {
            failures: failures.kept(),
            failed: failures.count(),
            ..Default::default()
        };
        let mut resumed = Failures::resumed(&status, now);
        assert_eq!(resumed.count(), 130);
        assert!(resumed.forget_unnamed() && !resumed.forget_unnamed());
    }
}
