//! A client that lists and gets every object in a loop, and counts what fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::load::{Contents, Load};

/// Reads in the background until it is asked for its report.
pub struct Reader {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Report>,
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Whole lists of both resources.
    pub lists: u64,
    /// Single objects.
    pub gets: u64,
    /// What failed, or was not what it had been.
    pub failures: Vec<String>,
}

impl Reader {
    /// Begins. `pause` is the time from one get to the next: a reader, not a load test.
    pub fn start(load: Load, expected: Contents, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut report = Report::default();
            let mut pace = tokio::time::interval(pause);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !stopped.load(Ordering::Relaxed) {
                match load.contents().await {
                    Ok(contents) if contents == expected => report.lists += 1,
                    Ok(_) => report.failures.push("a list shows other contents".to_owned()),
                    Err(error) => report.failures.push(format!("list: {error:#}")),
                }
                for (name, content) in &expected {
                    pace.tick().await;
                    if stopped.load(Ordering::Relaxed) {
                        break;
                    }
                    match load.get(name).await {
                        Ok(found) if found == *content => report.gets += 1,
                        Ok(_) => report.failures.push(format!("get {name}: it says something else")),
                        Err(error) => report.failures.push(format!("get {name}: {error:#}")),
                    }
                }
            }
            report
        });
        Self { stop, task }
    }

    /// Ends, and tells.
    pub async fn finish(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the reader panicked")
    }
}
