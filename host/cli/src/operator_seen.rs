//! Whether an operator runs, by its Lease. Conditions alone do not show it: they stay as recorded when the
//! operator stops.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use keyward_core::names;
use kube::Api;
use serde::Serialize;

/// Allows for a difference between the clocks of two machines, and for the time of a renewal.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(15);

/// The operator renews its Lease more often than this.
const RENEWED_WITHIN: Duration = Duration::from_secs(6);

/// Time between two reads of a Lease that seems to have expired.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// Duration in seconds of a Lease without `leaseDurationSeconds`.
const DEFAULT_DURATION: i32 = 15;

/// State of the operator, by its Lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all_fields = "camelCase")]
pub(crate) enum OperatorSeen {
    /// The Lease is renewed.
    Running,
    /// The Lease has expired.
    Stopped {
        /// By the clock of its machine.
        last_renewed: Timestamp,
    },
    /// There is no Lease, or it was never renewed.
    Never,
    /// The Lease cannot be read, or its time is in the future.
    Unknown {
        /// The reason.
        why: String,
    },
}

impl OperatorSeen {
    /// Reads the Lease, and reads it again for a few seconds if it seems to have expired.
    pub(crate) async fn look(client: &kube::Client) -> Self {
        let api = Api::<Lease>::namespaced(client.clone(), names::NAMESPACE);
        let mut seen = Self::get(&api).await;
        let first = seen.clone();
        // If the clock of this machine is ahead, a Lease seems to have expired. A renewal proves that an operator
        // runs, without any clock.
        let deadline = Instant::now() + RENEWED_WITHIN;
        while let (Self::Stopped { .. }, true) = (&seen, Instant::now() < deadline) {
            tokio::time::sleep(READ_INTERVAL).await;
            seen = Self::get(&api).await.after(&first);
        }
        seen
    }

    async fn get(api: &Api<Lease>) -> Self {
        match api.get_opt(names::LEASE).await {
            Ok(lease) => Self::of(lease.as_ref(), Timestamp::now()),
            Err(error) => Self::Unknown { why: error.to_string() },
        }
    }

    /// The state that this later read shows together with the first one.
    fn after(self, first: &Self) -> Self {
        match (&self, first) {
            (Self::Stopped { last_renewed: now }, Self::Stopped { last_renewed: before })
                if now != before =>
            {
                Self::Running
            }
            _ => self,
        }
    }

    /// A single read cannot observe a change of the Lease, so this compares the clocks of two machines, with
    /// a tolerance.
    fn of(lease: Option<&Lease>, now: Timestamp) -> Self {
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        let Some(renewed) = spec.and_then(|spec| spec.renew_time.as_ref()) else { return Self::Never };
        let last_renewed = renewed.0;
        let duration = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(DEFAULT_DURATION);
        let age = now.duration_since(last_renewed);
        if age > SignedDuration::from_secs(i64::from(duration)) + TOLERANCE {
            Self::Stopped { last_renewed }
        } else if age < -TOLERANCE {
            let why = format!(
                "its Lease was renewed at {last_renewed}, which is in the future by this machine's clock; synchronize the clocks"
            );
            Self::Unknown { why }
        } else {
            Self::Running
        }
    }

    /// Whether one is known to run.
    pub(crate) fn is_running(&self) -> bool {
        *self == Self::Running
    }

    /// A line with a warning; empty if an operator runs.
    pub(crate) fn warning(&self) -> String {
        let what = match self {
            Self::Running => return String::new(),
            Self::Stopped { last_renewed } => format!("no operator has run since {last_renewed}"),
            Self::Never => format!(
                "no operator has run: Lease {} in {} does not exist or was never renewed",
                names::LEASE,
                names::NAMESPACE
            ),
            Self::Unknown { why } => {
                return format!(
                    "warning: it is not known whether an operator runs: {why}; if you are not allowed to read the Lease, bind the Role keyward-status in {} to your user\n",
                    names::NAMESPACE
                );
            }
        };
        format!("warning: {what}; the output shows the last recorded state, and nothing manages it now\n")
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use rstest::rstest;

    use super::*;

    fn lease(renewed: Timestamp, duration: Option<i32>) -> Lease {
        let spec = LeaseSpec {
            renew_time: Some(MicroTime(renewed)),
            lease_duration_seconds: duration,
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[rstest]
    #[case::just_renewed(0, Some(15), "Running")]
    #[case::within_the_tolerance(30, Some(15), "Running")]
    #[case::expired(31, Some(15), "Stopped")]
    #[case::longer_lease(31, Some(60), "Running")]
    #[case::released(17, Some(1), "Stopped")]
    #[case::no_duration(31, None, "Stopped")]
    #[case::clock_a_little_ahead(-15, Some(15), "Running")]
    #[case::clock_far_ahead(-16, Some(15), "Unknown")]
    fn operator_runs_while_its_lease_is_renewed(
        #[case] age: i64,
        #[case] duration: Option<i32>,
        #[case] state: &str,
    ) {
        let now: Timestamp = "2026-05-08T12:34:56Z".parse().unwrap();
        let renewed = now - SignedDuration::from_secs(age);
        let seen = OperatorSeen::of(Some(&lease(renewed, duration)), now);
        assert_eq!(serde_json::to_value(&seen).unwrap()["state"], state);
        assert_eq!(seen.warning().is_empty(), state == "Running");
    }

    #[test]
    fn renewal_shows_an_operator_although_the_clocks_differ() {
        let stopped = |at: &str| OperatorSeen::Stopped { last_renewed: at.parse().unwrap() };
        let first = stopped("2026-05-08T12:00:00Z");
        assert_eq!(stopped("2026-05-08T12:00:05Z").after(&first), OperatorSeen::Running);
        assert_eq!(first.clone().after(&first), first);
    }

    #[test]
    fn no_operator_has_run_without_a_renewed_lease() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(OperatorSeen::of(None, now), OperatorSeen::Never);
        assert_eq!(OperatorSeen::of(Some(&Lease::default()), now), OperatorSeen::Never);
    }
}
