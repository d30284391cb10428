//! A watch of the node's own object, which says when to look again. What it says is read live.

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

/// One look at a folder costs a system call.
const LOOK: Duration = Duration::from_secs(1);

/// Rings whenever the spec changes, until it is dropped. Errors are logged; the watch begins anew with back-off, and
/// until then the agent looks by itself.
pub(crate) async fn watch(connection: Connection, node: String, bell: Arc<Notify>) {
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
                tracing::warn!(%error, "the watch of the node's EncryptionNode is begun anew");
                continue;
            }
        };
        // The agent writes the status itself: only another generation is news.
        if seen != Some(generation) {
            seen = Some(generation);
            bell.notify_one();
        }
    }
}

/// Rings whenever something is put into a folder or taken out, until it is dropped: another process did.
pub(crate) async fn watch_folder(folder: PathBuf, bell: Arc<Notify>) {
    let mut pace = tokio::time::interval(LOOK);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = None;
    loop {
        pace.tick().await;
        let now = tokio::fs::metadata(&folder).await.and_then(|found| found.modified()).ok();
        if now != seen {
            seen = now;
            bell.notify_one();
        }
    }
}

/// As much again at random, up to a tenth: agents of many nodes do not ask at the same instant.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness there is no jitter, and nothing else is lost.
    let _ = getrandom::fill(&mut byte);
    pause + pause / 10 * u32::from(byte.first().copied().unwrap_or_default()) / 255
}
