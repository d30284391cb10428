//! When a status is written: at once if it has changed, else once each probe interval.

use std::time::Duration;

use keyward_core::api::EncryptionNodeStatus;
use tokio::time::Instant;

/// The status that was written last, and when.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    last: Option<(EncryptionNodeStatus, Instant)>,
}

impl Throttle {
    /// Whether this status must be written now.
    pub(crate) fn is_due(&self, status: &EncryptionNodeStatus, interval: Duration, now: Instant) -> bool {
        let Some((last, at)) = &self.last else { return true };
        timeless(status) != timeless(last) || status != last && now.duration_since(*at) >= interval
    }

    /// The time until the next write if nothing changes. The operator recognizes a running agent by its
    /// renewed reports, so a report must not be a whole interval overdue.
    pub(crate) fn rest(&self, interval: Duration, now: Instant) -> Duration {
        match &self.last {
            Some((status, at)) if !status.plugins.is_empty() => {
                let left = interval.saturating_sub(now.duration_since(*at));
                // The report is due and waits for the next probe, which is due any moment.
                if left.is_zero() { interval / 4 } else { left }
            }
            _ => interval,
        }
    }

    /// Records that the status was written.
    pub(crate) fn written(&mut self, status: EncryptionNodeStatus, now: Instant) {
        self.last = Some((status, now));
    }

    /// The written status may not exist any more: the object was recreated.
    pub(crate) fn forget(&mut self) {
        self.last = None;
    }
}

/// The status without the times of probes and the logs of failing plugins, which change all the time.
fn timeless(status: &EncryptionNodeStatus) -> EncryptionNodeStatus {
    let mut status = status.clone();
    for plugin in &mut status.plugins {
        plugin.health.last_checked_time.clear();
        if let Some(failure) = &mut plugin.health.failure {
            failure.log_tail.clear();
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use keyward_core::api::{HealthStatus, NodePlugin, PluginHealth};
    use keyward_core::ids::{KeyId, PluginDigest, RemoteKeyId};

    use super::*;

    fn status(at: &str, health: HealthStatus) -> EncryptionNodeStatus {
        let health = PluginHealth {
            status: health,
            remote_key_id: RemoteKeyId("k".into()),
            last_checked_time: at.into(),
            detail: None,
            failure: None,
        };
        let plugin = NodePlugin {
            key_id: KeyId(1),
            digest: PluginDigest("d".into()),
            ready: true,
            health,
            repairs: 0,
        };
        EncryptionNodeStatus { plugins: vec![plugin], ..Default::default() }
    }

    #[test]
    fn a_changed_status_is_due_at_once_and_a_renewed_one_each_interval() {
        let interval = Duration::from_secs(30);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let healthy = |at| status(at, HealthStatus::Healthy);
        let mut throttle = Throttle::default();
        assert!(throttle.is_due(&healthy("1"), interval, at(0)));
        throttle.written(healthy("1"), at(0));
        assert!(!throttle.is_due(&healthy("2"), interval, at(29)));
        assert!(throttle.is_due(&healthy("2"), interval, at(30)));
        assert!(!throttle.is_due(&healthy("1"), interval, at(99)), "no plugin was probed since");
        assert!(throttle.is_due(&status("2", HealthStatus::Error), interval, at(1)));
        assert_eq!(throttle.rest(interval, at(10)), Duration::from_secs(20));
        assert_eq!(throttle.rest(interval, at(31)), interval / 4, "a probe is due any moment");
        throttle.written(EncryptionNodeStatus::default(), at(10));
        assert_eq!(throttle.rest(interval, at(31)), interval, "nothing changes without plugins");
        throttle.forget();
        assert!(throttle.is_due(&healthy("1"), interval, at(1)));
    }
}
