//! One control-plane node: an API server, its configuration file, plugins, and the agent that decides about
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use keyward_core::api::Adopted;
use keyward_core::formats::revision::RevisionContent;
use keyward_core::ids::KeyId;
use keyward_core::node::{
    self, Absence, Disk, Instance, Observed, Policy, Reading, Refusal, SeenSpec, Step, Unread, Unusable,
};

use super::World;
use super::config::{Config, Provider};
use super::etcd::Sealed;
use super::kms::{self, Kek, Kms};
use crate::invariants;

/// The nodes' names; the first ones are there from the start.
pub const NAMES: [&str; 3] = ["n0", "n1", "n2"];

/// What an API server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    /// There is none yet.
    Absent,
    /// Its node joins: it is registered, and its API server starts when the revision in force is installed.
    Joining,
    /// It serves.
    Up,
    /// It is down, and may start again.
    Down,
}

/// A plugin's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// The KEK that it really reaches.
    pub kek: Kek,
    /// Its credential.
    pub token: u8,
    /// Its KMS accepted the credential when it started.
    pub runs: bool,
    /// The credential was refused, and nobody starts the process again.
    pub ended: bool,
}

/// One node.
#[derive(Clone, Debug)]
pub struct Server {
    /// What its API server is doing.
    pub life: Life,
    /// The agent's disk (`observed.disk`) and memory (the rest).
    pub observed: Observed,
    /// Reloads that failed since the file has its present content.
    pub failed_reloads: u64,
    /// What its API server has loaded.
    pub loaded: Arc<Config>,
    /// The KEK, as it was, under which its API server writes.
    pub adopted: BTreeMap<KeyId, (Kek, Kms)>,
    /// Processes of plugins that have a pod.
    pub processes: BTreeMap<Instance, Process>,
    /// A reboot ended its processes.
    pub disturbed: bool,
    /// It has returned, and still has the configuration from before.
    pub returned: bool,
    /// Its machine was restored, and its agent has not reported since: nobody knows what it writes.
    pub unreported: bool,
}

impl Server {
    /// A node with revision 0 in its file.
    pub fn new(zero: &Arc<Config>, life: Life) -> Self {
        let disk = Disk { file: Some(zero.file.clone()), ..Disk::default() };
        Self {
            life,
            observed: Observed {
                policy: Policy::default(),
                spec: None,
                absence: None,
                target: None,
                candidate: None,
                server: Err(Unread { why: String::new(), answers: false }),
                disk,
                probes: BTreeMap::new(),
                file_age: Duration::ZERO,
                unneeded: BTreeMap::new(),
                failed_step: None,
                credential_expires: None,
            },
            failed_reloads: 0,
            loaded: zero.clone(),
            adopted: BTreeMap::new(),
            processes: BTreeMap::new(),
            disturbed: false,
            returned: false,
            unreported: false,
        }
    }

    /// The instance that a key's link leads to.
    pub fn at_link(&self, key_id: KeyId) -> Option<Instance> {
        let generation = self.observed.disk.links.get(&key_id)?.clone();
        Some(Instance { key_id, generation })
    }

    /// Its process, if it has a pod, files and a folder.
    pub fn process(&self, instance: &Instance) -> Option<Process> {
        let found = self.observed.disk.instances.get(instance)?;
        self.processes.get(instance).copied().filter(|p| p.runs && found.pod && found.files && found.folder)
    }

    /// The agent's process dies: its memory is lost.
    pub fn forget(&mut self) {
        self.observed.probes.clear();
        self.observed.unneeded.clear();
        self.observed.file_age = Duration::ZERO;
        self.observed.failed_step = None;
        (self.observed.spec, self.observed.absence) = (None, None);
    }
}

impl World {
    pub(super) fn server_mut(&mut self, n: usize) -> &mut Server {
        Arc::make_mut(&mut self.servers[n])
    }

    /// The agent reads the target of its node.
    pub(super) fn fetch(&mut self, n: usize) {
        let reachable = self.running().next().is_some();
        let unreadable = self.unreadable;
        let agent = self.api.snapshot.servers.get(NAMES[n]).and_then(|server| server.agent.as_ref());
        let seen = agent.filter(|_| reachable).map(|agent| SeenSpec {
            generation: self.api.generations.get(NAMES[n]).copied().unwrap_or_default(),
            spec: agent.spec.clone(),
            reported: agent.status.as_ref().map(|status| status.revision).unwrap_or_default(),
        });
        let others = self.running().any(|other| other != n);
        let before = self.servers[n].observed.absence;
        let has_target = agent.is_some_and(|agent| self.api.configs.contains_key(&agent.spec.revision));
        let since = match before {
            Some(Absence::Unsure(since) | Absence::Unread(since)) => since,
            Some(Absence::Elsewhere) | None => Duration::ZERO,
        };
        let absence = match (reachable, agent) {
            (true, Some(_)) if has_target && !unreadable => None,
            _ if before == Some(Absence::Elsewhere) => before,
            (true, None) if others => Some(Absence::Elsewhere),
            (true, _) => Some(Absence::Unsure(since)),
            (false, _) => Some(Absence::Unread(since)),
        };
        let revision = seen.as_ref().map(|seen| seen.spec.revision).filter(|revision| revision.0 > 0);
        let why = || Unusable::Unreadable("timeout".into());
        let target = revision.map(|revision| {
            if unreadable {
                return Err(why());
            }
            let found = self.api.configs.get(&revision).and_then(|config| config.content.clone());
            found.ok_or_else(|| Unusable::Invalid("it does not exist".into()))
        });
        let asked = seen.as_ref().is_some_and(|seen| seen.spec.preflight.is_some());
        let candidate = asked.then(|| {
            if unreadable {
                return Err(why());
            }
            self.api.candidate.clone().ok_or_else(|| Unusable::Invalid("it does not exist".into()))
        });
        let observed = &mut self.server_mut(n).observed;
        (observed.spec, observed.target, observed.candidate) = (seen, target, candidate);
        observed.absence = absence;
    }

    /// One pass of the agent on what it has read. It dies after this many steps, if a number is given.
    pub(super) fn agent(&mut self, n: usize, dies_after: Option<usize>) {
        if self.servers[n].life == Life::Absent {
            return;
        }
        let server = self.server_mut(n);
        let loaded = match server.life {
            Life::Up => Some(server.loaded.hash.clone()),
            Life::Joining => server.observed.disk.file.as_ref().map(|file| file.hash.clone()),
            Life::Down | Life::Absent => None,
        };
        server.observed.server = match loaded {
            Some(hash) => Ok(Reading {
                id: None,
                loaded: Some(hash),
                failed_reloads: server.failed_reloads,
                adopted: server
                    .adopted
                    .iter()
                    .map(|(key_id, (kek, kms))| Adopted {
                        key_id: *key_id,
                        remote_key_id: kms::remote_key_id(*kek, *kms),
                    })
                    .collect(),
            }),
            None => Err(Unread { why: "connection refused".into(), answers: false }),
        };
        let decision = match self.mutant {
            None => node::next(&self.servers[n].observed),
            Some(mutant) => mutant.agent(&self.servers[n].observed),
        };
        let mut done = 0;
        for step in &decision.steps {
            if self.servers[n].observed.disk.paused.is_some() && !step.is_record() {
                let what = format!("the agent of node {} is paused, and did: {step}", NAMES[n]);
                self.fails("pause-withholds-everything", what);
            }
            if dies_after == Some(done) || !self.node_step(n, step) {
                break;
            }
            done += 1;
        }
        let server = self.server_mut(n);
        if server.life == Life::Joining {
            // Its API server has loaded nothing yet, so `prepare` records nothing about it.
            server.observed.disk.loaded = None;
        }
        if dies_after.is_some() {
            server.forget();
            return;
        }
        server.observed.unneeded.retain(|instance, _| decision.unneeded.contains(instance));
        for instance in &decision.unneeded {
            server.observed.unneeded.entry(instance.clone()).or_default();
        }
        let mut asks = decision.asks;
        if done == decision.steps.len() {
            asks.extend(decision.starts);
        }
        self.probe(n, &asks);
        if let Some(status) = decision.report.filter(|_| self.servers[n].life != Life::Joining)
            && self.running().next().is_some()
        {
            Arc::make_mut(&mut self.api).report_node(NAMES[n], status);
            self.server_mut(n).unreported = false;
        }
    }

    fn node_step(&mut self, n: usize, step: &Step) -> bool {
        let configs = self.configs.clone();
        let accepted = self.accepts;
        let server = self.server_mut(n);
        let disk = &mut server.observed.disk;
        match step {
            Step::RecordHighWater(id) => disk.highest_key_id = disk.highest_key_id.max(*id),
            Step::KeepKeyChecks(key_checks) => disk.key_checks.clone_from(key_checks),
            Step::KeepPreflight(answer) => disk.preflight = Some((**answer).clone()),
            Step::KeepRevision(revision) => {
                let Some(Ok(content)) = server.observed.target.clone() else { return false };
                disk.revisions.insert(*revision, content);
            }
            Step::MakeFolder(instance) => {
                disk.instances.entry(instance.clone()).or_default().folder = true;
                start(server, instance, accepted);
            }
            Step::WriteFiles(instance) => {
                let Some((digest, record)) = server.observed.record(instance) else { return false };
                let process = Process {
                    kek: kms::truth(&record),
                    token: kms::credential(&record),
                    runs: false,
                    ended: false,
                };
                drop(record);
                let found = server.observed.disk.instances.entry(instance.clone()).or_default();
                (found.files, found.digest) = (true, Some(digest));
                server.processes.entry(instance.clone()).or_insert(process);
                start(server, instance, accepted);
            }
            Step::WritePod { instance, trial } => {
                let found = disk.instances.entry(instance.clone()).or_default();
                let tries = if *trial { found.tries + 1 } else { 0 };
                let another = !found.pod || found.trial != *trial || found.tries != tries;
                (found.pod, found.trial, found.tries, found.listening) = (true, *trial, tries, false);
                if another {
                    if let Some(process) = server.processes.get_mut(instance) {
                        (process.runs, process.ended) = (false, false);
                    }
                    start(server, instance, accepted);
                }
            }
            Step::SwitchLink { key_id, instance } => {
                disk.serving.insert(*key_id, instance.generation.clone());
                disk.links.insert(*key_id, instance.generation.clone());
                invariants::link(self, n, instance);
            }
            Step::InstallConfiguration { revision, hash } => {
                let Some(content) = disk.revisions.get(revision).filter(|c| c.hash() == *hash) else {
                    return false;
                };
                let content = content.clone();
                if let Some(old) = disk.file.clone() {
                    disk.configurations.insert(old.hash.clone(), old);
                }
                self.put_file(n, &Self::config_of(&configs, &content));
            }
            Step::PutBack { hash, refused } => {
                if let Some(refused) = refused {
                    disk.refusal = Some(Refusal {
                        revision: refused.revision,
                        hash: refused.hash.clone(),
                        attempts: refused.attempts,
                        elapsed: Duration::ZERO,
                    });
                }
                let Some(config) = configs.get(hash) else { return false };
                self.put_file(n, &config.clone());
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
                if let Some(found) = disk.instances.get_mut(instance) {
                    (found.pod, found.trial) = (false, false);
                }
                if let Some(process) = server.processes.get_mut(instance) {
                    let stopping = process.runs;
                    (process.runs, process.ended) = (false, false);
                    if let Some(found) = server.observed.disk.instances.get_mut(instance) {
                        found.listening = stopping;
                    }
                }
            }
            Step::RemoveFiles(instance) => {
                disk.instances.remove(instance);
                server.processes.remove(instance);
            }
            Step::ForgetRevision(revision) => drop(disk.revisions.remove(revision)),
            Step::ForgetConfiguration(hash) => drop(disk.configurations.remove(hash)),
            Step::ForgetRecovered { key_id, number } => {
                disk.recovered.retain(|one| (one.key_id, one.number) != (*key_id, *number));
            }
        }
        let matters = matches!(
            step,
            Step::SwitchLink { .. }
                | Step::InstallConfiguration { .. }
                | Step::PutBack { .. }
                | Step::RemoveLink(_)
                | Step::RemovePod(_)
                | Step::RemoveFiles(_)
        );
        if matters {
            self.happened();
        }
        true
    }

    fn config_of(
        configs: &BTreeMap<keyward_core::ids::ConfigHash, Arc<Config>>,
        content: &RevisionContent,
    ) -> Arc<Config> {
        configs.get(&content.hash()).cloned().unwrap_or_else(|| Arc::new(Config::of(content)))
    }

    fn put_file(&mut self, n: usize, config: &Arc<Config>) {
        let server = self.server_mut(n);
        server.observed.disk.file = Some(config.file.clone());
        server.observed.file_age = Duration::ZERO;
        server.failed_reloads = 0;
    }

    /// The configuration in a node's file.
    pub(crate) fn file(&self, n: usize) -> Option<Arc<Config>> {
        let file = self.servers[n].observed.disk.file.as_ref()?;
        self.configs.get(&file.hash).cloned()
    }

    /// The API server reads its file and asks its plugins: it loads a configuration if all of its plugins are
    /// healthy, and keeps the loaded one if not. It also notices that a KEK was rotated.
    pub(super) fn poll(&mut self, n: usize) {
        match self.servers[n].life {
            Life::Absent | Life::Down => return,
            Life::Joining => return self.begin(n),
            Life::Up => {}
        }
        self.adopt(n);
        let Some(file) = self.file(n) else { return };
        if file.hash == self.servers[n].loaded.hash {
            return;
        }
        if file.kms.iter().all(|id| self.reaches(n, *id).is_some_and(|kek| self.works(kek))) {
            self.load(n, file);
        } else {
            self.server_mut(n).failed_reloads += 1;
        }
    }

    /// The API server of a joining node starts once the revision from its registration is installed.
    fn begin(&mut self, n: usize) {
        let agent = self.api.snapshot.servers.get(NAMES[n]).and_then(|view| view.agent.as_ref());
        let wanted = agent.map(|agent| agent.spec.revision);
        let installed = wanted.is_some_and(|revision| {
            let expected = self.api.configs.get(&revision).map(|config| &config.hash);
            revision.0 == 0 || self.file(n).is_some_and(|file| Some(&file.hash) == expected)
        });
        if installed {
            self.start_server(n);
        }
    }

    /// An API server's process starts with the configuration in its file; providers with a dead plugin do not
    /// serve.
    pub(super) fn start_server(&mut self, n: usize) {
        if let Some(file) = self.file(n) {
            let server = self.server_mut(n);
            server.failed_reloads = 0;
            // What its earlier process wrote was recorded when that process ended.
            server.life = Life::Down;
            self.load(n, file);
            self.server_mut(n).life = Life::Up;
            self.show(n);
        }
    }

    fn load(&mut self, n: usize, config: Arc<Config>) {
        self.under_way(n);
        let server = self.server_mut(n);
        server.returned &= server.loaded.hash == config.hash;
        server.loaded = config;
        server.adopted.clear();
        self.adopt(n);
    }

    fn adopt(&mut self, n: usize) {
        let keys: Vec<KeyId> = self.servers[n].loaded.kms.iter().copied().collect();
        for id in keys {
            let Some(kek) = self.reaches(n, id).filter(|kek| self.works(*kek)) else { continue };
            let now = (kek, self.kms[usize::from(kek)]);
            if self.servers[n].adopted.get(&id) != Some(&now) {
                self.under_way(n);
                self.server_mut(n).adopted.insert(id, now);
            }
        }
    }

    /// Writes with the present key may still arrive for a while after a server has switched.
    pub(super) fn under_way(&mut self, n: usize) {
        if self.servers[n].life != Life::Up {
            return;
        }
        for resource in 0..super::config::RESOURCES.len() {
            if let Some(sealed) = self.writes(n, resource)
                && self.inflight[resource].insert(sealed)
            {
                self.inflight_age = 0;
            }
        }
    }

    /// The KEK that a key's link leads to, if its plugin runs.
    pub(crate) fn reaches(&self, n: usize, id: KeyId) -> Option<Kek> {
        let server = &self.servers[n];
        let instance = server.at_link(id)?;
        server.process(&instance).map(|process| process.kek)
    }

    /// Whether a KMS answers and permits encryption.
    pub(crate) fn works(&self, kek: Kek) -> bool {
        let kms = self.kms[usize::from(kek)];
        kms.up && kms.encrypts
    }

    /// How a server seals what it writes now; `None` if it cannot write.
    pub(crate) fn writes(&self, n: usize, resource: usize) -> Option<Sealed> {
        let server = &self.servers[n];
        match server.loaded.writer(resource) {
            Provider::Identity => Some(Sealed::Plain),
            Provider::Local(key, mode, material) => Some(Sealed::Local { key, mode, material }),
            Provider::Kms(key) => {
                let kek = self.reaches(n, key).filter(|kek| self.works(*kek))?;
                let kms = self.kms[usize::from(kek)];
                let adopted = server.adopted.get(&key).filter(|(adopted, _)| *adopted == kek);
                let kms = adopted.map_or(kms, |(_, kms)| *kms);
                Some(Sealed::Kms { key, kek, made: kms.made, version: kms.version })
            }
            Provider::Marker(_) | Provider::Foreign => None,
        }
    }

    /// The node's machine reboots; the folder of the sockets is empty then.
    pub(super) fn reboot(&mut self, n: usize) {
        self.under_way(n);
        let server = self.server_mut(n);
        server.forget();
        server.observed.disk.links.clear();
        for found in server.observed.disk.instances.values_mut() {
            (found.folder, found.listening) = (false, false);
        }
        for process in server.processes.values_mut() {
            process.runs = false;
        }
        server.disturbed = true;
        if server.life == Life::Up {
            self.start_server(n);
        }
    }

    /// Time passes on a node.
    pub(super) fn node_time(&mut self, n: usize, seconds: u64) {
        let accepted = self.accepts;
        let server = self.server_mut(n);
        let by = Duration::from_secs(seconds);
        let observed = &mut server.observed;
        observed.file_age += by;
        if let Some(Absence::Unsure(since) | Absence::Unread(since)) = &mut observed.absence {
            *since += by;
        }
        for probed in observed.probes.values_mut() {
            probed.age += by;
            if let Some(pass) = &mut probed.pass {
                pass.age += by;
            }
            if let Some(failing) = &mut probed.failing {
                failing.since += by;
            }
        }
        for age in observed.unneeded.values_mut() {
            *age += by;
        }
        if let Some(refusal) = &mut observed.disk.refusal {
            refusal.elapsed += by;
        }
        for found in observed.disk.instances.values_mut() {
            found.listening = false;
        }
        let kept: BTreeSet<Instance> = server.processes.keys().cloned().collect();
        for instance in kept {
            start(server, &instance, accepted);
        }
    }
}

/// A plugin's process starts if it has everything that it needs. It exits if its KMS refuses its credential.
/// The process of a trial is not restarted.
fn start(server: &mut Server, instance: &Instance, accepted: (u8, bool)) {
    let Some(found) = server.observed.disk.instances.get(instance) else { return };
    let (whole, trial) = (found.pod && found.files && found.folder, found.trial);
    let Some(process) = server.processes.get_mut(instance).filter(|p| whole && !p.runs && !p.ended) else {
        return;
    };
    let (token, old) = accepted;
    process.runs = process.token == token || old && process.token < token;
    process.ended = trial && !process.runs;
}
