//! A client that makes and changes objects in a loop, keeps what it wrote, and reads it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use keyward_test_cluster::Cluster;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::load::{Content, Contents, Load};
use crate::reader::Away;

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
    /// Begins in a namespace of its own, through the first node's API server; while that is away, through the next.
    /// `pause` is the time from one write to the next.
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
            let mut turns = Turns {
                servers,
                away,
                kept: Contents::new(),
                names: Vec::new(),
                written: Written::default(),
            };
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
        Ok(Self { stop, task })
    }

    /// Ends with a last look at everything, and tells.
    pub async fn finish(self) -> Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the writer panicked")
    }
}

struct Turns {
    /// By their nodes' names.
    servers: Vec<(String, Load)>,
    away: Away,
    /// What was written last.
    kept: Contents,
    names: Vec<String>,
    written: Written,
}

impl Turns {
    async fn write(&mut self, turn: u64) {
        let Some((node, load)) = self.server() else { return };
        let value = format!("as written in turn {turn}");
        let changed =
            self.some(turn / 2).filter(|_| self.names.len() >= MOST || !turn.is_multiple_of(CREATE_EVERY));
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
            // Its server was taken away meanwhile: whether it was written is to be seen.
            Err(_) if self.away.has(&node) => {
                let Some((_, load)) = self.server() else { return };
                if let (Ok(found), Ok(meant)) = (load.get(&name).await, Load::holding(&name, &value))
                    && found == meant
                {
                    self.keep(name, meant);
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

    async fn read_back(&mut self, turn: u64) {
        let (Some(name), Some((node, load))) = (self.some(turn), self.server()) else { return };
        match load.get(&name).await {
            Ok(content) if self.kept.get(&name) == Some(&content) => self.written.gets += 1,
            Ok(_) => self.written.failures.push(format!("get {name}: it is not what was written")),
            Err(_) if self.away.has(&node) => {}
            Err(error) => self.written.failures.push(format!("get {name} through {node}: {error:#}")),
        }
    }

    async fn list(&mut self) {
        let Some((node, load)) = self.server() else { return };
        match load.contents().await {
            Ok(contents) if contents == self.kept => self.written.lists += 1,
            Ok(_) => self.written.failures.push("a list shows something else than was written".to_owned()),
            Err(_) if self.away.has(&node) => {}
            Err(error) => self.written.failures.push(format!("list through {node}: {error:#}")),
        }
    }

    /// The first that is not away.
    fn server(&self) -> Option<(String, Load)> {
        self.servers.iter().find(|(node, _)| !self.away.has(node)).cloned()
    }

    /// One of them, all in turn.
    fn some(&self, turn: u64) -> Option<String> {
        let at = usize::try_from(turn).ok()?.checked_rem(self.names.len())?;
        self.names.get(at).cloned()
    }
}
