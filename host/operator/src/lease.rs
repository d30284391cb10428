//! Leader election by the Lease `keyward-operator` in `keyward-system` (objects: leases).
//!
//! Only this process's monotonic clock counts (decision 0018). A process acquires the Lease of another holder when
//! *it* has not seen the Lease change for its whole duration; the times in the Lease are for people. The holder
//! renews at a third of the duration. It stops writing four fifths of the duration after its last renewal *was sent*,
//! so a fifth of the duration is between the last write of one leader and the first write of the next.
//!
//! Losing the Lease does not end the process: the operator stops deciding and migrating, waits for the Lease again, and
//! serves `/metrics` and the probes meanwhile. Every write is also safe without the Lease
//! (invariant: write-with-precondition).

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use keyward_core::names;

use crate::cluster::{CallError, Cluster};

/// Whether this process is allowed to write, and until when without another renewal.
#[derive(Clone, Debug)]
pub struct Authority(watch::Receiver<Option<Instant>>);

impl Authority {
    /// Whether this process is allowed to write now.
    pub fn holds(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Returns when this process is allowed to write.
    pub async fn acquired(&mut self) {
        loop {
            if self.holds() {
                return;
            }
            if self.0.changed().await.is_err() {
                // The elector ended: the Lease is never acquired again.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns when this process is no longer allowed to write.
    pub async fn lost(&mut self) {
        loop {
            let Some(until) = *self.0.borrow_and_update() else { return };
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {
                    if !self.holds() {
                        return;
                    }
                }
                changed = self.0.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Always allows writes, for tests and tools that are the only writer by other means.
    pub fn unconditional() -> Self {
        let far = Instant::now() + Duration::from_hours(24 * 365);
        // The last value stays readable after the sender is dropped.
        Self(watch::channel(Some(far)).1)
    }
}

/// Acquires and renews the Lease.
#[derive(Debug)]
pub struct Elector {
    cluster: Cluster,
    view: LeaseView,
    until: watch::Sender<Option<Instant>>,
}

/// What one process knows about the Lease. No I/O and no clock.
#[derive(Debug)]
struct LeaseView {
    identity: String,
    duration: Duration,
    seen: Option<Seen>,
}

/// The Lease as it was last seen, and since when it has not changed.
#[derive(Debug)]
struct Seen {
    lease: Lease,
    since: Instant,
}

/// What to do next.
#[derive(Debug, PartialEq)]
enum Step {
    /// Write this Lease: create it if there is none, else replace the version that was read.
    Write(Box<Lease>),
    /// Another process holds the Lease.
    Wait,
}

impl Elector {
    /// `duration` is written to the Lease in whole seconds: a fraction is dropped, since other processes cannot see it.
    /// `identity` must be unique to this process.
    pub fn new(cluster: Cluster, identity: String, duration: Duration) -> (Self, Authority) {
        let (until, authority) = watch::channel(None);
        (Self { cluster, view: LeaseView::new(identity, duration), until }, Authority(authority))
    }

    /// Runs until `stop`, then releases the Lease if this process holds it.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0_u32;
        let duration = self.view.duration;
        while !stop.is_cancelled() {
            match self.round().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(
                        failures,
                        leader = self.until.borrow().is_some(),
                        "cannot read or renew the Lease: {error}"
                    );
                }
            }
            if self.until.borrow().is_some_and(|until| until <= Instant::now()) {
                tracing::error!("the Lease could not be renewed in time; this operator stops writing");
                self.until.send_replace(None);
            }
            // A failed call is retried soon: several retries fit before the Lease expires.
            let pause = if failures > 0 { duration / 15 } else { duration / 3 };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
        self.release().await;
    }

    async fn round(&mut self) -> Result<(), CallError> {
        let read = self.cluster.get::<Lease>(Some(names::NAMESPACE), names::LEASE).await?;
        let sent = Instant::now();
        match self.view.step(read, sent, Timestamp::now()) {
            Step::Wait => {
                if self.until.send_replace(None).is_some() {
                    tracing::error!("another operator holds the Lease; this operator stops writing");
                }
                Ok(())
            }
            Step::Write(mut lease) => {
                let written = match lease.metadata.resource_version {
                    None => self.cluster.create(Some(names::NAMESPACE), &*lease).await?,
                    Some(_) => self.cluster.replace(Some(names::NAMESPACE), &*lease).await?,
                };
                lease.metadata.resource_version = written.metadata.resource_version;
                self.view.seen = Some(Seen { lease: *lease, since: sent });
                if self.until.send_replace(Some(sent + self.view.writes_for())).is_none() {
                    tracing::info!(identity = self.view.identity, "this operator is the leader");
                }
                Ok(())
            }
        }
    }

    /// Writes an empty holder, so that another operator can acquire the Lease at once.
    async fn release(&mut self) {
        if self.until.send_replace(None).is_none() {
            return;
        }
        let Some(Seen { mut lease, .. }) = self.view.seen.take() else { return };
        if let Some(spec) = lease.spec.as_mut() {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        match self.cluster.replace(Some(names::NAMESPACE), &lease).await {
            Ok(_) => tracing::info!("the Lease is released"),
            Err(error) => tracing::warn!("the Lease could not be released; it expires by itself: {error}"),
        }
    }
}

impl LeaseView {
    fn new(identity: String, duration: Duration) -> Self {
        Self { identity, duration: Duration::from_secs(duration.as_secs().max(1)), seen: None }
    }

    /// How long this process is allowed to write after it sent a renewal.
    fn writes_for(&self) -> Duration {
        self.duration * 4 / 5
    }

    fn step(&mut self, read: Option<Lease>, now: Instant, wall: Timestamp) -> Step {
        let Some(lease) = read else {
            return Step::Write(Box::new(Lease {
                metadata: ObjectMeta {
                    name: Some(names::LEASE.to_owned()),
                    namespace: Some(names::NAMESPACE.to_owned()),
                    ..Default::default()
                },
                spec: Some(self.spec(None, wall)),
            }));
        };
        let unchanged = self.seen.as_ref().filter(|seen| seen.lease.spec == lease.spec);
        let since = unchanged.map_or(now, |seen| seen.since);
        let spec = lease.spec.clone().unwrap_or_default();
        self.seen = Some(Seen { lease: lease.clone(), since });

        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let theirs = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
        let stopped = now.saturating_duration_since(since) >= theirs.unwrap_or(self.duration);
        if holder == self.identity || holder.is_empty() || stopped {
            return Step::Write(Box::new(Lease { spec: Some(self.spec(Some(spec), wall)), ..lease }));
        }
        Step::Wait
    }

    fn spec(&self, before: Option<LeaseSpec>, wall: Timestamp) -> LeaseSpec {
        let before = before.unwrap_or_default();
        let now = Some(MicroTime(wall));
        let renewal = before.holder_identity.as_deref() == Some(&self.identity);
        let transitions = before.lease_transitions.unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: if renewal { before.acquire_time.clone().or(now.clone()) } else { now.clone() },
            renew_time: now,
            lease_transitions: Some(if renewal { transitions } else { transitions.saturating_add(1) }),
            ..before
        }
    }
}

/// A unique name for this process: the host name and random bytes.
pub fn identity() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut random = [0_u8; 4];
    // Without random bytes the process id is used.
    if getrandom::fill(&mut random).is_err() {
        random = std::process::id().to_be_bytes();
    }
    format!("{host}_{}", keyward_core::ids::hex(&random))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(15);

    fn view(identity: &str) -> LeaseView {
        LeaseView::new(identity.to_owned(), DURATION)
    }

    fn held_by(holder: &str, renewed: i64) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
            lease_transitions: Some(4),
            ..Default::default()
        };
        Lease { spec: Some(spec), ..Default::default() }
    }

    fn written(step: Step) -> LeaseSpec {
        match step {
            Step::Write(lease) => lease.spec.unwrap(),
            Step::Wait => panic!("waits"),
        }
    }

    #[test]
    fn lease_that_does_not_change_is_acquired_after_its_duration_and_not_before() {
        let (mut us, begin, wall) = (view("us"), Instant::now(), Timestamp::UNIX_EPOCH);
        // Renewed long ago by the holder's clock, which does not count.
        let theirs = held_by("them", 0);
        assert_eq!(us.step(Some(theirs.clone()), begin, wall), Step::Wait);
        let almost = begin + DURATION * 99 / 100;
        assert_eq!(us.step(Some(theirs.clone()), almost, wall), Step::Wait);
        let spec = written(us.step(Some(theirs), begin + DURATION, wall));
        assert_eq!(spec.holder_identity.as_deref(), Some("us"));
        assert_eq!(spec.lease_transitions, Some(5));
    }

    #[test]
    fn renewal_by_the_holder_restarts_the_wait() {
        let (mut us, begin, wall) = (view("us"), Instant::now(), Timestamp::UNIX_EPOCH);
        us.step(Some(held_by("them", 0)), begin, wall);
        // Every change counts, also a time far in the future or one that goes back.
        assert_eq!(us.step(Some(held_by("them", -9)), begin + DURATION, wall), Step::Wait);
        assert_eq!(us.step(Some(held_by("them", -9)), begin + DURATION * 3 / 2, wall), Step::Wait);
    }

    #[test]
    fn free_missing_and_own_leases_are_acquired_at_once() {
        let (mut us, now, wall) = (view("us"), Instant::now(), Timestamp::UNIX_EPOCH);
        assert_eq!(written(us.step(None, now, wall)).lease_transitions, Some(1));
        assert_eq!(written(us.step(Some(held_by("", 0)), now, wall)).lease_transitions, Some(5));
        let renewed = written(us.step(Some(held_by("us", 0)), now, wall));
        assert_eq!(renewed.lease_transitions, Some(4), "a renewal is not a transition");
    }

    #[test]
    fn leader_stops_writing_before_others_can_acquire_the_lease_for_any_fraction_of_a_second() {
        for millis in [1, 999, 1000, 1900, 2000, 2900, 2999, 15_500] {
            let mut leader = LeaseView::new("leader".into(), Duration::from_millis(millis));
            let published = written(leader.step(None, Instant::now(), Timestamp::UNIX_EPOCH));
            let others_wait =
                Duration::from_secs(published.lease_duration_seconds.unwrap().unsigned_abs().into());
            assert!(leader.writes_for() <= others_wait * 4 / 5, "{millis} ms: {:?}", leader.writes_for());
            assert!(others_wait >= Duration::from_secs(1));
        }
    }

    #[test]
    fn identities_differ() {
        assert_ne!(identity(), identity());
    }
}
