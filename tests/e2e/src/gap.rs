//! Calls a key's plugin again and again through the key's socket, as an API server reaches it, to find any
//! moment at which no plugin answers.
//!
//! An API server calls its plugin seldom, because it caches unwrapped data keys
//! (kubernetes: unwrapped-data-keys-are-cached). So objects stay readable during a gap of seconds, and only
//! continuous calls find it.

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

/// The time between two round trips.
const PERIOD: Duration = Duration::from_millis(15);
/// The time between two requests to `/readyz`.
const READY_PERIOD: Duration = Duration::from_millis(100);
/// How long an API server waits for a plugin by default.
const CALL: Duration = Duration::from_secs(3);
/// The plaintext of calls over the persistent connection: as long as an API server's seeds.
const PLAINTEXT: &[u8; 32] = b"thirty-two bytes that nobody own";

/// Watches until [`Gap::finish`].
pub struct Gap {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Watched>>,
    tasks: Vec<JoinHandle<()>>,
}

/// The calls and their results: to `/readyz` during the whole time, to the plugin from its first answer until
/// its key has left the configuration.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Round trips. They alternate: Status, Encrypt and Decrypt over a new connection; Encrypt and Decrypt
    /// over a persistent connection like that of an API server.
    pub probes: u64,
    /// The instances behind the socket, by the first digits of their digests, with the round trips of each;
    /// in order.
    pub served_by: Vec<(String, u64)>,
    /// The longest time between two answers.
    pub longest: Duration,
    /// Requests to the API servers' `/readyz`.
    pub readyz_requests: u64,
    /// Round trips that failed, and responses of `/readyz` other than `ok`.
    pub failures: Vec<String>,
}

impl Watched {
    /// The difference to `earlier`, an earlier state of the same watcher. `longest` is that of the whole
    /// time.
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
            readyz_requests: self.readyz_requests - earlier.readyz_requests,
            failures: self.failures.iter().skip(earlier.failures.len()).cloned().collect(),
        }
    }

    /// `652252ca (310), then 3c85b2f6 (95)`
    pub fn instances(&self) -> String {
        let instances: Vec<String> =
            self.served_by.iter().map(|(name, probes)| format!("{name} ({probes})")).collect();
        instances.join(", then ")
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
    /// Starts, on every node. Counts from the first answer of a plugin at the key's socket.
    pub async fn watch(cluster: &Cluster, key_id: u64) -> Result<Self> {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Watched::default())));
        let mut tasks = Vec::new();
        for (index, node) in cluster.nodes().iter().enumerate() {
            let location = Location::of(node, KeyId(key_id), cluster.client(index).await?);
            let watcher = Watcher { location, stop: Arc::clone(&stop), seen: Arc::clone(&seen) };
            tasks.push(tokio::spawn(watcher.clone().watch_readyz()));
            tasks.push(tokio::spawn(watcher.run()));
        }
        Ok(Self { stop, seen, tasks })
    }

    /// The state so far.
    pub fn so_far(&self) -> Watched {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops, and returns the final state.
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
    location: Location,
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
        let mut persistent: Option<Persistent> = None;
        let mut new_connection = true;
        let mut last: Option<Instant> = None;
        let mut named = Named::NotYet;
        let mut pace = interval(PERIOD);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.stop.load(Ordering::Relaxed) {
            pace.tick().await;
            self.location.update(&mut named).await;
            if named == Named::NoMore {
                return;
            }
            let instance = self.location.instance();
            let result = if new_connection {
                probe(&self.location.socket, &spec).await.result
            } else {
                self.over_persistent(&mut persistent).await
            };
            match result {
                Ok(()) => {
                    let since_last = last.map(|last| last.elapsed());
                    self.note(|seen| seen.answered(instance, since_last));
                    last = Some(Instant::now());
                    new_connection = !new_connection;
                }
                Err(_) if last.is_none() => {}
                Err(error) => {
                    // Since the last update the key may have left the configuration, and its link with it.
                    self.location.update(&mut named).await;
                    if named != Named::NoMore {
                        let failure = format!("{}, instance {instance}: {error}", self.location.node);
                        self.note(|seen| seen.failures.push(failure));
                    }
                }
            }
        }
    }

    /// A round trip over the persistent connection. The connection is allowed to break only when its plugin
    /// has been replaced. The call is then repeated once, as an API server's client repeats a call that a
    /// stopping server has not started.
    async fn over_persistent(&self, persistent: &mut Option<Persistent>) -> Result<(), KmsError> {
        if let Some(Persistent { kms, made_to }) = persistent {
            match round_trip(kms).await {
                Err(_) if *made_to != self.location.instance() => {}
                done => return done,
            }
        }
        let made_to = self.location.instance();
        let kms = Kms::connect(&self.location.socket, Timeouts { connect: CALL, call: CALL }).await?;
        let Persistent { kms, .. } = persistent.insert(Persistent { kms, made_to });
        round_trip(kms).await
    }

    /// Watches `/readyz` of the API server.
    async fn watch_readyz(self) {
        let mut pace = interval(READY_PERIOD);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.stop.load(Ordering::Relaxed) {
            pace.tick().await;
            let failure = match self.location.readyz().await {
                Ok(text) if text == "ok" => None,
                Ok(text) => Some(text),
                Err(error) => Some(format!("{error:#}")),
            };
            self.note(|seen| {
                seen.readyz_requests += 1;
                seen.failures.extend(failure.map(|why| format!("{}: /readyz: {why}", self.location.node)));
            });
        }
    }

    fn note(&self, what: impl FnOnce(&mut Watched)) {
        what(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A persistent connection, and the instance that it was made to.
struct Persistent {
    kms: Kms,
    made_to: String,
}

async fn round_trip(kms: &Kms) -> Result<(), KmsError> {
    let encrypted = kms.encrypt("gap", PLAINTEXT).await?;
    let decrypted = kms.decrypt("gap", &encrypted).await?;
    if decrypted.as_slice() == PLAINTEXT { Ok(()) } else { Err(KmsError::RoundTripMismatch) }
}

/// Whether the configuration names the key's socket. A plugin runs before that.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    NotYet,
    Now,
    /// The file no longer names it, and the API server has loaded that file.
    NoMore,
}

/// One key on one node, with paths on the host.
#[derive(Clone)]
struct Location {
    node: String,
    /// The key's link; the configuration names it.
    socket: PathBuf,
    config: PathBuf,
    endpoint: String,
    client: Client,
}

impl Location {
    fn of(node: &Node, key_id: KeyId, client: Client) -> Self {
        Self {
            node: node.name().to_owned(),
            socket: node.path(Instance::link(key_id)),
            config: node.path(ENCRYPTION_CONFIG),
            endpoint: names::endpoint(key_id),
            client,
        }
    }

    /// The instance that the link leads to, by the digits in its pod's name.
    fn instance(&self) -> String {
        let target = std::fs::read_link(&self.socket).ok();
        let generation = target.and_then(|target| Instance::parse_link_target(target.to_str()?));
        generation.map_or_else(|| "nothing".to_owned(), |it| it.as_str().chars().take(8).collect())
    }

    async fn update(&self, named: &mut Named) {
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
