//! A client that makes and changes objects in a loop, keeps what it wrote, and reads it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::load::{Contents, Load};

/// Objects that it makes, one at a time; from then on it only changes them.
const MOST: usize = 120;
/// Of so many turns one makes an object, and one looks at all of them.
const CREATE_EVERY: u64 = 4;
const LIST_EVERY: u64 = 32;

/// Writes in the background until it is asked for its report. Nobody else writes its objects, so whatever it reads must
/// be exactly what it wrote last.
pub struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Written>,
}

/// What was written and read back.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Objects made.
    pub creates: u64,
    /// Objects changed.
    pub updates: u64,
    /// Objects read, one by one.
    pub gets: u64,
    /// Lists of all of them.
    pub lists: u64,
    /// What failed, or was not what was written.
    pub failures: Vec<String>,
}

impl Writer {
    /// Begins. `load` is empty and its own; `pause` is the time from one write to the next.
    pub fn start(load: Load, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut turns =
                Turns { load, kept: Contents::new(), names: Vec::new(), written: Written::default() };
            let mut pace = tokio::time::interval(pause);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut turn = 0;
            while !stopped.load(Ordering::Relaxed) {
                pace.tick().await;
                turns.write(turn).await;
                turns.read_back(turn).await;
                if turn % LIST_EVERY == 0 {
                    turns.list().await;
                }
                turn += 1;
            }
            turns.list().await;
            turns.written
        });
        Self { stop, task }
    }

    /// Ends with a last look at everything, and tells.
    pub async fn finish(self) -> Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the writer panicked")
    }
}

struct Turns {
    load: Load,
    /// What was written last.
    kept: Contents,
    names: Vec<String>,
    written: Written,
}

impl Turns {
    async fn write(&mut self, turn: u64) {
        let value = format!("as written in turn {turn}");
        let changed =
            self.some(turn / 2).filter(|_| self.names.len() >= MOST || !turn.is_multiple_of(CREATE_EVERY));
        let (what, name, result) = match changed {
            Some(name) => ("update", name.clone(), self.load.change(&name, &value).await),
            None => {
                let kind = if self.names.len().is_multiple_of(3) { "configmap" } else { "secret" };
                let name = format!("{kind}/written-{:05}", self.names.len());
                let result = self.load.add(&name, &value).await;
                ("create", name, result)
            }
        };
        match result {
            Ok(content) => {
                if self.kept.insert(name.clone(), content).is_none() {
                    self.names.push(name);
                    self.written.creates += 1;
                } else {
                    self.written.updates += 1;
                }
            }
            Err(error) => self.written.failures.push(format!("{what} {name}: {error:#}")),
        }
    }

    async fn read_back(&mut self, turn: u64) {
        let Some(name) = self.some(turn) else { return };
        match self.load.get(&name).await {
            Ok(content) if self.kept.get(&name) == Some(&content) => self.written.gets += 1,
            Ok(_) => self.written.failures.push(format!("get {name}: it is not what was written")),
            Err(error) => self.written.failures.push(format!("get {name}: {error:#}")),
        }
    }

    async fn list(&mut self) {
        match self.load.contents().await {
            Ok(contents) if contents == self.kept => self.written.lists += 1,
            Ok(_) => self.written.failures.push("a list shows something else than was written".to_owned()),
            Err(error) => self.written.failures.push(format!("list: {error:#}")),
        }
    }

    /// One of them, all in turn.
    fn some(&self, turn: u64) -> Option<String> {
        let at = usize::try_from(turn).ok()?.checked_rem(self.names.len())?;
        self.names.get(at).cloned()
    }
}
