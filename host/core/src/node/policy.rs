//! The agent's periods and deadlines.

use std::time::Duration;

use super::observe::{Failing, Probed};
use crate::duration;
use crate::formats::revision::RevisionContent;

/// Periods and deadlines of the agent. The defaults fit a kube-apiserver with its own defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How often the API server checks its configuration file: once a minute (kubernetes: automatic-reload).
    pub file_poll: Duration,
    /// How long a reload may take beyond the API server's own deadlines.
    pub reload_margin: Duration,
    /// How often running plugins are probed.
    pub probe_interval: Duration,
    /// How long a plugin may take until its socket accepts connections.
    pub start_deadline: Duration,
    /// How long a plugin that answers may be unhealthy before that counts as a failure.
    pub settle: Duration,
    /// A pass older than this is repeated before a step relies on it.
    pub fresh: Duration,
    /// First pause after a failed probe of a candidate, doubled each time.
    pub retry_first: Duration,
    /// Longest such pause.
    pub retry_longest: Duration,
    /// First pause before a trial whose process exited is started again; quadrupled each time.
    ///
    /// A candidate may exit because its KMS refuses its login, and each start is one more login. Some KMSs
    /// count refused logins by role and lock a role out after the fifth. That also locks out the plugins in
    /// use, whose secret is right, at their next login. The count starts again only after 15 minutes without
    /// a refusal, or after a good login. So by default a node makes at most three attempts closer than that
    /// (at 0, 1 and 5 minutes), then one each 16 minutes; the fourth is left for the mistake of somebody
    /// else.
    pub trial_first: Duration,
    /// Longest such pause: longer than the 15 minutes after which a KMS forgets a refused login.
    pub trial_longest: Duration,
    /// First pause before a refused configuration is installed again, doubled each time.
    pub refusal_first: Duration,
    /// Longest such pause.
    pub refusal_longest: Duration,
    /// How long a candidate that passed stays when it is not requested any more: its revision may be on the
    /// way.
    pub linger: Duration,
    /// How long a plugin continues after the API server loaded a configuration without it: requests may be
    /// under way.
    pub drain: Duration,
    /// How long a rebooted node waits for a target before it restores links, if it may be only its own API
    /// server that has no `EncryptionNode` of it: its configuration may be superseded.
    pub link_wait: Duration,
    /// The same if no API server answers: the network may not be up yet. A cluster that starts as a whole
    /// waits this long.
    pub link_wait_unread: Duration,
    /// How long a stopped plugin may keep its socket before its files are removed anyway.
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
            link_wait: seconds(300),
            link_wait_unread: seconds(10),
            stop_deadline: seconds(60),
        }
    }
}

impl Policy {
    /// How long the API server may take to load this configuration: one check of the file, and max(2×Σ
    /// timeouts, 10 s) for the health of its plugins (kubernetes: automatic-reload).
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

    /// The pause after a trial's process exited; `tries` is the number of its start.
    pub fn after_trial(&self, tries: u32) -> Duration {
        backoff(self.trial_first, self.trial_longest, tries.saturating_mul(2).saturating_sub(1))
    }

    /// Whether a failure is definite: the plugin has had its time. A wrong KEK is definite at once.
    pub fn is_definite(&self, probed: &Probed) -> bool {
        probed.failing.as_ref().is_some_and(|failing| self.is_definite_failure(failing, probed.age))
    }

    /// The same for a failure, with the time since the question was first asked.
    pub fn is_definite_failure(&self, failing: &Failing, age: Duration) -> bool {
        let starting = failing.failure.phase == "start" && failing.failure.exit_code.is_none();
        failing.mismatch || if starting { age >= self.start_deadline } else { failing.since >= self.settle }
    }

    /// The pause before the next probe, without jitter. It is short while a plugin starts, and grows once the
    /// plugin has failed. A plugin that passed, or that is not a trial, is probed at least as often as a
    /// healthy one: the operator waits only a few intervals for its report, and after a start of the agent no
    /// pass of a serving plugin is known.
    pub fn pause(&self, probed: &Probed) -> Duration {
        let Some(failing) = &probed.failing else { return self.probe_interval };
        let quick = match failing.failure.phase.as_str() {
            // To check for a socket costs one system call.
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
    fn trial_is_started_at_most_three_times_before_a_refused_login_is_forgotten() {
        let minutes = |tries| Policy::default().after_trial(tries).as_secs() / 60;
        assert_eq!([0, 1, 2, 3, 4, 99].map(minutes), [1, 1, 4, 16, 16, 16]);
    }

    #[test]
    fn plugin_that_is_not_a_trial_is_probed_each_interval_even_if_it_never_passed() {
        let policy = Policy { probe_interval: Duration::from_secs(2), ..Policy::default() };
        let failure = Failure { phase: "encrypt".to_owned(), ..Default::default() };
        let pause = |run| {
            let since = Duration::from_mins(10);
            policy.pause(&Probed {
                question: Question {
                    socket: Socket::Generation,
                    key_check: None,
                    make_key_check: false,
                    run,
                },
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
        // A timeout that Go does not parse counts as the default: the API server would not load it anyway.
        assert_eq!(["1m30s", "7.5s", "1s", "10 seconds"].map(deadline), [270, 105, 100, 100]);
    }
}
