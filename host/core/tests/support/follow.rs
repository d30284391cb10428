//! Nodes, their plugins and migrations follow the written objects.

use std::collections::{BTreeMap, BTreeSet};

use keyward_core::api::{
    EncryptionMigrationStatus, EncryptionNode, EncryptionNodeStatus, HealthStatus, KeyCheck, MigrationPhase,
    NodeError, NodePlugin, PluginHealth, PreflightAnswer, PreflightResult, RecoveredPlugin,
};
use keyward_core::formats::encryption_config::REVISION_ZERO;
use keyward_core::formats::revision::{PluginRecord, RevisionContent, decode_plugins};
use keyward_core::ids::{ConfigHash, PluginDigest, RemoteKeyId, Revision};
use keyward_core::names;
use keyward_core::provider::Failure;

use super::{World, data};

impl World {
    /// Each node carries out its spec at once. Returns whether any status changed.
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
                        plugin.digest = PluginDigest("recovered".into());
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
                let made = key_check(record, &self.recreated_keks);
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
            refuse(node, content, &self.recreated_keks, &mut status);
            if node.status.as_ref() != Some(&status) {
                node.status = Some(status);
                moved = true;
            }
        }
        moved
    }

    /// Nodes and migrations make progress.
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

/// The key check that a plugin of this configuration would create, and decrypts.
fn key_check(record: &PluginRecord, recreated_keks: &BTreeSet<String>) -> KeyCheck {
    let name = record.kms["test"]["key"].as_str().unwrap_or("external");
    let suffix = if recreated_keks.contains(name) { "/recreated" } else { "" };
    KeyCheck {
        ciphertext: format!("{name}{suffix}"),
        remote_key_id: RemoteKeyId("kek".into()),
        annotations: BTreeMap::new(),
        plaintext_sha256: String::new(),
    }
}

/// A plugin that does not decrypt its key check is unhealthy, and no configuration that needs it is
/// installed.
fn refuse(
    node: &EncryptionNode,
    content: Option<&RevisionContent>,
    recreated_keks: &BTreeSet<String>,
    status: &mut EncryptionNodeStatus,
) {
    let Some(content) = content else { return };
    let given =
        |id| node.spec.key_checks.iter().find(|given| given.key_id == id).map(|given| &given.key_check);
    for (id, digest) in content.digests() {
        if given(id).is_none_or(|given| *given == key_check(&content.plugins[&id], recreated_keks)) {
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
