//! How long things may take.

use std::time::Duration;

use super::observe::{Failing, Probed};
use crate::formats::revision::RevisionContent;

/// Periods and deadlines of the agent. The defaults fit a kube-apiserver with its own defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How often the API server looks at its configuration file (FIELD 1.5: a minute).
    pub file_poll: Duration,
    /// What a reload may take beyond the API server's own deadlines.
    pub reload_margin: Duration,
    /// How often running plugins are probed.
    pub probe_interval: Duration,
    /// How long a plugin may take until somebody accepts on its socket.
    pub start_deadline: Duration,
    /// How long a plugin that answers may be unwell before that counts as a failure.
    pub settle: Duration,
    /// A pass older than this is repeated before something is built on it.
    pub fresh: Duration,
    /// First pause after a failed probe of a candidate, doubled each time.
    pub retry_first: Duration,
    /// Longest such pause.
    pub retry_longest: Duration,
    /// First pause before a refused configuration is installed again, doubled each time.
    pub refusal_first: Duration,
    /// Longest such pause.
    pub refusal_longest: Duration,
    /// How long a candidate that passed goes on when nobody asks for it any more: its revision may be on the way.
    pub linger: Duration,
    /// How long a plugin goes on after the API server loaded a configuration without it: requests may be under way.
    pub drain: Duration,
    /// How long a stopped plugin may take to leave its socket before its files are removed all the same.
    pub stop_deadline: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            file_poll: seconds(60),
            reload_margin: seconds(30),
            probe_interval: seconds(30),
            start_deadline: seconds(30),
            settle: seconds(5),
            fresh: seconds(10),
            retry_first: seconds(1),
            retry_longest: seconds(60),
            refusal_first: seconds(30),
            refusal_longest: seconds(600),
            linger: seconds(300),
            drain: seconds(30),
            stop_deadline: seconds(60),
        }
    }
}

impl Policy {
    /// How long the API server may take to load this configuration: one look at the file, and FIELD 1.5's max(2×Σ
    /// timeouts, 10 s) for its plugins' health.
    pub fn reload_deadline(&self, content: &RevisionContent) -> Duration {
        let timeouts: Duration = content
            .config
            .resources
            .iter()
            .flat_map(|entry| &entry.providers)
            .filter_map(|provider| provider.kms.as_ref())
            .map(|kms| duration(&kms.timeout).unwrap_or(Duration::from_secs(3)))
            .sum();
        self.file_poll + (timeouts * 2).max(Duration::from_secs(10)) + self.reload_margin
    }

    /// The pause before a refused configuration is tried again.
    pub fn after_refusal(&self, attempts: u32) -> Duration {
        backoff(self.refusal_first, self.refusal_longest, attempts)
    }

    /// Whether a failing plugin has had its time. A wrong KEK needs none.
    pub fn is_definite(&self, probed: &Probed) -> bool {
        probed.failing.as_ref().is_some_and(|failing| self.is_definite_failure(failing, probed.age))
    }

    /// The same of a failure, so many seconds after the question was first put.
    pub fn is_definite_failure(&self, failing: &Failing, age: Duration) -> bool {
        let starting = failing.failure.phase == "start" && failing.failure.exit_code.is_none();
        failing.mismatch || if starting { age >= self.start_deadline } else { failing.since >= self.settle }
    }

    /// The pause before the next probe, jitter not counted. Quick while a plugin comes up, with back-off once it has
    /// failed, never slower than a running one is probed.
    pub fn pause(&self, probed: &Probed) -> Duration {
        let Some(failing) = &probed.failing else { return self.probe_interval };
        let quick = match failing.failure.phase.as_str() {
            // Looking for a socket costs one system call.
            "start" => Duration::from_millis(50),
            _ => backoff(Duration::from_millis(100), Duration::from_secs(1), failing.times),
        };
        let pause = if self.is_definite(probed) {
            backoff(self.retry_first, self.retry_longest, probed.attempts)
        } else {
            quick
        };
        if probed.pass.is_some() { pause.min(self.probe_interval) } else { pause }
    }
}

/// `first` after the first failure, doubled after each further one.
fn backoff(first: Duration, longest: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    first.saturating_mul(1 << doublings).min(longest)
}

fn duration(text: &str) -> Option<Duration> {
    text.parse::<jiff::SignedDuration>().ok().and_then(|signed| Duration::try_from(signed).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_up_to_its_limit() {
        let seconds = |failures| Policy::default().after_refusal(failures).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 99].map(seconds), [30, 30, 60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn go_durations_are_read() {
        assert_eq!(duration("10s"), Some(Duration::from_secs(10)));
        assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("x"), None);
    }
}
