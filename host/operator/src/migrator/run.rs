//! One migration, from its cursor to its end.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use keyward_core::api::{EncryptionMigration, EncryptionMigrationStatus};
use keyward_core::ids::{GroupResource, KeyId};

use super::discovery::{self, Found, Served};
use super::pace::Pace;
use super::progress::Progress;
use super::rewrite::{RewriteOutcome, Rewriter, Rights, rights};
use super::streak::{Halt, IN_A_ROW, Streak, sample};
use super::verdict::Start;
use crate::cluster::{CallError, Category, Cluster, Meta, Pager, Step, full_name};
use crate::metrics::Metrics;

/// The `keyID` of a migration that decrypts.
const NO_KEY: KeyId = KeyId(0);
/// Attempts to write the status. After as many conflicts in a row the run ends, and resumes from its cursor.
const STATUS_TRIES: u32 = 3;

/// What every run needs.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    pub(super) cluster: Cluster,
    pub(super) pace: Pace,
    pub(super) metrics: Metrics,
    /// How often progress is written.
    pub(super) report: Duration,
    /// A shorter outage fails no object.
    pub(super) patience: Duration,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Every object was tried; the status has the result.
    Finished,
    /// The EncryptionMigration is gone, or has another spec.
    Superseded,
    /// The run was asked to stop; the cursor is written.
    Stopped,
}

/// Why a run paused. It is resumed from its cursor.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("paused: {0}")]
    Away(String),
    /// One object after the other fails. `since` is kept over the pause.
    #[error("paused: {IN_A_ROW} objects in a row could not be rewritten; last error: {message}")]
    AllFail { since: Instant, message: String },
    /// The same for longer than a run waits, and no object is the reason. The run ends with this reason.
    #[error(
        "for more than {} s, {IN_A_ROW} objects in a row could be read but not written; the others were not tried; last error: {message}",
        .patience.as_secs()
    )]
    Outage { patience: Duration, message: String },
}

/// `Break` has the result of [`Run::rewrite_all`]: `None` when nothing is left to do.
type Flow = ControlFlow<Option<End>>;

/// One object to rewrite.
struct Work {
    /// Its place in the list; `None` if it is retried.
    ticket: Option<u64>,
    name: String,
    listed: Option<ObjectMeta>,
}

pub(super) struct Run<'a> {
    tools: &'a Tools,
    stop: CancellationToken,
    migration: EncryptionMigration,
    progress: Progress,
    reported: Instant,
    streak: Streak,
    /// Reviewed once, if a request is refused although the run began with all permissions.
    rights: Arc<OnceCell<Rights>>,
}

impl<'a> Run<'a> {
    /// `failing_since`: since when each object fails, if the run before paused because of that.
    pub(super) fn new(
        tools: &'a Tools,
        migration: EncryptionMigration,
        stop: CancellationToken,
        failing_since: Option<Instant>,
    ) -> Self {
        let now = Instant::now();
        let progress = Progress::resumed(&migration, now);
        let streak = Streak::new(failing_since);
        Self { tools, stop, migration, progress, reported: now, streak, rights: Arc::default() }
    }

    pub(super) async fn execute(mut self) -> Result<End, RunError> {
        let ended = self.rewrite_all().await;
        // Progress is written in every case: the next run continues there.
        let now = Instant::now();
        let (status, ended) = match ended {
            Ok(Some(end)) => (self.progress.running(now), Ok(end)),
            Ok(None) => (self.progress.finished(now, Timestamp::now()), Ok(End::Finished)),
            Err(error @ RunError::Outage { .. }) => {
                self.progress.refused = Some(error.to_string());
                (self.progress.finished(now, Timestamp::now()), Ok(End::Finished))
            }
            Err(error) => {
                self.progress.wait(error.to_string(), Timestamp::now());
                (self.progress.running(now), Err(error))
            }
        };
        if matches!(ended, Ok(End::Superseded)) {
            return ended;
        }
        match self.persist(status).await {
            Ok(true) => ended,
            Ok(false) => Ok(End::Superseded),
            Err(error) => ended.and(Err(error.into())),
        }
    }

    /// `Ok(None)` when every object was tried.
    async fn rewrite_all(&mut self) -> Result<Option<End>, RunError> {
        let resource = GroupResource::parse(&self.migration.spec.resource);
        let served = match discovery::look_up(&self.tools.cluster, &resource).await? {
            Found::Served(served) => served,
            // Kubernetes deleted its objects with its CustomResourceDefinition.
            Found::Absent if self.migration.spec.key_id == NO_KEY => {
                return self.nothing_is_stored().await;
            }
            found => {
                self.progress.refused = Some(found.message(&resource, self.migration.spec.key_id == NO_KEY));
                return Ok(None);
            }
        };
        if let Rights::Missing(missing) = rights(self.tools, &resource).await? {
            self.progress.refused = Some(missing);
            return Ok(None);
        }
        if self.progress.start_version.is_none() {
            // Core requests a migration only when no write under an older key is in flight any more.
            self.progress.start_version = Some(self.version(&served, &resource).await?);
        }
        // Before the first patch: after a restart the same version counts.
        if !self.report().await? {
            return Ok(Some(End::Superseded));
        }
        if let Some(name) = self.progress.failures.last().filter(|_| self.streak.since().is_some()) {
            let probe = vec![Work { ticket: None, name, listed: None }];
            if let ControlFlow::Break(end) = self.rewrite(&served, &resource, probe).await? {
                return Ok(end);
            }
            self.pause_if_failing()?;
        }
        loop {
            if !self.progress.listed
                && let ControlFlow::Break(end) = self.list(&served, &resource).await?
            {
                return Ok(end);
            }
            if let ControlFlow::Break(end) = self.settle(&served, &resource).await? {
                return Ok(end);
            }
            // Failed objects without a name are found by their versions.
            if !self.progress.must_list_again() {
                break;
            }
        }
        if self.progress.failures.count() == 0 && self.progress.end_version.is_none() {
            // The version after the last rewrite: once etcd has compacted it, no older value can be read.
            self.progress.end_version = Some(self.version(&served, &resource).await?);
        }
        Ok(None)
    }

    /// The end of a decryption whose resource has no objects any more.
    async fn nothing_is_stored(&mut self) -> Result<Option<End>, RunError> {
        self.progress.nothing_is_left();
        if self.progress.end_version.is_none() {
            // All resources share etcd's versions; deleted objects are in its history until that is compacted.
            self.progress.end_version = Some(discovery::version(&self.tools.cluster).await?);
        }
        Ok(None)
    }

    async fn version(&self, served: &Served, resource: &GroupResource) -> Result<String, CallError> {
        let pager: Pager<Meta> = Pager::of(served.everything(), &resource.to_string(), served.scope());
        pager.metadata_only().version(&self.tools.cluster).await
    }

    /// Rewrites the whole collection, page by page.
    async fn list(&mut self, served: &Served, resource: &GroupResource) -> Result<Flow, RunError> {
        let pager = |behind: Option<&str>| -> Pager<Meta> {
            let pager = Pager::of(served.everything(), &resource.to_string(), served.scope());
            pager.metadata_only().behind(behind)
        };
        let mut listed = pager(self.progress.track.cursor());
        let mut begins = true;
        loop {
            let step = tokio::select! {
                step = listed.next(&self.tools.cluster) => step,
                () = self.stop.cancelled() => return Ok(ControlFlow::Break(Some(End::Stopped))),
            };
            if step.is_ok() && self.streak.since().is_none() {
                self.progress.waiting = None;
            }
            match step {
                Ok(Step::End) => {
                    self.progress.listed = true;
                    return Ok(ControlFlow::Continue(()));
                }
                Ok(Step::Undecodable(bad)) => {
                    let message = format!(
                        "{}; restore the key that decrypts it, or delete the object",
                        bad.error.cause
                    );
                    let ticket = Some(self.progress.track.issue());
                    let work = Work { ticket, name: bad.name, listed: None };
                    self.outcome(resource, &work, RewriteOutcome::Failed(message))?;
                    if self.reported.elapsed() >= self.tools.report && !self.report().await? {
                        return Ok(ControlFlow::Break(Some(End::Superseded)));
                    }
                }
                Ok(Step::Page(page)) => {
                    self.progress.listed_page(page.items.len(), page.remaining);
                    let work = page.items.into_iter().map(|object| Work {
                        ticket: Some(self.progress.track.issue()),
                        name: full_name(&object.metadata),
                        listed: Some(object.metadata),
                    });
                    let work: Vec<Work> = work.collect();
                    let (first, rest) = if self.streak.must_sample(Instant::now(), self.tools.patience) {
                        sample(work, usize::try_from(IN_A_ROW).unwrap_or(usize::MAX))
                    } else {
                        (Vec::new(), work)
                    };
                    for work in [first, rest] {
                        if let ControlFlow::Break(end) = self.rewrite(served, resource, work).await? {
                            return Ok(ControlFlow::Break(end));
                        }
                    }
                }
                // The list cannot begin behind the cursor. Rewriting an object twice changes nothing.
                Err(error) if begins && listed.refuses_start(&error) => {
                    self.progress.restart();
                    listed = pager(None);
                }
                Err(error) if error.category() == Category::Forbidden => {
                    if let Rights::Missing(missing) = rights(self.tools, resource).await? {
                        self.progress.refused = Some(missing);
                        return Ok(ControlFlow::Break(None));
                    }
                    return Err(error.into());
                }
                Err(error) => return Err(error.into()),
            }
            begins = false;
        }
    }

    /// Retries failed objects, with growing pauses, until they are done or have failed for longer than a short outage.
    async fn settle(&mut self, served: &Served, resource: &GroupResource) -> Result<Flow, RunError> {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_secs(1))
            .with_max_delay(Duration::from_secs(15))
            .without_max_times()
            .build();
        loop {
            let due = self.progress.failures.due(Instant::now(), self.tools.patience);
            if due.is_empty() {
                return Ok(ControlFlow::Continue(()));
            }
            let again = due.into_iter().map(|name| Work { ticket: None, name, listed: None }).collect();
            if let ControlFlow::Break(end) = self.rewrite(served, resource, again).await? {
                return Ok(ControlFlow::Break(end));
            }
            if self.progress.failures.due(Instant::now(), self.tools.patience).is_empty() {
                continue;
            }
            if !self.report().await? {
                return Ok(ControlFlow::Break(Some(End::Superseded)));
            }
            let pause = pauses.next().unwrap_or(self.tools.patience).min(self.tools.patience);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return Ok(ControlFlow::Break(Some(End::Stopped))),
            }
        }
    }

    /// Rewrites these objects, several at once.
    async fn rewrite(
        &mut self,
        served: &Served,
        resource: &GroupResource,
        work: Vec<Work>,
    ) -> Result<Flow, RunError> {
        let (halt, tools, rights) = (self.stop.child_token(), self.tools, Arc::clone(&self.rights));
        let each = Rewriter {
            tools,
            served,
            resource,
            start: Start::of(self.progress.start_version.as_deref()),
            skips_newer: self.migration.spec.continues.is_some() || self.progress.lists_again,
            halt: &halt,
            rights: &rights,
        };
        let mut rewrites = futures::stream::iter(work)
            .map(|work| {
                let each = &each;
                async move {
                    let outcome = each.rewrite(&work.name, work.listed.as_ref()).await;
                    (work, outcome)
                }
            })
            .buffer_unordered(tools.pace.ceiling());
        let (mut refused, mut paused, mut stopped) = (None, None, false);
        loop {
            tokio::select! {
                next = rewrites.next() => match next {
                    None => break,
                    Some((_, RewriteOutcome::Refused(message))) => {
                        halt.cancel();
                        refused.get_or_insert(message);
                    }
                    Some((_, RewriteOutcome::Skipped)) => stopped = true,
                    Some((work, outcome)) => {
                        if let Err(error) = self.outcome(resource, &work, outcome) {
                            halt.cancel();
                            paused.get_or_insert(error);
                        }
                    }
                },
                () = tokio::time::sleep_until((self.reported + tools.report).into()) => {
                    if !self.report().await? {
                        return Ok(ControlFlow::Break(Some(End::Superseded)));
                    }
                }
            }
        }
        drop(rewrites);
        if let Some(message) = refused {
            // This credential cannot rewrite anything: the run ends with this reason.
            self.progress.refused = Some(message);
            return Ok(ControlFlow::Break(None));
        }
        match paused {
            Some(error) => Err(error),
            None if stopped => Ok(ControlFlow::Break(Some(End::Stopped))),
            None => Ok(ControlFlow::Continue(())),
        }
    }

    fn outcome(
        &mut self,
        resource: &GroupResource,
        work: &Work,
        outcome: RewriteOutcome,
    ) -> Result<(), RunError> {
        let shared = matches!(outcome, RewriteOutcome::Failing(_));
        let label = match outcome {
            RewriteOutcome::Skipped | RewriteOutcome::Refused(_) => return Ok(()),
            RewriteOutcome::Away(message) => return Err(RunError::Away(message)),
            RewriteOutcome::Failed(message) | RewriteOutcome::Failing(message) => {
                tracing::warn!(%resource, object = work.name, "not rewritten: {message}");
                match work.ticket {
                    Some(_) => self.progress.failures.add(work.name.clone(), message, Instant::now()),
                    None => self.progress.failures.failed_again(&work.name, message),
                }
                "failed"
            }
            RewriteOutcome::Done(outcome) => {
                self.progress.done(&work.name, outcome, work.ticket.is_none());
                outcome
            }
        };
        self.tools.metrics.migrated(&resource.to_string(), label);
        if let Some(ticket) = work.ticket {
            self.progress.track.finish(ticket, work.name.clone());
        }
        if label != "failed" {
            self.streak.ended();
            return Ok(());
        }
        let now = Instant::now();
        self.streak.failed(shared, now);
        // Retries by name have their own pauses.
        match self.streak.halt(now, self.tools.patience).filter(|_| work.ticket.is_some()) {
            None => Ok(()),
            Some(Halt::Pause) => Err(self.all_fail(self.streak.since().unwrap_or(now))),
            Some(Halt::End) => {
                Err(RunError::Outage { patience: self.tools.patience, message: self.last_failure() })
            }
        }
    }

    /// Pauses while one object after the other fails: no more objects are tried before the outage ends, or lasts
    /// longer than a short outage.
    fn pause_if_failing(&self) -> Result<(), RunError> {
        let since = self.streak.may_pass(Instant::now(), self.tools.patience);
        since.map_or(Ok(()), |since| Err(self.all_fail(since)))
    }

    fn all_fail(&self, since: Instant) -> RunError {
        RunError::AllFail { since, message: self.last_failure() }
    }

    fn last_failure(&self) -> String {
        let failures = self.progress.failures.kept();
        let last = failures.last();
        last.map(|last| format!("{}: {}", last.object, last.message)).unwrap_or_default()
    }

    async fn report(&mut self) -> Result<bool, CallError> {
        self.reported = Instant::now();
        let status = self.progress.running(Instant::now());
        self.persist(status).await
    }

    /// Writes the status, if it differs. `false` if this run is superseded. An error if it could not be written: the
    /// run must not count as finished without its status.
    async fn persist(&mut self, status: EncryptionMigrationStatus) -> Result<bool, CallError> {
        self.tools.metrics.migration(&self.migration.spec.resource, &status);
        if self.migration.status.as_ref() == Some(&status) {
            return Ok(true);
        }
        let before = self.migration.status.replace(status);
        let written = self.write_status().await;
        if written.is_err() {
            // Otherwise the same status would count as written the next time.
            self.migration.status = before;
        }
        written
    }

    async fn write_status(&mut self) -> Result<bool, CallError> {
        let mut tries = 0;
        // Another writer changes the spec: after a conflict it matters whether the generation changed.
        loop {
            tries += 1;
            match self.tools.cluster.replace_status(&self.migration).await {
                Ok(written) => {
                    self.migration.metadata.resource_version = written.metadata.resource_version;
                    return Ok(true);
                }
                Err(error) if error.category() == Category::NotFound => return Ok(false),
                Err(error) if error.category() == Category::Conflict && tries < STATUS_TRIES => {}
                Err(error) => return Err(error),
            }
            let name = self.migration.metadata.name.clone().unwrap_or_default();
            let found = self.tools.cluster.get::<EncryptionMigration>(None, &name).await?;
            let ours = &self.migration.metadata;
            match found {
                Some(found)
                    if found.metadata.uid == ours.uid && found.metadata.generation == ours.generation =>
                {
                    self.migration.metadata = found.metadata;
                }
                _ => return Ok(false),
            }
        }
    }
}
