//! The loop of reconcile passes: observe, let core decide, act, report. The next pass starts on a
//! notification, or after a pause.

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

/// First pause after a failed reconcile pass. It doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// While something stays in progress, the pause between passes grows at most by this factor.
const SLOWER: u32 = 10;
/// The same steps repeated this often in a row make no progress.
const STUCK: u32 = 5;

/// Counts of an agent since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reconcile passes.
    pub passes: u64,
    /// Passes that failed.
    pub failures: u64,
    /// Passes that panicked: bugs.
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
    /// Absent until the kubeconfig can be used. What is installed works without the API.
    pub(crate) connection: Option<Connection>,
    pub(crate) prober: Prober,
    pub(crate) throttle: Throttle,
    pub(crate) memory: Memory,
    /// Notified by the watches: the node's spec or a file changed.
    changed: Arc<Notify>,
    /// Notified by probes.
    notified: Arc<Notify>,
    watching: Option<Watching>,
    /// Notifies when a command of an admin records a recovered credential.
    _recovered: Watching,
    counters: Counters,
    /// The reasons that the last pass logged. Each is logged once.
    logged: Vec<String>,
    to_log: Vec<String>,
    /// The reasons of this pass that an admin has to act on.
    warnings: Vec<String>,
    repeated: (Vec<Step>, u32),
    troubles: Troubles,
}

/// A watch that ends with the agent.
#[derive(Debug)]
struct Watching(JoinHandle<()>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The result of a reconcile pass.
enum Turn {
    /// Steps were done: the next pass starts at once.
    Moved,
    /// Something is in progress.
    Busy,
    /// There is nothing to do.
    Rest,
}

impl Agent {
    /// Opens and locks the node's disk. Running plugins keep running, independent of the agent.
    pub async fn new(settings: Settings) -> Result<Self, AgentError> {
        let (node, paths, owner) = (settings.node.clone(), settings.paths.clone(), settings.owner);
        let disk = tokio::task::spawn_blocking(move || Disk::open(&node, paths, owner))
            .await
            .map_err(|_| AgentError::Panicked { what: "opening the disk" })??;
        let connection = match Connection::new(&settings).await {
            Ok(connection) => Some(connection),
            Err(error @ AgentError::MetricsUrl { .. }) => return Err(error),
            // The first pass logs it.
            Err(_) => None,
        };
        let (changed, notified) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let prober = Prober::new(Probing {
            policy: settings.policy,
            timeout: settings.plugin_timeout,
            full_every: settings.full_probe_every.max(1),
            paths: settings.paths.clone(),
            notify: Arc::clone(&notified),
        });
        let recovered = watch::watch_folder(settings.paths.recovered(), Arc::clone(&changed));
        watch_edits(&settings.paths, &changed);
        let mut agent = Self {
            settings,
            disk: Arc::new(disk),
            connection,
            prober,
            throttle: Throttle::default(),
            memory: Memory::default(),
            changed,
            notified,
            watching: None,
            _recovered: Watching(tokio::spawn(recovered)),
            counters: Counters::default(),
            logged: Vec::new(),
            to_log: Vec::new(),
            warnings: Vec::new(),
            repeated: (Vec::new(), 0),
            troubles: Troubles::default(),
        };
        agent.watch();
        Ok(agent)
    }

    fn watch(&mut self) {
        let Some(connection) = self.connection.clone() else { return };
        let watch = watch::watch(connection, self.settings.node.clone(), Arc::clone(&self.changed));
        self.watching = Some(Watching(tokio::spawn(watch)));
    }

    /// Loads the kubeconfig again after a change. If it cannot be used, for example because it is half
    /// written, the agent continues with the previous credential, if there is one.
    async fn connect(&mut self) {
        if self.connection.as_ref().is_some_and(|connection| !connection.is_outdated()) {
            return;
        }
        match Connection::new(&self.settings).await {
            Ok(connection) => {
                self.connection = Some(connection);
                self.watch();
                tracing::info!("the kubeconfig changed; the agent uses its new credential");
            }
            Err(error) => {
                let instead = match &self.connection {
                    Some(_) => "the agent keeps the previous credential",
                    None => "the agent continues without the API; what is installed stays in use",
                };
                self.warnings.push(format!("{error}; {instead}"));
            }
        }
    }

    /// Counts since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Runs reconcile passes until `stop` is cancelled. A started step is finished. Plugins are static pods
    /// and keep running.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        let (mut busy, mut waited) = (true, 0_u32);
        tracing::info!(node = self.settings.node, "agent started");
        while !stop.is_cancelled() {
            let turn = AssertUnwindSafe(self.reconcile(busy)).catch_unwind().await;
            self.counters.passes += 1;
            let wait = match turn {
                Ok(Ok(turn)) => {
                    self.troubles.pass_succeeded(Instant::now());
                    pause = FIRST_PAUSE;
                    busy = !matches!(turn, Turn::Rest);
                    waited = if matches!(turn, Turn::Busy) { waited.saturating_add(1) } else { 0 };
                    match turn {
                        Turn::Moved => Duration::ZERO,
                        // A long wait, for example for a KMS in an outage, does not justify reading the API
                        // server's metrics each second.
                        Turn::Busy => self.settings.busy * (1 + waited / 10).min(SLOWER),
                        Turn::Rest => {
                            let interval = self.settings.policy.probe_interval;
                            watch::jittered(self.throttle.rest(interval, Instant::now()))
                        }
                    }
                }
                Ok(Err(error)) => {
                    self.counters.failures += 1;
                    if self.troubles.pass_failed(&error.to_string(), Instant::now()) {
                        tracing::error!(%error, category = ?error.category(), again_in = ?pause, "reconcile failed");
                    } else {
                        tracing::debug!(%error, again_in = ?pause, "reconcile pass failed again");
                    }
                    back_off(&mut pause)
                }
                Err(_) => {
                    self.counters.panics += 1;
                    tracing::error!(
                        panics = self.counters.panics,
                        "a reconcile pass panicked; please report this bug"
                    );
                    back_off(&mut pause)
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
                () = self.changed.notified() => {}
                // A plugin whose probes notify all the time must not end the back-off.
                () = self.notified.notified(), if pause == FIRST_PAUSE => {}
            }
        }
        tracing::info!(node = self.settings.node, "agent stopped; plugins keep running");
    }

    /// One reconcile pass.
    #[tracing::instrument(level = "info", name = "reconcile", skip_all, fields(node = self.settings.node))]
    async fn reconcile(&mut self, busy: bool) -> Result<Turn, AgentError> {
        self.to_log.clear();
        self.connect().await;
        let observed = self.observe(busy).await?;
        let decision = node::next(&observed);
        self.log_reasons(&decision);
        let now = Instant::now();
        self.memory.unneeded.retain(|instance, _| decision.unneeded.contains(instance));
        for instance in &decision.unneeded {
            self.memory.unneeded.entry(instance.clone()).or_insert(now);
        }
        let done = self.act(&decision, &observed).await;
        self.probe(&decision, &observed, done.is_ok()).await;
        if let Some(report) = &decision.report {
            self.troubles.log(&self.settings.node, report, Instant::now());
        }
        // After successful steps the next pass starts at once, and has more to report.
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

    /// Carries out the steps in order, up to the first failure.
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
            // A pause takes effect between two steps.
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
            // Something else undoes them: another agent, or an admin who deletes files.
            let step = decision.steps.first().map(ToString::to_string).unwrap_or_default();
            let why = format!(
                "it was repeated {} times in a row, because something undoes it; check whether another agent or a \
                 configuration management tool changes these files",
                self.repeated.1
            );
            self.memory.failed_step = Some(StepFailure { step: step.clone(), message: why.clone() });
            return Err(AgentError::Undone { step, why });
        }
        self.memory.failed_step = None;
        Ok(())
    }

    async fn probe(&mut self, decision: &Decision, observed: &Observed, started: bool) {
        let candidate = observed.candidate.iter().filter_map(|found| found.as_ref().ok());
        let target = observed.target.iter().filter_map(|found| found.as_ref().ok());
        let records = candidate.flat_map(|plugins| plugins.values()).chain(
            target.chain(observed.disk.revisions.values()).flat_map(|content| content.plugins.values()),
        );
        let by_hand = observed.disk.recovered.iter().map(|one| &one.values);
        let scrubber = Scrubber::new(records).and(by_hand);
        let scrubber = Arc::new(scrubber.and_bytes(&self.unrecorded_secrets(observed).await));
        let diagnoser = Diagnoser {
            connection: self.connection.clone(),
            paths: self.settings.paths.clone(),
            node: self.settings.node.clone(),
        };
        let mut asks = decision.asks.clone();
        asks.extend(decision.starts.clone().into_iter().filter(|_| started));
        self.prober.ask(&asks, &diagnoser, &scrubber);
    }

    /// The secrets of running plugins that only their files show: no stored revision has them any more, or
    /// another candidate replaced them. They are redacted from the plugins' logs too.
    async fn unrecorded_secrets(&self, observed: &Observed) -> Vec<SecretBytes> {
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

    /// Logs this once, for as long as each pass repeats it.
    pub(crate) fn log_once(&mut self, why: String) {
        self.to_log.push(why);
    }

    /// Logs the reasons that are new since the last pass.
    fn log_reasons(&mut self, decision: &Decision) {
        let warnings = std::mem::take(&mut self.warnings);
        for why in warnings.iter().filter(|why| !self.logged.contains(why)) {
            tracing::warn!("{why}");
        }
        self.to_log.extend(decision.why.iter().cloned());
        for why in self.to_log.iter().filter(|why| !self.logged.contains(why)) {
            tracing::info!("{why}");
        }
        self.to_log.extend(warnings);
        std::mem::swap(&mut self.logged, &mut self.to_log);
    }
}

/// A pause takes effect, and ends, at once.
fn watch_pause(paths: &Paths, notify: &Arc<Notify>) -> std::io::Result<()> {
    let file = paths.paused();
    let folder = file.parent().map(ToOwned::to_owned).unwrap_or_default();
    let name = file.file_name().map(ToOwned::to_owned).unwrap_or_default();
    edits::watch(folder, move |found| found == name, notify)
}

/// If it fails, the next pass finds the edits.
fn watch_edits(paths: &Paths, notify: &Arc<Notify>) {
    let config = paths.config();
    let folder = config.parent().map(ToOwned::to_owned).unwrap_or_default();
    let file = config.file_name().map(ToOwned::to_owned).unwrap_or_default();
    let is_manifest = |name: &OsStr| name.as_encoded_bytes().starts_with(PLUGIN_MANIFEST.as_bytes());
    let watched = edits::watch(folder, move |name| name == file, notify)
        .and_then(|()| edits::watch(paths.manifests(), is_manifest, notify))
        .and_then(|()| watch_pause(paths, notify));
    if let Err(error) = watched {
        tracing::warn!(%error, "the folders cannot be watched; manual edits are noticed only at the agent's next pass");
    }
}

fn back_off(pause: &mut Duration) -> Duration {
    let wait = *pause;
    *pause = (wait * 2).min(LONGEST_PAUSE);
    watch::jittered(wait)
}
