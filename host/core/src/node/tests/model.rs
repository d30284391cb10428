//! A node with its API server and plugins, in memory. The agent on it loses its memory whenever it is killed.

use super::*;
use crate::api::{EncryptionNodeStatus, HealthStatus, PreflightAnswer, PreflightResult};
use crate::formats::encryption_config::REVISION_ZERO;
use crate::ids::ConfigHash;
use crate::provider::Failure;

/// What survives the agent: disk, API server, plugins, the objects of the API.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) now: u64,
    pub(super) spec: Option<SeenSpec>,
    pub(super) revisions: BTreeMap<Revision, Arc<RevisionContent>>,
    pub(super) candidate: Option<(KeyId, PluginRecord)>,
    pub(super) disk: Disk,
    refused_at: u64,
    /// Configurations by hash, as the files of this node could hold them.
    bytes: BTreeMap<ConfigHash, Vec<u8>>,
    pub(super) loaded: Option<ConfigHash>,
    pub(super) failed_reloads: u64,
    /// The API server looks at its file each so many seconds; never if 0.
    pub(super) poll: u64,
    /// By image: the KEK that it reaches, or why it fails.
    pub(super) plugins: BTreeMap<Instance, Result<String, String>>,
    made: u64,
}

/// What the agent knows and the disk does not.
#[derive(Clone, Default)]
pub(super) struct Memory {
    probes: BTreeMap<Instance, Seen>,
    file: Option<(ConfigHash, u64, u64)>,
    unneeded: BTreeMap<Instance, u64>,
}

#[derive(Clone)]
struct Seen {
    question: Question,
    asked: u64,
    pass: Option<(u64, Option<Canary>)>,
    last: LastProbe,
    failing: Option<(Failure, bool, u64, u32)>,
    attempts: u32,
}

impl Machine {
    pub(super) fn new() -> Self {
        let zero = FileSeen::of(REVISION_ZERO.as_bytes());
        Self {
            now: 0,
            spec: None,
            revisions: BTreeMap::new(),
            candidate: None,
            bytes: [(zero.hash.clone(), REVISION_ZERO.as_bytes().to_vec())].into(),
            loaded: Some(zero.hash.clone()),
            disk: Disk { file: Some(zero), ..Default::default() },
            refused_at: 0,
            failed_reloads: 0,
            poll: 3,
            plugins: BTreeMap::new(),
            made: 0,
        }
    }

    pub(super) fn ask(&mut self, spec: EncryptionNodeSpec) {
        let generation = self.spec.as_ref().map_or(1, |seen| seen.generation + 1);
        self.spec = Some(SeenSpec { generation, spec });
    }

    pub(super) fn publish(&mut self, n: u64, content: &Arc<RevisionContent>) {
        self.bytes.insert(content.hash(), content.bytes.expose().to_vec());
        self.revisions.insert(Revision(n), content.clone());
    }

    pub(super) fn observe(&self, memory: &mut Memory) -> Observed {
        let file = self.disk.file.as_ref().map(|file| file.hash.clone());
        if memory.file.as_ref().map(|(hash, ..)| hash) != file.as_ref() {
            memory.file = file.map(|hash| (hash, self.now, self.failed_reloads));
        }
        let age = |at: u64| seconds(self.now - at);
        let spec = self.spec.clone();
        let target = spec.as_ref().filter(|seen| seen.spec.revision.0 > 0).map(|seen| {
            let found = self.revisions.get(&seen.spec.revision).cloned();
            found.ok_or_else(|| Unusable::Unreadable("gone".into()))
        });
        let candidate = spec.as_ref().and_then(|seen| seen.spec.preflight.as_ref()).map(|_| {
            let plugins = self.candidate.iter().cloned().collect();
            Ok(Arc::new(plugins))
        });
        let mut disk = self.disk.clone();
        for (instance, found) in &mut disk.instances {
            found.listening = self.runs(instance);
        }
        if let Some(refusal) = &mut disk.refusal {
            refusal.elapsed = age(self.refused_at);
        }
        let probes = memory.probes.iter().map(|(instance, seen)| {
            let pass = seen.pass.as_ref().map(|(at, canary)| Pass {
                age: age(*at),
                remote_key_id: RemoteKeyId("k".into()),
                latency: Duration::from_millis(2),
                started_in: seconds(1),
                canary: canary.clone(),
            });
            let failing = seen.failing.as_ref().map(|(failure, mismatch, since, times)| Failing {
                failure: failure.clone(),
                mismatch: *mismatch,
                since: age(*since),
                times: *times,
            });
            let probed = Probed {
                question: seen.question.clone(),
                age: age(seen.asked),
                pass,
                last: Some(seen.last.clone()),
                failing,
                attempts: seen.attempts,
            };
            (instance.clone(), probed)
        });
        Observed {
            policy: Policy { file_poll: seconds(self.poll), ..Policy::default() },
            target,
            candidate,
            server: Ok(Reading {
                id: Some("apiserver-x".into()),
                loaded: self.loaded.clone(),
                failed_reloads: self.failed_reloads - memory.file.as_ref().map_or(0, |(.., base)| *base),
            }),
            probes: probes.collect(),
            file_age: memory.file.as_ref().map_or(Duration::ZERO, |(_, at, _)| age(*at)),
            unneeded: memory.unneeded.iter().map(|(instance, at)| (instance.clone(), age(*at))).collect(),
            failed_step: None,
            disk,
            spec,
        }
    }

    pub(super) fn runs(&self, instance: &Instance) -> bool {
        self.disk.instances.get(instance).is_some_and(|found| found.pod && found.files && found.folder)
    }

    pub(super) fn apply(&mut self, step: &Step, observed: &Observed) {
        let disk = &mut self.disk;
        match step {
            Step::RecordHighWater(key_id) => disk.highest_key_id = *key_id,
            Step::KeepCanaries(canaries) => disk.canaries = canaries.clone(),
            Step::KeepPreflight(answer) => disk.preflight = Some((**answer).clone()),
            Step::KeepRevision(revision) => {
                let content = observed.target.clone().unwrap().unwrap();
                disk.revisions.insert(*revision, content);
            }
            Step::MakeFolder(instance) => disk.instances.entry(instance.clone()).or_default().folder = true,
            Step::WriteFiles(instance) => {
                let (digest, _) = observed.record(instance).expect("a record of what is written");
                let found = disk.instances.entry(instance.clone()).or_default();
                found.files = true;
                found.digest = Some(digest);
            }
            Step::WritePod(instance) => disk.instances.entry(instance.clone()).or_default().pod = true,
            Step::SwitchLink { key_id, instance } => {
                disk.serving.insert(*key_id, instance.generation.clone());
                disk.links.insert(*key_id, instance.generation.clone());
            }
            Step::InstallConfiguration { revision, hash } => {
                let old = disk.file.clone().unwrap();
                disk.configurations.insert(old.hash.clone(), old);
                let content = &disk.revisions[revision];
                assert_eq!(content.hash(), *hash);
                disk.file = Some(FileSeen::of(content.bytes.expose()));
            }
            Step::PutBack { hash, refused } => {
                if let Some(refused) = refused {
                    self.refused_at = self.now;
                    disk.refusal = Some(Refusal {
                        revision: refused.revision,
                        hash: refused.hash.clone(),
                        attempts: refused.attempts,
                        elapsed: Duration::ZERO,
                    });
                }
                disk.file = Some(FileSeen::of(&self.bytes[hash]));
            }
            Step::ForgetRefusal => disk.refusal = None,
            Step::RemoveLink(key_id) => {
                disk.serving.remove(key_id);
                disk.links.remove(key_id);
            }
            Step::RemovePod(instance) => disk.instances.get_mut(instance).unwrap().pod = false,
            Step::RemoveFiles(instance) => drop(disk.instances.remove(instance)),
            Step::ForgetRevision(revision) => drop(disk.revisions.remove(revision)),
            Step::ForgetConfiguration(hash) => drop(disk.configurations.remove(hash)),
        }
    }

    /// The answer of whoever listens at a socket.
    fn answer(&self, instance: &Instance, question: &Question) -> Result<(), (Failure, bool)> {
        let failure = |phase: &str, message: &str| Failure {
            phase: phase.into(),
            message: message.into(),
            ..Default::default()
        };
        let reached = match &question.socket {
            Socket::Link => self.at_link(instance.key_id),
            Socket::Generation | Socket::External(_) => Some(instance.clone()),
        };
        let runs =
            |instance: &Instance| matches!(question.socket, Socket::External(_)) || self.runs(instance);
        let Some(reached) = reached.filter(runs) else {
            return Err((failure("start", "nobody listens"), false));
        };
        match self.plugins.get(&reached) {
            None => Err((failure("start", "nobody listens"), false)),
            Some(Err(why)) => Err((failure("status", why), false)),
            Some(Ok(kek)) => match &question.canary {
                Some(canary) if canary.ciphertext.split('#').next() != Some(kek) => {
                    Err((failure("canary", "another KEK"), true))
                }
                _ => Ok(()),
            },
        }
    }

    pub(super) fn at_link(&self, key_id: KeyId) -> Option<Instance> {
        let generation = self.disk.links.get(&key_id)?.clone();
        Some(Instance { key_id, generation })
    }

    fn probe(&mut self, asks: &BTreeMap<Instance, Ask>, memory: &mut Memory) {
        memory.probes.retain(|instance, _| asks.contains_key(instance));
        for (instance, ask) in asks {
            let before = memory.probes.get(instance).filter(|seen| seen.question == ask.question).cloned();
            // As with the agent: while all is well, only Status is asked, and a pass grows old.
            let well = before.as_ref().is_some_and(|seen| seen.pass.is_some() && seen.failing.is_none());
            if well && !ask.urgent {
                continue;
            }
            let outcome = self.answer(instance, &ask.question);
            let last = LastProbe {
                at: format!("1970-01-01T00:00:{:02}Z", self.now % 60),
                status: if outcome.is_ok() { HealthStatus::Healthy } else { HealthStatus::Error },
                remote_key_id: None,
                detail: outcome.as_ref().err().map(|(failure, _)| failure.message.clone()),
                answered: outcome.as_ref().err().is_none_or(|(failure, _)| failure.phase != "start"),
            };
            let mut seen = before.unwrap_or_else(|| Seen {
                question: ask.question.clone(),
                asked: self.now,
                pass: None,
                last: last.clone(),
                failing: None,
                attempts: 0,
            });
            seen.last = last;
            match outcome {
                Ok(()) => {
                    let made = seen.pass.take().and_then(|(_, canary)| canary);
                    let made = made.or_else(|| {
                        self.made += 1;
                        let kek = self.plugins.get(instance)?.clone().ok()?;
                        ask.question.make_canary.then(|| canary(&format!("{kek}#{}", self.made)))
                    });
                    seen.pass = Some((self.now, made));
                    seen.failing = None;
                }
                Err((failure, mismatch)) => {
                    let (since, times) = seen.failing.as_ref().map_or((self.now, 0), |(.., at, n)| (*at, *n));
                    seen.failing = Some((failure, mismatch, since, times + 1));
                    seen.attempts += 1;
                }
            }
            memory.probes.insert(instance.clone(), seen);
        }
    }

    /// The API server looks at its file: it loads one whose plugins all answer, else it stays with what it has.
    fn serve(&mut self) {
        let Some(file) = self.disk.file.clone() else { return };
        if self.poll == 0 || !self.now.is_multiple_of(self.poll) || self.loaded.as_ref() == Some(&file.hash) {
            return;
        }
        let well = |key_id: &KeyId| {
            self.at_link(*key_id)
                .is_some_and(|at| self.runs(&at) && matches!(self.plugins.get(&at), Some(Ok(_))))
        };
        if file.keys.is_some_and(|keys| keys.iter().all(well)) {
            self.loaded = Some(file.hash);
        } else {
            self.failed_reloads += 1;
        }
    }

    /// What must hold at every instant.
    fn check(&self) {
        let keys = |hash: &ConfigHash| FileSeen::of(&self.bytes[hash]).keys.unwrap();
        for key_id in self.loaded.iter().flat_map(keys) {
            let at = self.at_link(key_id).unwrap_or_else(|| panic!("key {key_id} is loaded and has no link"));
            assert!(self.runs(&at), "key {key_id} is loaded and its plugin {at} does not run");
            let expected = format!("kek-{key_id}");
            if let Ok(kek) = &self.plugins[&at] {
                assert_eq!(*kek, expected, "key {key_id} is served by a plugin of another KEK");
            }
        }
    }
}

/// One turn. Stops after `steps` steps, as if killed then; tells how many there were.
pub(super) fn turn(machine: &mut Machine, memory: &mut Memory, steps: usize) -> (usize, Decision) {
    let observed = machine.observe(memory);
    let decision = next(&observed);
    let mut done = 0;
    for step in decision.steps.iter().take(steps) {
        machine.apply(step, &observed);
        machine.check();
        done += 1;
    }
    memory.unneeded.retain(|instance, _| decision.unneeded.contains(instance));
    for instance in &decision.unneeded {
        memory.unneeded.entry(instance.clone()).or_insert(machine.now);
    }
    machine.probe(&decision.asks, memory);
    machine.now += 1;
    machine.serve();
    machine.check();
    (done, decision)
}

/// Turns until nothing is to be done for longer than any pause; kills the agent once, after `kill` steps in all.
pub(super) fn settle(machine: &mut Machine, memory: &mut Memory, kill: &mut Option<usize>) -> Decision {
    let (mut quiet, mut last) = (0, Decision::default());
    for _ in 0..3000 {
        let allowed = kill.unwrap_or(usize::MAX);
        let (done, decision) = turn(machine, memory, allowed);
        if let Some(left) = kill {
            if done >= *left && decision.steps.len() > done {
                *kill = None;
                *memory = Memory::default();
                quiet = 0;
                continue;
            }
            *left -= done;
        }
        quiet = if done == 0 && decision.unneeded.is_empty() { quiet + 1 } else { 0 };
        last = decision;
        if quiet > 60 {
            return last;
        }
    }
    panic!("the node does not come to rest: {:?}", last.why);
}

fn status(decision: &Decision) -> &EncryptionNodeStatus {
    decision.report.as_ref().unwrap_or_else(|| panic!("no report: {:?}", decision.why))
}

fn answer(decision: &Decision) -> &PreflightAnswer {
    status(decision).preflight.as_ref().expect("an answer")
}

/// From revision 0 to key 1, an in-place update, key 2, and key 1 gone. `kill` is counted over all of it.
fn life(mut kill: Option<usize>) -> (Machine, bool) {
    let mut machine = Machine::new();
    let mut memory = Memory::default();
    for (key, image) in [(1, "a"), (1, "b"), (2, "c")] {
        machine.plugins.insert(instance(key, image), Ok(format!("kek-{key}")));
    }
    let both = revision(&[(1, "b"), (2, "c")]);
    let steps =
        [(1, 1, "a", revision(&[(1, "a")])), (2, 1, "b", revision(&[(1, "b")])), (3, 2, "c", both.clone())];
    let mut canaries: Vec<KeyCanary> = Vec::new();
    for (n, key, image, content) in steps {
        let known =
            canaries.iter().find(|found| found.key_id == KeyId(key)).map(|found| found.canary.clone());
        machine.candidate = Some((KeyId(key), record(image)));
        let mut spec = machine.spec.clone().map(|seen| seen.spec).unwrap_or_default();
        spec.preflight = Some(request(key, image, known.clone()));
        machine.ask(spec);
        let decision = settle(&mut machine, &mut memory, &mut kill);
        assert_eq!(answer(&decision).result, PreflightResult::Succeeded, "{:?}", decision.why);
        let made = answer(&decision).canary.clone().expect("the canary");
        assert_eq!(known.as_ref().unwrap_or(&made), &made);
        if known.is_none() {
            canaries.push(KeyCanary { key_id: KeyId(key), canary: made });
        }
        machine.publish(n, &content);
        machine.ask(target(n, &content, &canaries));
        let decision = settle(&mut machine, &mut memory, &mut kill);
        assert_eq!(status(&decision).revision, Revision(n), "{:?}", decision.why);
        assert_eq!(status(&decision).error, None);
    }
    let last = revision(&[(2, "c")]);
    machine.publish(4, &last);
    machine.ask(target(4, &last, &canaries));
    let decision = settle(&mut machine, &mut memory, &mut kill);
    assert_eq!(status(&decision).revision, Revision(4), "{:?}", decision.why);
    (machine, kill.is_none())
}

#[test]
fn killed_between_any_two_steps_the_node_ends_the_same() {
    let (whole, _) = life(None);
    assert_eq!(whole.disk.links.keys().collect::<Vec<_>>(), [&KeyId(2)]);
    assert_eq!(whole.disk.instances.keys().collect::<Vec<_>>(), [&instance(2, "c")]);
    assert_eq!(whole.disk.highest_key_id, KeyId(2));
    assert_eq!(whole.disk.revisions.keys().collect::<Vec<_>>(), [&Revision(3), &Revision(4)]);
    let mut kills = 0;
    for after in 0.. {
        let (killed, happened) = life(Some(after));
        if !happened {
            break;
        }
        kills += 1;
        let (mut a, mut b) = (whole.disk.clone(), killed.disk);
        // Which canary was made depends on who was killed when; that there is one does not.
        for disk in [&mut a, &mut b] {
            for canary in disk.canaries.values_mut() {
                canary.ciphertext.truncate(5);
                canary.remote_key_id.0.truncate(5);
            }
            disk.preflight.iter_mut().for_each(|answer| answer.canary = None);
        }
        assert_eq!(a, b, "killed after {after} steps");
    }
    assert!(kills > 30, "only {kills} places to be killed at");
}

#[test]
fn a_node_boots_without_operator_and_api() {
    let (mut machine, _) = life(None);
    let mut memory = Memory::default();
    machine.spec = None;
    // A reboot empties the folder of the sockets.
    machine.disk.links.clear();
    machine.disk.instances.values_mut().for_each(|found| found.folder = false);
    let observed = machine.observe(&mut memory);
    let decision = next(&observed);
    let kinds: Vec<_> = decision.steps.iter().map(Step::kind).collect();
    assert_eq!(kinds, ["MakeFolder", "SwitchLink"]);
    for step in &decision.steps {
        machine.apply(step, &observed);
    }
    machine.check();
    let decision = settle(&mut machine, &mut memory, &mut None);
    assert!(decision.report.is_none(), "nobody asked");
    assert_eq!(
        decision.asks[&instance(2, "c")].question.canary.as_ref().map(|c| &c.ciphertext[..5]),
        Some("kek-2")
    );
}

#[test]
fn a_refused_configuration_is_put_back_and_tried_again_with_back_off() {
    let mut machine = Machine::new();
    let mut memory = Memory::default();
    machine.plugins.insert(instance(1, "a"), Ok("kek-1".into()));
    // The API server sees another world than the agent: it refuses what the agent found well.
    let content = revision(&[(1, "a")]);
    machine.publish(1, &content);
    machine.ask(target(1, &content, &[key_canary(1, "kek-1")]));
    machine.poll = 0;
    let zero = ConfigHash::of(REVISION_ZERO.as_bytes());
    let (mut installed, mut put_back) = (Vec::new(), Vec::new());
    let mut errors = Vec::new();
    for _ in 0..400 {
        let at = machine.now;
        let (_, decision) = turn(&mut machine, &mut memory, usize::MAX);
        for step in &decision.steps {
            match step {
                Step::InstallConfiguration { .. } => installed.push(at),
                Step::PutBack { hash, .. } => {
                    assert_eq!(*hash, zero);
                    put_back.push(at);
                }
                _ => {}
            }
        }
        if let Some(error) = decision.report.and_then(|report| report.error) {
            errors.push((error.reason, error.put_back));
        }
    }
    // The file's age passes 0 + 20 + 30 s; the pauses are 30, 60, 120 s.
    let pauses: Vec<u64> = put_back.iter().zip(&installed[1..]).map(|(back, again)| again - back).collect();
    assert!(pauses.len() >= 2 && pauses[0] >= 30 && pauses[1] >= 60, "{installed:?} {put_back:?}");
    assert!(errors.contains(&("ConfigurationRefused".to_owned(), true)));
    while installed.len() > put_back.len() {
        let (_, decision) = turn(&mut machine, &mut memory, usize::MAX);
        put_back.extend(decision.steps.iter().filter(|step| step.kind() == "PutBack").map(|_| machine.now));
    }
    assert_eq!(machine.disk.file.as_ref().map(|file| &file.hash), Some(&zero));

    // Another target is tried at once.
    let mended = revision(&[(1, "a"), (2, "c")]);
    machine.plugins.insert(instance(2, "c"), Ok("kek-2".into()));
    machine.publish(2, &mended);
    machine.ask(target(2, &mended, &[key_canary(1, "kek-1"), key_canary(2, "kek-2")]));
    machine.poll = 3;
    let decision = settle(&mut machine, &mut memory, &mut None);
    assert_eq!(status(&decision).revision, Revision(2));
    assert_eq!(machine.disk.refusal, None);
}

#[test]
fn a_failed_reload_is_put_back_at_once() {
    let mut machine = Machine::new();
    let mut memory = Memory::default();
    machine.plugins.insert(instance(1, "a"), Ok("kek-1".into()));
    let content = revision(&[(1, "a")]);
    machine.publish(1, &content);
    machine.ask(target(1, &content, &[key_canary(1, "kek-1")]));
    let mut back = 0;
    for _ in 0..20 {
        let (_, decision) = turn(&mut machine, &mut memory, usize::MAX);
        if decision.steps.iter().any(|step| step.kind() == "InstallConfiguration") {
            // Its KMS dies between the agent's probe and the API server's.
            machine.plugins.insert(instance(1, "a"), Err("sealed".into()));
        }
        back += decision.steps.iter().filter(|step| step.kind() == "PutBack").count();
    }
    assert_eq!(back, 1);
    machine.plugins.insert(instance(1, "a"), Ok("kek-1".into()));
    let decision = settle(&mut machine, &mut memory, &mut None);
    assert_eq!(status(&decision).revision, Revision(1), "{:?}", decision.why);
}

#[test]
fn an_in_place_candidate_of_another_kek_changes_nothing() {
    let mut machine = Machine::new();
    let mut memory = Memory::default();
    machine.plugins.insert(instance(1, "a"), Ok("kek-1".into()));
    machine.plugins.insert(instance(1, "wrong"), Ok("kek-9".into()));
    let content = revision(&[(1, "a")]);
    machine.publish(1, &content);
    let known = [key_canary(1, "kek-1")];
    machine.ask(target(1, &content, &known));
    settle(&mut machine, &mut memory, &mut None);

    machine.candidate = Some((KeyId(1), record("wrong")));
    let mut spec = target(1, &content, &known);
    spec.preflight = Some(request(1, "wrong", Some(canary("kek-1"))));
    machine.ask(spec);
    let decision = settle(&mut machine, &mut memory, &mut None);
    let failure = answer(&decision).failure.clone().unwrap();
    assert_eq!((answer(&decision).result, failure.phase.as_str()), (PreflightResult::Failed, "canary"));
    assert_eq!(machine.at_link(KeyId(1)), Some(instance(1, "a")));
    assert_eq!(status(&decision).revision, Revision(1));

    // Even as a target (a bug elsewhere) it does not get to serve.
    let bad = revision(&[(1, "wrong")]);
    machine.publish(2, &bad);
    machine.ask(target(2, &bad, &known));
    let decision = settle(&mut machine, &mut memory, &mut None);
    assert_eq!(status(&decision).error.as_ref().map(|error| error.reason.as_str()), Some("KEKMismatch"));
    assert_eq!(machine.at_link(KeyId(1)), Some(instance(1, "a")));
    assert_eq!(status(&decision).revision, Revision(1));
}

#[test]
fn a_key_without_a_canary_gets_one_from_its_running_plugin() {
    let mut machine = Machine::new();
    let mut memory = Memory::default();
    machine.plugins.insert(instance(1, "a"), Ok("kek-1".into()));
    machine.plugins.insert(instance(1, "b"), Ok("kek-1".into()));
    machine.plugins.insert(instance(1, "wrong"), Ok("kek-9".into()));
    let content = revision(&[(1, "a")]);
    machine.publish(1, &content);
    machine.ask(target(1, &content, &[key_canary(1, "kek-1")]));
    settle(&mut machine, &mut memory, &mut None);
    machine.disk.canaries.clear();
    for (image, result) in [("wrong", PreflightResult::Failed), ("b", PreflightResult::Succeeded)] {
        machine.candidate = Some((KeyId(1), record(image)));
        let mut spec = target(1, &content, &[]);
        spec.preflight = Some(request(1, image, None));
        machine.ask(spec);
        let decision = settle(&mut machine, &mut memory, &mut None);
        assert_eq!(answer(&decision).result, result, "{image}");
        let made =
            answer(&decision).canary.as_ref().is_some_and(|made| made.ciphertext.starts_with("kek-1#"));
        assert_eq!(made, result == PreflightResult::Succeeded);
    }
}

#[test]
fn plugins_of_others_are_only_asked() {
    let mut machine = Machine::new();
    let mut memory = Memory::default();
    let records = BTreeMap::from([(KeyId(1), external("unix:///run/other.sock"))]);
    let content = content([1].into_iter(), records.clone());
    let digest = records[&KeyId(1)].digest(KeyId(1)).unwrap();
    let instance = Instance::new(KeyId(1), &digest);
    machine.plugins.insert(instance.clone(), Ok("kek-1".into()));
    machine.publish(1, &content);
    machine.ask(target(1, &content, &[key_canary(1, "kek-1")]));
    for _ in 0..5 {
        let (_, decision) = turn(&mut machine, &mut memory, usize::MAX);
        let kinds: Vec<_> = decision.steps.iter().map(Step::kind).collect();
        assert!(kinds.iter().all(|kind| !kind.contains("Pod") && !kind.contains("Link")), "{kinds:?}");
        assert_eq!(
            decision.asks[&instance].question.socket,
            Socket::External("unix:///run/other.sock".into())
        );
    }
    assert_eq!(machine.disk.file.map(|file| file.hash), Some(content.hash()));
}
