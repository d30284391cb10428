//! One migration, from its cursor to its end.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::StreamExt as _;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use keyward_core::api::{EncryptionMigration, EncryptionMigrationStatus};
use keyward_core::ids::GroupResource;

use super::discovery::{self, Served};
use super::pace::{Load, Pace};
use super::progress::Progress;
use super::verdict::{Verdict, verdict};
use crate::cluster::{CallError, Category, Cluster, Meta, Pager, Step, full_name};
use crate::metrics::Metrics;

/// No `Retry-After` is obeyed for longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// So many failures in a row, so slow, look like a KMS that is down rather than like broken objects.
const STALLED: (u32, Duration) = (50, Duration::from_mins(1));
/// So many conflicts in a row end a run: it is resumed from its cursor.
const STATUS_TRIES: u32 = 3;

/// What runs need.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    pub(super) cluster: Cluster,
    pub(super) pace: Pace,
    pub(super) metrics: Metrics,
    /// How often progress is written.
    pub(super) report: Duration,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Every object was dealt with; the status says how.
    Finished,
    /// The object is gone, or wants something else now.
    Superseded,
    /// Asked to; the cursor is written.
    Stopped,
}

/// Why a run paused. It is resumed from its cursor.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("paused: {0}")]
    Away(String),
}

enum Came {
    Out(&'static str),
    Failed(String),
    Away(String),
    Refused(String),
    /// Not tried: the run is stopping.
    Skipped,
}

pub(super) struct Run<'a> {
    tools: &'a Tools,
    stop: CancellationToken,
    migration: EncryptionMigration,
    progress: Progress,
    reported: Instant,
    /// Failures in a row, and when the first of them was.
    stalled: (u32, Instant),
}

impl<'a> Run<'a> {
    pub(super) fn new(tools: &'a Tools, migration: EncryptionMigration, stop: CancellationToken) -> Self {
        let now = Instant::now();
        let progress = Progress::resumed(&migration, now);
        Self { tools, stop, migration, progress, reported: now, stalled: (0, now) }
    }

    pub(super) async fn execute(mut self) -> Result<End, RunError> {
        let ended = self.rewrite_all().await;
        // Whatever happened, what was done is written down: the next run goes on there.
        let now = Instant::now();
        let (status, ended) = match ended {
            Ok(Some(end)) => (self.progress.running(now), Ok(end)),
            Ok(None) => (self.progress.finished(now, Timestamp::now()), Ok(End::Finished)),
            Err(error) => (self.progress.running(now), Err(error)),
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

    /// `Ok(None)` when all are dealt with.
    async fn rewrite_all(&mut self) -> Result<Option<End>, RunError> {
        let resource = GroupResource::parse(&self.migration.spec.resource);
        let begun = self.progress.running(Instant::now());
        if !self.persist(begun).await? {
            return Ok(Some(End::Superseded));
        }
        let Some(served) = discovery::find(&self.tools.cluster, &resource).await? else {
            let message = "no served version of it can be listed and patched".to_owned();
            self.progress.failures.add(resource.to_string(), message);
            return Ok(None);
        };
        let mut pager: Pager<Meta> = Pager::of(served.everything(), &resource.to_string(), served.scope())
            .metadata_only()
            .behind(self.progress.track.cursor());
        loop {
            let step = tokio::select! {
                step = pager.next(&self.tools.cluster) => step,
                () = self.stop.cancelled() => return Ok(Some(End::Stopped)),
            };
            match step {
                Ok(Step::End) => {
                    // From after the last rewrite: once etcd has compacted it, nothing older can be read.
                    let all = served.everything();
                    let version =
                        self.tools.cluster.collection_version(&all, &resource.to_string(), None).await?;
                    self.progress.end_version = Some(version);
                    return Ok(None);
                }
                Ok(Step::Undecodable(bad)) => {
                    let ticket = self.progress.track.issue();
                    let message = bad.error.cause.to_string();
                    self.came_out(&resource, ticket, bad.name, Came::Failed(message))?;
                    if self.reported.elapsed() >= self.tools.report && !self.report().await? {
                        return Ok(Some(End::Superseded));
                    }
                }
                Ok(Step::Page(page)) => {
                    let objects: Vec<Meta> = page
                        .items
                        .into_iter()
                        .filter(|o| !pager.is_before(&full_name(&o.metadata)))
                        .collect();
                    self.progress.listed(objects.len(), page.remaining);
                    if let ControlFlow::Break(end) = self.page(&served, &resource, objects).await? {
                        return Ok(end);
                    }
                }
                Err(error) if error.category() == Category::Forbidden => {
                    self.progress.failures.add(resource.to_string(), error.to_string());
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Breaks with what [`rewrite_all`](Self::rewrite_all) ends with.
    async fn page(
        &mut self,
        served: &Served,
        resource: &GroupResource,
        objects: Vec<Meta>,
    ) -> Result<ControlFlow<Option<End>>, RunError> {
        let name = resource.to_string();
        let halt = self.stop.child_token();
        let tools = self.tools;
        let tickets: Vec<(u64, Meta)> =
            objects.into_iter().map(|object| (self.progress.track.issue(), object)).collect();
        let mut rewrites = futures::stream::iter(tickets)
            .map(|(ticket, object)| {
                let (halt, name) = (&halt, &name);
                async move {
                    let came = rewrite(tools, served, name, &object, halt).await;
                    (ticket, full_name(&object.metadata), came)
                }
            })
            .buffer_unordered(tools.pace.ceiling());
        let mut refused = None;
        let mut paused = None;
        loop {
            tokio::select! {
                next = rewrites.next() => match next {
                    None => break,
                    Some((_, _, Came::Refused(message))) => {
                        halt.cancel();
                        refused.get_or_insert(message);
                    }
                    Some((ticket, object, came)) => {
                        if let Err(error) = self.came_out(resource, ticket, object, came) {
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
            // This credential rewrites nothing: the end, with that as the failure.
            self.progress.failures.add(name, message);
            return Ok(ControlFlow::Break(None));
        }
        match paused {
            Some(error) => Err(error),
            None if self.progress.track.is_settled() => Ok(ControlFlow::Continue(())),
            None => Ok(ControlFlow::Break(Some(End::Stopped))),
        }
    }

    fn came_out(
        &mut self,
        resource: &GroupResource,
        ticket: u64,
        object: String,
        came: Came,
    ) -> Result<(), RunError> {
        let outcome = match came {
            Came::Skipped => return Ok(()),
            Came::Away(message) => return Err(RunError::Away(message)),
            Came::Refused(message) | Came::Failed(message) => {
                tracing::warn!(%resource, object, "not rewritten: {message}");
                self.progress.failures.add(object.clone(), message);
                "failed"
            }
            Came::Out(outcome) => outcome,
        };
        self.tools.metrics.migrated(&resource.to_string(), outcome);
        self.progress.track.finish(ticket, object);
        if outcome != "failed" {
            self.stalled.0 = 0;
            return Ok(());
        }
        if self.stalled.0 == 0 {
            self.stalled.1 = Instant::now();
        }
        self.stalled.0 += 1;
        if self.stalled.0 >= STALLED.0 && self.stalled.1.elapsed() >= STALLED.1 {
            self.stalled.0 = 0;
            return Err(RunError::Away(format!(
                "{} objects in a row failed slowly; is the KMS up?",
                STALLED.0
            )));
        }
        Ok(())
    }

    async fn report(&mut self) -> Result<bool, CallError> {
        self.reported = Instant::now();
        let status = self.progress.running(Instant::now());
        self.persist(status).await
    }

    /// Writes the status, if it differs. `false` where this run is not wanted any more. An error where it could not be
    /// written: whoever called it finished would have nothing written down.
    async fn persist(&mut self, status: EncryptionMigrationStatus) -> Result<bool, CallError> {
        self.tools.metrics.migration(&self.migration.spec.resource, &status);
        if self.migration.status.as_ref() == Some(&status) {
            return Ok(true);
        }
        let before = self.migration.status.replace(status);
        let written = self.write_status().await;
        if written.is_err() {
            // Else the same status would count as written the next time.
            self.migration.status = before;
        }
        written
    }

    async fn write_status(&mut self) -> Result<bool, CallError> {
        let mut tries = 0;
        // The spec is another's to change: then the version moved, and it matters whether the wish did.
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

/// One object, tried until it is clear how it comes out.
async fn rewrite(
    tools: &Tools,
    served: &Served,
    resource: &str,
    object: &Meta,
    halt: &CancellationToken,
) -> Came {
    let metadata = &object.metadata;
    let collection = served.collection(metadata.namespace.as_deref());
    let mut pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .build();
    let mut attempt = 0;
    loop {
        let slot = tools.pace.slot().await;
        if halt.is_cancelled() {
            return Came::Skipped;
        }
        attempt += 1;
        let answer = tools.cluster.touch(&collection, resource, metadata).await;
        let after = answer.as_ref().map(|written| written.metadata.resource_version.as_deref());
        let verdict = verdict(after, metadata.resource_version.as_deref(), attempt);
        let busy = matches!(verdict, Verdict::Again(_) | Verdict::Away(_));
        tools.pace.observed(slot, if busy { Load::Busy } else { Load::Fine });
        match verdict {
            Verdict::Done(outcome) => return Came::Out(outcome),
            Verdict::Failed(message) => return Came::Failed(message),
            Verdict::Away(message) => return Came::Away(message),
            Verdict::Refused(message) => return Came::Refused(message),
            Verdict::Again(after) => {
                let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
                let pause = pause.max(after.unwrap_or_default()).min(LONGEST_PAUSE);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = halt.cancelled() => return Came::Skipped,
                }
            }
        }
    }
}
