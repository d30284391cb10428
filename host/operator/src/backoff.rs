//! Exponential back-off with jitter for the failures in a row of one object. kube has none of its own.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_mins(1);

/// One object's failures in a row.
#[derive(Debug)]
pub(crate) struct Backoff {
    pauses: ExponentialBackoff,
    failures: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(SHORTEST)
            .with_max_delay(LONGEST)
            .with_jitter()
            .without_max_times()
            .build();
        Self { pauses, failures: 0 }
    }
}

impl Backoff {
    /// Counts one more failure and returns how long to wait.
    pub(crate) fn next(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.pauses.next().unwrap_or(LONGEST)
    }

    /// Called after a success.
    pub(crate) fn reset(&mut self) {
        if self.failures > 0 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_restart_after_a_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..12).map(|_| backoff.next()).collect();
        assert!(waits[0] >= SHORTEST && waits[0] <= 2 * SHORTEST, "{waits:?}");
        assert!(waits[11] >= LONGEST && waits[11] <= 2 * LONGEST, "{waits:?}");
        backoff.reset();
        assert!(backoff.next() <= 2 * SHORTEST);
    }
}
