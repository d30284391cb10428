//! The loop: look, have core decide, do, report; again when something rings, or after a while.

use std::ffi::OsStr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use keyward_core::SecretBytes;
use keyward_core::node::{self, Decision, Observed, Scrubber, Step, StepFailure};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::Connection;
use crate::diagnosis::Diagnoser;
use crate::disk::Disk;
use crate::edits;
use crate::error::AgentError;
use crate::observe::Memory;
use crate::paths::{PLUGIN_MANIFEST, Paths};
use crate::prober::{Prober, Probing};
use crate::report::Throttle;
use crate::settings::Settings;
use crate::troubles::Troubles;
use crate::watch;

/// First pause after a turn that failed, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// While something is under way for long, looks are at most so many times rarer than at first.
const SLOWER: u32 = 10;
/// The same steps, decided so often in a row, are not getting anywhere.
const STUCK: u32 = 5;

/// What an agent did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Turns.
    pub turns: u64,
    /// Turns that failed.
    pub failures: u64,
    /// Turns that panicked: bugs.
    pub panics: u64,
    /// Steps done.
    pub steps: u64,
    /// Statuses written.
    pub reports: u64,
}

/// One node's agent. It holds the lock on the node's disk.
#[derive(Debug)]
pub struct Agent {
    pub(crate) settings: Settings,
    pub(crate) disk: Arc<Disk>,
    /// Absent until the kubeconfig can be used; what is installed needs no API.
    pub(crate) connection: Option<Connection>,
    pub(crate) prober: Prober,
    pub(crate) throttle: Throttle,
    pub(crate) memory: Memory,
    /// Rung by the watches: what is wanted changed, or the configuration file did.
    wish: Arc<Notify>,
    /// Rung by probes.
    news: Arc<Notify>,
    watching: Option<Watching>,
    /// Rings when somebody replaces something by hand.
    _beside: Watching,
    counters: Counters,
    /// The reasons that were logged last: they are said once.
    said: Vec<String>,
    saying: Vec<String>,
    /// Those of a turn that an admin has to mend.
    complaints: Vec<String>,
    repeated: (Vec<Step>, u32),
    troubles: Troubles,
}

/// The watch ends with the agent.
#[derive(Debug)]
struct Watching(JoinHandle<()>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How a turn ended.
enum Turn {
    /// Something was done: look again at once.
    Moved,
    /// Something is under way.
    Busy,
    /// Nothing is to be done.
    Rest,
}

impl Agent {
    /// Takes the node's disk over. Plugins that run go on, whatever the agent does.
    pub async fn new(settings: Settings) -> Result<Self, AgentError> {
        let (node, paths, owner) = (settings.node.clone(), settings.paths.clone(), settings.owner);
        let disk = tokio::task::spawn_blocking(move || Disk::open(&node, paths, owner))
            .await
            .map_err(|_| AgentError::Panicked { what: "opening the disk" })??;
        let connection = match Connection::new(&settings).await {
            Ok(connection) => Some(connection),
            Err(error @ AgentError::MetricsUrl { .. }) => return Err(error),
            // The first turn says so.
            Err(_) => None,
        };
        let (wish, news) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let prober = Prober::new(Probing {
            policy: settings.policy,
            timeout: settings.plugin_timeout,
            full_every: settings.full_probe_every.max(1),
            paths: settings.paths.clone(),
            bell: Arc::clone(&news),
        });
        let beside = watch::watch_folder(settings.paths.recovered(), Arc::clone(&wish));
        watch_edits(&settings.paths, &wish);
        let mut agent = Self {
            settings,
            disk: Arc::new(disk),
            connection,
            prober,
            throttle: Throttle::default(),
            memory: Memory::default(),
            wish,
            news,
            watching: None,
            _beside: Watching(tokio::spawn(beside)),
            counters: Counters::default(),
            said: Vec::new(),
            saying: Vec::new(),
            complaints: Vec::new(),
            repeated: (Vec::new(), 0),
            troubles: Troubles::default(),
        };
        agent.watch();
        Ok(agent)
    }

    fn watch(&mut self) {
        let Some(connection) = self.connection.clone() else { return };
        let watch = watch::watch(connection, self.settings.node.clone(), Arc::clone(&self.wish));
        self.watching = Some(Watching(tokio::spawn(watch)));
    }

    /// Uses the kubeconfig as it is now. One that cannot be used, half written say, is no reason to leave the node alone: what
    /// is installed goes on, by the credential that there was, if any.
    async fn connect(&mut self) {
        if self.connection.as_ref().is_some_and(|connection| !connection.is_outdated()) {
            return;
        }
        match Connection::new(&self.settings).await {
            Ok(connection) => {
                self.connection = Some(connection);
                self.watch();
                tracing::info!("the kubeconfig changed; its credential is used from now on");
            }
            Err(error) => {
                let instead = match &self.connection {
                    Some(_) => "the one before is used on",
                    None => "what is installed goes on without the API",
                };
                self.complaints.push(format!("{error}; {instead}"));
            }
        }
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Turns until it is told to stop; a step under way is finished. Plugins are static pods: they go on.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        let (mut busy, mut waited) = (true, 0_u32);
        tracing::info!(node = self.settings.node, "the agent begins");
        while !stop.is_cancelled() {
            let turn = AssertUnwindSafe(self.turn(busy)).catch_unwind().await;
            self.counters.turns += 1;
            let wait = match turn {
                Ok(Ok(turn)) => {
                    self.troubles.works(Instant::now());
                    pause = FIRST_PAUSE;
                    busy = !matches!(turn, Turn::Rest);
                    waited = if matches!(turn, Turn::Busy) { waited.saturating_add(1) } else { 0 };
                    match turn {
                        Turn::Moved => Duration::ZERO,
                        // What takes long, such as a KMS that is away, is not worth the API server's metrics each second.
                        Turn::Busy => self.settings.busy * (1 + waited / 10).min(SLOWER),
                        Turn::Rest => {
                            let interval = self.settings.policy.probe_interval;
                            watch::jittered(self.throttle.rest(interval, Instant::now()))
                        }
                    }
                }
                Ok(Err(error)) => {
                    self.counters.failures += 1;
                    if self.troubles.fails(&error.to_string(), Instant::now()) {
                        tracing::error!(%error, category = ?error.category(), again_in = ?pause, "reconcile failed");
                    } else {
                        tracing::debug!(%error, again_in = ?pause, "reconcile failed again");
                    }
                    later(&mut pause)
                }
                Err(_) => {
                    self.counters.panics += 1;
                    tracing::error!(panics = self.counters.panics, "a turn panicked; this is a bug");
                    later(&mut pause)
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
                () = self.wish.notified() => {}
                // A plugin that rings all the time must not end the back-off.
                () = self.news.notified(), if pause == FIRST_PAUSE => {}
            }
        }
        tracing::info!(node = self.settings.node, "the agent ends; plugins go on");
    }

    /// Looks, decides, does, reports.
    #[tracing::instrument(level = "info", name = "turn", skip_all, fields(node = self.settings.node))]
    async fn turn(&mut self, busy: bool) -> Result<Turn, AgentError> {
        self.saying.clear();
        self.connect().await;
        let observed = self.observe(busy).await?;
        let decision = node::next(&observed);
        self.explain(&decision);
        let now = Instant::now();
        self.memory.unneeded.retain(|instance, _| decision.unneeded.contains(instance));
        for instance in &decision.unneeded {
            self.memory.unneeded.entry(instance.clone()).or_insert(now);
        }
        let done = self.act(&decision, &observed).await;
        self.ask(&decision, &observed, done.is_ok()).await;
        if let Some(report) = &decision.report {
            self.troubles.log(&self.settings.node, report, Instant::now());
        }
        // After steps that went well there is more to see, at once.
        if let Some(report) = decision.report.filter(|_| done.is_err() || decision.steps.is_empty()) {
            self.report(report).await?;
        }
        done?;
        Ok(match (decision.steps.is_empty(), decision.busy) {
            (false, _) => Turn::Moved,
            (true, true) => Turn::Busy,
            (true, false) => Turn::Rest,
        })
    }

    /// The steps in order, up to the first that fails.
    async fn act(&mut self, decision: &Decision, observed: &Observed) -> Result<(), AgentError> {
        if decision.steps.is_empty() {
            self.repeated = (Vec::new(), 0);
            self.memory.failed_step = None;
            return Ok(());
        }
        if self.repeated.0 == decision.steps {
            self.repeated.1 += 1;
        } else {
            self.repeated = (decision.steps.clone(), 0);
        }
        let observed = Arc::new(observed.clone());
        for step in &decision.steps {
            // A pause begins between two steps.
            if !step.is_record() && self.disk.is_paused() {
                break;
            }
            let (disk, task, seen) = (Arc::clone(&self.disk), step.clone(), Arc::clone(&observed));
            let done = tokio::task::spawn_blocking(move || disk.act(&task, &seen)).await;
            if step.touches_configuration() {
                self.memory.forget_reading();
            }
            let failed = match done {
                Ok(Ok(())) => {
                    self.counters.steps += 1;
                    tracing::info!(step = %step, "done");
                    continue;
                }
                Ok(Err(error)) => error,
                Err(_) => AgentError::Panicked { what: "a step" },
            };
            self.memory.failed_step =
                Some(StepFailure { step: step.to_string(), message: failed.to_string() });
            return Err(failed);
        }
        if self.repeated.1 >= STUCK {
            // Whoever undoes them is somebody else: another agent, or an admin who cleans up.
            let what = decision.steps.first().map(ToString::to_string).unwrap_or_default();
            let what = format!("what {what} did {} times in a row", self.repeated.1);
            self.memory.failed_step =
                Some(StepFailure { step: what.clone(), message: "something undoes it".to_owned() });
            return Err(AgentError::Gone { what });
        }
        self.memory.failed_step = None;
        Ok(())
    }

    async fn ask(&mut self, decision: &Decision, observed: &Observed, started: bool) {
        let candidate = observed.candidate.iter().filter_map(|found| found.as_ref().ok());
        let target = observed.target.iter().filter_map(|found| found.as_ref().ok());
        let records = candidate.flat_map(|plugins| plugins.values()).chain(
            target.chain(observed.disk.revisions.values()).flat_map(|content| content.plugins.values()),
        );
        let by_hand = observed.disk.recovered.iter().map(|one| &one.values);
        let scrubber = Scrubber::new(records).and(by_hand);
        let scrubber = Arc::new(scrubber.and_bytes(&self.forgotten_secrets(observed).await));
        let diagnoser = Diagnoser {
            connection: self.connection.clone(),
            paths: self.settings.paths.clone(),
            node: self.settings.node.clone(),
        };
        let mut asks = decision.asks.clone();
        asks.extend(decision.starts.clone().into_iter().filter(|_| started));
        self.prober.ask(&asks, &diagnoser, &scrubber);
    }

    /// What plugins were given that still run here, and of which nothing but their files tells: their revision is forgotten,
    /// or their candidate is another one by now. What they log is cleaned of that too.
    async fn forgotten_secrets(&self, observed: &Observed) -> Vec<SecretBytes> {
        let running = observed.disk.instances.iter().filter(|(_, found)| found.pod).map(|(one, _)| one);
        let unknown: Vec<_> = running.filter(|one| observed.record(one).is_none()).cloned().collect();
        if unknown.is_empty() {
            return Vec::new();
        }
        let disk = Arc::clone(&self.disk);
        let files = move || unknown.iter().flat_map(|one| disk.files(one)).collect();
        tokio::task::spawn_blocking(files).await.unwrap_or_default()
    }

    async fn report(&mut self, status: keyward_core::api::EncryptionNodeStatus) -> Result<(), AgentError> {
        let now = Instant::now();
        if !self.throttle.is_due(&status, self.settings.policy.probe_interval, now) {
            return Ok(());
        }
        let Some(connection) = &self.connection else { return Ok(()) };
        connection.report(&self.settings.node, &status).await?;
        self.counters.reports += 1;
        self.throttle.written(status, now);
        Ok(())
    }

    /// Something that is worth a line of log, once for as long as it holds.
    pub(crate) fn say(&mut self, what: String) {
        self.saying.push(what);
    }

    /// Logs the reasons that are new since the last turn.
    fn explain(&mut self, decision: &Decision) {
        let complaints = std::mem::take(&mut self.complaints);
        for why in complaints.iter().filter(|why| !self.said.contains(why)) {
            tracing::warn!("{why}");
        }
        self.saying.extend(decision.why.iter().cloned());
        for why in self.saying.iter().filter(|why| !self.said.contains(why)) {
            tracing::info!("{why}");
        }
        self.saying.extend(complaints);
        std::mem::swap(&mut self.said, &mut self.saying);
    }
}

/// A pause begins and ends at once.
fn watch_pause(paths: &Paths, bell: &Arc<Notify>) -> std::io::Result<()> {
    let file = paths.paused();
    let folder = file.parent().map(ToOwned::to_owned).unwrap_or_default();
    let name = file.file_name().map(ToOwned::to_owned).unwrap_or_default();
    edits::watch(folder, move |found| found == name, bell)
}

/// Where that fails, edits are seen when the agent looks by itself.
fn watch_edits(paths: &Paths, bell: &Arc<Notify>) {
    let config = paths.config();
    let folder = config.parent().map(ToOwned::to_owned).unwrap_or_default();
    let file = config.file_name().map(ToOwned::to_owned).unwrap_or_default();
    let is_manifest = |name: &OsStr| name.as_encoded_bytes().starts_with(PLUGIN_MANIFEST.as_bytes());
    let watched = edits::watch(folder, move |name| name == file, bell)
        .and_then(|()| edits::watch(paths.manifests(), is_manifest, bell))
        .and_then(|()| watch_pause(paths, bell));
    if let Err(error) = watched {
        tracing::warn!(%error, "edits by hand are seen only when the agent looks by itself");
    }
}

fn later(pause: &mut Duration) -> Duration {
    let wait = *pause;
    *pause = (wait * 2).min(LONGEST_PAUSE);
    watch::jittered(wait)
}
