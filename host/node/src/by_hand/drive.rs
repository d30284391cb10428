//! The agent's reconcile pass without an API: the same decisions, from the disk and the plugins' answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::node::{self, Instance, Observed, Scrubber, Step, Unread};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::CommandSettings;
use crate::diagnosis::Diagnoser;
use crate::disk::{Disk, UnlockedDisk};
use crate::error::AgentError;
use crate::prober::{Prober, Probing};

/// Probes plugins and diagnoses their failures.
pub(super) struct Probes {
    pub(super) prober: Prober,
    pub(super) notify: Arc<Notify>,
    diagnoser: Diagnoser,
    pub(super) scrubber: Arc<Scrubber>,
}

impl Probes {
    pub(super) fn new(place: &CommandSettings, scrubber: Scrubber) -> Self {
        let notify = Arc::new(Notify::new());
        let probing = Probing {
            policy: place.policy,
            timeout: place.plugin_timeout,
            full_every: 1,
            paths: place.paths.clone(),
            notify: Arc::clone(&notify),
        };
        let diagnoser = Diagnoser { connection: None, paths: place.paths.clone(), node: place.node.clone() };
        Self { prober: Prober::new(probing), notify, diagnoser, scrubber: Arc::new(scrubber) }
    }

    pub(super) fn run(&mut self, asks: &BTreeMap<Instance, node::Ask>) {
        self.prober.ask(asks, &self.diagnoser, &self.scrubber);
    }
}

/// Locks the node's disk and runs reconcile passes, while no agent runs.
pub(super) struct Driver {
    disk: Arc<Disk>,
    /// Since when instances are unneeded.
    unneeded: BTreeMap<Instance, Instant>,
}

impl Driver {
    pub(super) fn new(disk: Disk) -> Self {
        Self { disk: Arc::new(disk), unneeded: BTreeMap::new() }
    }

    /// One reconcile pass. Returns the steps that were done, and whether something is in progress.
    pub(super) async fn pass(
        &mut self,
        place: &CommandSettings,
        probes: &mut Probes,
    ) -> Result<(Vec<Step>, bool), AgentError> {
        let disk = Arc::clone(&self.disk);
        let look = blocking("reading the disk", move || disk.look()).await?;
        let now = Instant::now();
        let observed = Observed {
            policy: place.policy,
            spec: None,
            absence: None,
            target: None,
            candidate: None,
            // No configuration is rolled back: this command does not know what the API server has loaded.
            server: Err(Unread { why: "this command does not ask the API server".to_owned(), answers: true }),
            disk: look.disk,
            probes: probes.prober.probed(),
            file_age: Duration::ZERO,
            unneeded: self
                .unneeded
                .iter()
                .map(|(one, since)| (one.clone(), now.duration_since(*since)))
                .collect(),
            failed_step: None,
            credential_expires: None,
        };
        let decision = node::next(&observed);
        self.unneeded.retain(|instance, _| decision.unneeded.contains(instance));
        for instance in &decision.unneeded {
            self.unneeded.entry(instance.clone()).or_insert(now);
        }
        let observed = Arc::new(observed);
        for step in &decision.steps {
            let (disk, task, seen) = (Arc::clone(&self.disk), step.clone(), Arc::clone(&observed));
            blocking("a step", move || disk.act(&task, &seen)).await?;
        }
        let mut asks = decision.asks;
        asks.extend(decision.starts);
        probes.run(&asks);
        Ok((decision.steps, decision.busy))
    }
}

/// The state of the disk, read without its lock.
pub(super) async fn read_disk(place: &CommandSettings) -> Result<node::Disk, AgentError> {
    let disk = UnlockedDisk::new(&place.node, place.paths.clone(), place.owner);
    blocking("reading the disk", move || disk.look()).await
}

/// Runs a task that waits for the disk outside the async runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    what: &'static str,
    task: impl FnOnce() -> Result<T, AgentError> + Send + 'static,
) -> Result<T, AgentError> {
    tokio::task::spawn_blocking(task).await.map_err(|_| AgentError::Panicked { what })?
}
