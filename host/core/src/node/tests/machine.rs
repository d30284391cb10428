//! A node with its API server, kubelet and plugins, in memory. The agent on it loses its memory whenever it
//! is killed.

use std::collections::BTreeSet;

use super::*;
use crate::api::HealthStatus;
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
    /// The API server checks its file each so many seconds; never if 0.
    pub(super) poll: u64,
    /// The API server does not answer.
    pub(super) away: bool,
    /// Configurations that the API server cannot load: restarted on one, it never serves.
    pub(super) unloadable: BTreeSet<ConfigHash>,
    /// Their KMS refuses their login: they exit at once, with exit code 1.
    pub(super) refused: BTreeSet<Instance>,
    /// Each start of a process, which is a login.
    pub(super) starts: Vec<(u64, Instance)>,
    /// Those whose process exited.
    exited: BTreeSet<Instance>,
    /// Those whose pod is gone and whose process ends at this time.
    stopping: BTreeMap<Instance, u64>,
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
    pass: Option<(u64, Option<KeyCheck>)>,
    last: LastProbe,
    failing: Option<(Failure, bool, u64, u32)>,
    earlier: Option<Failure>,
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
            away: false,
            unloadable: BTreeSet::new(),
            refused: BTreeSet::new(),
            starts: Vec::new(),
            exited: BTreeSet::new(),
            stopping: BTreeMap::new(),
            plugins: BTreeMap::new(),
            made: 0,
        }
    }

    pub(super) fn ask(&mut self, spec: EncryptionNodeSpec) {
        let generation = self.spec.as_ref().map_or(1, |seen| seen.generation + 1);
        let reported = self.spec.as_ref().map_or(Revision(0), |seen| seen.reported);
        self.spec = Some(SeenSpec { generation, spec, reported });
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
            let stopping = self.stopping.get(instance).is_some_and(|at| self.now < *at);
            found.listening = !found.pod && stopping;
        }
        if let Some(refusal) = &mut disk.refusal {
            refusal.elapsed = age(self.refused_at);
        }
        let probes = memory.probes.iter().map(|(instance, seen)| {
            let pass = seen.pass.as_ref().map(|(at, key_check)| Pass {
                age: age(*at),
                remote_key_id: RemoteKeyId("k".into()),
                latency: Duration::from_millis(2),
                started_in: seconds(1),
                key_check: key_check.clone(),
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
                earlier: seen.earlier.clone(),
                attempts: seen.attempts,
            };
            (instance.clone(), probed)
        });
        Observed {
            policy: Policy { file_poll: seconds(self.poll), ..Policy::default() },
            absence: None,
            target,
            candidate,
            server: if self.away {
                silent()
            } else {
                Ok(Reading {
                    id: Some("apiserver-x".into()),
                    loaded: self.loaded.clone(),
                    failed_reloads: self.failed_reloads - memory.file.as_ref().map_or(0, |(.., base)| *base),
                    adopted: Vec::new(),
                })
            },
            probes: probes.collect(),
            file_age: memory.file.as_ref().map_or(Duration::ZERO, |(_, at, _)| age(*at)),
            unneeded: memory.unneeded.iter().map(|(instance, at)| (instance.clone(), age(*at))).collect(),
            failed_step: None,
            credential_expires: None,
            disk,
            spec,
        }
    }

    pub(super) fn runs(&self, instance: &Instance) -> bool {
        self.disk.instances.get(instance).is_some_and(|found| found.pod && found.files && found.folder)
            && !self.exited.contains(instance)
    }

    /// A process begins, and logs in.
    fn start(&mut self, instance: &Instance) {
        self.starts.push((self.now, instance.clone()));
        if self.refused.contains(instance) {
            self.exited.insert(instance.clone());
        } else {
            self.exited.remove(instance);
        }
    }

    /// The kubelet starts what exited again, every few seconds, unless it is a trial.
    fn restart(&mut self) {
        let again: Vec<Instance> = self
            .exited
            .iter()
            .filter(|instance| {
                self.disk.instances.get(instance).is_some_and(|found| found.pod && !found.trial)
            })
            .cloned()
            .collect();
        if self.now.is_multiple_of(10) {
            for instance in &again {
                self.start(instance);
            }
        }
    }

    /// The API server's process ends and is started again, with the present file.
    pub(super) fn restart_server(&mut self) {
        self.failed_reloads = 0;
        match &self.disk.file {
            Some(file) if !self.unloadable.contains(&file.hash) => {
                self.loaded = Some(file.hash.clone());
                self.away = false;
            }
            _ => {
                self.loaded = None;
                self.away = true;
            }
        }
    }

    pub(super) fn apply(&mut self, step: &Step, observed: &Observed) {
        let disk = &mut self.disk;
        match step {
            Step::RecordHighWater(key_id) => disk.highest_key_id = *key_id,
            Step::KeepKeyChecks(key_checks) => disk.key_checks = key_checks.clone(),
            Step::KeepPreflight(answer) => disk.preflight = Some((**answer).clone()),
            Step::KeepRevision(revision) => {
                let content = observed.target.clone().unwrap().unwrap();
                disk.revisions.insert(*revision, content);
            }
            Step::MakeFolder(instance) => disk.instances.entry(instance.clone()).or_default().folder = true,
            Step::WriteFiles(instance) => {
                let (digest, _) = observed.record(instance).expect("a record of the instance");
                let found = disk.instances.entry(instance.clone()).or_default();
                found.files = true;
                found.digest = Some(digest);
            }
            Step::WritePod { instance, trial } => {
                let found = disk.instances.entry(instance.clone()).or_default();
                let tries = if *trial { found.tries + 1 } else { 0 };
                let another = !found.pod || found.trial != *trial || found.tries != tries;
                (found.pod, found.edited, found.trial, found.tries) = (true, false, *trial, tries);
                self.stopping.remove(instance);
                if another {
                    self.start(instance);
                }
            }
            Step::SwitchLink { key_id, instance } => {
                disk.serving.insert(*key_id, instance.generation.clone());
                disk.links.insert(*key_id, instance.generation.clone());
            }
            Step::InstallConfiguration { revision, hash } => {
                disk.configurations.extend(disk.file.clone().map(|old| (old.hash.clone(), old)));
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
            Step::RecordLoaded(hash) => disk.loaded = Some(hash.clone()),
            Step::PutAside(hash) => drop(disk.aside.insert(hash.clone())),
            Step::RecordDrift(revision) => disk.drift = Some(*revision),
            Step::ForgetDrift => disk.drift = None,
            Step::ForgetRefusal => disk.refusal = None,
            Step::RemoveLink(key_id) => {
                disk.serving.remove(key_id);
                disk.links.remove(key_id);
            }
            Step::RemovePod(instance) => {
                let found = disk.instances.get_mut(instance).unwrap();
                (found.pod, found.trial) = (false, false);
                if !self.exited.remove(instance) {
                    self.stopping.insert(instance.clone(), self.now + 2);
                }
            }
            Step::RemoveFiles(instance) => drop(disk.instances.remove(instance)),
            Step::ForgetRevision(revision) => drop(disk.revisions.remove(revision)),
            Step::ForgetConfiguration(hash) => drop(disk.configurations.remove(hash)),
            Step::ForgetRecovered { key_id, number } => {
                disk.recovered.retain(|one| (one.key_id, one.number) != (*key_id, *number));
            }
        }
    }

    /// The answer of the process that listens at a socket.
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
            let exit_code = self.exited.contains(instance).then_some(1);
            return Err((Failure { exit_code, ..failure("start", "nobody listens") }, false));
        };
        match self.plugins.get(&reached) {
            None => Err((failure("start", "nobody listens"), false)),
            Some(Err(why)) => Err((failure("status", why), false)),
            Some(Ok(kek)) => match &question.key_check {
                Some(key_check) if key_check.ciphertext.split('#').next() != Some(kek) => {
                    Err((failure("key-check", "another KEK"), true))
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
            // As with the agent: while the plugin is healthy, only Status is asked, and a pass grows old.
            let healthy = before.as_ref().is_some_and(|seen| seen.pass.is_some() && seen.failing.is_none());
            if healthy && !ask.urgent {
                continue;
            }
            let outcome = self.answer(instance, &ask.question);
            let last = LastProbe {
                at: format!("1970-01-01T00:00:{:02}Z", self.now % 60),
                status: if outcome.is_ok() { HealthStatus::Healthy } else { HealthStatus::Error },
                remote_key_id: None,
                failure: outcome.as_ref().err().map(|(failure, _)| failure.clone()),
                answered: outcome.as_ref().err().is_none_or(|(failure, _)| failure.phase != "start"),
            };
            let other_run = memory
                .probes
                .get(instance)
                .filter(|seen| Question { run: ask.question.run, ..seen.question.clone() } == ask.question);
            let mut seen = before.unwrap_or_else(|| Seen {
                question: ask.question.clone(),
                asked: self.now,
                pass: None,
                last: last.clone(),
                failing: None,
                earlier: other_run.and_then(|seen| {
                    seen.failing.as_ref().map(|(failure, ..)| failure.clone()).or(seen.earlier.clone())
                }),
                attempts: other_run.map_or(0, |seen| seen.attempts),
            });
            seen.last = last;
            match outcome {
                Ok(()) => {
                    let made = seen.pass.take().and_then(|(_, key_check)| key_check);
                    let made = made.or_else(|| {
                        self.made += 1;
                        let kek = self.plugins.get(instance)?.clone().ok()?;
                        ask.question.make_key_check.then(|| key_check(&format!("{kek}#{}", self.made)))
                    });
                    seen.pass = Some((self.now, made));
                    (seen.failing, seen.earlier) = (None, None);
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

    /// The API server checks its file: it loads a file whose plugins all answer, and otherwise keeps what it
    /// has loaded.
    fn serve(&mut self) {
        let Some(file) = self.disk.file.clone() else { return };
        if self.away
            || self.poll == 0
            || !self.now.is_multiple_of(self.poll)
            || self.loaded.as_ref() == Some(&file.hash)
        {
            return;
        }
        let healthy = |key_id: &KeyId| {
            self.at_link(*key_id)
                .is_some_and(|at| self.runs(&at) && matches!(self.plugins.get(&at), Some(Ok(_))))
        };
        if !self.unloadable.contains(&file.hash) && file.keys.is_some_and(|keys| keys.iter().all(healthy)) {
            self.loaded = Some(file.hash);
        } else {
            self.failed_reloads += 1;
        }
    }

    /// What must hold at every instant.
    pub(super) fn check(&self) {
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

/// One reconcile pass. Stops after `steps` steps, as if killed then; returns how many there were.
pub(super) fn reconcile(machine: &mut Machine, memory: &mut Memory, steps: usize) -> (usize, Decision) {
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
    let mut asks = decision.asks.clone();
    if done == decision.steps.len() {
        asks.extend(decision.starts.clone());
    }
    machine.probe(&asks, memory);
    machine.now += 1;
    machine.restart();
    machine.serve();
    machine.check();
    (done, decision)
}

/// Reconciles until nothing is to be done for longer than any pause; kills the agent once, after `kill` steps
/// in all.
pub(super) fn settle(machine: &mut Machine, memory: &mut Memory, kill: &mut Option<usize>) -> Decision {
    let (mut quiet, mut last) = (0, Decision::default());
    for _ in 0..3000 {
        let allowed = kill.unwrap_or(usize::MAX);
        let (done, decision) = reconcile(machine, memory, allowed);
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
