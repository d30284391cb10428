//! The state machine: the keys with which each resource is read and written, now and next
//! (openshift: read-keys-come-first, openshift: write-key-needs-all-servers,
//! openshift: prune-after-migration).

mod codec;
mod desired;

pub use codec::{decode, encode};
pub use desired::{Desired, EtcdHistory, Facts, Step, desired, may_replace_writer, without};

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::SecretBytes;
use crate::formats::key_secret::{KeySecret, KmsKey};
use crate::ids::{GroupResource, KeyId, Mode};

/// One key of a configuration or of a key secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its number.
    pub id: KeyId,
    /// How it encrypts.
    pub mode: Mode,
    /// For local modes the key itself.
    pub material: SecretBytes,
    /// For KMS its provider and its plugin's data: from the key secret if it is backed, otherwise from the
    /// deployed configuration (decision 0004).
    pub kms: Option<Arc<KmsKey>>,
    /// Resources that are recorded as migrated; empty if it is unbacked.
    pub migrated: Vec<GroupResource>,
    /// Its key secret exists and has the same key.
    pub backed: bool,
}

impl Key {
    /// The key of a key secret.
    pub fn of(secret: &KeySecret) -> Self {
        Self {
            id: secret.id,
            mode: secret.mode,
            material: secret.material.clone(),
            kms: secret.kms.clone(),
            migrated: secret.migrated.clone(),
            backed: true,
        }
    }
}

/// One resource's keys, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceKeys {
    /// Absent if `identity` writes without an identity key.
    pub write: Option<KeyId>,
    /// All keys, the write key included, newest first.
    pub read: Vec<KeyId>,
}

impl ResourceKeys {
    pub(crate) fn insert(&mut self, id: KeyId) -> bool {
        if self.read.contains(&id) {
            return false;
        }
        self.read.push(id);
        self.read.sort_unstable_by(|a, b| b.cmp(a));
        true
    }
}

/// Which keys each resource is read and written with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Every key in it.
    pub keys: BTreeMap<KeyId, Key>,
    /// By resource.
    pub resources: BTreeMap<GroupResource, ResourceKeys>,
}

impl State {
    /// The key of this number.
    pub fn key(&self, id: KeyId) -> Option<&Key> {
        self.keys.get(&id)
    }

    /// A resource's write key.
    pub fn write_key(&self, resource: &GroupResource) -> Option<&Key> {
        self.key(self.resources.get(resource)?.write?)
    }

    /// A resource's keys, newest first.
    pub fn read_keys<'a>(&'a self, resource: &GroupResource) -> impl Iterator<Item = &'a Key> {
        self.resources.get(resource).into_iter().flat_map(|keys| &keys.read).filter_map(|id| self.key(*id))
    }
}
