//! Keyward's own migration engine: rewrites every object of a resource under the current write key, for each
//! `EncryptionMigration` that has not ended (decision 0052).
//!
//! Only metadata reaches the engine, never a value of an object: its lists, patches and gets request metadata only.
//!
//! Guarantee: `Succeeded` means that each object of the collection was seen to be under the write key, or to be gone.
//! An unsuccessful response to a patch proves nothing by itself (decision 0053). A short outage pauses a run and
//! fails no object (decision 0054).
//!
//! Progress, cursor and failures are in the status, written about once a second, so a restart resumes. The engine
//! writes nothing else and decides nothing: core decides by a new generation of the spec which resource is migrated,
//! when it starts, whether a failed migration is retried, and whether a migration is verified.

mod absence;
pub(crate) mod discovery;
mod failures;
mod pace;
mod progress;
mod rewrite;
mod run;
mod streak;
mod track;
pub(crate) mod verdict;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use keyward_core::api::{ClusterEncryption, EncryptionMigration};
use keyward_core::names;

use crate::backoff::Backoff;
use crate::cluster::{CallError, Cluster};
use crate::metrics::Metrics;
use pace::Pace;
use run::{End, Run, RunError, Tools};

/// Pauses that end at almost the same time are handled together.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);

/// Settings of the engine.
#[derive(Clone, Copy, Debug)]
pub struct MigrationSettings {
    /// Concurrent rewrites, over all resources.
    pub concurrency: usize,
    /// How often progress is written.
    pub report: Duration,
    /// How often the engine reads the migrations without an event of a watch.
    pub resync: Duration,
    /// How long an object is retried before it has failed. An election in etcd, or the restart of a KMS or a webhook,
    /// takes less.
    pub patience: Duration,
}

impl Default for MigrationSettings {
    fn default() -> Self {
        Self {
            concurrency: 16,
            report: Duration::from_secs(1),
            resync: Duration::from_secs(30),
            patience: Duration::from_mins(1),
        }
    }
}

/// The engine with all runs of this operator.
#[derive(Debug)]
pub struct Engine {
    tools: Tools,
    resync: Duration,
}

/// A run in progress.
struct Active {
    uid: Option<String>,
    generation: Option<i64>,
    stop: CancellationToken,
}

/// A migration that paused.
#[derive(Default)]
struct Paused {
    backoff: Backoff,
    until: Option<Instant>,
    /// Since when one object after the other fails, if that is the reason.
    failing_since: Option<Instant>,
}

type Ended = (String, Result<End, RunError>);

impl Engine {
    /// An engine on this cluster.
    pub fn new(cluster: Cluster, settings: MigrationSettings, metrics: Metrics) -> Self {
        let pace = Pace::fixed(settings.concurrency);
        let MigrationSettings { report, patience, resync, .. } = settings;
        Self { tools: Tools { cluster, pace, metrics, report, patience }, resync }
    }

    /// Runs until `stop`; then runs write their cursors and end. `changed` is notified when a migration may have
    /// changed.
    pub async fn run(self, changed: Arc<Notify>, stop: CancellationToken) {
        let mut active: BTreeMap<String, Active> = BTreeMap::new();
        let mut paused: BTreeMap<String, Paused> = BTreeMap::new();
        let mut runs: JoinSet<Ended> = JoinSet::new();
        while !stop.is_cancelled() {
            match self.wanted().await {
                Ok(migrations) => self.sync(migrations, &mut active, &mut paused, &mut runs, &stop),
                Err(error) => tracing::warn!("cannot read migrations: {error}"),
            }
            tokio::select! {
                () = changed.notified() => {}
                () = tokio::time::sleep(wake(&paused, Instant::now(), self.resync)) => {}
                () = stop.cancelled() => {}
                Some(ended) = runs.join_next() => match ended {
                    Ok((name, result)) => {
                        active.remove(&name);
                        note(&name, result, &mut paused);
                    }
                    Err(error) => {
                        if error.is_panic() {
                            self.tools.metrics.panicked("migration");
                        }
                        tracing::error!("a migration run failed: {error}");
                        // It is not known which run failed: all others are stopped, and resume from their cursors.
                        for run in active.values() {
                            run.stop.cancel();
                        }
                        active.clear();
                    }
                },
            }
        }
        // Their tokens are children of `stop`: each finishes its current rewrites and writes its cursor.
        while let Some(ended) = runs.join_next().await {
            if let Ok((name, result)) = ended {
                tracing::info!(name, "migration stopped: {result:?}");
            }
        }
    }

    /// The migrations that may run now: none while `spec.paused` is set, so that current runs write their cursors and
    /// stop (invariant: pause-withholds-everything). If the spec cannot be read, no run begins and none ends.
    async fn wanted(&self) -> Result<Vec<EncryptionMigration>, CallError> {
        let cluster = &self.tools.cluster;
        let (migrations, cluster_encryption) = tokio::try_join!(
            cluster.list::<EncryptionMigration>(None, None),
            cluster.get::<ClusterEncryption>(None, names::CLUSTER),
        )?;
        let is_paused = cluster_encryption.is_some_and(|found| found.spec.paused.is_some());
        Ok(if is_paused { Vec::new() } else { migrations })
    }

    fn sync(
        &self,
        migrations: Vec<EncryptionMigration>,
        active: &mut BTreeMap<String, Active>,
        paused: &mut BTreeMap<String, Paused>,
        runs: &mut JoinSet<Ended>,
        stop: &CancellationToken,
    ) {
        let now = Instant::now();
        for (name, run) in active.iter() {
            let wanted = migrations.iter().find(|migration| migration.metadata.name.as_deref() == Some(name));
            let same = wanted.is_some_and(|migration| {
                migration.metadata.uid == run.uid && migration.metadata.generation == run.generation
            });
            if !same {
                run.stop.cancel();
            }
        }
        paused.retain(|name, _| migrations.iter().any(|one| one.metadata.name.as_deref() == Some(name)));
        for migration in migrations {
            let name = migration.metadata.name.clone().unwrap_or_default();
            let waits = paused.get(&name).and_then(|paused| paused.until).is_some_and(|until| now < until);
            let ours = migration.spec.operand == names::KUBE_APISERVER;
            if !ours || waits || active.contains_key(&name) || !progress::is_due(&migration) {
                continue;
            }
            let run = Active {
                uid: migration.metadata.uid.clone(),
                generation: migration.metadata.generation,
                stop: stop.child_token(),
            };
            tracing::info!(name, key = %migration.spec.key_id, "migration started or resumed");
            let (tools, token) = (self.tools.clone(), run.stop.clone());
            let mut failing_since = None;
            if let Some(paused) = paused.get_mut(&name) {
                // Its back-off continues if it pauses again.
                paused.until = None;
                failing_since = paused.failing_since.take();
            }
            active.insert(name.clone(), run);
            runs.spawn(async move {
                let ended = Run::new(&tools, migration, token, failing_since).execute().await;
                (name, ended)
            });
        }
    }
}

/// When to read the migrations without an event: when the next pause ends, at the latest after a resync.
fn wake(paused: &BTreeMap<String, Paused>, now: Instant, resync: Duration) -> Duration {
    let ends = paused.values().filter_map(|paused| paused.until?.checked_duration_since(now));
    // Pauses that are over were just handled.
    ends.filter(|left| !left.is_zero()).fold(resync, Duration::min).max(SHORTEST_WAIT.min(resync))
}

fn note(name: &str, result: Result<End, RunError>, paused: &mut BTreeMap<String, Paused>) {
    match result {
        Ok(end) => {
            tracing::info!(name, ?end, "migration run ended");
            paused.remove(name);
        }
        Err(error) => {
            let entry = paused.entry(name.to_owned()).or_default();
            let pause = entry.backoff.next();
            entry.until = Some(Instant::now() + pause);
            if let RunError::AllFail { since, .. } = &error {
                entry.failing_since = Some(*since);
            }
            tracing::warn!(name, ?pause, "migration resumes after a pause: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_wakes_up_for_the_end_of_a_current_pause_only() {
        let now = Instant::now();
        let resync = Duration::from_secs(30);
        let paused = |untils: &[Option<Instant>]| -> BTreeMap<String, Paused> {
            let entry = |until: &Option<Instant>| Paused { until: *until, ..Default::default() };
            untils.iter().enumerate().map(|(n, until)| (n.to_string(), entry(until))).collect()
        };
        let later = |millis| Some(now + Duration::from_millis(millis));
        let past = now.checked_sub(Duration::from_secs(5));
        assert_eq!(wake(&paused(&[]), now, resync), resync);
        assert_eq!(wake(&paused(&[None, past, Some(now)]), now, resync), resync, "they were handled");
        assert_eq!(wake(&paused(&[past, later(700), later(900)]), now, resync), Duration::from_millis(700));
        assert_eq!(wake(&paused(&[later(1)]), now, resync), SHORTEST_WAIT);
        assert_eq!(wake(&paused(&[later(90_000)]), now, resync), resync);
    }
}
