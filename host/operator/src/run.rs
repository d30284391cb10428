//! The composition of an operator: server, Lease, and while it is held watches, decisions and migrations.

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
use crate::trigger::{self, Bells};
use crate::troubles::{Failures, Troubles};

/// So many reconciles in a row may write something; more look like a decision that does not come to rest, and are
/// slowed down.
const RESTLESS: u32 = 30;

/// An operator that is bound and not running yet.
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
    /// Binds the HTTP server; nothing else happens yet. The client should come from
    /// [`connect`](crate::cluster::connect), which does not retry for minutes by itself.
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
            // At rest it is asked once a resync: one call that is lost, or slow, is no absence.
            health: Health::new(settings.resync * 2 + settings.call_timeout),
            settings,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Until `stop`: then the write under way is finished, cursors are written, the Lease is released. Without the
    /// Lease it stands by; losing it does not end the process. An error means that a task broke that should never end.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let Self { cluster, evaluator, settings, listener, address, metrics, health } = self;
        tracing::info!(%address, identity = settings.identity, "metrics and probes are served");
        let last = CancellationToken::new();
        let serving = tokio::spawn(http::serve(listener, health.clone(), metrics.clone(), last.clone()));
        let (elector, authority) =
            Elector::new(cluster.clone(), settings.identity.clone(), settings.lease_duration);
        let mut electing = tokio::spawn(elector.run(last.clone()));
        let office = Office { cluster, evaluator, settings, metrics, health, authority };
        let result = tokio::select! {
            () = office.hold_in_turn(&stop) => Ok(()),
            _ = &mut electing => Err(Error::Ended("the Lease's keeper")),
        };
        let shutdown = office.settings.shutdown;
        last.cancel();
        if result.is_ok() {
            let _ = tokio::time::timeout(shutdown, electing).await;
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), serving).await;
        result
    }
}

struct Office {
    cluster: Cluster,
    evaluator: Arc<dyn Evaluator>,
    settings: Settings,
    metrics: Metrics,
    health: Health,
    authority: Authority,
}

impl Office {
    /// Leads whenever the Lease is held, until `stop`.
    async fn hold_in_turn(&self, stop: &CancellationToken) {
        let mut authority = self.authority.clone();
        while !stop.is_cancelled() {
            self.stand_by().await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = authority.acquired() => {}
                () = tokio::time::sleep(Duration::from_secs(10)) => continue,
            }
            self.lead(stop).await;
        }
    }

    /// What `/readyz` of a standby stands on: an API server that serves our kinds.
    async fn stand_by(&self) {
        match self.cluster_encryption().await {
            Ok(_) => self.health.reached(),
            Err(error @ Error::CrdsMissing(_)) => {
                tracing::error!("{error}");
                self.health.hindered(error.to_string());
            }
            Err(error) => tracing::warn!("standing by: {error}"),
        }
    }

    async fn cluster_encryption(&self) -> Result<Option<ClusterEncryption>, Error> {
        let found = self.cluster.get(None, names::CLUSTER).await;
        found.map_err(|error| match error.category() {
            Category::NotServed => Error::CrdsMissing("clusterencryptions".to_owned()),
            _ => Error::Call(error),
        })
    }

    /// One term of office: until the Lease is lost, `stop`, or a task of it breaks.
    async fn lead(&self, stop: &CancellationToken) {
        let term = stop.child_token();
        let bells = Bells::default();
        let mut watches = trigger::watch(&self.cluster, &bells, &self.metrics);
        let engine = Engine::new(self.cluster.clone(), self.settings.migration, self.metrics.clone());
        let mut migrating = tokio::spawn(engine.run(Arc::clone(&bells.migrate), term.clone()));
        // What has ended must not be waited for again.
        let (mut decided, mut migrated) = (false, false);
        let deciding = self.decide(&bells, &term);
        tokio::pin!(deciding);
        let mut authority = self.authority.clone();
        self.metrics.leads(true);
        tokio::select! {
            // What ends because it was asked to has not broken.
            biased;
            () = stop.cancelled() => tracing::info!("stopping: what is under way is finished"),
            () = authority.lost() => tracing::warn!("the term ends: the Lease is not ours any more"),
            () = &mut deciding => decided = true,
            _ = watches.join_next() => self.broke("watch"),
            _ = &mut migrating => {
                migrated = true;
                self.broke("migration");
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
            tracing::warn!("what was under way did not end in time, and is dropped");
        }
        migrating.abort();
        self.metrics.end_term();
    }

    fn broke(&self, task: &'static str) {
        self.metrics.panicked(task);
        tracing::error!(task, "a task broke: the term ends and a new one begins");
    }

    /// Decides whenever there is reason to, one at a time, until `term` ends.
    async fn decide(&self, bells: &Bells, term: &CancellationToken) {
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
        self.decide_in_turn(&mut reconciler, bells, term).await;
        reconciler.finish().await;
    }

    /// One reconcile. None before it is known who was silent when the term began: else they would all be just seen.
    async fn look(&self, reconciler: &mut Reconciler, resumed: &mut bool) -> Result<Next, Error> {
        if !*resumed {
            let status = self.cluster_encryption().await?.and_then(|found| found.status);
            let since = status.map(|status| status.since).unwrap_or_default();
            reconciler.ages = Ages::resumed(&since, Timestamp::now());
            *resumed = true;
        }
        reconciler.run().await
    }

    async fn decide_in_turn(&self, reconciler: &mut Reconciler, bells: &Bells, term: &CancellationToken) {
        let (mut backoff, mut failures) = (Backoff::default(), Failures::default());
        let mut writes_in_a_row = 0_u32;
        let mut resumed = false;
        while !term.is_cancelled() {
            self.health.busy(true);
            let result = AssertUnwindSafe(self.look(reconciler, &mut resumed)).catch_unwind().await;
            self.health.busy(false);
            let pause = match result {
                Ok(Ok(next)) => {
                    self.health.reached();
                    backoff.reset();
                    if let Some((times, lasted)) = failures.over(Instant::now()) {
                        tracing::info!(times, seconds = lasted.as_secs(), "reconcile works again");
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
                    if failures.is_news(&error_text, Instant::now()) {
                        tracing::error!(category = error.category(), ?pause, "reconcile: {error_text}");
                    } else {
                        tracing::debug!(category = error.category(), ?pause, "reconcile: {error_text}");
                    }
                    Pause { at_most: pause, patient: true }
                }
                Err(_) => {
                    self.metrics.panicked("reconcile");
                    reconciler.undecided("a reconcile panicked: a bug, please report it").await;
                    let pause = backoff.next();
                    tracing::error!(?pause, "a reconcile panicked: a bug, please report it");
                    Pause { at_most: pause, patient: true }
                }
            };
            let rested = Instant::now();
            tokio::select! {
                () = tokio::time::sleep(pause.at_most) => continue,
                () = bells.decide.notified(), if !pause.patient => {}
                () = bells.wish.notified() => {}
                () = term.cancelled() => return,
            }
            // The first word of something is acted on at once; what follows close behind is waited out together.
            tokio::time::sleep(self.settings.debounce.saturating_sub(rested.elapsed())).await;
        }
    }
}

/// How long to wait for a reason to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pause {
    at_most: Duration,
    /// Only another wish of the admin's is reason enough: what was announced meanwhile must not defeat a back-off.
    patient: bool,
}

fn pause(next: Next, writes_in_a_row: u32, resync: Duration) -> Pause {
    if writes_in_a_row > RESTLESS {
        tracing::warn!(writes_in_a_row, "decisions do not come to rest: slowing down");
        let longer = Duration::from_millis(200) * (writes_in_a_row - RESTLESS).min(50);
        return Pause { at_most: longer, patient: true };
    }
    let at_most = if next.again { Duration::ZERO } else { next.after.unwrap_or(resync).min(resync) };
    Pause { at_most, patient: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_again_at_once_after_a_write_and_slows_down_where_writes_do_not_end() {
        let resync = Duration::from_mins(1);
        let next = |again, after| Next { again, after };
        assert_eq!(pause(next(true, None), 1, resync).at_most, Duration::ZERO);
        assert_eq!(pause(next(false, None), 0, resync), Pause { at_most: resync, patient: false });
        let soon = Duration::from_secs(5);
        assert_eq!(pause(next(false, Some(soon)), 0, resync).at_most, soon);
        let restless = pause(next(true, None), RESTLESS + 10, resync);
        assert!(restless.patient && restless.at_most > Duration::from_secs(1));
    }
}
