//! Settings of an operator.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::migrator::MigrationSettings;

/// A duration above zero in Go's notation: `15s`, `1m30s`, `500ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|signed| Duration::try_from(signed).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| format!("{text:?} is not a duration above zero, such as 10s or 1m30s"))
}

/// All settings of an operator.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where `/metrics`, `/readyz` and `/livez` are served; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The duration in the Lease, in whole seconds (a fraction is dropped), at least 2. It is renewed at a third of it.
    pub lease_duration: Duration,
    /// This process's name in the Lease and in Events.
    pub identity: String,
    /// Limit of one attempt of one call to the API server.
    pub call_timeout: Duration,
    /// How often a reconcile pass starts without an event of a watch.
    pub resync: Duration,
    /// Shortest time from one reconcile pass to the next that an event starts. An event after an idle time starts a
    /// pass at once.
    pub debounce: Duration,
    /// How long the current work may take after the operator was asked to stop.
    pub shutdown: Duration,
    /// Settings of the migration engine.
    pub migration: MigrationSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8440)),
            lease_duration: Duration::from_secs(15),
            identity: crate::lease::identity(),
            call_timeout: Duration::from_secs(10),
            resync: Duration::from_mins(1),
            debounce: Duration::from_millis(20),
            shutdown: Duration::from_secs(20),
            migration: MigrationSettings::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_above_zero() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for wrong in ["", "0s", "-1s", "10", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
