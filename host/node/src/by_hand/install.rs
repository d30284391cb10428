//! A revision on a node whose API server has not started yet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::api::{Canary, EncryptionNodeSpec, KeyCanary};
use keyward_core::formats::encryption_config::REVISION_ZERO;
use keyward_core::formats::revision::{RevisionContent, SecretData};
use keyward_core::ids::{ConfigHash, KeyId, Revision};
use keyward_core::names;
use keyward_core::node::{Observed, SeenSpec, Step, Unread, first_steps};

use super::ByHand;
use super::drive::{blocking, glance};
use crate::disk::Disk;
use crate::error::AgentError;

/// A revision as it was kept elsewhere.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its number.
    pub revision: Revision,
    /// Its Secret's data.
    pub data: SecretData,
    /// The canaries of its keys.
    pub canaries: BTreeMap<KeyId, Canary>,
    /// The highest keyID that was ever used (S5).
    pub highest_key_id: KeyId,
}

/// Installs a kept revision, as the agent would find it. Answers what was done.
///
/// # Errors
/// It is of no use, or this node has something else already.
pub async fn restore(place: &ByHand, kept: Kept) -> Result<Vec<String>, AgentError> {
    let name = names::revision_secret(kept.revision);
    let unusable =
        |why: String| AgentError::NotInstallable { why: format!("revision {}: {why}", kept.revision) };
    let content = RevisionContent::decode(&name, &kept.data)
        .map_err(|error| unusable(error.to_string()))?
        .ok_or_else(|| unusable("it holds no configuration".to_owned()))?;
    // Even one that is known here: what a node has may be newer than what was exported.
    let own = glance(place).await?.file.map(|file| file.hash);
    if let Some(own) =
        own.filter(|own| *own != content.hash() && *own != ConfigHash::of(REVISION_ZERO.as_bytes()))
    {
        return Err(unusable(format!("this node has another configuration ({own}), and is left alone")));
    }
    let canaries = kept.canaries.into_iter().map(|(key_id, canary)| KeyCanary { key_id, canary }).collect();
    let spec = EncryptionNodeSpec {
        revision: kept.revision,
        config_hash: Some(content.hash()),
        preflight: None,
        canaries,
    };
    install(place, spec, Some(Arc::new(content)), kept.highest_key_id).await
}

/// Does core's first steps. Nobody else may work on the disk meanwhile.
pub(super) async fn install(
    place: &ByHand,
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
            server: Err(Unread { why: "it has not started".to_owned(), answers: false }),
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
