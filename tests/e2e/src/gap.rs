//! Asks a key's plugin through the key's socket, as an API server reaches it, over and over: is there a moment at which
//! nobody answers?
//!
//! An API server asks its plugin seldom: it keeps the data keys that were unwrapped. So objects can be read through a
//! gap of seconds, and only whoever asks all the while sees it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use keyward_core::ids::{ConfigHash, KeyId};
use keyward_core::names;
use keyward_core::node::Instance;
use keyward_kms::{Client as Kms, KmsError, ProbeSpec, Timeouts, probe};
use keyward_test_cluster::{Cluster, ENCRYPTION_CONFIG, Node};
use kube::Client;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// From one round trip to the next.
const PERIOD: Duration = Duration::from_millis(15);
/// From one look at `/readyz` to the next.
const READY_PERIOD: Duration = Duration::from_millis(100);
/// As long as an API server waits for a plugin by default.
const CALL: Duration = Duration::from_secs(3);
/// What the connection that is kept wraps: as long as an API server's seeds.
const PLAINTEXT: &[u8; 32] = b"thirty-two bytes that nobody own";

/// Watches until it is asked for its report.
pub struct Gap {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Watched>>,
    tasks: Vec<JoinHandle<()>>,
}

/// What was asked and answered: `/readyz` all the while, the plugin from its first answer until its key has left the
/// configuration.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Round trips, in turn: Status, Encrypt and Decrypt over a new connection; Encrypt and Decrypt over one that is
    /// kept, as an API server keeps its own.
    pub probes: u64,
    /// Instances that the socket led to, by the first digits of their digests, with the round trips of each; in order.
    pub served_by: Vec<(String, u64)>,
    /// The longest time from one answer to the next.
    pub longest: Duration,
    /// Looks at the API servers' `/readyz`.
    pub looks: u64,
    /// Round trips that failed, and looks that showed something else than `ok`.
    pub failures: Vec<String>,
}

impl Watched {
    /// What came after `earlier`, which was seen by the same watcher. `longest` stays that of all.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |instance: &str| {
            let found = earlier.served_by.iter().find(|(name, _)| name == instance);
            found.map_or(0, |(_, probes)| *probes)
        };
        let served_by = self.served_by.iter().map(|(name, all)| (name.clone(), all - before(name)));
        Self {
            probes: self.probes - earlier.probes,
            served_by: served_by.filter(|(_, probes)| *probes > 0).collect(),
            longest: self.longest,
            looks: self.looks - earlier.looks,
            failures: self.failures.iter().skip(earlier.failures.len()).cloned().collect(),
        }
    }

    /// `652252ca (310), then 3c85b2f6 (95)`
    pub fn instances(&self) -> String {
        let told: Vec<String> =
            self.served_by.iter().map(|(name, probes)| format!("{name} ({probes})")).collect();
        told.join(", then ")
    }

    fn answered(&mut self, instance: String, since_last: Option<Duration>) {
        self.probes += 1;
        match self.served_by.iter_mut().find(|(name, _)| *name == instance) {
            Some((_, probes)) => *probes += 1,
            None => self.served_by.push((instance, 1)),
        }
        self.longest = self.longest.max(since_last.unwrap_or_default());
    }
}

impl Gap {
    /// Begins, on every node. Before a plugin answers at the key's socket for the first time, nothing is counted.
    pub async fn watch(cluster: &Cluster, key_id: u64) -> Result<Self> {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Watched::default())));
        let mut tasks = Vec::new();
        for (index, node) in cluster.nodes().iter().enumerate() {
            let spot = Spot::of(node, KeyId(key_id), cluster.client(index).await?);
            let watcher = Watcher { spot, stop: Arc::clone(&stop), seen: Arc::clone(&seen) };
            tasks.push(tokio::spawn(watcher.clone().ready()));
            tasks.push(tokio::spawn(watcher.run()));
        }
        Ok(Self { stop, seen, tasks })
    }

    /// What was seen so far.
    pub fn so_far(&self) -> Watched {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends, and tells.
    pub async fn finish(self) -> Result<Watched> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.context("the watcher panicked")?;
        }
        Ok(self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

#[derive(Clone)]
struct Watcher {
    spot: Spot,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Watched>>,
}

impl Watcher {
    async fn run(self) {
        let spec = ProbeSpec {
            call_timeout: CALL,
            status_timeout: None,
            round_trip: true,
            key_check: None,
            make_key_check: false,
        };
        let mut kept: Option<Kept> = None;
        let mut anew = true;
        let mut last: Option<Instant> = None;
        let mut named = Named::NotYet;
        let mut pace = interval(PERIOD);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.stop.load(Ordering::Relaxed) {
            pace.tick().await;
            self.spot.look(&mut named).await;
            if named == Named::NoMore {
                return;
            }
            let instance = self.spot.instance();
            let result = if anew {
                probe(&self.spot.socket, &spec).await.result
            } else {
                self.through_kept(&mut kept).await
            };
            match result {
                Ok(()) => {
                    let since_last = last.map(|last| last.elapsed());
                    self.note(|seen| seen.answered(instance, since_last));
                    last = Some(Instant::now());
                    anew = !anew;
                }
                Err(_) if last.is_none() => {}
                Err(error) => {
                    // The key may have left, and its link with it, since the look.
                    self.spot.look(&mut named).await;
                    if named != Named::NoMore {
                        let failure = format!("{}, led to {instance}: {error}", self.spot.node);
                        self.note(|seen| seen.failures.push(failure));
                    }
                }
            }
        }
    }

    /// A round trip over the connection that is kept. It may break when its plugin has been replaced, and only then;
    /// what was asked is then asked once more, as an API server's client does with what a server that stops never
    /// began.
    async fn through_kept(&self, kept: &mut Option<Kept>) -> Result<(), KmsError> {
        if let Some(Kept { kms, made_to }) = kept {
            match round_trip(kms).await {
                Err(_) if *made_to != self.spot.instance() => {}
                done => return done,
            }
        }
        let made_to = self.spot.instance();
        let kms = Kms::connect(&self.spot.socket, Timeouts { connect: CALL, call: CALL }).await?;
        let Kept { kms, .. } = kept.insert(Kept { kms, made_to });
        round_trip(kms).await
    }

    /// The API server's own word, all the while.
    async fn ready(self) {
        let mut pace = interval(READY_PERIOD);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.stop.load(Ordering::Relaxed) {
            pace.tick().await;
            let failure = match self.spot.readyz().await {
                Ok(text) if text == "ok" => None,
                Ok(text) => Some(text),
                Err(error) => Some(format!("{error:#}")),
            };
            self.note(|seen| {
                seen.looks += 1;
                seen.failures.extend(failure.map(|why| format!("{}: /readyz: {why}", self.spot.node)));
            });
        }
    }

    fn note(&self, what: impl FnOnce(&mut Watched)) {
        what(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A connection, and the instance that it was made to.
struct Kept {
    kms: Kms,
    made_to: String,
}

async fn round_trip(kms: &Kms) -> Result<(), KmsError> {
    let encrypted = kms.encrypt("gap", PLAINTEXT).await?;
    let decrypted = kms.decrypt("gap", &encrypted).await?;
    if decrypted.as_slice() == PLAINTEXT { Ok(()) } else { Err(KmsError::RoundTripMismatch) }
}

/// Whether a configuration names the key's socket. A plugin is up before one does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    NotYet,
    Now,
    /// The file does not any more, and the API server has loaded that file.
    NoMore,
}

/// One key on one node, as the host sees it.
#[derive(Clone)]
struct Spot {
    node: String,
    /// The key's link, which the configuration names.
    socket: PathBuf,
    config: PathBuf,
    endpoint: String,
    client: Client,
}

impl Spot {
    fn of(node: &Node, key_id: KeyId, client: Client) -> Self {
        Self {
            node: node.name().to_owned(),
            socket: node.path(Instance::link(key_id)),
            config: node.path(ENCRYPTION_CONFIG),
            endpoint: names::endpoint(key_id),
            client,
        }
    }

    /// The instance that the link leads to, as its pod is named.
    fn instance(&self) -> String {
        let target = std::fs::read_link(&self.socket).ok();
        let generation = target.and_then(|target| Instance::parse_link_target(target.to_str()?));
        generation.map_or_else(|| "nothing".to_owned(), |it| it.as_str().chars().take(8).collect())
    }

    async fn look(&self, named: &mut Named) {
        let Ok(bytes) = std::fs::read(&self.config) else { return };
        if String::from_utf8_lossy(&bytes).contains(&self.endpoint) {
            *named = Named::Now;
        } else if *named == Named::Now {
            let loaded = Cluster::loaded_by(&self.client).await.ok().flatten();
            if loaded == Some(ConfigHash::of(&bytes).0) {
                *named = Named::NoMore;
            }
        }
    }

    async fn readyz(&self) -> Result<String> {
        let request = http::Request::get("/readyz").body(Vec::new())?;
        Ok(self.client.request_text(request).await?)
    }
}
