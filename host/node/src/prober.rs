//! Asks plugins: one task each, quick while one comes up, each interval while it is well, with back-off while it fails.
//!
//! Which plugins are asked what is core's decision; pauses are [`Policy`]'s. What comes back is kept as facts with
//! times, and handed out as core wants them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyward_core::api::{KeyCheck, HealthStatus};
use keyward_core::ids::RemoteKeyId;
use keyward_core::node::{
    Ask, Failing, Instance, LastProbe, Pass, Policy, Probed, Question, Scrubber, Socket,
};
use keyward_core::provider::Failure;
use keyward_kms::{KmsError, ProbeReport, ProbeSpec};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::key_check;
use crate::diagnosis::{self, Diagnoser, Finding};
use crate::paths::Paths;
use crate::watch::jittered;

/// A pod and its log are looked at again after this long at the earliest.
const DIAGNOSIS_PAUSE: Duration = Duration::from_secs(2);

/// However often plugins are asked, one that is slow to say how it is does not hang.
const SHORTEST_STATUS: Duration = Duration::from_secs(2);

/// The longest message that is told, in bytes (CONTRACT 3.10).
pub(crate) const LONGEST_MESSAGE: usize = 1024;

/// How plugins are asked.
#[derive(Clone, Debug)]
pub(crate) struct Probing {
    pub(crate) policy: Policy,
    pub(crate) timeout: Duration,
    pub(crate) full_every: u32,
    pub(crate) paths: Paths,
    /// Rung when something new is known.
    pub(crate) bell: Arc<Notify>,
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

/// What a task is to do, and what it needs for it.
#[derive(Clone, Debug)]
struct Order {
    ask: Ask,
    diagnoser: Diagnoser,
    scrubber: Arc<Scrubber>,
}

/// What a task knows.
#[derive(Debug)]
struct Seen {
    /// Since when the instance is asked at all.
    first: Instant,
    question: Question,
    asked: Instant,
    passed: Option<Passed>,
    last: Option<LastProbe>,
    failing: Option<Failed>,
    /// How the start before failed.
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

    /// Asks exactly these from now on. What is known of the others is forgotten.
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
                        let news = current.ask != order.ask;
                        *current = order;
                        news
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

    /// What is known of each plugin.
    pub(crate) fn probed(&self) -> BTreeMap<Instance, Probed> {
        let now = Instant::now();
        self.tasks.iter().map(|(instance, task)| (instance.clone(), lock(&task.seen).probed(now))).collect()
    }
}

/// A task that panicked while it held the lock left facts behind all the same.
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
        let (news, pause) = {
            let mut seen = lock(&seen);
            let news = seen.record(report, full, finding.as_ref(), &order.scrubber, &probing.policy);
            (news, probing.policy.pause(&seen.probed(Instant::now())))
        };
        if news {
            probing.bell.notify_one();
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

/// What came of a probe that went well.
struct Answer {
    remote_key_id: String,
    latency: Duration,
    key_check: Option<KeyCheck>,
}

/// What was wrong.
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
            let message = "the key check cannot be decoded".to_owned();
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

/// How long a plugin may take to say how it is. One that hangs is found within two intervals: it may begin to right after
/// it was asked, and then an interval and this go by.
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

    /// Notes what is asked, and tells whether all of it must be: at first, after a failure, when a step waits, and now
    /// and then.
    fn put(&mut self, ask: &Ask, due: bool) -> bool {
        if self.question != ask.question {
            let fresh = Self { last: self.last.take(), ..Self::new(&ask.question) };
            let again = Question { run: ask.question.run, ..self.question.clone() } == ask.question;
            *self = if self.question.run == ask.question.run {
                Self { first: self.first, ..fresh }
            } else if again {
                // Another start of the same: nothing is known of it, but how the one before it failed.
                let failed = self.failing.take().map(|failed| failed.failure);
                Self { earlier: failed.or(self.earlier.take()), attempts: self.attempts, ..fresh }
            } else {
                fresh
            };
        }
        // Another KEK version may lack a right that the one before had.
        let rotated = self.passed.as_ref().is_some_and(|passed| {
            self.last
                .as_ref()
                .and_then(|last| last.remote_key_id.as_ref())
                .is_some_and(|id| *id != passed.remote_key_id)
        });
        due || ask.urgent || rotated || self.passed.is_none() || self.failing.is_some()
    }

    fn wants_diagnosis(&self, failure: &Failure, policy: &Policy, last: Option<Instant>) -> bool {
        // A container's state turns a silent socket into an image or a start that failed: the same trouble.
        let same = self.failing.as_ref().filter(|failing| root(&failing.failure) == root(failure));
        // One that was well is not coming up.
        let patience = if self.passed.is_some() { Duration::ZERO } else { policy.settle };
        same.is_some_and(|failing| failing.since.elapsed() >= patience)
            && last.is_none_or(|last| last.elapsed() >= DIAGNOSIS_PAUSE)
    }

    /// Notes what came of a probe; tells whether a decision might change by it.
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
                let news = full || self.failing.is_some() || self.last.is_none();
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
                        // Made once: what was told already must stay true.
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
                news
            }
            Err(trouble) => {
                let Trouble { mut failure, mismatch, status, remote_key_id } = *trouble;
                failure.message = scrubber.clean_and_cut(&failure.message, LONGEST_MESSAGE);
                let answered = failure.phase != "start";
                // Which call fails may change with each probe, and is one trouble all the same. A process that begins to
                // listen, or that is gone, has its time anew: how long is its deadline, and a trial's pause.
                let before = self.failing.take().filter(|before| is_silent(&before.failure) != answered);
                // What was found out of one phase explains no other.
                let same = before.as_ref().filter(|before| root(&before.failure) == root(&failure));
                match (finding, same) {
                    // Between two ends it runs, and nobody listens yet: it is still one that ends by itself.
                    (Some(finding), Some(before))
                        if !answered && before.failure.exit_code.is_some() && finding.says_nothing() =>
                    {
                        failure = before.failure.clone();
                    }
                    (Some(finding), _) => finding.explain(&mut failure),
                    // What was found out a moment ago still holds.
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
                let news =
                    definite || before.is_none_or(|before| before.failure.message != failed.failure.message);
                self.failing = Some(failed);
                news
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

/// Nobody answered on the socket.
fn is_silent(failure: &Failure) -> bool {
    root(failure) == "start"
}

/// The phase of the probe itself, whatever the container's state made of it.
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
        let question = Question { socket: Socket::Generation, key_check: None, make_key_check: key_check, run };
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
    fn nothing_is_known_of_another_start_but_how_the_one_before_failed() {
        let (scrubber, policy) = (scrubber(b"none"), Policy { settle: Duration::ZERO, ..Policy::default() });
        let mut seen = Seen::new(&ask(1, true).question);
        seen.put(&ask(1, true), false);
        seen.record(trouble("refused"), true, None, &scrubber, &policy);
        assert_eq!(seen.attempts, 1);

        assert!(seen.put(&ask(2, true), false), "all of it is asked");
        let probed = seen.probed(Instant::now());
        assert!(probed.failing.is_none() && probed.pass.is_none());
        assert_eq!(probed.earlier.map(|failure| failure.message).as_deref(), Some("refused"));
        assert_eq!(probed.attempts, 1, "it is one trial");
        // A third start before the second was heard of: what is known is still what the first said.
        seen.put(&ask(3, true), false);
        assert_eq!(seen.earlier.as_ref().map(|failure| failure.message.as_str()), Some("refused"));
        seen.record(Ok(answer()), true, None, &scrubber, &policy);
        assert_eq!(seen.probed(Instant::now()).earlier, None);

        // Another question to the same process.
        let first = seen.first;
        seen.put(&ask(3, false), false);
        assert_eq!((seen.first, seen.attempts, seen.passed.is_none()), (first, 0, true));
    }

    #[test]
    fn the_pace_counts_failures_whichever_call_fails() {
        let (scrubber, policy) = (scrubber(b"none"), Policy { settle: Duration::ZERO, ..Policy::default() });
        let mut seen = Seen::new(&ask(0, false).question);
        let mut times = |report| {
            seen.record(report, true, None, &scrubber, &policy);
            (seen.failing.as_ref().map(|failing| failing.times), seen.attempts)
        };
        assert_eq!(times(trouble_in("start", "nobody listens")), (Some(1), 0));
        assert_eq!(times(trouble_in("status", "429")), (Some(1), 1), "it listens now: its time begins");
        assert_eq!(times(trouble_in("encrypt", "429")), (Some(2), 2));
        assert_eq!(times(trouble_in("decrypt", "429")), (Some(3), 3));
        assert_eq!(times(trouble_in("start", "nobody listens")), (Some(1), 3), "and now it is gone");
        assert_eq!(times(Ok(answer())), (None, 3));
        assert_eq!(times(trouble_in("status", "429")).0, Some(1));
    }

    #[test]
    fn a_plugin_that_ends_again_and_again_is_told_apart_from_one_that_never_came_up() {
        let (scrubber, policy) = (scrubber(b"none"), Policy::default());
        let silent = || {
            let failure =
                Failure { phase: "start".into(), message: "nobody listens".into(), ..Default::default() };
            Err(Box::new(Trouble {
                failure,
                mismatch: false,
                status: HealthStatus::Error,
                remote_key_id: None,
            }))
        };
        let mut seen = Seen::new(&ask(0, false).question);
        let mut told = |finding: Option<&Finding>| {
            seen.record(silent(), true, finding, &scrubber, &policy);
            let failure = seen.probed(Instant::now()).last.and_then(|last| last.failure).unwrap();
            (failure.exit_code, failure.message)
        };
        let never = (None, "nobody listens".to_owned());
        assert_eq!(told(Some(&Finding::default())), never);
        let crashed = (Some(3), "the plugin ended with exit code 3".to_owned());
        assert_eq!(told(Some(&Finding::ended(3))), crashed);
        assert_eq!(told(Some(&Finding::default())), crashed, "it is running, for the moment");
        assert_eq!(told(None), crashed);
        seen.record(Ok(answer()), true, None, &scrubber, &policy);
        seen.record(silent(), true, None, &scrubber, &policy);
        assert_eq!(seen.last.unwrap().failure.unwrap().exit_code, None, "it had come up");
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
    fn a_secret_astride_the_cut_leaves_no_part_behind() {
        let secret = "correct horse battery staple";
        let scrubber = scrubber(secret.as_bytes());
        for before in LONGEST_MESSAGE - 40..LONGEST_MESSAGE {
            let mut seen = Seen::new(&ask(0, false).question);
            let message = format!("{} {secret} and more", "x".repeat(before));
            seen.record(trouble(&message), true, None, &scrubber, &Policy::default());
            let told = seen.probed(Instant::now()).last.and_then(|last| last.failure).unwrap().message;
            assert!(told.len() <= LONGEST_MESSAGE && !told.contains("co"), "{told}");
        }
    }
}
