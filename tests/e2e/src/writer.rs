//! A client that creates and changes objects in a loop, remembers their content, and reads it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use keyward_test_cluster::Cluster;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::load::{Content, Contents, Load};
use crate::reader::Away;

/// The number of objects that it creates, one at a time; after that it only changes them.
const MOST: usize = 120;
/// One of this many rounds creates an object.
const CREATE_EVERY: u64 = 4;
/// One of this many rounds lists all objects.
const LIST_EVERY: u64 = 32;

/// Writes in the background until [`Writer::finish`]. Nothing else writes its objects, so every read must
/// return exactly the content of the last write.
pub struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Written>,
}

/// The writes and reads so far.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Objects created.
    pub creates: u64,
    /// Objects changed.
    pub updates: u64,
    /// Objects read, one by one.
    pub gets: u64,
    /// Lists of all of them.
    pub lists: u64,
    /// Requests that failed, and reads that returned other content.
    pub failures: Vec<String>,
}

impl Writer {
    /// Starts in a namespace of its own, through the first node's API server; while that is away, through the
    /// next one. `pause` is the time between two writes.
    pub async fn start(cluster: &Cluster, namespace: &str, away: Away, pause: Duration) -> Result<Self> {
        let mut servers = Vec::new();
        for (index, node) in cluster.nodes().iter().enumerate() {
            let client = cluster.client(index).await?;
            if index == 0 {
                Load::empty(&client, namespace).await?;
            }
            servers.push((node.name().to_owned(), Load::within(&client, namespace)));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut writing = Writing {
                servers,
                away,
                kept: Contents::new(),
                names: Vec::new(),
                written: Written::default(),
            };
            let mut pace = tokio::time::interval(pause);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut round = 0;
            while !stopped.load(Ordering::Relaxed) {
                pace.tick().await;
                writing.write(round).await;
                writing.read_back(round).await;
                if round % LIST_EVERY == 0 {
                    writing.list().await;
                }
                round += 1;
            }
            writing.list().await;
            writing.written
        });
        Ok(Self { stop, task })
    }

    /// Stops after a last list of all objects, and returns the report.
    pub async fn finish(self) -> Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the writer panicked")
    }
}

struct Writing {
    /// With their nodes' names.
    servers: Vec<(String, Load)>,
    away: Away,
    /// The content of the last writes.
    kept: Contents,
    names: Vec<String>,
    written: Written,
}

impl Writing {
    async fn write(&mut self, round: u64) {
        let Some((node, load)) = self.server() else { return };
        let value = format!("written in round {round}");
        let changed =
            self.some(round / 2).filter(|_| self.names.len() >= MOST || !round.is_multiple_of(CREATE_EVERY));
        let (what, name, result) = match changed {
            Some(name) => ("update", name.clone(), load.change(&name, &value).await),
            None => {
                let kind = if self.names.len().is_multiple_of(3) { "configmap" } else { "secret" };
                let name = format!("{kind}/written-{:05}", self.names.len());
                let result = load.add(&name, &value).await;
                ("create", name, result)
            }
        };
        match result {
            Ok(content) => self.keep(name, content),
            // The test stopped the API server meanwhile: a read shows whether the object was written.
            Err(_) if self.away.has(&node) => {
                let Some((_, load)) = self.server() else { return };
                if let (Ok(found), Ok(written)) = (load.get(&name).await, Load::content(&name, &value))
                    && found == written
                {
                    self.keep(name, written);
                }
            }
            Err(error) => self.written.failures.push(format!("{what} {name} through {node}: {error:#}")),
        }
    }

    fn keep(&mut self, name: String, content: Content) {
        if self.kept.insert(name.clone(), content).is_none() {
            self.names.push(name);
            self.written.creates += 1;
        } else {
            self.written.updates += 1;
        }
    }

    async fn read_back(&mut self, round: u64) {
        let (Some(name), Some((node, load))) = (self.some(round), self.server()) else { return };
        match load.get(&name).await {
            Ok(content) if self.kept.get(&name) == Some(&content) => self.written.gets += 1,
            Ok(_) => self.written.failures.push(format!("get {name}: it is not the written content")),
            Err(_) if self.away.has(&node) => {}
            Err(error) => self.written.failures.push(format!("get {name} through {node}: {error:#}")),
        }
    }

    async fn list(&mut self) {
        let Some((node, load)) = self.server() else { return };
        match load.contents().await {
            Ok(contents) if contents == self.kept => self.written.lists += 1,
            Ok(_) => self.written.failures.push("list: it is not the written content".to_owned()),
            Err(_) if self.away.has(&node) => {}
            Err(error) => self.written.failures.push(format!("list through {node}: {error:#}")),
        }
    }

    /// The first API server that is not away.
    fn server(&self) -> Option<(String, Load)> {
        self.servers.iter().find(|(node, _)| !self.away.has(node)).cloned()
    }

    /// One of the objects; successive rounds go through all of them.
    fn some(&self, round: u64) -> Option<String> {
        let at = usize::try_from(round).ok()?.checked_rem(self.names.len())?;
        self.names.get(at).cloned()
    }
}
