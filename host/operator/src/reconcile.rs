//! One reconcile pass: fetch, resolve, decide, write, report.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::Role;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use keyward_core::SecretBytes;
use keyward_core::api::ClusterEncryption;
use keyward_core::outcome::{Action, Outcome};
use keyward_core::platform::{FreshBytes, Given, ObjectRef, Objects, kubernetes};
use keyward_core::provider::Evaluator;

use crate::ages::Ages;
use crate::cluster::{CallError, Category, Cluster};
use crate::error::Error;
use crate::events::{self, Announcement, Notices};
use crate::lease::Authority;
use crate::metrics::Metrics;
use crate::rights::Account;
use crate::status::Pass;
use crate::troubles::Troubles;
use crate::writer::{Applied, Writer};
use crate::{fetch, results, roles, status};

/// What one term keeps from one reconcile pass to the next. A new term begins without it: all waits restart.
pub(crate) struct Reconciler {
    pub(crate) cluster: Cluster,
    pub(crate) evaluator: Arc<dyn Evaluator>,
    pub(crate) authority: Authority,
    /// Asks to stop: the current write is finished, and no other begins.
    pub(crate) stop: CancellationToken,
    pub(crate) metrics: Metrics,
    /// This process, in Events.
    pub(crate) instance: String,
    pub(crate) ages: Ages,
    pub(crate) notices: Notices,
    pub(crate) troubles: Troubles,
    /// The last failure that was announced, so that each is announced once.
    pub(crate) announced: Option<String>,
    /// Events that are being written.
    pub(crate) announcing: Option<JoinHandle<()>>,
    /// The objects that the configurations of the last decision referred to.
    pub(crate) referenced: BTreeSet<ObjectRef>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Next {
    /// Something was written, or another writer was first: start another pass at once.
    pub(crate) again: bool,
    /// Start another pass after this time, also without an event of a watch.
    pub(crate) after: Option<Duration>,
}

impl Reconciler {
    /// One reconcile pass in one span. Its result and duration are in the metrics.
    pub(crate) async fn run(&mut self) -> Result<Next, Error> {
        let began = Instant::now();
        let span = tracing::info_span!("reconcile", operand = keyward_core::names::KUBE_APISERVER);
        // Boxed: otherwise all that is read and decided is a part of every future around it.
        let result = Box::pin(self.reconcile()).instrument(span.clone()).await;
        if let Err(Undecided(error)) = &result {
            self.undecided(&error.to_string()).instrument(span).await;
        }
        let result = result.unwrap_or_else(|Undecided(error)| Err(error));
        let label = match &result {
            Ok(_) => "ok",
            Err(error) => error.category(),
        };
        self.metrics.reconciled(label, began.elapsed());
        result
    }

    /// Decides, writes and reports. The inner result is that of the writes.
    async fn reconcile(&mut self) -> Result<Result<Next, Error>, Undecided> {
        tracing::debug!("reconcile started");
        // Concurrently: in no order are these reads a snapshot of one moment, which is why every write has a
        // precondition (invariant: write-with-precondition). The Role is not a part of a decision; it is compared
        // after each. Objects that were referenced last time are read again here; others are read once the
        // evaluations name them.
        let (objects, role, read) = tokio::join!(
            fetch::objects(&self.cluster, Some(Account::Own)),
            roles::read(&self.cluster),
            fetch::references(&self.cluster, self.referenced.clone()),
        );
        if objects.is_err() {
            self.ages.read_failed();
        }
        let objects = objects?;
        tracing::debug!("objects read");
        let Some(mut cluster_encryption) = objects.cluster_encryption.clone() else {
            tracing::debug!("there is no ClusterEncryption/cluster; nothing to do");
            self.ages.clear();
            return Ok(Ok(Next::default()));
        };
        let results = results::resolve(&self.cluster, &self.evaluator, &objects, read, &self.metrics).await;
        if results.is_err() {
            self.ages.read_failed();
        }
        let results = results?;
        self.referenced = results::referenced(&results);
        let given = Given { now: Timestamp::now(), ages: self.ages.at(Instant::now()), fresh: fresh()? };
        let Some(snapshot) = kubernetes::snapshot(&objects, &results, given) else {
            return Ok(Ok(Next::default()));
        };
        let outcome = keyward_core::reconcile(&snapshot);
        drop((snapshot, results));
        self.ages.observe(&outcome.facts, Instant::now(), Timestamp::now());
        self.metrics.decided(&outcome);
        tracing::debug!(
            converged = outcome.converged,
            waiting = outcome.waiting.as_ref().map(|waiting| waiting.reason.as_str()),
            actions = outcome.actions.len(),
            "decided"
        );

        let applied = self.apply(&objects, role, &outcome, &mut cluster_encryption).await;
        tracing::debug!(count = applied.count, "writes applied");
        if let (Some(_), Some(Action::ReencryptOwn { .. })) =
            (&applied.failure, outcome.actions.get(applied.count))
        {
            self.ages.restart_forget_requests();
        }
        let announcements = self.announcements(&outcome, &applied);
        log(announcements.iter().filter(|announcement| announcement.warning));
        self.announce(announcements, &cluster_encryption).await;
        let reported = self.report(&outcome, &applied, &cluster_encryption).await;
        tracing::debug!("status published");
        let again = applied.count > 0;
        Ok(match applied.failure {
            Some(failure) if failure.is_conflict() => {
                tracing::info!("write conflict, deciding again: {failure}");
                Ok(Next { again: true, after: outcome.requeue_after })
            }
            Some(failure) => Err(failure),
            None => reported.map(|reported| Next { again: again || !reported, after: outcome.requeue_after }),
        })
    }

    /// Writes the agents' Role first: a node must be able to read its new target (objects: agent-role).
    async fn apply(
        &self,
        objects: &Objects,
        role: Result<Option<Role>, CallError>,
        outcome: &Outcome,
        cluster_encryption: &mut ClusterEncryption,
    ) -> Applied {
        if !self.authority.holds() {
            return Applied { count: 0, failure: Some(Error::NotWriter) };
        }
        let readable = roles::readable(objects, &outcome.actions);
        let ensured = match role {
            Ok(role) => roles::ensure(&self.cluster, role, &readable).await,
            Err(error) => Err(error),
        };
        if let Err(error) = ensured {
            return Applied { count: 0, failure: Some(error.into()) };
        }
        let writer = Writer {
            cluster: &self.cluster,
            authority: &self.authority,
            stop: &self.stop,
            metrics: &self.metrics,
            objects,
        };
        writer.apply(&outcome.actions, cluster_encryption).await
    }

    /// Events: new notices, actions that were carried out, and a failure.
    fn announcements(&mut self, outcome: &Outcome, applied: &Applied) -> Vec<Announcement> {
        let mut announcements = self.notices.new_ones(&outcome.notices, Instant::now());
        let done = outcome.actions.iter().take(applied.count);
        announcements.extend(done.filter_map(events::of_action));
        let failed: Option<&Action> = outcome.actions.get(applied.count);
        let failure = applied.failure.as_ref().and_then(|error| events::of_failure(failed, error));
        let note = failure.as_ref().map(|announcement| announcement.note.clone());
        if note != self.announced {
            announcements.extend(failure);
            self.announced = note;
        }
        announcements
    }

    /// Writes Events in the background, since nothing depends on them; those of one decision at a time.
    async fn announce(&mut self, announcements: Vec<Announcement>, about: &ClusterEncryption) {
        if announcements.is_empty() {
            return;
        }
        self.finish().await;
        let (cluster, instance, about) = (self.cluster.clone(), self.instance.clone(), about.clone());
        self.announcing = Some(tokio::spawn(async move {
            events::publish(&cluster, &instance, &about, &announcements).await;
        }));
    }

    /// Waits for the Events that are being written.
    pub(crate) async fn finish(&mut self) {
        if let Some(announcing) = self.announcing.take() {
            let _ = announcing.await;
        }
    }

    /// Updates the status once, if something changed. `false` after a write conflict: it has to be done again.
    async fn report(
        &mut self,
        outcome: &Outcome,
        applied: &Applied,
        cluster_encryption: &ClusterEncryption,
    ) -> Result<bool, Error> {
        let before = cluster_encryption.status.clone().unwrap_or_default();
        let generation = cluster_encryption.metadata.generation.unwrap_or_default();
        let since = self.ages.since(&outcome.unrecorded);
        let until = outcome.until.as_ref().and_then(|until| {
            let began = self.ages.began(&until.fact)?;
            began.checked_add(until.after).ok()
        });
        let failure = applied.failure.as_ref();
        let pass = Pass { generation, failure, until, now: Timestamp::now() };
        let after = status::merged(&before, outcome, since, &pass);
        if cluster_encryption.status.as_ref() != Some(&after) {
            if !self.authority.holds() {
                return Err(Error::NotWriter);
            }
            let reported = ClusterEncryption { status: Some(after.clone()), ..cluster_encryption.clone() };
            match self.cluster.replace_status(&reported).await {
                Ok(_) => {}
                Err(error) if error.category() == Category::Conflict => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        let ended = self.troubles.ended(&before.conditions, &after.conditions);
        log(&ended);
        self.announce(ended, cluster_encryption).await;
        Ok(true)
    }

    /// Records that no decision was possible, so it is unknown whether everything is as the spec asks. If this write
    /// fails, the next pass writes its own result.
    pub(crate) async fn undecided(&self, why: &str) {
        if !self.authority.holds() {
            return;
        }
        let found = self.cluster.get::<ClusterEncryption>(None, keyward_core::names::CLUSTER).await;
        let Ok(Some(found)) = found else { return };
        let before = found.status.clone().unwrap_or_default();
        let generation = found.metadata.generation.unwrap_or_default();
        let after = status::undecided(&before, why, generation, Timestamp::now());
        if before != after {
            let reported = ClusterEncryption { status: Some(after), ..found };
            if let Err(error) = self.cluster.replace_status(&reported).await {
                tracing::debug!("cannot write to the status that no decision was possible: {error}");
            }
        }
    }
}

/// A pass ended before it decided.
struct Undecided(Error);

impl<E: Into<Error>> From<E> for Undecided {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// Logs what is announced.
fn log<'a>(announcements: impl IntoIterator<Item = &'a Announcement>) {
    for announcement in announcements {
        let (reason, note) = (&announcement.reason, &announcement.note);
        if announcement.warning {
            tracing::warn!(reason, "{note}");
        } else {
            tracing::info!(reason, "{note}");
        }
    }
}

/// Random bytes for a key and a salt that this pass may create.
pub(crate) fn fresh() -> Result<FreshBytes, Error> {
    Ok(FreshBytes { key: random()?, salt: random()? })
}

fn random() -> Result<SecretBytes, Error> {
    let mut bytes = vec![0; 32];
    getrandom::fill(&mut bytes).map_err(|error| Error::Randomness(error.to_string()))?;
    Ok(SecretBytes::new(bytes))
}
