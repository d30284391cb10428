//! How far a change from one key to the next is.

use anyhow::Result;
use keyward_core::api::EncryptionMigration;
use keyward_core::ids::KeyId;
use keyward_core::names;
use kube::api::{Api, ListParams};

use crate::install::Keyward;

/// By what stands in objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The spec asks for it.
    Asked,
    /// There is a candidate.
    Trying,
    /// There is a key secret.
    Made,
    /// A revision reads with the key.
    Reading,
    /// A revision writes with it.
    Writing,
    /// Every API server has loaded that one.
    InFlight,
    /// There is an `EncryptionMigration`.
    Migrating,
    /// One resource is recorded as migrated.
    Migrated,
}

impl Phase {
    /// In order.
    pub const ALL: [Self; 8] = [
        Self::Asked,
        Self::Trying,
        Self::Made,
        Self::Reading,
        Self::Writing,
        Self::InFlight,
        Self::Migrating,
        Self::Migrated,
    ];

    /// The change to this key, now.
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
            if status.has_converged() { Self::InFlight } else { Self::Writing }
        } else if listed(false) {
            Self::Reading
        } else if keyward.secrets().get_opt(&name).await?.is_some() {
            Self::Made
        } else if keyward.secrets().get_opt(names::PREFLIGHT_SECRET).await?.is_some() {
            Self::Trying
        } else {
            Self::Asked
        })
    }
}
