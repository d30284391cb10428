//! Watches that start reconcile passes. They carry no data to a decision: a decision reads live (decision 0017).
//!
//! Secrets, ConfigMaps, Nodes and Leases are watched by metadata only. An error of a watch is logged and counted, and
//! the watch restarts with back-off; until then the resync replaces it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use kube::Api;
use kube::ResourceExt;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube_core::{PartialObjectMeta as Meta, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use keyward_core::api::{ClusterEncryption, EncryptionMigration, EncryptionNode, MigrationPhase};
use keyward_core::names;

use crate::cluster::Cluster;
use crate::fetch::{CONTROL_PLANE, IDENTITY_LEASES, KUBE_SYSTEM};
use crate::metrics::Metrics;

/// The tasks that watches wake.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals {
    /// An object that a decision reads has changed.
    pub(crate) decide: Arc<Notify>,
    /// The spec has changed, which may repair a failure: the back-off ends.
    pub(crate) spec_changed: Arc<Notify>,
    /// A migration may have to begin or end.
    pub(crate) migrate: Arc<Notify>,
}

/// Starts the watches; they end when the set is dropped.
pub(crate) fn watch(cluster: &Cluster, signals: &Signals, metrics: &Metrics) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let client = cluster.client();
    let every = watcher::Config::default;
    let decide = || Arc::clone(&signals.decide);

    // The operator writes the status itself: only a change of the spec counts.
    let (spec_changed, mut generations) = (Arc::clone(&signals.spec_changed), Changes::default());
    // A change of the spec can begin or end a pause.
    let may_run = Arc::clone(&signals.migrate);
    let seen = events(Api::<Meta<ClusterEncryption>>::all(client.clone()), every());
    tasks.spawn(follow("clusterencryptions", metrics.clone(), seen, move |event| {
        if generations.differs(event, |object| object.metadata.generation) {
            spec_changed.notify_one();
            may_run.notify_one();
        }
    }));

    // Progress is written each second: only another phase or another spec counts.
    let (migrate, on_phase, mut phases) = (Arc::clone(&signals.migrate), decide(), Changes::default());
    let seen = events(Api::<EncryptionMigration>::all(client.clone()), every());
    tasks.spawn(follow("encryptionmigrations", metrics.clone(), seen, move |event| {
        let state = |object: &EncryptionMigration| {
            let phase = object.status.as_ref().map_or(MigrationPhase::Pending, |status| status.phase);
            (object.metadata.generation, phase)
        };
        if phases.differs(event, state) {
            on_phase.notify_one();
            migrate.notify_one();
        }
    }));

    let seen = events(Api::<Meta<EncryptionNode>>::all(client.clone()), every());
    tasks.spawn(follow("encryptionnodes", metrics.clone(), seen, any_change(decide())));
    let seen = events(Api::<Meta<Secret>>::namespaced(client.clone(), names::NAMESPACE), every());
    tasks.spawn(follow("secrets", metrics.clone(), seen, any_change(decide())));
    let seen = events(Api::<Meta<ConfigMap>>::namespaced(client.clone(), names::NAMESPACE), every());
    tasks.spawn(follow("configmaps", metrics.clone(), seen, any_change(decide())));

    // These are renewed all the time: only a new or a deleted object counts.
    let seen = events(Api::<Meta<Node>>::all(client.clone()), every().labels(CONTROL_PLANE));
    tasks.spawn(follow("nodes", metrics.clone(), seen, existence(decide())));
    let seen = events(Api::<Meta<Lease>>::namespaced(client, KUBE_SYSTEM), every().labels(IDENTITY_LEASES));
    tasks.spawn(follow("leases", metrics.clone(), seen, existence(decide())));
    tasks
}

fn events<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    watcher::watcher(api, config).default_backoff()
}

/// Runs until its task is dropped: the stream restarts by itself after an error.
async fn follow<K>(
    resource: &'static str,
    metrics: Metrics,
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    mut seen: impl FnMut(&Event<K>) + Send,
) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => seen(&event),
            Err(error) => {
                metrics.watch_failed(resource);
                tracing::warn!(resource, "a watch broke and is restarted: {error}");
            }
        }
    }
}

fn any_change<K>(signal: Arc<Notify>) -> impl FnMut(&Event<K>) + Send {
    move |event| {
        if !matches!(event, Event::Init) {
            signal.notify_one();
        }
    }
}

fn existence<K: ResourceExt>(signal: Arc<Notify>) -> impl FnMut(&Event<K>) + Send {
    let mut existing = Changes::default();
    move |event| {
        if existing.differs(event, |_| ()) {
            signal.notify_one();
        }
    }
}

/// Distinguishes relevant changes from others.
#[derive(Debug)]
struct Changes<S> {
    states: BTreeMap<String, S>,
    /// Objects in the current list: at its end all others are gone.
    listed: BTreeSet<String>,
}

impl<S> Default for Changes<S> {
    fn default() -> Self {
        Self { states: BTreeMap::new(), listed: BTreeSet::new() }
    }
}

impl<S: PartialEq> Changes<S> {
    fn differs<K: ResourceExt>(&mut self, event: &Event<K>, state: impl Fn(&K) -> S) -> bool {
        let name = |object: &K| format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
        match event {
            Event::Init => {
                self.listed.clear();
                false
            }
            Event::InitDone => {
                let before = self.states.len();
                self.states.retain(|name, _| self.listed.contains(name));
                self.states.len() != before
            }
            Event::InitApply(object) => {
                self.listed.insert(name(object));
                self.update(name(object), state(object))
            }
            Event::Apply(object) => self.update(name(object), state(object)),
            Event::Delete(object) => self.states.remove(&name(object)).is_some(),
        }
    }

    fn update(&mut self, name: String, state: S) -> bool {
        if self.states.get(&name) == Some(&state) {
            return false;
        }
        self.states.insert(name, state);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, generation: i64) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some(name.to_owned());
        node.metadata.generation = Some(generation);
        node
    }

    #[test]
    fn only_another_state_is_a_change() {
        let mut changes = Changes::default();
        let mut differs = |event: Event<Node>| changes.differs(&event, |node| node.metadata.generation);
        assert!(differs(Event::InitApply(node("a", 1))));
        assert!(!differs(Event::Apply(node("a", 1))), "renewed, with the same state");
        assert!(differs(Event::Apply(node("a", 2))));
        assert!(differs(Event::Delete(node("a", 2))));
        assert!(!differs(Event::Delete(node("a", 2))));
    }

    #[test]
    fn object_that_is_missing_in_a_new_list_is_a_change() {
        let mut changes = Changes::default();
        let mut differs = |event: Event<Node>| changes.differs(&event, |_| ());
        for event in [Event::Init, Event::InitApply(node("a", 1)), Event::InitApply(node("b", 1))] {
            differs(event);
        }
        assert!(!differs(Event::InitDone));
        assert!(!differs(Event::Init));
        assert!(!differs(Event::InitApply(node("a", 1))));
        assert!(differs(Event::InitDone), "b was deleted between the lists");
    }
}
