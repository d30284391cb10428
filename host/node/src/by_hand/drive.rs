//! The agent's loop without an API: the same decisions, from what is on disk and what plugins answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::node::{self, Instance, Observed, Scrubber, Step, Unread};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ByHand;
use crate::diagnosis::Diagnoser;
use crate::disk::{Disk, Glance};
use crate::error::AgentError;
use crate::prober::{Prober, Probing};

/// Asks plugins, and has what they answer explained.
pub(super) struct Asking {
    pub(super) prober: Prober,
    pub(super) bell: Arc<Notify>,
    diagnoser: Diagnoser,
    pub(super) scrubber: Arc<Scrubber>,
}

impl Asking {
    pub(super) fn new(place: &ByHand, scrubber: Scrubber) -> Self {
        let bell = Arc::new(Notify::new());
        let probing = Probing {
            policy: place.policy,
            timeout: place.plugin_timeout,
            full_every: 1,
            paths: place.paths.clone(),
            bell: Arc::clone(&bell),
        };
        let diagnoser = Diagnoser { connection: None, paths: place.paths.clone(), node: place.node.clone() };
        Self { prober: Prober::new(probing), bell, diagnoser, scrubber: Arc::new(scrubber) }
    }

    pub(super) fn ask(&mut self, asks: &BTreeMap<Instance, node::Ask>) {
        self.prober.ask(asks, &self.diagnoser, &self.scrubber);
    }
}

/// Holds the node's disk in the agent's place.
pub(super) struct Driver {
    disk: Arc<Disk>,
    /// Since when nothing needs these.
    unneeded: BTreeMap<Instance, Instant>,
}

impl Driver {
    pub(super) fn new(disk: Disk) -> Self {
        Self { disk: Arc::new(disk), unneeded: BTreeMap::new() }
    }

    /// Looks, decides, does. Answers what was done, and whether something is under way.
    pub(super) async fn turn(
        &mut self,
        place: &ByHand,
        asking: &mut Asking,
    ) -> Result<(Vec<Step>, bool), AgentError> {
        let disk = Arc::clone(&self.disk);
        let look = blocking("looking at the disk", move || disk.look()).await?;
        let now = Instant::now();
        let observed = Observed {
            policy: place.policy,
            spec: None,
            absence: None,
            target: None,
            candidate: None,
            // Nothing is put back on this command's word: it does not know what the API server is up to.
            server: Err(Unread { why: "it is not asked".to_owned(), answers: true }),
            disk: look.disk,
            probes: asking.prober.probed(),
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
        asking.ask(&asks);
        Ok((decision.steps, decision.busy))
    }
}

/// What is on the disk, whoever holds it.
pub(super) async fn glance(place: &ByHand) -> Result<node::Disk, AgentError> {
    let glance = Glance::new(&place.node, place.paths.clone(), place.owner);
    blocking("looking at the disk", move || glance.look()).await
}

/// What waits for the disk is not done on the runtime.
pub(super) async fn blocking<T: Send + 'static>(
    what: &'static str,
    task: impl FnOnce() -> Result<T, AgentError> + Send + 'static,
) -> Result<T, AgentError> {
    tokio::task::spawn_blocking(task).await.map_err(|_| AgentError::Panicked { what })?
}
