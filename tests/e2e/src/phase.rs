//! The phases of a change from one key to the next.

use anyhow::Result;
use keyward_core::api::EncryptionMigration;
use keyward_core::ids::KeyId;
use keyward_core::names;
use kube::api::{Api, ListParams};

use crate::install::Keyward;

/// The phase, as the objects show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The spec requests it.
    Requested,
    /// The key is a candidate.
    Candidate,
    /// The key secret exists.
    KeySecret,
    /// A revision has the key as read key.
    ReadKey,
    /// A revision has it as write key.
    WriteKey,
    /// Every API server has loaded that revision.
    WritesInFlight,
    /// The `EncryptionMigration` exists.
    Migrating,
    /// One resource is recorded as migrated.
    Migrated,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: [Self; 8] = [
        Self::Requested,
        Self::Candidate,
        Self::KeySecret,
        Self::ReadKey,
        Self::WriteKey,
        Self::WritesInFlight,
        Self::Migrating,
        Self::Migrated,
    ];

    /// The current phase of the change to this key.
    pub async fn of(keyward: &Keyward, key: u64) -> Result<Self> {
        let name = names::key_secret(names::KUBE_APISERVER, KeyId(key));
        let migrations = Api::<EncryptionMigration>::all(keyward.client.clone());
        let migrations = migrations.list(&ListParams::default()).await?;
        let status = keyward.status().await?;
        let provider = format!("kms:{key}");
        let listed = |first: bool| {
            let mut lists = status.newest_lists();
            lists.any(|list| if first { list.first() == Some(&provider) } else { list.contains(&provider) })
        };
        Ok(if status.key(key).is_some_and(|key| !key.migrated.is_empty()) {
            Self::Migrated
        } else if migrations.iter().any(|migration| migration.spec.key_id == KeyId(key)) {
            Self::Migrating
        } else if listed(true) {
            if status.has_converged() { Self::WritesInFlight } else { Self::WriteKey }
        } else if listed(false) {
            Self::ReadKey
        } else if keyward.secrets().get_opt(&name).await?.is_some() {
            Self::KeySecret
        } else if keyward.secrets().get_opt(names::PREFLIGHT_SECRET).await?.is_some() {
            Self::Candidate
        } else {
            Self::Requested
        })
    }
}
