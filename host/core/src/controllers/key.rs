//! When is a new key made, and when is one updated in place? CONTRACT 3.1 and DESIGN.md, Decisions 1 and 2.

use std::time::Duration;

use super::record::{self, Wanted};
use super::{Deployed, Deployment, Turn};
use crate::SecretBytes;
use crate::api::{Canary, PreflightPurpose};
use crate::formats::key_secret::{KeySecret, NULL_KEY};
use crate::formats::revision::PluginRecord;
use crate::ids::{GroupResource, KeyId, Mode};
use crate::machine::Key;
use crate::outcome::Action;
use crate::provider::Origin;
use crate::snapshot::Snapshot;

/// CONTRACT 3.1, row 12.
const ROTATION_INTERVAL: Duration = Duration::from_hours(168);

/// What the preflight is asked for.
pub(super) enum Wish {
    /// Nothing may be decided: whatever is being tried goes on.
    Hold,
    /// Nothing is to be tried.
    Nothing,
    /// This is to be tried, and then done.
    Try(Box<Trial>),
}

/// A candidate, and what becomes of it when it passes.
pub(super) struct Trial {
    pub(super) key_id: KeyId,
    pub(super) purpose: PreflightPurpose,
    /// Without a salt.
    pub(super) record: PluginRecord,
    /// What it must decrypt; absent for a new key.
    pub(super) canary: Option<Canary>,
    pub(super) then: Then,
}

/// What becomes of a candidate that passes.
pub(super) enum Then {
    Create { reason: String },
    Update { fields: Vec<String> },
    Sync { objects: Vec<String> },
}

/// The key controller.
pub(super) fn decide(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    deployed: &Deployed<'_>,
    turn: &mut Turn,
) -> Wish {
    const CONDITION: &str = "EncryptionKeyControllerDegraded";
    let mut trouble: Vec<String> = snapshot
        .undecodable
        .iter()
        .map(|(name, error)| format!("key secret {name} is not used: {error}; mend it, or delete it if nothing is stored under its key"))
        .collect();
    let wish = match decided(snapshot, deployment, deployed, turn) {
        Ok(wish) => wish,
        Err(message) => {
            trouble.push(message);
            Wish::Nothing
        }
    };
    let trouble = (!trouble.is_empty()).then(|| ("Error", trouble.join("; ")));
    turn.degraded(CONDITION, trouble);
    wish
}

fn decided(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    deployed: &Deployed<'_>,
    turn: &mut Turn,
) -> Result<Wish, String> {
    if matches!(deployment, Deployment::Blocked) {
        return Ok(Wish::Hold);
    }
    let wanted = &snapshot.wanted;
    if !wanted.mistakes.is_empty() {
        return Err(wanted.mistakes.join("; "));
    }
    let mode = wanted.mode.clone().map_err(|mode| format!("unknown encryption mode configured: {mode}"))?;
    if mode == Mode::Identity && matches!(deployment, Deployment::Nothing) && snapshot.keys.is_empty() {
        return Ok(Wish::Nothing); // CONTRACT 3.1, 3
    }
    let desired_kms = match (mode, &wanted.kms) {
        (Mode::Kms, Some(kms)) => Some(
            record::wanted(snapshot, Origin::Desired, kms)
                .map_err(|why| format!("failed to create key: {why}")),
        ),
        _ => None,
    };

    // A new key only from a converged state: at most one key is in transition (S6).
    if deployment.is_converged()
        && let Some(reason) = needs_new_key(snapshot, deployed, mode, desired_kms.as_ref(), turn)?
    {
        turn.explain(format!("a new key is needed: {reason}"));
        return match desired_kms {
            None => {
                create_local(snapshot, mode, reason, turn);
                Ok(Wish::Nothing)
            }
            Some(now) => Ok(Wish::Try(Box::new(Trial {
                key_id: snapshot.highest_key.next(),
                purpose: PreflightPurpose::NewKey,
                record: now?.record,
                canary: None,
                then: Then::Create { reason },
            }))),
        };
    }
    in_place(snapshot, deployed, desired_kms)
}

/// CONTRACT 3.1, 5: the first match wins, for each resource. The reason as CONTRACT 3.1, 6 writes it.
fn needs_new_key(
    snapshot: &Snapshot,
    deployed: &Deployed<'_>,
    mode: Mode,
    now: Option<&Result<Wanted<'_>, String>>,
    turn: &mut Turn,
) -> Result<Option<String>, String> {
    let mut reasons: Vec<(&GroupResource, String)> = Vec::new();
    for resource in &snapshot.wanted.resources {
        if let Some(reason) = needs_for(snapshot, deployed, resource, mode, now, turn)? {
            reasons.push((resource, reason));
        }
    }
    let Some((_, first)) = reasons.first() else { return Ok(None) };
    if reasons.len() > 1 && reasons.iter().all(|(_, reason)| reason == first) {
        return Ok(Some(first.clone()));
    }
    let mut each: Vec<String> =
        reasons.iter().map(|(resource, reason)| format!("{}-{reason}", resource.resource)).collect();
    each.sort();
    Ok(Some(each.join(", ")))
}

fn needs_for(
    snapshot: &Snapshot,
    deployed: &Deployed<'_>,
    resource: &GroupResource,
    mode: Mode,
    now: Option<&Result<Wanted<'_>, String>>,
    turn: &mut Turn,
) -> Result<Option<String>, String> {
    let state = &deployed.desired.state;
    let Some(latest) = state.read_keys(resource).next() else {
        return Ok((mode != Mode::Identity).then(|| "key-does-not-exist".to_owned())); // row 1
    };
    if !latest.backed {
        return Ok(Some(format!("encryption-config-key-{}-not-backed-by-secret", latest.id))); // row 3
    }
    let change = change(snapshot, latest, mode, now)?;
    if state.read_keys(resource).filter(|key| key.backed).count() > 2
        || !snapshot.wanted.resources.iter().all(|target| latest.migrated.contains(target))
    {
        // Rows 4 and 5: one transition at a time.
        if let Some(reason) = change {
            turn.wait(
                "KeyInTransition",
                format!("a new key ({reason}) waits until key {} has finished its transition", latest.id),
            );
        }
        return Ok(None);
    }
    Ok(change)
}

/// Rows 6 to 12: what about the latest key is not as it should be.
fn change(
    snapshot: &Snapshot,
    latest: &Key,
    mode: Mode,
    now: Option<&Result<Wanted<'_>, String>>,
) -> Result<Option<String>, String> {
    if latest.mode != mode {
        return Ok(Some("encryption-mode-changed".to_owned())); // row 6
    }
    let secret = snapshot.key(latest.id);
    let external = &snapshot.wanted.external_reason;
    let asked = !external.is_empty() && secret.is_some_and(|secret| secret.external_reason != *external);
    match mode {
        Mode::Identity => return Ok(None), // row 7
        Mode::Kms => {
            let Some(stored) = &latest.kms else {
                // row 8
                return Err(format!(
                    "KMS-mode key \"{}\" has nil KMS state, possibly corrupted key secret",
                    latest.id
                ));
            };
            let Some(Ok(now)) = now else { return Ok(None) };
            // Row 9. A stored configuration that the module cannot read is a fact, and no reason for a new key.
            let before = snapshot
                .evaluation(Origin::Stored, &stored.plugin.kms)
                .map_err(|error| format!("the configuration of key {}: {error}", latest.id))?;
            if before.provider_type != now.evaluation.provider_type
                || before.kek.key != now.evaluation.kek.key
            {
                return Ok(Some("kms-provider-changed".to_owned()));
            }
        }
        Mode::Aescbc | Mode::Aesgcm | Mode::Secretbox => {}
    }
    if asked {
        return Ok(Some("external-reason-changed".to_owned())); // row 11; OBJECTS.md: for KMS too
    }
    let age = secret.and_then(|secret| secret.migrated_at).map(|at| snapshot.now.duration_since(at));
    let old = age.is_none_or(|age| Duration::try_from(age).is_ok_and(|age| age > ROTATION_INTERVAL));
    Ok((mode.is_local() && old).then(|| "rotation-interval-has-passed".to_owned())) // row 12
}

/// Identity and local keys need no preflight.
fn create_local(snapshot: &Snapshot, mode: Mode, reason: String, turn: &mut Turn) {
    let id = snapshot.highest_key.next();
    let material =
        if mode.is_local() { snapshot.fresh.key.clone() } else { SecretBytes::new(NULL_KEY.to_vec()) };
    create(snapshot, KeySecret::new(id, mode, material, None, reason), turn);
}

/// The high-water mark first (S5), then the key.
pub(super) fn create(snapshot: &Snapshot, mut key: KeySecret, turn: &mut Turn) {
    key.external_reason.clone_from(&snapshot.wanted.external_reason);
    if snapshot.recorded_key < key.id {
        turn.act(Action::RecordHighWater { key_id: key.id, revision: snapshot.recorded_revision });
    }
    turn.act(Action::CreateKey { key: Box::new(key) });
}

/// Decisions 1 and 2: the active key follows the spec, every key in the configuration follows what it refers to.
/// One at a time, the newest first.
fn in_place(
    snapshot: &Snapshot,
    deployed: &Deployed<'_>,
    desired_kms: Option<Result<Wanted<'_>, String>>,
) -> Result<Wish, String> {
    let mut in_use: Vec<&Key> =
        deployed.desired.state.keys.values().filter(|key| key.backed && key.mode == Mode::Kms).collect();
    in_use.sort_unstable_by_key(|key| std::cmp::Reverse(key.id));
    let mut trouble = Vec::new();
    let active = in_use.first().map(|key| key.id);
    let mut desired_kms = desired_kms;
    for key in in_use {
        let Some(stored) = key.kms.as_deref() else { continue };
        // The newest KMS key takes the spec's configuration where that names its KEK; any other its own.
        let is_active = active == Some(key.id);
        let spec = match desired_kms.take() {
            Some(Ok(now)) if is_active && same_kek(snapshot, &stored.plugin.kms, &now) => Some(now),
            Some(Err(why)) => {
                trouble.push(why);
                continue;
            }
            _ => None,
        };
        let follows_spec = spec.is_some();
        let now = match spec.map_or_else(|| record::wanted(snapshot, Origin::Stored, &stored.plugin.kms), Ok)
        {
            Ok(now) => now,
            Err(why) => {
                trouble.push(format!("key {} goes on as deployed: {why}", key.id));
                continue;
            }
        };
        let difference = record::difference(snapshot, stored, &now);
        if difference.is_empty() {
            continue;
        }
        let update = follows_spec && !difference.fields.is_empty();
        return Ok(Wish::Try(Box::new(Trial {
            key_id: key.id,
            purpose: if update { PreflightPurpose::InPlace } else { PreflightPurpose::Sync },
            record: now.record,
            canary: stored.canary.clone(),
            then: if update {
                Then::Update { fields: [difference.fields, difference.objects].concat() }
            } else {
                Then::Sync { objects: [difference.objects, difference.fields].concat() }
            },
        })));
    }
    if let Some(Err(why)) = desired_kms {
        trouble.push(why);
    }
    if trouble.is_empty() { Ok(Wish::Nothing) } else { Err(trouble.join("; ")) }
}

fn same_kek(snapshot: &Snapshot, stored: &serde_json::Value, now: &Wanted<'_>) -> bool {
    snapshot.evaluation(Origin::Stored, stored).is_ok_and(|before| {
        before.provider_type == now.evaluation.provider_type && before.kek.key == now.evaluation.kek.key
    })
}
