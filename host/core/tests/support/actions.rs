//! Applies each action as the API server does: a write fails if its precondition does not hold.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use keyward_core::api::{EncryptionMigration, EncryptionNode};
use keyward_core::formats::key_secret::KeySecret;
use keyward_core::formats::revision::encode_plugins;
use keyward_core::names;
use keyward_core::outcome::Action;

use super::{World, secret_of};

impl World {
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

    pub(super) fn apply(&mut self, action: Action) {
        self.log.push(action.describe());
        let key_secret = |key: &KeySecret| {
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
                assert!(status.highest_key_id >= key.id, "the high-water mark is recorded first");
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
            // (invariant: secret-outlives-configuration)
            Action::RetireKey { key_id, .. } | Action::DeleteKey { key_id, .. } => {
                let named = self.revisions().iter().any(|(_, content)| content.key_ids().contains(&key_id));
                assert!(!named, "key {key_id} is in a configuration");
                let name = names::key_secret(names::KUBE_APISERVER, key_id);
                self.objects.secrets.retain(|s| s.metadata.name.as_deref() != Some(&name));
            }
            // It does not change their content.
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
}
