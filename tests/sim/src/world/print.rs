//! The fingerprint of a world: two worlds with the same one continue in the same way.
//!
//! Values without effect are left out (counts of attempts, times by a wall clock, resourceVersions as
//! numbers). Waits count as over or not; revisions count by their order; salts, digests and key checks by
//! which are equal.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keyward_core::api::{
    EncryptionMigrationSpec, EncryptionNodeSpec, EncryptionNodeStatus, KeyCheck, PreflightAnswer,
    PreflightRequest,
};
use keyward_core::formats::key_secret::KeySecret;
use keyward_core::formats::revision::{PluginRecord, RevisionContent};
use keyward_core::ids::{KeyId, PluginDigest, Revision};
use keyward_core::node::{Absence, Instance, Observed, Probed, Question, Socket};
use keyward_core::outcome::Action;
use keyward_core::snapshot::Snapshot;

use super::World;
use super::kms::{credential, truth};
use super::server::Server;
use crate::hash::{Print, of_bytes};

impl World {
    /// 128 bits.
    pub fn print(&self) -> u128 {
        let mut p = Print::new();
        let ranks = self.ranks();
        self.print_api(&mut p, &ranks);
        for server in &self.servers {
            print_server(&mut p, server, &ranks);
        }
        p.hash(&self.etcd);
        p.hash(&self.inflight);
        p.flag(self.inflight_age == 0);
        p.hash(&self.kms);
        p.hash(&self.accepts);
        for run in &self.runs {
            p.hash(&run.todo);
            p.flag(run.failed);
        }
        p.hash(&self.refused);
        for run in &self.runs {
            p.flag(run.rewrote);
        }
        for (index, run) in self.runs.iter().enumerate() {
            p.flag(run.generation == self.api.migration_generations[index]);
        }
        p.flag(self.unreadable);
        p.put(u64::from(self.refuses_keys));
        p.put(u64::from(self.weeks));
        p.put(u64::from(self.tokens));
        p.hash(&self.books.encrypted);
        p.hash(&self.books.left);
        p.flag(self.books.tampered);
        p.hash(&self.books.migrated);
        p.hash(&self.books.ever_forgotten);
        p.hash(&self.books.forgotten);
        p.flag(self.books.successor_rolls_out);
        p.hash(&self.books.tried);
        p.name(self.books.latest.as_ref().map_or("", |(_, config)| config.hash.0.as_str()).as_bytes());
        for (id, meaning) in &self.books.keys {
            p.put(id.0);
            p.hash(&meaning.kek);
        }
        for operator in &self.operators {
            p.len(operator.pending.len());
            for action in &operator.pending {
                self.print_action(&mut p, action, &ranks);
            }
            p.flag(!operator.pending.is_empty() && operator.cluster_version == self.api.cluster_version);
            for asked in operator.asked {
                p.flag(!operator.pending.is_empty() && asked);
            }
            for (fact, age) in &operator.ages {
                p.text(fact);
                p.name(age.value.as_bytes());
                p.put(over(age.elapsed));
            }
        }
        p.done()
    }

    /// A pending write, and whether its precondition is true now: it can be true later only if nobody writes.
    fn print_action(&self, p: &mut Print, action: &Action, ranks: &BTreeMap<Revision, u64>) {
        let snapshot = &self.api.snapshot;
        let rank = |revision: &Revision| ranks.get(revision).copied().unwrap_or(revision.0);
        p.text(action.kind());
        match action {
            Action::RecordHighWater { key_id, revision } => {
                p.put(key_id.0);
                p.put(rank(revision));
            }
            Action::RequirePreflight { candidate, resource_version } => {
                print_record(p, &candidate.plugin);
                p.flag(snapshot.candidate_version == *resource_version);
            }
            Action::ClearPreflight { resource_version } => {
                p.flag(snapshot.candidate_version.as_ref() == Some(resource_version));
            }
            Action::SetTarget { node, spec, resource_version, .. } => {
                print_spec(p, spec, &rank);
                let agent = snapshot.servers.get(node).and_then(|view| view.agent.as_ref());
                p.flag(agent.map(|agent| &agent.resource_version) == resource_version.as_ref());
            }
            Action::CreateKey { key }
            | Action::UpdateKey { key, .. }
            | Action::SyncData { key, .. }
            | Action::RecordPublication { key, .. }
            | Action::RecordMigrated { key, .. }
            | Action::ForgetMigrated { key, .. }
            | Action::RecordRotation { key, .. }
            | Action::AbandonKey { key, .. } => {
                print_key(p, key);
                let stored = snapshot.key(key.id).map_or("", |stored| stored.resource_version.as_str());
                p.flag(stored == key.resource_version);
            }
            Action::ApplyConfig { revision, content } => {
                p.put(rank(revision));
                print_content(p, content);
            }
            Action::StartMigration { resource, spec, resource_version } => {
                p.text(&resource.resource);
                print_migration(p, spec, snapshot, &rank);
                let stored = snapshot.migrations.get(resource).map(|stored| &stored.resource_version);
                p.flag(stored == resource_version.as_ref());
            }
            Action::DeleteRevision { revision, .. } => p.put(rank(revision)),
            Action::ReencryptOwn { leaving, .. } => p.hash(leaving),
            Action::RequireConfigHash { .. } | Action::ApplyManagedConfig { .. } => {}
            Action::RetireKey { key_id, resource_version }
            | Action::DeleteKey { key_id, resource_version } => {
                p.put(key_id.0);
                p.flag(snapshot.key(*key_id).is_some_and(|key| key.resource_version == *resource_version));
            }
        }
    }

    /// Revisions in their order.
    fn ranks(&self) -> BTreeMap<Revision, u64> {
        let snapshot = &self.api.snapshot;
        let mut all: BTreeSet<Revision> = snapshot.revisions.keys().copied().collect();
        all.insert(snapshot.recorded_revision);
        all.insert(snapshot.last_converged);
        for view in snapshot.servers.values() {
            all.extend(view.agent.iter().map(|agent| agent.spec.revision));
            let status = view.status();
            all.extend(status.map(|status| status.revision));
            all.extend(status.and_then(|status| status.error.as_ref()).map(|error| error.revision));
        }
        for server in &self.servers {
            let disk = &server.observed.disk;
            all.extend(disk.revisions.keys().copied());
            all.extend(disk.refusal.iter().map(|refusal| refusal.revision));
            all.extend(disk.drift);
        }
        all.into_iter().zip(0..).collect()
    }

    fn print_api(&self, p: &mut Print, ranks: &BTreeMap<Revision, u64>) {
        let snapshot = &self.api.snapshot;
        let rank = |revision: &Revision| ranks.get(revision).copied().unwrap_or(u64::MAX);
        p.text(self.api.spec.encryption.type_.as_deref().unwrap_or_default());
        p.put(self.api.spec.encryption.kms.as_ref().map_or(0, |kms| of_bytes(kms.to_string().as_bytes())));
        p.hash(&self.api.spec.resources);
        p.hash(&self.api.spec.reencrypt);
        p.hash(&self.api.spec.forget);
        for recorded in &snapshot.recorded_forget {
            p.put(recorded.key_id.0);
            p.text(&recorded.requested_at);
            p.put(recorded.phase as u64);
        }
        p.flag(self.api.spec.paused.is_some());
        p.hash(&self.api.token);
        p.hash(&self.api.compacted);
        p.flag(self.api.lies);
        p.put(snapshot.recorded_key.0);
        p.put(rank(&snapshot.recorded_revision));
        p.put(rank(&snapshot.last_converged));
        p.len(snapshot.recorded_keys.len());
        p.len(snapshot.recorded_revisions.len());
        p.len(snapshot.keys.len());
        for key in snapshot.keys.iter().chain(self.api.corrupt.values()) {
            print_key(p, key);
        }
        p.len(snapshot.revisions.len());
        for (revision, stored) in &snapshot.revisions {
            p.put(rank(revision));
            if let Ok(content) = &stored.content {
                print_content(p, content);
            }
        }
        if let Some(Ok(candidate)) = &snapshot.candidate {
            p.put(candidate.key_id.0);
            print_record(p, &candidate.plugin);
            p.name(candidate.hash.0.as_bytes());
            p.name(self.api.candidate_digest.as_ref().map_or("", PluginDigest::short).as_bytes());
        }
        for (name, view) in &snapshot.servers {
            p.text(name);
            p.flag(view.is_node);
            p.flag(view.has_lease);
            if let Some(agent) = &view.agent {
                print_spec(p, &agent.spec, &rank);
            }
            if let Some(status) = view.status() {
                print_status(p, status, &rank);
            }
        }
        for (resource, migration) in &snapshot.migrations {
            p.text(&resource.resource);
            print_migration(p, &migration.spec, snapshot, &rank);
            p.put(migration.status.phase as u64);
            p.flag(migration.status.end_version.is_some());
            p.flag(migration.current);
        }
    }
}

/// Of the revision of the publication, only its equality with the one in the key secret counts.
fn print_migration(
    p: &mut Print,
    spec: &EncryptionMigrationSpec,
    snapshot: &Snapshot,
    rank: &dyn Fn(&Revision) -> u64,
) {
    p.put(spec.key_id.0);
    p.hash(&spec.remote_key_id);
    p.flag(spec.verifies());
    match snapshot.key(spec.key_id) {
        Some(key) => {
            p.flag(key.uid == spec.key_secret_uid);
            p.flag(key.write_published == Some(spec.since));
        }
        None => p.put(rank(&spec.since)),
    }
}

/// No wait is longer.
fn over(age: Duration) -> u64 {
    age.as_secs().min(super::LONG)
}

fn print_key(p: &mut Print, key: &KeySecret) {
    p.put(key.id.0);
    p.put(key.mode as u64);
    p.hash(&key.migrated);
    p.flag(key.write_published.is_some());
    p.flag(key.abandoned.is_some());
    p.text(&key.external_reason);
    p.hash(&key.remote_key_id);
    p.put(key.migrated_at.map_or(0, |at| u64::try_from(at.as_second()).unwrap_or(0)));
    if let Some(kms) = &key.kms {
        print_record(p, &kms.plugin);
        if let Some(key_check) = &kms.key_check {
            print_key_check(p, key_check);
        }
    }
}

fn print_record(p: &mut Print, record: &PluginRecord) {
    p.put(u64::from(truth(record)));
    p.put(u64::from(credential(record)));
    let image = record.accepted.as_ref().and_then(|accepted| accepted.image.as_deref());
    p.text(image.unwrap_or_default());
    p.name(record.salt.as_ref().map(keyward_core::SecretBytes::expose).unwrap_or_default());
}

fn print_content(p: &mut Print, content: &RevisionContent) {
    for (resource, list) in content.config.lists() {
        p.text(&resource);
        p.hash(&list);
    }
    for (id, record) in &content.plugins {
        p.put(id.0);
        print_record(p, record);
        p.name(content.digest(*id).map_or("", PluginDigest::short).as_bytes());
    }
}

fn print_key_check(p: &mut Print, key_check: &KeyCheck) {
    p.name(key_check.ciphertext.as_bytes());
    p.text(key_check.ciphertext.split('#').next().unwrap_or_default());
}

fn print_request(p: &mut Print, request: Option<&PreflightRequest>) {
    p.flag(request.is_some());
    if let Some(request) = request {
        p.put(request.key_id.0);
        p.name(request.hash.0.as_bytes());
        p.put(request.purpose as u64);
        p.flag(request.key_check.is_some());
        if let Some(key_check) = &request.key_check {
            print_key_check(p, key_check);
        }
    }
}

fn print_answer(p: &mut Print, answer: Option<&PreflightAnswer>) {
    p.flag(answer.is_some());
    if let Some(answer) = answer {
        p.name(answer.hash.0.as_bytes());
        p.put(answer.result as u64);
        if let Some(key_check) = &answer.key_check {
            print_key_check(p, key_check);
        }
        p.text(answer.failure.as_ref().map_or("", |failure| failure.phase.as_str()));
    }
}

fn print_spec(p: &mut Print, spec: &EncryptionNodeSpec, rank: &dyn Fn(&Revision) -> u64) {
    p.put(rank(&spec.revision));
    p.flag(spec.config_hash.is_some());
    print_request(p, spec.preflight.as_ref());
    p.len(spec.key_checks.len());
    for key_check in &spec.key_checks {
        p.put(key_check.key_id.0);
        print_key_check(p, &key_check.key_check);
    }
}

fn print_status(p: &mut Print, status: &EncryptionNodeStatus, rank: &dyn Fn(&Revision) -> u64) {
    p.name(status.loaded_hash.as_ref().map_or("", |hash| hash.0.as_str()).as_bytes());
    p.put(rank(&status.revision));
    p.put(status.highest_key_id.0);
    let mut plugins: Vec<_> = status.plugins.iter().collect();
    plugins.sort_by_key(|plugin| {
        let health = &plugin.health;
        (plugin.key_id, p.number(plugin.digest.short().as_bytes()), plugin.ready, health.status as u64)
    });
    p.len(plugins.len());
    for plugin in plugins {
        p.put(plugin.key_id.0);
        p.name(plugin.digest.short().as_bytes());
        p.flag(plugin.ready);
        p.put(plugin.health.status as u64);
        p.text(&plugin.health.remote_key_id.0);
    }
    for adopted in &status.adopted {
        p.put(adopted.key_id.0);
        p.text(&adopted.remote_key_id.0);
    }
    p.hash(&status.held);
    let mut refused: Vec<_> = status.kek_mismatch.iter().map(|digest| digest.short().as_bytes()).collect();
    refused.sort_by_key(|digest| p.number(digest));
    p.len(refused.len());
    for digest in refused {
        p.name(digest);
    }
    print_answer(p, status.preflight.as_ref());
    if let Some(error) = &status.error {
        p.put(rank(&error.revision));
        p.text(&error.reason);
        p.flag(error.put_back);
    }
}

fn print_server(p: &mut Print, server: &Server, ranks: &BTreeMap<Revision, u64>) {
    p.put(server.life as u64);
    if server.life == super::Life::Absent {
        return;
    }
    p.put(server.failed_reloads.min(1));
    p.name(server.loaded.hash.0.as_bytes());
    p.hash(&server.adopted);
    p.flag(server.disturbed);
    p.flag(server.returned);
    p.flag(server.unreported);
    print_disk(p, &server.observed, ranks);
    p.put(over(server.observed.file_age));
    p.put(match server.observed.absence {
        None => 0,
        Some(Absence::Elsewhere) => 1,
        Some(Absence::Unsure(since)) => 2 + over(since),
        Some(Absence::Unread(since)) => u64::MAX - over(since),
    });
    print_instances(p, server);
}

/// The parts of each instance. The order is not that of their generations, which are as random as the salts:
/// otherwise worlds that differ only in that order would count as different.
fn print_instances(p: &mut Print, server: &Server) {
    let observed = &server.observed;
    let all: BTreeSet<&Instance> = observed
        .disk
        .instances
        .keys()
        .chain(server.processes.keys())
        .chain(observed.probes.keys())
        .chain(observed.unneeded.keys())
        .collect();
    let mut all: Vec<_> = all
        .into_iter()
        .map(|one| {
            let mut alone = Print::new();
            print_instance(&mut alone, server, one);
            (one.key_id, p.number(one.generation.as_str().as_bytes()), alone.done(), one)
        })
        .collect();
    all.sort_unstable();
    p.len(all.len());
    for (.., one) in all {
        p.put(one.key_id.0);
        p.name(one.generation.as_str().as_bytes());
        print_instance(p, server, one);
    }
}

fn print_instance(p: &mut Print, server: &Server, one: &Instance) {
    let observed = &server.observed;
    let found = observed.disk.instances.get(one);
    p.hash(&found.map(|found| {
        (found.files, found.folder, found.pod, found.trial, found.listening, found.tries.min(3))
    }));
    p.hash(&server.processes.get(one));
    p.put(observed.unneeded.get(one).map_or(u64::MAX, |age| over(*age)));
    let probed = observed.probes.get(one);
    p.flag(probed.is_some());
    if let Some(probed) = probed {
        print_probe(p, probed, found.map_or(0, |found| found.tries));
    }
}

fn print_disk(p: &mut Print, observed: &Observed, ranks: &BTreeMap<Revision, u64>) {
    let disk = &observed.disk;
    let rank = |revision: &Revision| ranks.get(revision).copied().unwrap_or(u64::MAX);
    p.name(disk.file.as_ref().map_or("", |file| file.hash.0.as_str()).as_bytes());
    for (revision, content) in &disk.revisions {
        p.put(rank(revision));
        print_content(p, content);
    }
    for hash in disk.configurations.keys() {
        p.name(hash.0.as_bytes());
    }
    for map in [&disk.links, &disk.serving] {
        p.len(map.len());
        for (id, generation) in map {
            p.put(id.0);
            p.name(generation.as_str().as_bytes());
        }
    }
    for (id, key_check) in &disk.key_checks {
        let id: &KeyId = id;
        p.put(id.0);
        print_key_check(p, key_check);
    }
    print_answer(p, disk.preflight.as_ref());
    p.put(disk.highest_key_id.0);
    p.put(disk.drift.as_ref().map_or(u64::MAX, rank));
    if let Some(refusal) = &disk.refusal {
        p.put(rank(&refusal.revision));
        p.name(refusal.hash.0.as_bytes());
        p.put(over(refusal.elapsed));
    }
    p.name(disk.loaded.as_ref().map_or("", |hash| hash.0.as_str()).as_bytes());
    p.flag(disk.paused.is_some());
}

fn print_probe(p: &mut Print, probed: &Probed, tries: u32) {
    let Question { socket, key_check, make_key_check, run } = &probed.question;
    p.put(match socket {
        Socket::Generation => 0,
        Socket::Link => 1,
        Socket::External(_) => 2,
    });
    if let Some(key_check) = key_check {
        print_key_check(p, key_check);
    }
    p.flag(*make_key_check);
    p.flag(*run == tries);
    p.put(over(probed.age));
    p.flag(probed.pass.is_some());
    if let Some(pass) = &probed.pass {
        p.put(over(pass.age));
        p.text(&pass.remote_key_id.0);
        if let Some(key_check) = &pass.key_check {
            print_key_check(p, key_check);
        }
    }
    p.flag(probed.last.as_ref().is_some_and(|last| last.answered));
    p.flag(probed.earlier.is_some());
    if let Some(failing) = &probed.failing {
        p.text(&failing.failure.phase);
        p.flag(failing.failure.exit_code.is_some());
        p.flag(failing.mismatch);
        p.put(over(failing.since));
    }
}
