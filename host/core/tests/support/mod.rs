//! A model of the objects around the decisions: actions are applied with their preconditions, nodes obey at once.
//! For tests of the decisions themselves; whatever talks to Kubernetes is tested against the real one.

#![allow(dead_code, unreachable_pub)] // not every test uses all of it

mod provider;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keyward_core::SecretBytes;
use keyward_core::api::{
    KeyCheck, ClusterEncryption, ClusterEncryptionSpec, EncryptionMigration, EncryptionMigrationStatus,
    EncryptionNode, EncryptionNodeStatus, ForgetPhase, ForgetRequest, ForgetStatus, HealthStatus,
    MigrationPhase, NodeError, NodePlugin, PluginHealth, PreflightAnswer, PreflightResult, RecoveredPlugin,
};
use keyward_core::formats::encryption_config::REVISION_ZERO;
use keyward_core::formats::revision::{
    PluginRecord, RevisionContent, SecretData, decode_plugins, encode_plugins,
};
use keyward_core::ids::{ConfigHash, GroupResource, KeyId, PluginDigest, RemoteKeyId, Revision};
use keyward_core::names;
use keyward_core::outcome::{Action, FORGET_FACTS, Outcome, REPORT_FACTS};
use keyward_core::platform::{Age, Expiry, FreshBytes, Given, ObjectRef, Objects, Results, kubernetes};
use keyward_core::provider::{Diagnosis, Failure, ReferenceKind};
use keyward_core::snapshot::Snapshot;
use provider::{diagnose, evaluate, external};
use serde_json::{Value, json};

pub struct World {
    pub objects: Objects,
    /// Referenced objects.
    pub referenced: BTreeMap<ObjectRef, BTreeMap<String, SecretBytes>>,
    /// What the preflight of every node answers; `None`: it passes.
    pub preflight_failure: Option<Failure>,
    /// The preflight of a candidate with this KEK fails.
    pub failing_kek: Option<String>,
    /// … in which phase on which node; empty: `encrypt` on each.
    pub failing_at: BTreeMap<String, &'static str>,
    /// These KEKs were deleted, and others made under their names: they decrypt nothing of before.
    pub made_anew: BTreeSet<String>,
    /// Keys whose plugins fail on every node.
    pub broken: BTreeSet<KeyId>,
    /// Referenced objects that cannot be read.
    pub unreadable: BTreeSet<ObjectRef>,
    /// The API server takes no key secret.
    pub refuses_keys: bool,
    /// etcd has compacted all that was before now.
    pub compacted: bool,
    /// Why it cannot be seen whether it has.
    pub history_error: Option<String>,
    /// A module of the type `External` is loaded beside `Test`.
    pub external: bool,
    /// What admins replaced by hand on nodes: the data that were there before, by key and digest.
    pub recovered: BTreeMap<String, (KeyId, PluginDigest)>,
    /// Nodes in whose file something lies that their agents do not replace and their API servers do not load.
    pub edited: BTreeSet<String>,
    /// What their agents remember of it.
    drifted: BTreeMap<String, Revision>,
    /// Nodes whose agents say nothing any more.
    pub silent: BTreeSet<String>,
    /// High-water marks that agents report above their own.
    pub marks: BTreeMap<String, KeyId>,
    /// What the provider says of a failure.
    pub diagnosis: Option<Diagnosis>,
    /// What of the referenced objects expires when.
    pub expiries: BTreeMap<ObjectRef, Vec<Expiry>>,
    /// The migration of this resource does not end.
    pub stuck: Option<String>,
    pub ages: BTreeMap<String, Age>,
    pub log: Vec<Value>,
    pub last: Outcome,
    version: u64,
    salt: u32,
}

impl World {
    pub fn new(nodes: &[&str]) -> Self {
        let mut spec = ClusterEncryptionSpec::default();
        spec.encryption.type_ = Some("identity".into());
        let mut objects = Objects {
            cluster_encryption: Some(ClusterEncryption::new("cluster", spec)),
            ..Default::default()
        };
        objects.nodes = nodes
            .iter()
            .map(|name| Node {
                metadata: ObjectMeta {
                    name: Some((*name).to_owned()),
                    labels: Some(BTreeMap::from([(names::CONTROL_PLANE.to_owned(), String::new())])),
                    ..Default::default()
                },
                ..Default::default()
            })
            .collect();
        Self {
            objects,
            referenced: BTreeMap::from([(
                ObjectRef { kind: ReferenceKind::Secret, name: "credentials".into() },
                BTreeMap::from([("token".into(), SecretBytes::new(b"hunter2".to_vec()))]),
            )]),
            preflight_failure: None,
            failing_kek: None,
            failing_at: BTreeMap::new(),
            made_anew: BTreeSet::new(),
            broken: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            refuses_keys: false,
            compacted: false,
            history_error: None,
            external: false,
            recovered: BTreeMap::new(),
            edited: BTreeSet::new(),
            drifted: BTreeMap::new(),
            silent: BTreeSet::new(),
            marks: BTreeMap::new(),
            diagnosis: None,
            expiries: BTreeMap::new(),
            stuck: None,
            ages: BTreeMap::new(),
            log: Vec::new(),
            last: Outcome::default(),
            version: 0,
            salt: 0,
        }
    }

    pub fn spec(&mut self) -> &mut ClusterEncryptionSpec {
        &mut self.objects.cluster_encryption.as_mut().unwrap().spec
    }

    pub fn want_kms(&mut self, key: &str, image: &str) {
        self.spec().encryption.type_ = Some("KMS".into());
        self.spec().encryption.kms = Some(json!({"type": "Test", "test": {"key": key, "image": image}}));
    }

    /// Asks for keys to be given up, in place of what was asked before. `at` tells the request from another.
    pub fn forget(&mut self, ids: &[u64], at: &str) {
        let request = |id: &u64| ForgetRequest {
            key_id: KeyId(*id),
            requested_at: at.to_owned(),
            objects: None,
            accept_keyward_loss: true,
        };
        self.spec().forget = ids.iter().map(request).collect();
    }

    /// Asks for keys to be given up whose plugins fail, which was seen and accepted.
    pub fn give_up(&mut self, ids: &[u64]) {
        self.broken.extend(ids.iter().map(|id| KeyId(*id)));
        self.nodes_follow();
        self.forget(ids, "now");
        let accepted = |id: &u64| ForgetStatus {
            key_id: KeyId(*id),
            requested_at: "now".to_owned(),
            phase: ForgetPhase::Accepted,
            message: String::new(),
        };
        let status = self.objects.cluster_encryption.as_mut().unwrap().status.get_or_insert_default();
        status.forget = ids.iter().map(accepted).collect();
        for id in ids {
            let seen = Age { value: "fails".into(), elapsed: Duration::from_hours(1) };
            self.ages.insert(format!("{FORGET_FACTS}{id}/now"), seen);
        }
    }

    /// Only Secrets are to be encrypted, and the decryption of ConfigMaps is confirmed; or both are to be.
    pub fn only_secrets(&mut self, only: bool) {
        self.spec().resources = only.then(|| vec!["secrets".into()]);
        self.spec().decrypt = if only { vec!["configmaps".into()] } else { Vec::new() };
    }

    /// The Secret that keys refer to says something else.
    pub fn renew_credentials(&mut self) {
        let credentials = ObjectRef { kind: ReferenceKind::Secret, name: "credentials".into() };
        let token = SecretBytes::new(b"correct horse".to_vec());
        self.referenced.get_mut(&credentials).unwrap().insert("token".into(), token);
    }

    pub fn want(&mut self, mode: &str) {
        self.spec().encryption.type_ = Some(mode.into());
        self.spec().encryption.kms = None;
    }

    /// What the next reconcile decides from.
    pub fn snapshot(&mut self) -> Snapshot {
        let mut results = Results::default();
        loop {
            let needed = kubernetes::needed(&self.objects, &results);
            if needed.is_empty() {
                break;
            }
            for request in needed.evaluations {
                let evaluation = if self.external { external(&request) } else { None };
                let evaluation = evaluation.unwrap_or_else(|| evaluate(&request));
                results.evaluations.insert(request, evaluation);
            }
            for object in needed.objects {
                let found = if self.unreadable.contains(&object) {
                    Err("timed out".to_owned())
                } else {
                    Ok(self.referenced.get(&object).cloned())
                };
                results.objects.insert(object, found);
            }
            for request in needed.history {
                let seen = self.history_error.clone().map_or(Ok(self.compacted), Err);
                results.history.insert(request, seen);
            }
            for diagnosis in needed.diagnoses {
                let said = self.diagnosis.clone().or_else(|| diagnose(&diagnosis));
                results.diagnoses.insert(diagnosis, Ok(said));
            }
        }
        results.expiries.clone_from(&self.expiries);
        self.salt += 1;
        let given = Given {
            now: "2026-05-08T12:34:56Z".parse().unwrap(),
            ages: self.ages.clone(),
            fresh: FreshBytes {
                key: SecretBytes::new(self.salt.to_be_bytes().repeat(8)),
                salt: SecretBytes::new(self.salt.to_be_bytes().repeat(8)),
            },
        };
        kubernetes::snapshot(&self.objects, &results, given).unwrap()
    }

    /// One reconcile; its actions are applied in order.
    pub fn reconcile(&mut self) -> Outcome {
        let snapshot = self.snapshot();
        let outcome = keyward_core::reconcile(&snapshot);
        // Agents renew their reports, but for those that have fallen silent.
        let renewed = |fact: &str| {
            let node = fact.strip_prefix(REPORT_FACTS).and_then(|rest| rest.split('/').next());
            node.is_some_and(|node| !self.silent.contains(node))
        };
        self.ages = outcome
            .facts
            .iter()
            .filter(|(fact, _)| !renewed(fact))
            .map(|(fact, value)| {
                let elapsed = self
                    .ages
                    .get(fact)
                    .filter(|age| age.value == *value)
                    .map_or(Duration::ZERO, |age| age.elapsed + Duration::from_secs(30));
                (fact.clone(), Age { value: value.clone(), elapsed })
            })
            .collect();
        let status = self.objects.cluster_encryption.as_mut().unwrap().status.get_or_insert_default();
        status.converged_revision = outcome.view.converged_revision;
        status.revisions.clone_from(&outcome.view.revisions);
        status.keys.clone_from(&outcome.view.keys);
        status.forget.clone_from(&outcome.view.forget);
        for action in outcome.actions.clone() {
            if self.refuses_keys && matches!(action, Action::CreateKey { .. }) {
                break; // as the writer does at the first that fails
            }
            self.apply(action);
        }
        self.last = outcome.clone();
        outcome
    }

    /// Reconciles and lets the nodes follow until nothing happens any more.
    pub fn settle(&mut self) {
        let mut idle = 0;
        for _ in 0..300 {
            let outcome = self.reconcile();
            let moved = self.nodes_follow() | self.migrate();
            let still = outcome.actions.is_empty() && !moved;
            idle = if still { idle + 1 } else { 0 };
            // Waits end within minutes, at 30 s a round; what asks to be looked at for ever waits for the world.
            if still && (outcome.requeue_after.is_none() || idle > 12) {
                return;
            }
        }
        panic!("it does not settle: {:?}\n{:#?}", self.last.waiting, self.log);
    }

    /// The revision in force.
    pub fn config(&self) -> BTreeMap<String, String> {
        let revision = self.revisions().pop().map(|(_, content)| content);
        revision
            .map(|content| content.config.lists().into_iter().map(|(r, l)| (r, l.join(","))).collect())
            .unwrap_or_default()
    }

    pub fn condition(&self, type_: &str) -> String {
        let found = self.last.conditions.iter().find(|condition| condition.type_ == type_);
        found.map(|c| format!("{:?} {} {}", c.status, c.reason, c.message)).unwrap_or_default()
    }

    pub fn kinds(&self) -> Vec<String> {
        self.log.iter().map(|action| action["kind"].as_str().unwrap().to_owned()).collect()
    }

    pub fn revisions(&self) -> Vec<(u64, RevisionContent)> {
        let mut found: Vec<_> = self
            .objects
            .secrets
            .iter()
            .filter_map(|secret| {
                let n = names::parse_revision_secret(secret.metadata.name.as_deref()?)?;
                Some((n.0, RevisionContent::decode("", &data(secret)).ok()??))
            })
            .collect();
        found.sort_by_key(|(n, _)| *n);
        found
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    fn put_secret(&mut self, mut secret: Secret, expected: Option<&str>) {
        let name = secret.metadata.name.clone().unwrap();
        let existing = self.objects.secrets.iter().position(|s| s.metadata.name.as_deref() == Some(&name));
        let current = existing.map(|i| self.objects.secrets[i].metadata.resource_version.clone().unwrap());
        assert_eq!(current.as_deref(), expected, "precondition on {name}");
        secret.metadata.resource_version = Some(self.next_version());
        secret.metadata.uid.get_or_insert_with(|| format!("uid-{name}"));
        match existing {
            Some(index) => self.objects.secrets[index] = secret,
            None => self.objects.secrets.push(secret),
        }
    }

    fn apply(&mut self, action: Action) {
        self.log.push(action.describe());
        let key_secret = |key: &keyward_core::formats::key_secret::KeySecret| {
            (key.encode(names::NAMESPACE, names::KUBE_APISERVER).unwrap(), key.resource_version.clone())
        };
        match action {
            Action::RecordHighWater { key_id, revision } => {
                let status = self.objects.cluster_encryption.as_mut().unwrap().status.get_or_insert_default();
                status.highest_key_id = status.highest_key_id.max(key_id);
                status.highest_revision = status.highest_revision.max(revision);
            }
            Action::RequirePreflight { candidate, resource_version } => {
                let plugins = BTreeMap::from([(candidate.key_id, candidate.plugin.clone())]);
                let secret = secret_of(names::PREFLIGHT_SECRET, encode_plugins(&plugins));
                self.put_secret(secret, resource_version.as_deref());
            }
            Action::ClearPreflight { .. } => {
                self.objects.secrets.retain(|s| s.metadata.name.as_deref() != Some(names::PREFLIGHT_SECRET));
            }
            Action::SetTarget { node, spec, .. } => {
                let version = self.next_version();
                let existing = self
                    .objects
                    .encryption_nodes
                    .iter_mut()
                    .find(|n| n.metadata.name.as_deref() == Some(&node));
                match existing {
                    Some(existing) => {
                        existing.spec = *spec;
                        existing.metadata.resource_version = Some(version);
                    }
                    None => {
                        let mut new = EncryptionNode::new(&node, *spec);
                        new.metadata.resource_version = Some(version);
                        self.objects.encryption_nodes.push(new);
                    }
                }
            }
            Action::CreateKey { key } => {
                let status = self.objects.cluster_encryption.as_ref().unwrap().status.clone().unwrap();
                assert!(status.highest_key_id >= key.id, "S5: the high-water mark comes first");
                self.put_secret(key_secret(&key).0, None);
            }
            Action::UpdateKey { key, .. }
            | Action::SyncData { key, .. }
            | Action::RecordPublication { key, .. }
            | Action::AbandonKey { key, .. }
            | Action::ForgetMigrated { key, .. }
            | Action::RecordRotation { key, .. }
            | Action::RecordMigrated { key, .. } => {
                let (secret, version) = key_secret(&key);
                self.put_secret(secret, Some(&version));
            }
            Action::ApplyConfig { revision, content } => {
                self.put_secret(secret_of(&names::revision_secret(revision), content.encode()), None);
            }
            Action::StartMigration { resource, spec, .. } => {
                let name = names::migration(&resource);
                self.objects.migrations.retain(|m| m.metadata.name.as_deref() != Some(&name));
                let mut migration = EncryptionMigration::new(&name, *spec);
                self.version += 1;
                migration.metadata.generation = Some(i64::try_from(self.version).unwrap());
                self.objects.migrations.push(migration);
            }
            Action::RetireKey { key_id, .. } | Action::DeleteKey { key_id, .. } => {
                let named = self.revisions().iter().any(|(_, content)| content.key_ids().contains(&key_id));
                assert!(!named, "S4: key {key_id} stands in a configuration");
                let name = names::key_secret(names::KUBE_APISERVER, key_id);
                self.objects.secrets.retain(|s| s.metadata.name.as_deref() != Some(&name));
            }
            // It changes nothing of what they say.
            Action::ReencryptOwn { .. } => {}
            Action::RequireConfigHash { .. } | Action::ApplyManagedConfig { .. } => {
                panic!("not on this platform")
            }
            Action::DeleteRevision { revision, .. } => {
                let name = names::revision_secret(revision);
                self.objects.secrets.retain(|s| s.metadata.name.as_deref() != Some(&name));
            }
        }
    }

    /// Each node does at once what its spec says. Answers whether any status changed.
    pub fn nodes_follow(&mut self) -> bool {
        let revisions: BTreeMap<u64, RevisionContent> = self.revisions().into_iter().collect();
        let candidate = self
            .objects
            .secrets
            .iter()
            .find(|s| s.metadata.name.as_deref() == Some(names::PREFLIGHT_SECRET))
            .map(|secret| decode_plugins("", &data(secret)).unwrap());
        let mut moved = false;
        let silent = &self.silent;
        let is_silent =
            |node: &&mut EncryptionNode| silent.contains(node.metadata.name.as_deref().unwrap_or_default());
        for node in self.objects.encryption_nodes.iter_mut().filter(|node| !is_silent(node)) {
            let content = revisions.get(&node.spec.revision.0);
            let mut status = EncryptionNodeStatus {
                loaded_hash: Some(
                    content.map_or(ConfigHash::of(REVISION_ZERO.as_bytes()), RevisionContent::hash),
                ),
                revision: node.spec.revision,
                highest_key_id: content
                    .and_then(|content| content.key_ids().into_iter().max())
                    .unwrap_or_default(),
                plugins: content
                    .map(RevisionContent::digests)
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(key_id, digest)| NodePlugin {
                        key_id,
                        digest,
                        ready: true,
                        health: PluginHealth {
                            status: if self.broken.contains(&key_id) {
                                HealthStatus::Error
                            } else {
                                HealthStatus::Healthy
                            },
                            remote_key_id: RemoteKeyId("kek".into()),
                            last_checked_time: String::new(),
                            detail: None,
                            failure: None,
                        },
                        repairs: 0,
                    })
                    .collect(),
                ..Default::default()
            };
            let name = node.metadata.name.clone().unwrap_or_default();
            let mark = self.marks.get(&name).copied().unwrap_or_default();
            status.highest_key_id = status.highest_key_id.max(mark);
            status.installed_hash.clone_from(&status.loaded_hash);
            let known = self.drifted.get(&name).copied();
            if self.edited.contains(&name) {
                status.installed_hash = Some(ConfigHash("sha256:edited".into()));
                status.revision = Revision(0);
                self.drifted.insert(name.clone(), known.unwrap_or_default().max(node.spec.revision));
            } else if known.is_some_and(|known| known < node.spec.revision) {
                self.drifted.remove(&name);
            }
            status.drifted = self.drifted.get(&name).copied();
            if let Some((key_id, before)) = self.recovered.get(&name) {
                for plugin in &mut status.plugins {
                    if plugin.key_id == *key_id && plugin.digest == *before {
                        plugin.digest = PluginDigest("by hand".into());
                        status.recovered.push(RecoveredPlugin {
                            key_id: *key_id,
                            digest: plugin.digest.clone(),
                            sources: vec!["secret/credentials".into()],
                        });
                    }
                }
            }
            status.preflight = node.spec.preflight.as_ref().map(|request| {
                let record = &candidate.as_ref().expect("a candidate")[&request.key_id];
                assert_eq!(record.digest(request.key_id).as_ref(), Some(&request.hash));
                let made = key_check(record, &self.made_anew);
                let mismatch = request.key_check.as_ref().is_some_and(|key_check| *key_check != made);
                let kek = record.kms["test"]["key"].as_str();
                let here = self.failing_at.get(node.metadata.name.as_deref().unwrap_or_default());
                let phase = if self.failing_at.is_empty() { Some("encrypt") } else { here.copied() };
                let phase = phase.filter(|_| kek.is_some() && self.failing_kek.as_deref() == kek);
                let denied = phase.map(|phase| Failure {
                    phase: phase.into(),
                    message: "permission denied".into(),
                    ..Default::default()
                });
                let failure = self.preflight_failure.clone().or(denied).or_else(|| {
                    mismatch.then(|| Failure {
                        phase: "key-check".into(),
                        message: "mismatch".into(),
                        ..Default::default()
                    })
                });
                PreflightAnswer {
                    hash: request.hash.clone(),
                    result: if failure.is_some() {
                        PreflightResult::Failed
                    } else {
                        PreflightResult::Succeeded
                    },
                    remote_key_id: None,
                    latency_millis: None,
                    started_in_millis: None,
                    key_check: Some(made),
                    failure,
                    attempts: 1,
                }
            });
            refuse(node, content, &self.made_anew, &mut status);
            if node.status.as_ref() != Some(&status) {
                node.status = Some(status);
                moved = true;
            }
        }
        moved
    }

    /// Nodes and migrations go on.
    pub fn follow(&mut self) -> bool {
        self.nodes_follow() | self.migrate()
    }

    fn migrate(&mut self) -> bool {
        let mut moved = false;
        for migration in &mut self.objects.migrations {
            let generation = migration.metadata.generation.unwrap();
            let stuck = self.stuck.as_deref() == Some(migration.spec.resource.as_str());
            if !stuck && migration.status.as_ref().map(|s| s.observed_generation) != Some(generation) {
                migration.status = Some(EncryptionMigrationStatus {
                    observed_generation: generation,
                    phase: MigrationPhase::Succeeded,
                    start_version: Some("1".to_owned()),
                    listed: true,
                    end_version: Some(generation.to_string()),
                    ..Default::default()
                });
                moved = true;
            }
        }
        moved
    }
}

/// What a plugin of this configuration would make, and decrypts.
fn key_check(record: &PluginRecord, made_anew: &BTreeSet<String>) -> KeyCheck {
    let name = record.kms["test"]["key"].as_str().unwrap_or("external");
    let anew = if made_anew.contains(name) { "/anew" } else { "" };
    KeyCheck {
        ciphertext: format!("{name}{anew}"),
        remote_key_id: RemoteKeyId("kek".into()),
        annotations: BTreeMap::new(),
        plaintext_sha256: String::new(),
    }
}

/// A plugin that does not decrypt its key check: it is unwell, and no configuration that needs it is installed.
fn refuse(
    node: &EncryptionNode,
    content: Option<&RevisionContent>,
    made_anew: &BTreeSet<String>,
    status: &mut EncryptionNodeStatus,
) {
    let Some(content) = content else { return };
    let told = |id| node.spec.key_checks.iter().find(|told| told.key_id == id).map(|told| &told.key_check);
    for (id, digest) in content.digests() {
        if told(id).is_none_or(|told| *told == key_check(&content.plugins[&id], made_anew)) {
            continue;
        }
        status.kek_mismatch.insert(digest.clone());
        for plugin in status.plugins.iter_mut().filter(|plugin| plugin.digest == digest) {
            plugin.health.status = HealthStatus::Error;
            plugin.health.detail = Some("another KEK".into());
        }
        let before = node.status.as_ref();
        if before.is_none_or(|before| before.revision != node.spec.revision) {
            let zero = ConfigHash::of(REVISION_ZERO.as_bytes());
            status.loaded_hash = before.map_or(Some(zero), |before| before.loaded_hash.clone());
            status.revision = before.map(|before| before.revision).unwrap_or_default();
            status.error = Some(NodeError {
                revision: node.spec.revision,
                reason: "KEKMismatch".into(),
                message: format!("the plugin of key {id}: another KEK"),
                put_back: false,
            });
        }
    }
}

fn secret_of(name: &str, data: SecretData) -> Secret {
    Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        data: Some(data.into_iter().map(|(k, v)| (k, ByteString(v.expose().to_vec()))).collect()),
        ..Default::default()
    }
}

fn data(secret: &Secret) -> SecretData {
    kubernetes::data(secret)
}

/// For tests that look at one resource.
pub fn resource(name: &str) -> GroupResource {
    GroupResource::parse(name)
}
