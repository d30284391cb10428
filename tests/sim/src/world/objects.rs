//! The objects in the API, already decoded: they are a [`Snapshot`] that the writers change.
//!
//! Each write has the precondition that the operator's writer gives it (`host/operator/src/writer`):
//! create-only, or the resourceVersion that was read. The numbers of a snapshot are derived as in
//! `core::platform::kubernetes`; a test compares both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keyward_core::SecretBytes;
use keyward_core::api::{
    ClusterEncryption, ClusterEncryptionSpec, EncryptionMigrationSpec, EncryptionMigrationStatus,
    EncryptionNodeSpec, EncryptionNodeStatus,
};
use keyward_core::formats::FormatError;
use keyward_core::formats::key_secret::KeySecret;
use keyward_core::formats::revision::{PluginRecord, RevisionContent};
use keyward_core::ids::{GroupResource, KeyId, PluginDigest, Revision};
use keyward_core::names;
use keyward_core::outcome::{Action, StatusView};
use keyward_core::platform::numbers::{self, Mark};
use keyward_core::platform::{FreshBytes, Given, ObjectRef, Objects, Results, kubernetes};
use keyward_core::provider::{EvaluationRequest, Origin, ReferenceKind};
use keyward_core::snapshot::{
    AgentView, ServerView, Snapshot, StoredCandidate, StoredMigration, StoredRevision, Wanted,
};

use super::config::{Config, RESOURCES, index_of};
use super::kms;

/// Why a write was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// All objects that Keyward stores.
#[derive(Clone, Debug)]
pub struct Api {
    /// The objects. The inputs of a single decision (ages, fresh bytes, unreadable objects) are filled in for
    /// each.
    pub snapshot: Snapshot,
    /// The revisions, as API servers understand them.
    pub configs: BTreeMap<Revision, Arc<Config>>,
    /// The candidate, as nodes read it.
    pub candidate: Option<Arc<BTreeMap<KeyId, PluginRecord>>>,
    /// The digest of its plugin.
    pub candidate_digest: Option<PluginDigest>,
    /// The original content of key secrets that cannot be decoded.
    pub corrupt: BTreeMap<KeyId, KeySecret>,
    /// The spec.
    pub spec: ClusterEncryptionSpec,
    /// The same, decoded; which part is in force depends on the deployed configuration.
    asked: Wanted,
    /// The value in the Secret that configurations refer to; `None` if it is missing.
    pub token: Option<u8>,
    /// The provider module is wrong.
    pub lies: bool,
    /// Of `ClusterEncryption/cluster`.
    pub cluster_version: u64,
    /// Of each `EncryptionNode`.
    pub generations: BTreeMap<String, i64>,
    /// Of each migration.
    pub migration_generations: [i64; RESOURCES.len()],
    /// Resources whose values from before the end of the migration are compacted.
    pub compacted: [bool; RESOURCES.len()],
    /// The evaluations are out of date.
    stale: bool,
    version: u64,
}

impl Api {
    /// A cluster in which nothing is encrypted and nothing requested.
    pub fn new() -> Self {
        let mut spec = ClusterEncryptionSpec::default();
        spec.encryption.type_ = Some("identity".to_owned());
        let objects = Objects {
            cluster_encryption: Some(ClusterEncryption::new(names::CLUSTER, spec.clone())),
            ..Objects::default()
        };
        let given =
            Given { now: jiff::Timestamp::UNIX_EPOCH, ages: BTreeMap::new(), fresh: FreshBytes::default() };
        let snapshot =
            kubernetes::snapshot(&objects, &Results::default(), given).expect("a cluster's snapshot");
        Self {
            snapshot,
            configs: BTreeMap::new(),
            candidate: None,
            candidate_digest: None,
            corrupt: BTreeMap::new(),
            asked: kubernetes::wanted(&spec),
            spec,
            token: Some(1),
            lies: false,
            cluster_version: 1,
            generations: BTreeMap::new(),
            migration_generations: [0; RESOURCES.len()],
            compacted: [false; RESOURCES.len()],
            stale: true,
            version: 1,
        }
    }

    /// Something that evaluations depend on has changed.
    pub fn touch(&mut self) {
        self.stale = true;
    }

    /// A resourceVersion that was never used.
    pub fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    /// Derives everything in the snapshot that is not an object.
    pub fn derive(&mut self) {
        if self.stale {
            self.stale = false;
            self.resolve();
        }
        let newest = self.snapshot.revisions.values().next_back();
        let newest = newest.and_then(|stored| stored.content.as_ref().ok());
        let wanted = kubernetes::in_force(self.asked.clone(), &BTreeMap::new(), newest);
        let snapshot = &mut self.snapshot;
        snapshot.wanted = wanted;
        snapshot.wanted.forget = snapshot.accepted();
        let tried = snapshot.candidate.as_ref().and_then(|c| c.as_ref().ok()).map(|c| c.key_id);
        let of_objects: BTreeSet<KeyId> = snapshot
            .keys
            .iter()
            .map(|key| key.id)
            .chain(self.corrupt.keys().copied())
            .chain(self.configs.values().flat_map(|config| config.keys.iter().copied()))
            .collect();
        let key_checks =
            snapshot.servers.values().filter_map(|server| Some(&server.agent.as_ref()?.spec.key_checks));
        let lists = snapshot.recorded_revisions.iter().flat_map(|recorded| recorded.lists.values()).flatten();
        let named: BTreeSet<KeyId> = of_objects
            .into_iter()
            .chain(key_checks.flatten().map(|key_check| key_check.key_id))
            .chain(snapshot.migrations.values().map(|migration| migration.spec.key_id))
            .chain(snapshot.recorded_keys.iter().map(|key| key.key_id))
            .chain(lists.filter_map(|provider| provider.split_once(':')?.1.parse().ok()))
            .collect();
        let mark = |node, field, number| Mark { node, field, number, remedy: "" };
        let agents =
            snapshot.servers.values().filter_map(|server| Some((server.name.as_str(), server.status()?)));
        let marks = agents.clone().flat_map(|(node, status)| {
            let adopted = status.adopted.iter().map(|adopted| adopted.key_id);
            let all = adopted.chain([status.highest_key_id]);
            all.map(move |id| mark(Some(node), "status.highestKeyID", id.0))
        });
        let own = mark(None, "status.highestKeyID", snapshot.recorded_key.0);
        let keys = numbers::count(named.iter().map(|id| id.0), marks.chain([own]).collect::<Vec<_>>());
        let revisions = snapshot
            .revisions
            .keys()
            .copied()
            .chain(snapshot.servers.values().filter_map(|server| Some(server.agent.as_ref()?.spec.revision)))
            .chain(snapshot.migrations.values().map(|migration| migration.spec.since))
            .chain(snapshot.keys.iter().filter_map(|key| key.write_published))
            .chain(snapshot.recorded_revisions.iter().map(|recorded| recorded.n))
            .chain([snapshot.last_converged]);
        let marks = agents.flat_map(|(node, status)| {
            let error = status.error.as_ref().map(|error| error.revision);
            let all = [status.revision].into_iter().chain(error).chain(status.drifted);
            all.map(move |revision| mark(Some(node), "status.revision", revision.0))
        });
        let own = mark(None, "status.highestRevision", snapshot.recorded_revision.0);
        let revisions = numbers::count(revisions.map(|n| n.0), marks.chain([own]).collect::<Vec<_>>());
        (snapshot.highest_key, snapshot.named_key) = (KeyId(keys.highest), KeyId(keys.named));
        snapshot.excess_keys = keys.beyond().into_iter().map(KeyId).collect();
        snapshot.highest_revision = Revision(revisions.highest);
        snapshot.excess_revisions = revisions.beyond().into_iter().map(Revision).collect();
        snapshot.excess = keys.excess.into_iter().chain(revisions.excess).collect();
        let views = snapshot.servers.values();
        let seen =
            |id| views.clone().filter_map(ServerView::status).any(|status| status.highest_key_id >= id);
        let is_free = |id: &KeyId| *id == KeyId(keys.highest) && !named.contains(id) && !seen(*id);
        snapshot.retry_key = tried.filter(is_free);
        // The same condition as in `platform::kubernetes`.
        let in_newest = self.configs.last_key_value().map_or(0, |(_, config)| config.keys.len());
        let several = snapshot.keys.len() + self.corrupt.len() > 1 || in_newest > 1;
        let ended = snapshot.migrations.iter().filter(|(resource, migration)| {
            let compacted = index_of(resource).is_some_and(|index| self.compacted[index]);
            (several || migration.spec.key_id == KeyId(0))
                && compacted
                && migration.status.end_version.is_some()
        });
        snapshot.compacted = ended.map(|(resource, _)| resource.clone()).collect();
    }

    fn resolve(&mut self) {
        let snapshot = &mut self.snapshot;
        self.asked = kubernetes::wanted(&self.spec);
        let desired = self.asked.kms.iter().map(|kms| EvaluationRequest::new(Origin::Desired, kms));
        let stored = snapshot.keys.iter().filter_map(|key| key.kms.as_ref());
        let stored = stored.map(|kms| EvaluationRequest::new(Origin::Stored, &kms.plugin.kms));
        let requests: BTreeSet<EvaluationRequest> = desired.chain(stored).collect();
        snapshot.evaluations = requests
            .into_iter()
            .map(|request| {
                let evaluation = kms::evaluate(&request, self.lies);
                (request, evaluation)
            })
            .collect();
        let source = kms::reference();
        let object = ObjectRef { kind: ReferenceKind::Secret, name: source.name };
        let data = self.token.map(|token| BTreeMap::from([(source.key, SecretBytes::new(vec![token]))]));
        snapshot.objects = BTreeMap::from([(object, Ok(data))]);
    }

    /// Carries out one action. `cluster_version` is the version of the ClusterEncryption that its writer has
    /// read.
    pub fn apply(&mut self, action: &Action, cluster_version: &mut u64) -> Result<(), Refused> {
        match action {
            Action::RecordHighWater { key_id, revision } => {
                require(*cluster_version == self.cluster_version)?;
                let snapshot = &mut self.snapshot;
                snapshot.recorded_key = snapshot.recorded_key.max(*key_id);
                snapshot.recorded_revision = snapshot.recorded_revision.max(*revision);
                self.cluster_version += 1;
                *cluster_version = self.cluster_version;
            }
            Action::RequirePreflight { candidate, resource_version } => {
                require(self.snapshot.candidate_version == *resource_version)?;
                self.snapshot.candidate = Some(Ok(StoredCandidate {
                    key_id: candidate.key_id,
                    plugin: candidate.plugin.clone(),
                    hash: candidate.hash.clone(),
                }));
                self.candidate =
                    Some(Arc::new(BTreeMap::from([(candidate.key_id, candidate.plugin.clone())])));
                self.candidate_digest = candidate.plugin.digest(candidate.key_id);
                self.snapshot.candidate_version = Some(self.next_version());
            }
            Action::ClearPreflight { resource_version } => {
                if self.snapshot.candidate_version.is_some() {
                    require(self.snapshot.candidate_version.as_ref() == Some(resource_version))?;
                    self.delete_candidate();
                }
            }
            Action::SetTarget { node, spec, resource_version, .. } => {
                self.set_target(node, spec, resource_version.as_deref())?;
            }
            Action::CreateKey { key } => {
                require(self.snapshot.key(key.id).is_none() && !self.corrupt.contains_key(&key.id))?;
                let mut key = (**key).clone();
                key.resource_version = self.next_version();
                key.uid = format!("u{}", key.resource_version);
                self.snapshot.keys.push(key);
                self.snapshot.keys.sort_unstable_by_key(|key| std::cmp::Reverse(key.id));
                self.touch();
            }
            Action::UpdateKey { key, .. }
            | Action::SyncData { key, .. }
            | Action::RecordPublication { key, .. }
            | Action::RecordMigrated { key, .. }
            | Action::ForgetMigrated { key, .. }
            | Action::RecordRotation { key, .. }
            | Action::AbandonKey { key, .. } => self.replace_key(key)?,
            Action::RetireKey { key_id, resource_version }
            | Action::DeleteKey { key_id, resource_version } => {
                if let Some(key) = self.snapshot.key(*key_id) {
                    require(key.resource_version == *resource_version)?;
                    self.delete_key(*key_id);
                }
            }
            Action::ApplyConfig { revision, content } => {
                require(!self.snapshot.revisions.contains_key(revision))?;
                self.put_revision(*revision, content);
            }
            Action::StartMigration { resource, spec, resource_version } => {
                self.start_migration(resource, (**spec).clone(), resource_version.as_deref())?;
            }
            // It changes no content of an object.
            Action::ReencryptOwn { .. } => {}
            // OpenShift's.
            Action::RequireConfigHash { .. } | Action::ApplyManagedConfig { .. } => return Err(Refused),
            Action::DeleteRevision { revision, resource_version } => {
                if let Some(stored) = self.snapshot.revisions.get(revision) {
                    require(stored.resource_version == *resource_version)?;
                    self.delete_revision(*revision);
                }
            }
        }
        Ok(())
    }

    fn set_target(
        &mut self,
        node: &str,
        spec: &EncryptionNodeSpec,
        expected: Option<&str>,
    ) -> Result<(), Refused> {
        let version = self.next_version();
        let server = self.snapshot.servers.entry(node.to_owned()).or_default();
        node.clone_into(&mut server.name);
        match (&mut server.agent, expected) {
            (Some(agent), Some(expected)) if agent.resource_version == expected => {
                agent.spec = spec.clone();
                agent.resource_version = version;
            }
            (None, None) => {
                server.agent =
                    Some(AgentView { spec: spec.clone(), status: None, resource_version: version });
            }
            _ => return Err(Refused),
        }
        *self.generations.entry(node.to_owned()).or_default() += 1;
        Ok(())
    }

    fn replace_key(&mut self, key: &KeySecret) -> Result<(), Refused> {
        let version = self.next_version();
        let stored = self.snapshot.keys.iter_mut().find(|stored| stored.id == key.id).ok_or(Refused)?;
        require(stored.resource_version == key.resource_version)?;
        *stored = key.clone();
        stored.resource_version = version;
        self.touch();
        Ok(())
    }

    /// Also used when an admin restores one.
    pub fn put_revision(&mut self, revision: Revision, content: &RevisionContent) {
        self.configs.insert(revision, Arc::new(Config::of(content)));
        let stored = StoredRevision { content: Ok(content.clone()), resource_version: self.next_version() };
        self.snapshot.revisions.insert(revision, stored);
    }

    fn start_migration(
        &mut self,
        resource: &GroupResource,
        spec: EncryptionMigrationSpec,
        expected: Option<&str>,
    ) -> Result<(), Refused> {
        let existing = self.snapshot.migrations.get(resource);
        require(existing.map(|m| m.resource_version.as_str()) == expected)?;
        let index = index_of(resource).ok_or(Refused)?;
        self.migration_generations[index] += 1;
        let status = existing.map(|m| m.status.clone()).unwrap_or_default();
        let resource_version = self.next_version();
        let stored = StoredMigration { spec, status, current: false, resource_version };
        self.snapshot.migrations.insert(resource.clone(), stored);
        Ok(())
    }

    /// The migration engine's report about the requested attempt. A verification that rewrites nothing leaves
    /// the end of the migration unchanged.
    pub fn report_migration(
        &mut self,
        resource: &GroupResource,
        status: EncryptionMigrationStatus,
        rewrote: bool,
    ) {
        let version = self.next_version();
        let Some(index) = index_of(resource) else { return };
        let generation = self.migration_generations[index];
        let verifies = self.snapshot.migrations.get(resource).is_some_and(|stored| stored.spec.verifies());
        self.compacted[index] &= verifies && !rewrote;
        if let Some(stored) = self.snapshot.migrations.get_mut(resource) {
            stored.status = EncryptionMigrationStatus { observed_generation: generation, ..status };
            stored.current = true;
            stored.resource_version = version;
        }
    }

    /// The agent's report.
    pub fn report_node(&mut self, node: &str, status: EncryptionNodeStatus) {
        let same = |agent: &AgentView| agent.status.as_ref() == Some(&status);
        let agent = self.snapshot.servers.get(node).and_then(|server| server.agent.as_ref());
        if agent.is_none_or(same) {
            return;
        }
        let version = self.next_version();
        if let Some(agent) = self.snapshot.servers.get_mut(node).and_then(|server| server.agent.as_mut()) {
            agent.status = Some(status);
            agent.resource_version = version;
        }
    }

    /// The operator's aggregate status; written once a reconcile pass, unless somebody else wrote first.
    pub fn report(&mut self, view: &StatusView, cluster_version: u64) {
        let snapshot = &mut self.snapshot;
        if cluster_version != self.cluster_version
            || (snapshot.last_converged == view.converged_revision
                && snapshot.recorded_keys == view.keys
                && snapshot.recorded_forget == view.forget
                && snapshot.recorded_revisions == view.revisions)
        {
            return;
        }
        snapshot.last_converged = view.converged_revision;
        snapshot.recorded_keys.clone_from(&view.keys);
        snapshot.recorded_forget.clone_from(&view.forget);
        snapshot.recorded_revisions.clone_from(&view.revisions);
        self.cluster_version += 1;
    }

    /// All Secrets get another resourceVersion: the migrator rewrites them.
    pub fn rewrite_secrets(&mut self) {
        for index in 0..self.snapshot.keys.len() {
            let version = self.next_version();
            self.snapshot.keys[index].resource_version = version;
        }
        if self.snapshot.candidate_version.is_some() {
            self.snapshot.candidate_version = Some(self.next_version());
        }
        let revisions: Vec<Revision> = self.snapshot.revisions.keys().copied().collect();
        for revision in revisions {
            let version = self.next_version();
            if let Some(stored) = self.snapshot.revisions.get_mut(&revision) {
                stored.resource_version = version;
            }
        }
    }

    /// By the operator or by an admin.
    pub fn delete_candidate(&mut self) {
        (self.candidate, self.candidate_digest) = (None, None);
        self.snapshot.candidate = None;
        self.snapshot.candidate_version = None;
    }

    /// By the operator or by an admin.
    pub fn delete_revision(&mut self, revision: Revision) {
        self.configs.remove(&revision);
        self.snapshot.revisions.remove(&revision);
    }

    /// By the operator or by an admin, with its finalizer.
    pub fn delete_key(&mut self, id: KeyId) {
        self.snapshot.keys.retain(|key| key.id != id);
        self.snapshot.undecodable.remove(&names::key_secret(names::KUBE_APISERVER, id));
        self.corrupt.remove(&id);
        self.touch();
    }

    /// For a mutant.
    pub fn claim_everything(&mut self, id: KeyId) {
        let wanted = self.snapshot.wanted.resources.clone();
        if let Some(key) = self.snapshot.keys.iter_mut().find(|key| key.id == id) {
            key.migrated = wanted;
        }
    }

    /// An admin damages it in an editor.
    pub fn corrupt_key(&mut self, id: KeyId) {
        if let Some(at) = self.snapshot.keys.iter().position(|key| key.id == id) {
            let key = self.snapshot.keys.remove(at);
            let name = names::key_secret(names::KUBE_APISERVER, id);
            self.snapshot.undecodable.insert(name.clone(), FormatError::InvalidName(name));
            self.corrupt.insert(id, key);
            self.touch();
        }
    }

    /// The admin repairs all of them.
    pub fn fix_keys(&mut self) {
        for (id, mut key) in std::mem::take(&mut self.corrupt) {
            self.snapshot.undecodable.remove(&names::key_secret(names::KUBE_APISERVER, id));
            key.resource_version = self.next_version();
            self.snapshot.keys.push(key);
            self.touch();
        }
        self.snapshot.keys.sort_unstable_by_key(|key| std::cmp::Reverse(key.id));
    }
}

impl Default for Api {
    fn default() -> Self {
        Self::new()
    }
}

fn require(holds: bool) -> Result<(), Refused> {
    if holds { Ok(()) } else { Err(Refused) }
}
