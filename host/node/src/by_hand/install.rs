//! Installs a revision on a node whose API server has not started yet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::api::{EncryptionNodeSpec, KeyCheck, KeyCheckEntry};
use keyward_core::formats::encryption_config::REVISION_ZERO;
use keyward_core::formats::revision::{RevisionContent, SecretData};
use keyward_core::ids::{ConfigHash, KeyId, Revision};
use keyward_core::names;
use keyward_core::node::{Observed, SeenSpec, Step, Unread, first_steps};

use super::CommandSettings;
use super::drive::{blocking, read_disk};
use crate::disk::Disk;
use crate::error::AgentError;

/// An exported revision.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its number.
    pub revision: Revision,
    /// Its Secret's data.
    pub data: SecretData,
    /// The key checks of its keys.
    pub key_checks: BTreeMap<KeyId, KeyCheck>,
    /// The highest key number that was ever used (invariant: one-number-one-kek).
    pub highest_key_id: KeyId,
}

/// Installs an exported revision in the form that the agent expects. Returns the steps that were done.
///
/// # Errors
/// The revision cannot be used, or this node already has another configuration.
pub async fn restore(place: &CommandSettings, kept: Kept) -> Result<Vec<String>, AgentError> {
    let name = names::revision_secret(kept.revision);
    let unusable =
        |why: String| AgentError::NotInstallable { why: format!("revision {}: {why}", kept.revision) };
    let content = RevisionContent::decode(&name, &kept.data)
        .map_err(|error| unusable(error.to_string()))?
        .ok_or_else(|| unusable("it contains no configuration".to_owned()))?;
    // Any other configuration is refused, also one of an exported revision: the node's may be newer.
    let own = read_disk(place).await?.file.map(|file| file.hash);
    if let Some(own) =
        own.filter(|own| *own != content.hash() && *own != ConfigHash::of(REVISION_ZERO.as_bytes()))
    {
        return Err(unusable(format!(
            "this node already has another configuration ({own}); nothing was changed"
        )));
    }
    let key_checks =
        kept.key_checks.into_iter().map(|(key_id, key_check)| KeyCheckEntry { key_id, key_check }).collect();
    let spec = EncryptionNodeSpec {
        revision: kept.revision,
        config_hash: Some(content.hash()),
        preflight: None,
        key_checks,
    };
    install(place, spec, Some(Arc::new(content)), kept.highest_key_id).await
}

/// Carries out core's first steps. It locks the disk meanwhile.
pub(super) async fn install(
    place: &CommandSettings,
    spec: EncryptionNodeSpec,
    target: Option<Arc<RevisionContent>>,
    highest_key_id: KeyId,
) -> Result<Vec<String>, AgentError> {
    let (node, paths, owner, policy) = (place.node.clone(), place.paths.clone(), place.owner, place.policy);
    blocking("installing a revision", move || {
        let disk = Disk::open(&node, paths, owner)?;
        let observed = Observed {
            policy,
            spec: Some(SeenSpec { generation: 0, spec, reported: Revision(0) }),
            absence: None,
            target: target.map(Ok),
            candidate: None,
            server: Err(Unread { why: "the API server has not started".to_owned(), answers: false }),
            disk: disk.look()?.disk,
            probes: BTreeMap::new(),
            file_age: Duration::ZERO,
            unneeded: BTreeMap::new(),
            failed_step: None,
            credential_expires: None,
        };
        let steps = first_steps(&observed).map_err(|why| AgentError::NotInstallable { why })?;
        let high_water =
            (highest_key_id > observed.disk.highest_key_id).then_some(Step::RecordHighWater(highest_key_id));
        let mut done = Vec::new();
        for step in high_water.into_iter().chain(steps) {
            disk.act(&step, &observed)?;
            done.push(step.to_string());
        }
        Ok(done)
    })
    .await
}
