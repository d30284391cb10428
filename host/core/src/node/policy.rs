//! How long things may take.

use std::time::Duration;

use super::observe::{Failing, Probed};
use crate::duration;
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
    /// First pause after a trial's process ended by itself, before it is started again; quadrupled each time.
    ///
    /// A candidate may end because its KMS refuses its login, and each start is one more login. There are KMSs that count
    /// refused logins by role and lock a role out after the fifth, also for those whose secret is good: the plugins in
    /// use, at their next login. The count begins anew only after 15 minutes without a refusal, or by a good login. So
    /// by default a node makes at most three attempts closer than that (0, 1 and 5 minutes), then one each 16 minutes; a
    /// fourth is left for whoever else errs.
    pub trial_first: Duration,
    /// Longest such pause: longer than the 15 minutes after which a refused login is forgotten.
    pub trial_longest: Duration,
    /// First pause before a refused configuration is installed again, doubled each time.
    pub refusal_first: Duration,
    /// Longest such pause.
    pub refusal_longest: Duration,
    /// How long a candidate that passed goes on when nobody asks for it any more: its revision may be on the way.
    pub linger: Duration,
    /// How long a plugin goes on after the API server loaded a configuration without it: requests may be under way.
    pub drain: Duration,
    /// For how long a node that rebooted waits to be told that its configuration was not withdrawn, where it may be its own
    /// API server that knows no `EncryptionNode` of it.
    pub hold: Duration,
    /// The same, where nobody can be asked: the network may not be up yet. A cluster that starts as a whole pays for it.
    pub hold_unread: Duration,
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
            trial_first: seconds(60),
            trial_longest: seconds(16 * 60),
            refusal_first: seconds(30),
            refusal_longest: seconds(600),
            linger: seconds(300),
            drain: seconds(30),
            hold: seconds(300),
            hold_unread: seconds(10),
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
            .map(|kms| duration::go(&kms.timeout).unwrap_or(Duration::from_secs(3)))
            .sum();
        self.file_poll + (timeouts * 2).max(Duration::from_secs(10)) + self.reload_margin
    }

    /// The pause before a refused configuration is tried again.
    pub fn after_refusal(&self, attempts: u32) -> Duration {
        backoff(self.refusal_first, self.refusal_longest, attempts)
    }

    /// The pause after a trial's process ended by itself, where that was the start of this number.
    pub fn after_trial(&self, tries: u32) -> Duration {
        backoff(self.trial_first, self.trial_longest, tries.saturating_mul(2).saturating_sub(1))
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
    /// failed. One that passed, and one that is no trial, is never probed slower than one that is well: the operator
    /// waits a few intervals for news of it, and after a start of the agent no pass is known of what serves.
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
        let is_trial = probed.question.run > 0;
        if probed.pass.is_some() || !is_trial { pause.min(self.probe_interval) } else { pause }
    }
}

/// `first` after the first failure, doubled after each further one.
fn backoff(first: Duration, longest: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    first.saturating_mul(1 << doublings).min(longest)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::formats::encryption_config::{
        EncryptionConfiguration, KmsConfiguration, ProviderConfiguration, ResourceConfiguration,
    };
    use crate::node::{Question, Socket};
    use crate::provider::Failure;

    #[test]
    fn back_off_doubles_up_to_its_limit() {
        let seconds = |failures| Policy::default().after_refusal(failures).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 99].map(seconds), [30, 30, 60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn a_trial_is_started_three_times_at_most_before_a_refused_login_is_forgotten() {
        let minutes = |tries| Policy::default().after_trial(tries).as_secs() / 60;
        assert_eq!([0, 1, 2, 3, 4, 99].map(minutes), [1, 1, 4, 16, 16, 16]);
    }

    #[test]
    fn what_is_no_trial_is_probed_each_interval_though_it_never_passed() {
        let policy = Policy { probe_interval: Duration::from_secs(2), ..Policy::default() };
        let failure = Failure { phase: "encrypt".to_owned(), ..Default::default() };
        let pause = |run| {
            let since = Duration::from_mins(10);
            policy.pause(&Probed {
                question: Question { socket: Socket::Generation, key_check: None, make_key_check: false, run },
                age: since,
                pass: None,
                last: None,
                failing: Some(Failing { failure: failure.clone(), mismatch: false, since, times: 99 }),
                earlier: None,
                attempts: 99,
            })
        };
        assert_eq!([0, 1].map(|run| pause(run).as_secs()), [2, 60]);
    }

    #[test]
    fn the_reload_deadline_counts_timeouts_as_go_does() {
        let content = |timeout: &str| {
            let kms = KmsConfiguration {
                api_version: "v2".into(),
                name: "1_secrets".into(),
                cachesize: None,
                endpoint: "unix:///x".into(),
                timeout: timeout.into(),
            };
            let provider = ProviderConfiguration { kms: Some(kms), ..Default::default() };
            let entry = ResourceConfiguration { resources: None, providers: vec![provider] };
            RevisionContent::new(EncryptionConfiguration::new(vec![entry]), BTreeMap::new())
        };
        let deadline = |timeout| Policy::default().reload_deadline(&content(timeout)).as_secs();
        // What Go does not take counts as its default: the API server would not load it anyway.
        assert_eq!(["1m30s", "7.5s", "1s", "10 seconds"].map(deadline), [270, 105, 100, 100]);
    }
}
