//! Failures in a row: they indicate a KMS, an etcd or a webhook that is down, not broken objects (decision 0054). Pure.

use std::time::{Duration, Instant};

/// Failures in a row that count as an outage.
pub(super) const IN_A_ROW: u32 = 20;

/// The failures since the last object that was rewritten.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Streak {
    in_a_row: u32,
    /// The last failures in a row whose reason is not an object's.
    shared: u32,
    /// When the first failure was, also over pauses.
    since: Option<Instant>,
    /// The run before paused because of them.
    resumed: bool,
}

/// How a run halts if one object after the other fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// The outage may pass.
    Pause,
    /// The outage has lasted longer than a run waits, and no object is the reason: no others are tried.
    End,
}

impl Streak {
    /// `since`: since when each object fails, if the run before paused because of that.
    pub(super) fn new(since: Option<Instant>) -> Self {
        Self { since, resumed: since.is_some(), ..Self::default() }
    }

    /// An object is under the write key, or gone.
    pub(super) fn ended(&mut self) {
        *self = Self::default();
    }

    /// An object could not be rewritten. `shared`: for a reason that is not this object's.
    pub(super) fn failed(&mut self, shared: bool, now: Instant) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.shared = if shared { self.shared.saturating_add(1) } else { 0 };
        self.since.get_or_insert(now);
    }

    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Since when each object fails, if that may still be a short outage.
    pub(super) fn may_pass(&self, now: Instant, patience: Duration) -> Option<Instant> {
        self.since.filter(|since| now.saturating_duration_since(*since) < patience)
    }

    /// Whether an outage that paused an earlier run has lasted longer than a run waits. Then objects from all over the
    /// collection are tried first, so that a few broken neighbours do not count as an outage.
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

/// At most `count` of the items, evenly spread, and the others.
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
    fn broken_objects_end_no_run() {
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
    fn sample_is_evenly_spread_and_no_item_is_lost() {
        for len in [0, 1, 19, 20, 21, 500] {
            let (sample, rest) = sample((0..len).collect::<Vec<i32>>(), 20);
            assert!(sample.len() <= 20 && sample.len() + rest.len() == usize::try_from(len).unwrap());
            assert!(len < 500 || sample.len() == 20 && sample[19] == 475);
        }
    }
}
