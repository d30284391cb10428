//! When a status is written: at once when it says something new, else once a probe interval.

use std::time::Duration;

use keyward_core::api::EncryptionNodeStatus;
use tokio::time::Instant;

/// What was written last, and when.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    last: Option<(EncryptionNodeStatus, Instant)>,
}

impl Throttle {
    /// Whether this status is to be written now.
    pub(crate) fn is_due(&self, status: &EncryptionNodeStatus, interval: Duration, now: Instant) -> bool {
        let Some((last, at)) = &self.last else { return true };
        timeless(status) != timeless(last) || status != last && now.duration_since(*at) >= interval
    }

    /// It was written.
    pub(crate) fn written(&mut self, status: EncryptionNodeStatus, now: Instant) {
        self.last = Some((status, now));
    }

    /// It may not be there any more: the object was made anew.
    pub(crate) fn forget(&mut self) {
        self.last = None;
    }
}

/// Without the times at which plugins were probed.
fn timeless(status: &EncryptionNodeStatus) -> EncryptionNodeStatus {
    let mut status = status.clone();
    for plugin in &mut status.plugins {
        plugin.health.last_checked_time.clear();
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
        };
        let plugin = NodePlugin { key_id: KeyId(1), digest: PluginDigest("d".into()), ready: true, health };
        EncryptionNodeStatus { plugins: vec![plugin], ..Default::default() }
    }

    #[test]
    fn news_are_told_at_once_and_the_rest_now_and_then() {
        let interval = Duration::from_secs(30);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let well = |at| status(at, HealthStatus::Healthy);
        let mut throttle = Throttle::default();
        assert!(throttle.is_due(&well("1"), interval, at(0)));
        throttle.written(well("1"), at(0));
        assert!(!throttle.is_due(&well("2"), interval, at(29)));
        assert!(throttle.is_due(&well("2"), interval, at(30)));
        assert!(!throttle.is_due(&well("1"), interval, at(99)), "nothing was looked at since");
        assert!(throttle.is_due(&status("2", HealthStatus::Error), interval, at(1)));
        throttle.forget();
        assert!(throttle.is_due(&well("1"), interval, at(1)));
    }
}
