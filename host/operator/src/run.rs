//! The composition of an operator: HTTP server and Lease and, while it holds the Lease, watches, decisions and
//! migrations.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use keyward_core::api::ClusterEncryption;
use keyward_core::names;
use keyward_core::provider::Evaluator;

use crate::ages::Ages;
use crate::backoff::Backoff;
use crate::cluster::{Category, Cluster};
use crate::error::Error;
use crate::events::Notices;
use crate::health::Health;
use crate::http;
use crate::lease::{Authority, Elector};
use crate::metrics::Metrics;
use crate::migrator::Engine;
use crate::reconcile::{Next, Reconciler};
use crate::settings::Settings;
use crate::trigger::{self, Signals};
use crate::troubles::{Failures, Troubles};

/// Reconcile passes in a row that write something. More of them look like decisions that never become stable, and are
/// slowed down.
const MOST_WRITES_IN_A_ROW: u32 = 30;

/// An operator whose HTTP server is bound, and which does not run yet.
pub struct Operator {
    cluster: Cluster,
    evaluator: Arc<dyn Evaluator>,
    settings: Settings,
    listener: TcpListener,
    address: SocketAddr,
    metrics: Metrics,
    health: Health,
}

impl Operator {
    /// Binds the HTTP server, and nothing else. The client should come from [`connect`](crate::cluster::connect):
    /// that one does not retry for minutes by itself.
    pub async fn bind(
        client: kube::Client,
        evaluator: Arc<dyn Evaluator>,
        settings: Settings,
    ) -> Result<Self, Error> {
        let (listener, address) = http::bind(settings.listen).await?;
        Ok(Self {
            cluster: Cluster::new(client, settings.call_timeout),
            evaluator,
            listener,
            address,
            metrics: Metrics::default(),
            // An idle operator reads once in a resync: one lost or slow call does not make the API server unreachable.
            health: Health::new(settings.resync * 2 + settings.call_timeout),
            settings,
        })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs until `stop`, then finishes the current write, writes cursors and releases the Lease. Without the Lease
    /// it is a standby; losing the Lease does not end the process. An error means that a task ended that never ends.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let Self { cluster, evaluator, settings, listener, address, metrics, health } = self;
        tracing::info!(%address, identity = settings.identity, "metrics and probes are served");
        let last = CancellationToken::new();
        let serving = tokio::spawn(http::serve(listener, health.clone(), metrics.clone(), last.clone()));
        let (elector, authority) =
            Elector::new(cluster.clone(), settings.identity.clone(), settings.lease_duration);
        let mut electing = tokio::spawn(elector.run(last.clone()));
        let leader = Leader { cluster, evaluator, settings, metrics, health, authority };
        let result = tokio::select! {
            () = leader.lead_while_elected(&stop) => Ok(()),
            _ = &mut electing => Err(Error::Ended("the task that renews the Lease")),
        };
        let shutdown = leader.settings.shutdown;
        last.cancel();
        if result.is_ok() {
            let _ = tokio::time::timeout(shutdown, electing).await;
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), serving).await;
        result
    }
}

struct Leader {
    cluster: Cluster,
    evaluator: Arc<dyn Evaluator>,
    settings: Settings,
    metrics: Metrics,
    health: Health,
    authority: Authority,
}

impl Leader {
    /// Leads whenever this process holds the Lease, until `stop`.
    async fn lead_while_elected(&self, stop: &CancellationToken) {
        let mut authority = self.authority.clone();
        while !stop.is_cancelled() {
            self.check_as_standby().await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = authority.acquired() => {}
                () = tokio::time::sleep(Duration::from_secs(10)) => continue,
            }
            self.lead(stop).await;
        }
    }

    /// `/readyz` of a standby needs an API server that serves Keyward's kinds.
    async fn check_as_standby(&self) {
        match self.cluster_encryption().await {
            Ok(_) => self.health.reached(),
            Err(error @ Error::CrdsMissing(_)) => {
                tracing::error!("{error}");
                self.health.hindered(error.to_string());
            }
            Err(error) => tracing::warn!("standby cannot reach the API server: {error}"),
        }
    }

    async fn cluster_encryption(&self) -> Result<Option<ClusterEncryption>, Error> {
        let found = self.cluster.get(None, names::CLUSTER).await;
        found.map_err(|error| match error.category() {
            Category::NotServed => Error::CrdsMissing("clusterencryptions".to_owned()),
            _ => Error::Call(error),
        })
    }

    /// One term: until the Lease is lost, `stop`, or one of its tasks ends unexpectedly.
    async fn lead(&self, stop: &CancellationToken) {
        let term = stop.child_token();
        let signals = Signals::default();
        let mut watches = trigger::watch(&self.cluster, &signals, &self.metrics);
        let engine = Engine::new(self.cluster.clone(), self.settings.migration, self.metrics.clone());
        let mut migrating = tokio::spawn(engine.run(Arc::clone(&signals.migrate), term.clone()));
        // A future that ended must not be polled again.
        let (mut decided, mut migrated) = (false, false);
        let deciding = self.decide(&signals, &term);
        tokio::pin!(deciding);
        let mut authority = self.authority.clone();
        self.metrics.leads(true);
        tokio::select! {
            // First: a task that ends because of `stop` did not end unexpectedly.
            biased;
            () = stop.cancelled() => tracing::info!("stopping after the current write"),
            () = authority.lost() => tracing::warn!("leadership lost"),
            () = &mut deciding => decided = true,
            _ = watches.join_next() => self.task_ended("watch"),
            _ = &mut migrating => {
                migrated = true;
                self.task_ended("migration");
            }
        }
        self.metrics.leads(false);
        term.cancel();
        let finish = async {
            let deciding = async {
                if !decided {
                    deciding.await;
                }
            };
            let migrating = async {
                if !migrated {
                    let _ = (&mut migrating).await;
                }
            };
            tokio::join!(deciding, migrating);
        };
        if tokio::time::timeout(self.settings.shutdown, finish).await.is_err() {
            tracing::warn!("the current work did not end in time and was cancelled");
        }
        migrating.abort();
        self.metrics.end_term();
    }

    fn task_ended(&self, task: &'static str) {
        self.metrics.panicked(task);
        tracing::error!(task, "a task ended unexpectedly; this operator begins a new term");
    }

    /// Runs one reconcile pass after another, until `term` ends.
    async fn decide(&self, signals: &Signals, term: &CancellationToken) {
        let mut reconciler = Reconciler {
            cluster: self.cluster.clone(),
            evaluator: Arc::clone(&self.evaluator),
            authority: self.authority.clone(),
            stop: term.clone(),
            metrics: self.metrics.clone(),
            instance: self.settings.identity.clone(),
            ages: Ages::default(),
            notices: Notices::default(),
            troubles: Troubles::default(),
            announced: None,
            announcing: None,
            referenced: BTreeSet::new(),
        };
        self.reconcile_loop(&mut reconciler, signals, term).await;
        reconciler.finish().await;
    }

    /// One reconcile pass. The first pass of a term reads which reports were silent before it; otherwise all would
    /// count as just seen.
    async fn pass(&self, reconciler: &mut Reconciler, resumed: &mut bool) -> Result<Next, Error> {
        if !*resumed {
            let status = self.cluster_encryption().await?.and_then(|found| found.status);
            let since = status.map(|status| status.since).unwrap_or_default();
            reconciler.ages = Ages::resumed(&since, Timestamp::now());
            *resumed = true;
        }
        reconciler.run().await
    }

    async fn reconcile_loop(&self, reconciler: &mut Reconciler, signals: &Signals, term: &CancellationToken) {
        let (mut backoff, mut failures) = (Backoff::default(), Failures::default());
        let mut writes_in_a_row = 0_u32;
        let mut resumed = false;
        while !term.is_cancelled() {
            self.health.busy(true);
            let result = AssertUnwindSafe(self.pass(reconciler, &mut resumed)).catch_unwind().await;
            self.health.busy(false);
            let pause = match result {
                Ok(Ok(next)) => {
                    self.health.reached();
                    backoff.reset();
                    if let Some((times, lasted)) = failures.over(Instant::now()) {
                        tracing::info!(times, seconds = lasted.as_secs(), "reconcile recovered");
                    }
                    writes_in_a_row = if next.again { writes_in_a_row.saturating_add(1) } else { 0 };
                    pause(next, writes_in_a_row, self.settings.resync)
                }
                Ok(Err(Error::NotWriter)) => return,
                Ok(Err(error)) => {
                    let pause = backoff.next();
                    if matches!(error, Error::CrdsMissing(_)) {
                        self.health.hindered(error.to_string());
                    }
                    let error_text = error.to_string();
                    if failures.is_new(&error_text, Instant::now()) {
                        tracing::error!(category = error.category(), ?pause, "reconcile: {error_text}");
                    } else {
                        tracing::debug!(category = error.category(), ?pause, "reconcile: {error_text}");
                    }
                    Pause { at_most: pause, patient: true }
                }
                Err(_) => {
                    self.metrics.panicked("reconcile");
                    reconciler
                        .undecided("internal error: a reconcile pass panicked; please report this bug")
                        .await;
                    let pause = backoff.next();
                    tracing::error!(
                        ?pause,
                        "internal error: a reconcile pass panicked; please report this bug"
                    );
                    Pause { at_most: pause, patient: true }
                }
            };
            let ended = Instant::now();
            tokio::select! {
                () = tokio::time::sleep(pause.at_most) => continue,
                () = signals.decide.notified(), if !pause.patient => {}
                () = signals.spec_changed.notified() => {}
                () = term.cancelled() => return,
            }
            // The first event after an idle time starts a pass at once; events that follow closely share one pass.
            tokio::time::sleep(self.settings.debounce.saturating_sub(ended.elapsed())).await;
        }
    }
}

/// How long to wait for the next reconcile pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pause {
    at_most: Duration,
    /// Only a change of the spec ends the pause early: other events must not defeat a back-off.
    patient: bool,
}

fn pause(next: Next, writes_in_a_row: u32, resync: Duration) -> Pause {
    if writes_in_a_row > MOST_WRITES_IN_A_ROW {
        tracing::warn!(writes_in_a_row, "every reconcile pass writes something; slowing down");
        let longer = Duration::from_millis(200) * (writes_in_a_row - MOST_WRITES_IN_A_ROW).min(50);
        return Pause { at_most: longer, patient: true };
    }
    let at_most = if next.again { Duration::ZERO } else { next.after.unwrap_or(resync).min(resync) };
    Pause { at_most, patient: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_pass_starts_at_once_after_a_write_and_later_if_writes_do_not_end() {
        let resync = Duration::from_mins(1);
        let next = |again, after| Next { again, after };
        assert_eq!(pause(next(true, None), 1, resync).at_most, Duration::ZERO);
        assert_eq!(pause(next(false, None), 0, resync), Pause { at_most: resync, patient: false });
        let soon = Duration::from_secs(5);
        assert_eq!(pause(next(false, Some(soon)), 0, resync).at_most, soon);
        let slow = pause(next(true, None), MOST_WRITES_IN_A_ROW + 10, resync);
        assert!(slow.patient && slow.at_most > Duration::from_secs(1));
    }
}
