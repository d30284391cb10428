//! The history of the status: every line that it ever contained, in order, also lines that existed only for a
//! moment.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use keyward_core::api::ClusterEncryption;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::task::JoinHandle;

/// Records the history of the status until it is dropped.
pub struct Said {
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
    task: JoinHandle<()>,
}

impl Drop for Said {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Said {
    /// Starts with the current status.
    pub fn listen(client: Client) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&lines);
        let task = tokio::spawn(async move {
            let api = Api::<ClusterEncryption>::all(client);
            let changes = watcher(api, watcher::Config::default()).default_backoff().applied_objects();
            let mut changes = std::pin::pin!(changes);
            let mut last: Vec<String> = Vec::new();
            while let Some(change) = changes.next().await {
                // A broken watch is started again.
                let Ok(object) = change else { continue };
                let now = lines_of(&object);
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                let at = Instant::now();
                heard.extend(now.iter().filter(|line| !last.contains(line)).map(|line| (at, line.clone())));
                last = now;
            }
        });
        Self { lines, task }
    }

    /// The number of lines so far; [`heard_since`](Self::heard_since) finds later ones.
    pub fn so_far(&self) -> usize {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether a line after `earlier` contains all of these parts.
    pub fn heard_since(&self, earlier: usize, parts: &[&str]) -> bool {
        self.heard_at(earlier, parts).is_some()
    }

    /// When the first such line appeared.
    pub fn heard_at(&self, earlier: usize, parts: &[&str]) -> Option<Instant> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = lines.iter().skip(earlier);
        found.find(|(_, line)| parts.iter().all(|part| line.contains(part))).map(|(at, _)| *at)
    }

    /// How long `Progressing` had each reason after `earlier`, in the order of their first appearance.
    pub fn phases(&self, earlier: usize) -> Vec<(String, Duration)> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let changes: Vec<(Instant, Option<&str>)> = lines
            .iter()
            .skip(earlier)
            .filter_map(|(at, line)| {
                let mut words = line.strip_prefix("Progressing ")?.split(' ');
                Some((*at, words.next().filter(|status| *status == "True").and_then(|_| words.next())))
            })
            .collect();
        let mut phases: Vec<(String, Duration)> = Vec::new();
        for pair in changes.windows(2) {
            let [(from, Some(reason)), (to, _)] = pair else { continue };
            match phases.iter_mut().find(|(known, _)| known == reason) {
                Some((_, spent)) => *spent += *to - *from,
                None => phases.push(((*reason).to_owned(), *to - *from)),
            }
        }
        phases
    }

    /// All lines after `earlier`, for the error of a failed test.
    pub fn since(&self, earlier: usize) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for (at, line) in lines.iter().skip(earlier) {
            let since = lines.first().map_or(Duration::ZERO, |(first, _)| *at - *first);
            let _ = write!(text, "\n  {:.1} s {line}", since.as_secs_f64());
        }
        text
    }
}

/// `Encrypted False EncryptionInProgress …` for each condition; `key 2 read encryption-mode-changed` for each
/// key.
fn lines_of(object: &ClusterEncryption) -> Vec<String> {
    let Some(status) = &object.status else { return Vec::new() };
    let conditions = status.conditions.iter().map(|condition| {
        format!("{} {:?} {} {}", condition.type_, condition.status, condition.reason, condition.message)
    });
    let keys = status.keys.iter().map(|key| format!("key {} {} {}", key.key_id, key.role, key.reason));
    conditions.chain(keys).collect()
}
