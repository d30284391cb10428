//! Everything that the status ever said, in order: what stood there for a moment only is not lost.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use keyward_core::api::ClusterEncryption;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::task::JoinHandle;

/// Listens until it is dropped.
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
                let at = Instant::now();
                heard.extend(now.iter().filter(|line| !last.contains(line)).map(|line| (at, line.clone())));
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
        self.heard_at(earlier, parts).is_some()
    }

    /// When such a line came first.
    pub fn heard_at(&self, earlier: usize, parts: &[&str]) -> Option<Instant> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = lines.iter().skip(earlier);
        found.find(|(_, line)| parts.iter().all(|part| line.contains(part))).map(|(at, _)| *at)
    }

    /// How long `Progressing` gave each reason after `earlier`, in the order in which they came first.
    pub fn phases(&self, earlier: usize) -> Vec<(String, Duration)> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let turns: Vec<(Instant, Option<&str>)> = lines
            .iter()
            .skip(earlier)
            .filter_map(|(at, line)| {
                let mut words = line.strip_prefix("Progressing ")?.split(' ');
                Some((*at, words.next().filter(|status| *status == "True").and_then(|_| words.next())))
            })
            .collect();
        let mut phases: Vec<(String, Duration)> = Vec::new();
        for pair in turns.windows(2) {
            let [(from, Some(reason)), (to, _)] = pair else { continue };
            match phases.iter_mut().find(|(known, _)| known == reason) {
                Some((_, spent)) => *spent += *to - *from,
                None => phases.push(((*reason).to_owned(), *to - *from)),
            }
        }
        phases
    }

    /// All that was said after `earlier`, for a failure's report.
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

/// `Encrypted False EncryptionInProgress …` for each condition; `key 2 read encryption-mode-changed` for each key.
fn lines_of(object: &ClusterEncryption) -> Vec<String> {
    let Some(status) = &object.status else { return Vec::new() };
    let conditions = status.conditions.iter().map(|condition| {
        format!("{} {:?} {} {}", condition.type_, condition.status, condition.reason, condition.message)
    });
    let keys = status.keys.iter().map(|key| format!("key {} {} {}", key.key_id, key.role, key.reason));
    conditions.chain(keys).collect()
}
