//! The state machine of CONTRACT section 2: which keys each resource is read and written with, and which should be.

mod codec;
mod desired;

pub use codec::{decode, encode};
pub use desired::{Desired, Facts, History, Step, desired, may_take_over, without};

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::SecretBytes;
use crate::formats::key_secret::{KeySecret, KmsKey};
use crate::ids::{GroupResource, KeyId, Mode};

/// One key as it stands in a configuration or a key secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its number.
    pub id: KeyId,
    /// How it encrypts.
    pub mode: Mode,
    /// For local modes the key itself.
    pub material: SecretBytes,
    /// For KMS its provider's entry and its plugin's data: the key secret's where it is backed, else what is deployed
    /// (DESIGN.md, Decisions 4).
    pub kms: Option<Arc<KmsKey>>,
    /// Resources recorded as migrated; empty where it is unbacked.
    pub migrated: Vec<GroupResource>,
    /// Its key secret exists and says the same.
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
    /// Absent where `identity` writes without a key that says so.
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
    /// Every key that stands in it.
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
