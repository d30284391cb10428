//! Everything that the status ever said, in order: what stood there for a moment only is not lost.

use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use keyward_core::api::ClusterEncryption;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::task::JoinHandle;

/// Listens until it is dropped.
pub struct Said {
    lines: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Said {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Said {
    /// Begins with what the status says now.
    pub fn listen(client: Client) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&lines);
        let task = tokio::spawn(async move {
            let api = Api::<ClusterEncryption>::all(client);
            let changes = watcher(api, watcher::Config::default()).default_backoff().applied_objects();
            let mut changes = std::pin::pin!(changes);
            let mut last: Vec<String> = Vec::new();
            while let Some(change) = changes.next().await {
                // A watch that broke is begun again.
                let Ok(object) = change else { continue };
                let now = lines_of(&object);
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.extend(now.iter().filter(|line| !last.contains(line)).cloned());
                last = now;
            }
        });
        Self { lines, task }
    }

    /// How much was said so far; what came later is found by [`heard_since`](Self::heard_since).
    pub fn so_far(&self) -> usize {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether some line that came after `earlier` has all of these parts.
    pub fn heard_since(&self, earlier: usize, parts: &[&str]) -> bool {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().skip(earlier).any(|line| parts.iter().all(|part| line.contains(part)))
    }

    /// All that was said after `earlier`, for a failure's report.
    pub fn since(&self, earlier: usize) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().skip(earlier).fold(String::new(), |text, line| text + "\n  " + line)
    }
}

/// `Encrypted False EncryptionInProgress …` for each condition; `key 2 read encryption-mode-changed` for each key.
fn lines_of(object: &ClusterEncryption) -> Vec<String> {
    let Some(status) = &object.status else { return Vec::new() };
    let conditions = status.conditions.iter().map(|condition| {
        format!("{} {:?} {} {}", condition.type_, condition.status, condition.reason, condition.message)
    });
    let keys = status.keys.iter().map(|key| format!("key {} {} {}", key.key_id, key.role, key.reason));
    conditions.chain(keys).collect()
}
