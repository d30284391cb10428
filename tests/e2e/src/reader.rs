//! A client that lists and gets every object in a loop, through one API server after another, and records
//! failures.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use keyward_test_cluster::Cluster;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::load::{Contents, Load};

/// Reads in the background until [`Reader::finish`].
pub struct Reader {
    stop: Arc<AtomicBool>,
    away: Away,
    task: JoinHandle<Report>,
}

/// The reads so far.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Complete lists of both resources.
    pub lists: u64,
    /// Gets of single objects.
    pub gets: u64,
    /// Gets by node.
    pub through: BTreeMap<String, u64>,
    /// Reads that failed or returned other content.
    pub failures: Vec<String>,
}

/// Nodes whose API server the test has stopped: reader and writer do not use them until they are back.
#[derive(Clone, Debug, Default)]
pub struct Away(Arc<Mutex<BTreeSet<String>>>);

impl Away {
    /// Reader and writer stop using this node's API server.
    pub fn leave(&self, node: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned());
    }

    /// Reader and writer use it again.
    pub fn back(&self, node: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    pub(crate) fn has(&self, node: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(node)
    }
}

/// A node and the objects, read through its API server.
struct Through {
    node: String,
    load: Load,
}

struct Reading {
    servers: Vec<Through>,
    expected: Contents,
    away: Away,
    began: Instant,
    report: Report,
}

impl Reader {
    /// Starts. `pause` is the time between two gets: this is a reader, not a load test.
    pub async fn start(cluster: &Cluster, expected: Contents, pause: Duration) -> Result<Self> {
        let mut servers = Vec::new();
        for (index, node) in cluster.nodes().iter().enumerate() {
            let client = cluster.client(index).await?;
            servers.push(Through { node: node.name().to_owned(), load: Load::through(&client) });
        }
        let (stop, away) = (Arc::new(AtomicBool::new(false)), Away::default());
        let mut reading = Reading {
            servers,
            expected,
            away: away.clone(),
            began: Instant::now(),
            report: Report::default(),
        };
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut pace = tokio::time::interval(pause);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut count = 0;
            let names: Vec<String> = reading.expected.keys().cloned().collect();
            while !stopped.load(Ordering::Relaxed) {
                for at in 0..reading.servers.len() {
                    reading.list(at).await;
                }
                for name in &names {
                    pace.tick().await;
                    if stopped.load(Ordering::Relaxed) {
                        break;
                    }
                    count += 1;
                    reading.get(count % reading.servers.len().max(1), name).await;
                }
            }
            reading.report
        });
        Ok(Self { stop, away, task })
    }

    /// The nodes that it does not use.
    #[must_use]
    pub fn away(&self) -> Away {
        self.away.clone()
    }

    /// Stops, and returns the report.
    pub async fn finish(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the reader panicked")
    }
}

impl Reading {
    async fn list(&mut self, at: usize) {
        let Some(Through { node, load }) = self.servers.get(at).filter(|it| !self.away.has(&it.node)) else {
            return;
        };
        let failure = match load.contents().await {
            Ok(contents) if contents == self.expected => {
                self.report.lists += 1;
                return;
            }
            Ok(_) => "list: the content has changed".to_owned(),
            Err(error) => format!("list: {error:#}"),
        };
        let node = node.clone();
        self.failed(&node, &failure);
    }

    async fn get(&mut self, at: usize, name: &str) {
        let Some(Through { node, load }) = self.servers.get(at).filter(|it| !self.away.has(&it.node)) else {
            return;
        };
        let node = node.clone();
        let failure = match load.get(name).await {
            Ok(found) if self.expected.get(name) == Some(&found) => {
                self.report.gets += 1;
                *self.report.through.entry(node).or_default() += 1;
                return;
            }
            Ok(_) => format!("get {name}: the content has changed"),
            Err(error) => format!("get {name}: {error:#}"),
        };
        self.failed(&node, &failure);
    }

    /// A read that fails while the test stops its API server is not a failure of Keyward.
    fn failed(&mut self, node: &str, failure: &str) {
        if !self.away.has(node) {
            let at = self.began.elapsed().as_secs_f64();
            self.report.failures.push(format!("{at:.1} s, {node}: {failure}"));
        }
    }
}
