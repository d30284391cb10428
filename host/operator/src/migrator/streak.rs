//! Failures in a row: they look like a KMS, an etcd or a webhook that is down rather than like broken objects. Pure.

use std::time::{Duration, Instant};

/// So many in a row.
pub(super) const IN_A_ROW: u32 = 20;

/// The failures since an object was last rewritten.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Streak {
    in_a_row: u32,
    /// Those of the last ones whose reason is no object's.
    shared: u32,
    /// When the first of them was, over pauses.
    since: Option<Instant>,
    /// The run before paused for them.
    resumed: bool,
}

/// How a run halts where one object after the other fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// The outage may pass.
    Pause,
    /// It has lasted for longer than a run waits, and no object is to blame: no others are tried.
    End,
}

impl Streak {
    /// `since`: since when each object fails, where the run before paused for that.
    pub(super) fn new(since: Option<Instant>) -> Self {
        Self { since, resumed: since.is_some(), ..Self::default() }
    }

    /// An object is under the write key, or gone.
    pub(super) fn ended(&mut self) {
        *self = Self::default();
    }

    /// An object could not be rewritten. `shared`: by no fault of its own.
    pub(super) fn failed(&mut self, shared: bool, now: Instant) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.shared = if shared { self.shared.saturating_add(1) } else { 0 };
        self.since.get_or_insert(now);
    }

    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Since when each object fails, where that may still be a short outage.
    pub(super) fn may_pass(&self, now: Instant, patience: Duration) -> Option<Instant> {
        self.since.filter(|since| now.saturating_duration_since(*since) < patience)
    }

    /// Whether an outage that paused a run before is longer than a run waits for: objects from all over the collection are
    /// tried before the others, so that a few broken neighbours are not taken for it.
    pub(super) fn must_sample(&self, now: Instant, patience: Duration) -> bool {
        self.resumed && self.since.is_some() && self.may_pass(now, patience).is_none()
    }

    /// Whether the run halts after the last failure.
    pub(super) fn halt(&self, now: Instant, patience: Duration) -> Option<Halt> {
        if self.in_a_row < IN_A_ROW {
            return None;
        }
        if self.may_pass(now, patience).is_some() {
            return Some(Halt::Pause);
        }
        let is_shared = self.shared >= IN_A_ROW;
        is_shared.then_some(if self.resumed { Halt::End } else { Halt::Pause })
    }
}

/// `count` of these, from all over, and the others.
pub(super) fn sample<T>(items: Vec<T>, count: usize) -> (Vec<T>, Vec<T>) {
    let step = items.len().div_ceil(count.max(1)).max(1);
    let (mut sample, mut rest) = (Vec::new(), Vec::new());
    for (at, item) in items.into_iter().enumerate() {
        if at % step == 0 { sample.push(item) } else { rest.push(item) }
    }
    (sample, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_mins(1);

    fn failed(mut streak: Streak, times: u32, shared: bool, now: Instant) -> Streak {
        (0..times).for_each(|_| streak.failed(shared, now));
        streak
    }

    #[test]
    fn short_outage_pauses_the_run() {
        let now = Instant::now();
        let streak = failed(Streak::default(), IN_A_ROW - 1, true, now);
        assert_eq!(streak.halt(now, PATIENCE), None);
        for shared in [true, false] {
            let streak = failed(streak, 1, shared, now);
            assert_eq!(streak.halt(now, PATIENCE), Some(Halt::Pause));
            assert!(!streak.must_sample(now, PATIENCE));
        }
    }

    #[test]
    fn long_outage_ends_the_run_after_a_pause_and_a_sample() {
        let (now, later) = (Instant::now(), Instant::now() + 2 * PATIENCE);
        let first = failed(Streak::default(), IN_A_ROW, true, now);
        assert_eq!(first.halt(later, PATIENCE), Some(Halt::Pause), "a run that has not paused pauses first");
        let next = Streak::new(first.since());
        assert!(next.must_sample(later, PATIENCE));
        assert_eq!(failed(next, IN_A_ROW - 1, true, later).halt(later, PATIENCE), None);
        assert_eq!(failed(next, IN_A_ROW, true, later).halt(later, PATIENCE), Some(Halt::End));
    }

    #[test]
    fn objects_that_are_broken_themselves_end_no_run() {
        let (now, later) = (Instant::now(), Instant::now() + 2 * PATIENCE);
        let streak = failed(Streak::new(Some(now)), 10 * IN_A_ROW, false, later);
        assert_eq!(streak.halt(later, PATIENCE), None);
        let mixed = failed(failed(streak, IN_A_ROW - 1, true, later), 1, false, later);
        assert_eq!(failed(mixed, IN_A_ROW - 1, true, later).halt(later, PATIENCE), None);
    }

    #[test]
    fn one_success_ends_the_streak() {
        let (now, later) = (Instant::now(), Instant::now() + 2 * PATIENCE);
        let mut streak = failed(Streak::new(Some(now)), IN_A_ROW - 1, true, later);
        streak.ended();
        assert!(streak.since().is_none() && !streak.must_sample(later, PATIENCE));
        assert_eq!(failed(streak, 1, true, later).halt(later, PATIENCE), None);
    }

    #[test]
    fn sample_is_from_all_over_and_nothing_is_lost() {
        for len in [0, 1, 19, 20, 21, 500] {
            let (sample, rest) = sample((0..len).collect::<Vec<i32>>(), 20);
            assert!(sample.len() <= 20 && sample.len() + rest.len() == usize::try_from(len).unwrap());
            assert!(len < 500 || sample.len() == 20 && sample[19] == 475);
        }
    }
}
