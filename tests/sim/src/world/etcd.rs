//! What is stored: not single objects, which make no difference here, but the ways in which some object is
//! sealed.
//!
//! Each running server writes at every instant, with its present write key (`World::write`). Writes that were
//! in flight when it switched still arrive until `requestTimeout` is over. So everything that may be stored
//! in some way is stored in that way, and a reader at every server reads all of it at every instant: each
//! order of writes and steps is covered without a step of its own.

use keyward_core::ids::{KeyId, Mode};

use super::config::RESOURCES;
use super::kms::Kek;

/// How an object is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sealed {
    /// Not at all.
    Plain,
    /// By a local key.
    Local {
        /// The provider's name.
        key: KeyId,
        /// How.
        mode: Mode,
        /// A hash of the key's bytes.
        material: u64,
    },
    /// By a KMS.
    Kms {
        /// The provider's name begins with it.
        key: KeyId,
        /// The KEK that was reached.
        kek: Kek,
        /// Which of the KEKs that had this name: a recreated KEK reads nothing of an earlier one.
        made: u8,
        /// Its version: a rotated KEK still reads older values.
        version: u8,
    },
}

impl Sealed {
    /// The key whose provider reads it.
    pub fn key(self) -> Option<KeyId> {
        match self {
            Self::Plain => None,
            Self::Local { key, .. } | Self::Kms { key, .. } => Some(key),
        }
    }
}

/// A small ordered set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ways(Vec<Sealed>);

impl Ways {
    /// Whether it was not there.
    pub fn insert(&mut self, sealed: Sealed) -> bool {
        match self.0.binary_search(&sealed) {
            Ok(_) => false,
            Err(at) => {
                self.0.insert(at, sealed);
                true
            }
        }
    }

    /// Takes it out.
    pub fn remove(&mut self, sealed: Sealed) {
        if let Ok(at) = self.0.binary_search(&sealed) {
            self.0.remove(at);
        }
    }

    /// Whether it is there.
    pub fn contains(&self, sealed: Sealed) -> bool {
        self.0.binary_search(&sealed).is_ok()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = Sealed> + '_ {
        self.0.iter().copied()
    }

    /// Nothing is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// The database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Etcd {
    /// What is stored now, by resource.
    pub stored: [Ways; RESOURCES.len()],
    /// What was stored since the last compaction: old revisions and deletion events are read too.
    pub history: [Ways; RESOURCES.len()],
}

impl Etcd {
    /// Everything in plain text, as before Keyward was installed.
    pub fn plain() -> Self {
        let mut ways = Ways::default();
        ways.insert(Sealed::Plain);
        let each = std::array::from_fn(|_| ways.clone());
        Self { stored: each.clone(), history: each }
    }

    /// Something is stored in this way.
    pub fn put(&mut self, resource: usize, sealed: Sealed) {
        if self.stored[resource].insert(sealed) {
            self.history[resource].insert(sealed);
        }
    }

    /// The history is gone for good.
    pub fn compact(&mut self) {
        self.history = self.stored.clone();
    }
}
