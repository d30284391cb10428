//! Probes plugins, one task each: often while a plugin starts, each interval while it is healthy, with
//! back-off while it fails.
//!
//! Core decides which plugins are probed and how. The pauses are from [`Policy`]. The results are stored as
//! facts with times, and returned in core's form.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyward_core::api::{HealthStatus, KeyCheck};
use keyward_core::ids::RemoteKeyId;
use keyward_core::node::{
    Ask, Failing, Instance, LastProbe, Pass, Policy, Probed, Question, Scrubber, Socket,
};
use keyward_core::provider::Failure;
use keyward_kms::{KmsError, ProbeReport, ProbeSpec};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::diagnosis::{self, Diagnoser, Finding};
use crate::key_check;
use crate::paths::Paths;
use crate::watch::jittered;

/// The shortest pause between two diagnoses of one plugin, which read its pod and its log.
const DIAGNOSIS_PAUSE: Duration = Duration::from_secs(2);

/// The shortest deadline of Status, for any probe interval: a slow answer is not a hanging plugin.
const SHORTEST_STATUS: Duration = Duration::from_secs(2);

/// The longest message that is reported, in bytes (openshift: encryption-status).
pub(crate) const LONGEST_MESSAGE: usize = 1024;

/// How plugins are probed.
#[derive(Clone, Debug)]
pub(crate) struct Probing {
    pub(crate) policy: Policy,
    pub(crate) timeout: Duration,
    pub(crate) full_every: u32,
    pub(crate) paths: Paths,
    /// Notified when a probe has a new result.
    pub(crate) notify: Arc<Notify>,
}

/// All tasks.
#[derive(Debug)]
pub(crate) struct Prober {
    probing: Probing,
    tasks: BTreeMap<Instance, Task>,
}

#[derive(Debug)]
struct Task {
    order: watch::Sender<Order>,
    seen: Arc<Mutex<Seen>>,
    handle: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// The probe that a task runs, and what it needs for it.
#[derive(Clone, Debug)]
struct Order {
    ask: Ask,
    diagnoser: Diagnoser,
    scrubber: Arc<Scrubber>,
}

/// The facts that a task has observed.
#[derive(Debug)]
struct Seen {
    /// When the first probe of the instance started.
    first: Instant,
    question: Question,
    asked: Instant,
    passed: Option<Passed>,
    last: Option<LastProbe>,
    failing: Option<Failed>,
    /// The failure of the previous start.
    earlier: Option<Failure>,
    attempts: u32,
}

#[derive(Clone, Debug)]
struct Passed {
    at: Instant,
    remote_key_id: RemoteKeyId,
    latency: Duration,
    started_in: Duration,
    key_check: Option<KeyCheck>,
}

#[derive(Clone, Debug)]
struct Failed {
    failure: Failure,
    mismatch: bool,
    since: Instant,
    times: u32,
}

impl Prober {
    pub(crate) fn new(probing: Probing) -> Self {
        Self { probing, tasks: BTreeMap::new() }
    }

    /// From now on probes exactly these instances. The facts of all others are deleted.
    pub(crate) fn ask(
        &mut self,
        asks: &BTreeMap<Instance, Ask>,
        diagnoser: &Diagnoser,
        scrubber: &Arc<Scrubber>,
    ) {
        self.tasks.retain(|instance, task| asks.contains_key(instance) && !task.handle.is_finished());
        for (instance, ask) in asks {
            let order =
                Order { ask: ask.clone(), diagnoser: diagnoser.clone(), scrubber: Arc::clone(scrubber) };
            match self.tasks.get(instance) {
                Some(task) => {
                    task.order.send_if_modified(|current| {
                        let is_new = current.ask != order.ask;
                        *current = order;
                        is_new
                    });
                }
                None => drop(self.tasks.insert(instance.clone(), self.start(instance.clone(), order))),
            }
        }
    }

    fn start(&self, instance: Instance, order: Order) -> Task {
        let seen = Arc::new(Mutex::new(Seen::new(&order.ask.question)));
        let (order, orders) = watch::channel(order);
        let handle = tokio::spawn(run(instance, self.probing.clone(), orders, Arc::clone(&seen)));
        Task { order, seen, handle }
    }

    /// The facts of each plugin.
    pub(crate) fn probed(&self) -> BTreeMap<Instance, Probed> {
        let now = Instant::now();
        self.tasks.iter().map(|(instance, task)| (instance.clone(), lock(&task.seen).probed(now))).collect()
    }
}

/// The facts are used also if a task panicked while it held the lock.
fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One plugin's task.
async fn run(
    instance: Instance,
    probing: Probing,
    mut orders: watch::Receiver<Order>,
    seen: Arc<Mutex<Seen>>,
) {
    let (mut since_full, mut diagnosed) = (0_u32, None);
    loop {
        let order = orders.borrow_and_update().clone();
        let full = lock(&seen).put(&order.ask, since_full >= probing.full_every);
        let report = probe(&instance, &probing, &order.ask.question, full).await;
        since_full = if full { 1 } else { since_full.saturating_add(1) };
        let finding = match &report {
            Err(trouble) if lock(&seen).wants_diagnosis(&trouble.failure, &probing.policy, diagnosed) => {
                diagnosed = Some(Instant::now());
                Some(order.diagnoser.look(&instance, &order.scrubber).await)
            }
            _ => None,
        };
        let (is_new, pause) = {
            let mut seen = lock(&seen);
            let is_new = seen.record(report, full, finding.as_ref(), &order.scrubber, &probing.policy);
            (is_new, probing.policy.pause(&seen.probed(Instant::now())))
        };
        if is_new {
            probing.notify.notify_one();
        }
        let until = Instant::now() + jittered(pause);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => break,
                changed = orders.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let next = &orders.borrow_and_update().ask;
                    if next.urgent || next.question != order.ask.question {
                        break;
                    }
                }
            }
        }
    }
}

/// The result of a successful probe.
struct Answer {
    remote_key_id: String,
    latency: Duration,
    key_check: Option<KeyCheck>,
}

/// The result of a failed probe.
struct Trouble {
    failure: Failure,
    mismatch: bool,
    status: HealthStatus,
    remote_key_id: Option<String>,
}

async fn probe(
    instance: &Instance,
    probing: &Probing,
    question: &Question,
    full: bool,
) -> Result<Answer, Box<Trouble>> {
    let socket = match &question.socket {
        Socket::Generation => probing.paths.socket(instance),
        Socket::Link => probing.paths.link(instance.key_id),
        Socket::External(endpoint) => PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint)),
    };
    let key_check = match question.key_check.as_ref().map(key_check::to_probe) {
        Some(None) => {
            let message = "the key check of this key cannot be decoded".to_owned();
            let failure = Failure { phase: "key-check".to_owned(), message, ..Default::default() };
            let status = HealthStatus::Error;
            return Err(Box::new(Trouble { failure, mismatch: false, status, remote_key_id: None }));
        }
        Some(found) => found,
        None => None,
    };
    let spec = ProbeSpec {
        call_timeout: probing.timeout,
        status_timeout: Some(probing.timeout.min(soon(probing.policy.probe_interval))),
        round_trip: full,
        key_check: key_check.as_ref().filter(|_| full),
        make_key_check: full && question.make_key_check,
    };
    judge(keyward_kms::probe(&socket, &spec).await)
}

/// The deadline of Status. A plugin that hangs is found within two intervals: it may start to hang right
/// after a probe, and then one interval and this deadline pass.
fn soon(interval: Duration) -> Duration {
    (interval / 2).max(SHORTEST_STATUS)
}

fn judge(report: ProbeReport) -> Result<Answer, Box<Trouble>> {
    let remote_key_id = report.status.map(|status| status.remote_key_id).filter(|id| !id.is_empty());
    match report.result {
        Ok(()) => Ok(Answer {
            remote_key_id: remote_key_id.unwrap_or_default(),
            latency: [report.latencies.encrypt, report.latencies.decrypt].into_iter().flatten().sum(),
            key_check: report.key_check.as_ref().map(key_check::from_probe),
        }),
        Err(error) => {
            let failure = diagnosis::probed(&error);
            let status = match error {
                KmsError::Unhealthy { .. } => HealthStatus::Unhealthy,
                _ => HealthStatus::Error,
            };
            let mismatch = error.category() == "KEKMismatch";
            Err(Box::new(Trouble { failure, mismatch, status, remote_key_id }))
        }
    }
}

impl Seen {
    fn new(question: &Question) -> Self {
        let now = Instant::now();
        Self {
            first: now,
            question: question.clone(),
            asked: now,
            passed: None,
            last: None,
            failing: None,
            earlier: None,
            attempts: 0,
        }
    }

    /// Records the requested probe, and returns whether it must be full: at first, after a failure, when a
    /// step waits for it, and periodically.
    fn put(&mut self, ask: &Ask, due: bool) -> bool {
        if self.question != ask.question {
            let fresh = Self { last: self.last.take(), ..Self::new(&ask.question) };
            let again = Question { run: ask.question.run, ..self.question.clone() } == ask.question;
            *self = if self.question.run == ask.question.run {
                Self { first: self.first, ..fresh }
            } else if again {
                // Another start of the same plugin: only the failure of the previous start is known.
                let failed = self.failing.take().map(|failed| failed.failure);
                Self { earlier: failed.or(self.earlier.take()), attempts: self.attempts, ..fresh }
            } else {
                fresh
            };
        }
        // Another KEK version may lack a right that the previous one had.
        let rotated = self.passed.as_ref().is_some_and(|passed| {
            self.last
                .as_ref()
                .and_then(|last| last.remote_key_id.as_ref())
                .is_some_and(|id| *id != passed.remote_key_id)
        });
        due || ask.urgent || rotated || self.passed.is_none() || self.failing.is_some()
    }

    fn wants_diagnosis(&self, failure: &Failure, policy: &Policy, last: Option<Instant>) -> bool {
        // The container's state changes the phase of a silent socket to `image` or `start`. It is the same
        // failure.
        let same = self.failing.as_ref().filter(|failing| root(&failing.failure) == root(failure));
        // A plugin that has passed before is not starting.
        let patience = if self.passed.is_some() { Duration::ZERO } else { policy.settle };
        same.is_some_and(|failing| failing.since.elapsed() >= patience)
            && last.is_none_or(|last| last.elapsed() >= DIAGNOSIS_PAUSE)
    }

    /// Records the result of a probe, and returns whether it may change a decision.
    fn record(
        &mut self,
        report: Result<Answer, Box<Trouble>>,
        full: bool,
        finding: Option<&Finding>,
        scrubber: &Scrubber,
        policy: &Policy,
    ) -> bool {
        let now = Instant::now();
        let at = keyward_core::formats::key_secret::rfc3339(&jiff::Timestamp::now());
        match report {
            Ok(answer) => {
                let remote_key_id = RemoteKeyId(answer.remote_key_id);
                let is_new = full || self.failing.is_some() || self.last.is_none();
                if full {
                    self.earlier = None;
                    let before = self.passed.take();
                    let started_in = before
                        .as_ref()
                        .map_or_else(|| now.duration_since(self.first), |before| before.started_in);
                    self.passed = Some(Passed {
                        at: now,
                        remote_key_id: remote_key_id.clone(),
                        latency: answer.latency,
                        started_in,
                        // Made once: a key check that was reported must stay valid.
                        key_check: before.and_then(|before| before.key_check).or(answer.key_check),
                    });
                }
                self.failing = None;
                self.last = Some(LastProbe {
                    at,
                    status: HealthStatus::Healthy,
                    remote_key_id: Some(remote_key_id),
                    failure: None,
                    answered: true,
                });
                is_new
            }
            Err(trouble) => {
                let Trouble { mut failure, mismatch, status, remote_key_id } = *trouble;
                failure.message = scrubber.clean_and_cut(&failure.message, LONGEST_MESSAGE);
                let answered = failure.phase != "start";
                // Another call may fail in each probe: it is one failure. When a process starts to listen, or
                // has ended, its time starts again: the deadline and a trial's pause count from then.
                let before = self.failing.take().filter(|before| is_silent(&before.failure) != answered);
                // A finding in one phase does not explain a failure in another.
                let same = before.as_ref().filter(|before| root(&before.failure) == root(&failure));
                match (finding, same) {
                    // Between two exits the process runs and does not listen yet. It is still a plugin that
                    // exits.
                    (Some(finding), Some(before))
                        if !answered && before.failure.exit_code.is_some() && finding.says_nothing() =>
                    {
                        failure = before.failure.clone();
                    }
                    (Some(finding), _) => finding.explain(&mut failure),
                    // The last finding still holds.
                    (None, Some(before)) if !answered => failure = before.failure.clone(),
                    (None, Some(before)) => failure.log_tail.clone_from(&before.failure.log_tail),
                    (None, None) => {}
                }
                let failed = Failed {
                    since: before.as_ref().map_or(now, |before| before.since),
                    times: before.as_ref().map_or(0, |before| before.times).saturating_add(1),
                    failure,
                    mismatch,
                };
                let known = self.last.take().and_then(|last| last.remote_key_id);
                self.last = Some(LastProbe {
                    at,
                    status,
                    remote_key_id: remote_key_id.map(RemoteKeyId).or(known),
                    failure: Some(failed.failure.clone()),
                    answered,
                });
                let definite = policy.is_definite_failure(&failed.view(now), now.duration_since(self.asked));
                self.attempts = self.attempts.saturating_add(u32::from(definite));
                let is_new =
                    definite || before.is_none_or(|before| before.failure.message != failed.failure.message);
                self.failing = Some(failed);
                is_new
            }
        }
    }

    fn probed(&self, now: Instant) -> Probed {
        Probed {
            question: self.question.clone(),
            age: now.duration_since(self.asked),
            pass: self.passed.as_ref().map(|passed| Pass {
                age: now.duration_since(passed.at),
                remote_key_id: passed.remote_key_id.clone(),
                latency: passed.latency,
                started_in: passed.started_in,
                key_check: passed.key_check.clone(),
            }),
            last: self.last.clone(),
            failing: self.failing.as_ref().map(|failed| failed.view(now)),
            earlier: self.earlier.clone(),
            attempts: self.attempts,
        }
    }
}

impl Failed {
    fn view(&self, now: Instant) -> Failing {
        Failing {
            failure: self.failure.clone(),
            mismatch: self.mismatch,
            since: now.duration_since(self.since),
            times: self.times,
        }
    }
}

/// Nothing answered on the socket.
fn is_silent(failure: &Failure) -> bool {
    root(failure) == "start"
}

/// The phase of the probe itself, without the container's state.
fn root(failure: &Failure) -> &str {
    match failure.phase.as_str() {
        "image" => "start",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use keyward_core::SecretBytes;
    use keyward_core::formats::revision::PluginRecord;
    use keyward_core::provider::{KeyRef, ReferenceKind};

    use super::*;

    fn ask(run: u32, key_check: bool) -> Ask {
        let question =
            Question { socket: Socket::Generation, key_check: None, make_key_check: key_check, run };
        Ask { question, urgent: false }
    }

    fn trouble(message: &str) -> Result<Answer, Box<Trouble>> {
        trouble_in("status", message)
    }

    fn trouble_in(phase: &str, message: &str) -> Result<Answer, Box<Trouble>> {
        let failure = Failure { phase: phase.to_owned(), message: message.to_owned(), ..Default::default() };
        let status = HealthStatus::Error;
        Err(Box::new(Trouble { failure, mismatch: false, status, remote_key_id: None }))
    }

    fn answer() -> Answer {
        Answer { remote_key_id: "k".into(), latency: Duration::ZERO, key_check: None }
    }

    fn scrubber(secret: &[u8]) -> Scrubber {
        let source = KeyRef { kind: ReferenceKind::Secret, name: "login".into(), key: "id".into() };
        Scrubber::new([&PluginRecord {
            kms: serde_json::json!({}),
            referenced: [(source, SecretBytes::new(secret.to_vec()))].into(),
            accepted: None,
            salt: None,
        }])
    }

    #[test]
    fn a_new_start_knows_only_the_failure_of_the_previous_start() {
        let (scrubber, policy) = (scrubber(b"none"), Policy { settle: Duration::ZERO, ..Policy::default() });
        let mut seen = Seen::new(&ask(1, true).question);
        seen.put(&ask(1, true), false);
        seen.record(trouble("refused"), true, None, &scrubber, &policy);
        assert_eq!(seen.attempts, 1);

        assert!(seen.put(&ask(2, true), false), "the probe is full");
        let probed = seen.probed(Instant::now());
        assert!(probed.failing.is_none() && probed.pass.is_none());
        assert_eq!(probed.earlier.map(|failure| failure.message).as_deref(), Some("refused"));
        assert_eq!(probed.attempts, 1, "it is one trial");
        // A third start before any probe of the second: the known failure is still that of the first.
        seen.put(&ask(3, true), false);
        assert_eq!(seen.earlier.as_ref().map(|failure| failure.message.as_str()), Some("refused"));
        seen.record(Ok(answer()), true, None, &scrubber, &policy);
        assert_eq!(seen.probed(Instant::now()).earlier, None);

        // Another probe of the same process.
        let first = seen.first;
        seen.put(&ask(3, false), false);
        assert_eq!((seen.first, seen.attempts, seen.passed.is_none()), (first, 0, true));
    }

    #[test]
    fn failures_are_counted_together_even_if_another_call_fails() {
        let (scrubber, policy) = (scrubber(b"none"), Policy { settle: Duration::ZERO, ..Policy::default() });
        let mut seen = Seen::new(&ask(0, false).question);
        let mut times = |report| {
            seen.record(report, true, None, &scrubber, &policy);
            (seen.failing.as_ref().map(|failing| failing.times), seen.attempts)
        };
        assert_eq!(times(trouble_in("start", "nothing listens")), (Some(1), 0));
        assert_eq!(times(trouble_in("status", "429")), (Some(1), 1), "it listens now: its time starts again");
        assert_eq!(times(trouble_in("encrypt", "429")), (Some(2), 2));
        assert_eq!(times(trouble_in("decrypt", "429")), (Some(3), 3));
        assert_eq!(times(trouble_in("start", "nothing listens")), (Some(1), 3), "it has ended");
        assert_eq!(times(Ok(answer())), (None, 3));
        assert_eq!(times(trouble_in("status", "429")).0, Some(1));
    }

    #[test]
    fn a_plugin_that_exits_repeatedly_is_distinguished_from_one_that_never_started() {
        let (scrubber, policy) = (scrubber(b"none"), Policy::default());
        let silent = || {
            let failure =
                Failure { phase: "start".into(), message: "nothing listens".into(), ..Default::default() };
            Err(Box::new(Trouble {
                failure,
                mismatch: false,
                status: HealthStatus::Error,
                remote_key_id: None,
            }))
        };
        let mut seen = Seen::new(&ask(0, false).question);
        let mut reported = |finding: Option<&Finding>| {
            seen.record(silent(), true, finding, &scrubber, &policy);
            let failure = seen.probed(Instant::now()).last.and_then(|last| last.failure).unwrap();
            (failure.exit_code, failure.message)
        };
        let never = (None, "nothing listens".to_owned());
        assert_eq!(reported(Some(&Finding::default())), never);
        let crashed = (Some(3), "the plugin ended with exit code 3".to_owned());
        assert_eq!(reported(Some(&Finding::ended(3))), crashed);
        assert_eq!(reported(Some(&Finding::default())), crashed, "it is running between two exits");
        assert_eq!(reported(None), crashed);
        seen.record(Ok(answer()), true, None, &scrubber, &policy);
        seen.record(silent(), true, None, &scrubber, &policy);
        assert_eq!(seen.last.unwrap().failure.unwrap().exit_code, None, "it had passed before");
    }

    #[test]
    fn a_hanging_plugin_is_found_within_two_intervals() {
        for seconds in [4_u64, 5, 30] {
            let interval = Duration::from_secs(seconds);
            // The longest jitter is a tenth.
            assert!(interval * 11 / 10 + soon(interval) <= interval * 2, "{seconds}");
        }
    }

    #[test]
    fn no_part_of_a_secret_remains_where_a_message_is_cut() {
        let secret = "correct horse battery staple";
        let scrubber = scrubber(secret.as_bytes());
        for before in LONGEST_MESSAGE - 40..LONGEST_MESSAGE {
            let mut seen = Seen::new(&ask(0, false).question);
            let message = format!("{} {secret} and more", "x".repeat(before));
            seen.record(trouble(&message), true, None, &scrubber, &Policy::default());
            let shown = seen.probed(Instant::now()).last.and_then(|last| last.failure).unwrap().message;
            assert!(shown.len() <= LONGEST_MESSAGE && !shown.contains("co"), "{shown}");
        }
    }
}
