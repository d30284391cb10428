//! A watch of the node's own object, which starts a reconcile pass. The pass reads the object live.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use keyward_core::api::EncryptionNode;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube_core::PartialObjectMeta;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::api::Connection;

/// One check of a folder costs a system call.
const CHECK: Duration = Duration::from_secs(1);

/// Notifies when the spec changes, until it is dropped. Errors are logged and the watch restarts
/// with back-off. Until then the agent's periodic passes read the object.
pub(crate) async fn watch(connection: Connection, node: String, notify: Arc<Notify>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let events = watcher::watcher(connection.nodes::<PartialObjectMeta<EncryptionNode>>(), config);
    let mut events = std::pin::pin!(events.backoff(watcher::DefaultBackoff::default()));
    let mut seen = None;
    while let Some(event) = events.next().await {
        let generation = match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => object.metadata.generation,
            Ok(Event::Delete(_)) => None,
            Ok(Event::Init | Event::InitDone) => continue,
            Err(error) => {
                tracing::warn!(%error, "the watch of the node's EncryptionNode broke and is restarted");
                continue;
            }
        };
        // The agent writes the status itself, so only a new generation matters.
        if seen != Some(generation) {
            seen = Some(generation);
            notify.notify_one();
        }
    }
}

/// Notifies when another process creates or removes a file in the folder, until it is dropped.
pub(crate) async fn watch_folder(folder: PathBuf, notify: Arc<Notify>) {
    let mut pace = tokio::time::interval(CHECK);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = None;
    loop {
        pace.tick().await;
        let now = tokio::fs::metadata(&folder).await.and_then(|found| found.modified()).ok();
        if now != seen {
            seen = now;
            notify.notify_one();
        }
    }
}

/// The pause plus a random part of up to a tenth, so that the agents of many nodes do not call at the same
/// instant.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // If this fails, only the jitter is missing.
    let _ = getrandom::fill(&mut byte);
    pause + pause / 10 * u32::from(byte.first().copied().unwrap_or_default()) / 255
}
