//! OpenShift's preflight: requested and answered in the operator CR's status, by the configuration hash
//! (openshift: config-hash, openshift: preflight-before-a-key, openshift: preflight-states). Which Pod tries
//! what, and where, is not decided here.

use std::time::Duration;

use serde_json::Value;

use super::key::{NextTrial, Then, Trial};
use super::{Turn, preflight, record};
use crate::api::ConditionStatus;
use crate::formats::config_hash::config_hash;
use crate::formats::key_secret::KmsKey;
use crate::formats::revision::PluginRecord;
use crate::outcome::{Action, Candidate};
use crate::platform::openshift::OpenShift;
use crate::provider::Origin;
use crate::snapshot::Snapshot;

const DEGRADED: &str = "EncryptionKMSPreflightControllerDegraded";
const PROGRESSING: &str = "EncryptionKMSPreflightControllerProgressing";
const KEY_DEGRADED: &str = "EncryptionKeyControllerDegraded";
/// The pause before a request is looked at again (openshift: preflight-before-a-key).
const BACK_OFF: Duration = Duration::from_secs(30);

/// Requests what has to be tried, and does what follows when it has passed.
pub(super) fn decide(snapshot: &Snapshot, openshift: &OpenShift, next: NextTrial, turn: &mut Turn) {
    match next {
        NextTrial::Hold => {}
        NextTrial::Nothing => {
            turn.degraded(DEGRADED, None);
            turn.condition(PROGRESSING, ConditionStatus::False, "AsExpected", "");
        }
        NextTrial::Try(trial) => attempt(snapshot, openshift, *trial, turn),
    }
}

/// Candidates that have failed come last, so that one that cannot pass does not keep the others from being
/// tried.
pub(super) fn failed_last(snapshot: &Snapshot, trials: &mut [Trial]) {
    let Some(openshift) = snapshot.openshift() else { return };
    trials.sort_by_key(|trial| {
        let hash = hash(snapshot, &trial.record);
        hash.is_some_and(|hash| openshift.preflight.answer(&hash).is_some_and(|answer| !answer.succeeded))
    });
}

/// The hash over the provider type's own part of the configuration, and its referenced data
/// (openshift: config-hash).
fn hash(snapshot: &Snapshot, record: &PluginRecord) -> Option<String> {
    let evaluation = [Origin::Desired, Origin::Stored]
        .into_iter()
        .find_map(|origin| snapshot.evaluation(origin, &record.kms).ok())?;
    let fields = record.kms.as_object()?;
    let (_, own) = fields.iter().find(|(name, value)| *name != "type" && **value != Value::Null)?;
    Some(config_hash(own, &evaluation.field_order, &record.referenced))
}

fn attempt(snapshot: &Snapshot, openshift: &OpenShift, trial: Trial, turn: &mut Turn) {
    // A trial comes from an evaluation, so there always is a hash.
    let Some(hash) = hash(snapshot, &trial.record) else { return };
    let status = &openshift.preflight;
    let asked = status.observed.as_deref() == Some(hash.as_str());
    match status.answer(&hash).filter(|_| asked) {
        Some(answer) if answer.succeeded => {
            turn.degraded(DEGRADED, None);
            turn.condition(PROGRESSING, ConditionStatus::False, "AsExpected", "");
            accept(snapshot, trial, &hash, turn);
        }
        Some(_) => {
            let recorded = format!(
                "preflight check failed for hash {hash}: pod was removed but failure is recorded in status"
            );
            turn.degraded(DEGRADED, Some(("PreflightCheckFailed", recorded)));
            turn.condition(PROGRESSING, ConditionStatus::False, "AsExpected", "");
            let what = match &trial.then {
                Then::Create { .. } => "failed to create key".to_owned(),
                Then::Update { .. } | Then::Sync { .. } => format!("failed to update key {}", trial.key_id),
            };
            let error = format!(
                "{what}: KMS preflight check failed for config hash {hash}; fix the KMS configuration to proceed"
            );
            turn.wait("PreflightCheckFailed", error.clone());
            turn.degraded_too(KEY_DEGRADED, "Error", &error);
        }
        None => {
            let message = if asked {
                format!("Waiting for preflight pod to report result for {hash}")
            } else {
                format!("Deploying preflight pod for hash {hash}")
            };
            turn.degraded(DEGRADED, None);
            turn.condition(PROGRESSING, ConditionStatus::True, "RunningPreflightCheck", &message);
            turn.wait("PreflightRunning", message);
            turn.again_after(BACK_OFF);
            if !asked {
                request(snapshot, trial, hash, turn);
            }
        }
    }
}

fn request(snapshot: &Snapshot, trial: Trial, config_hash: String, turn: &mut Turn) {
    let plugin = PluginRecord { salt: Some(snapshot.fresh.salt.clone()), ..trial.record };
    let Some(hash) = plugin.digest(trial.key_id) else { return };
    turn.act(Action::RequireConfigHash {
        candidate: Box::new(Candidate { key_id: trial.key_id, purpose: trial.purpose, plugin, hash }),
        config_hash,
    });
}

fn accept(snapshot: &Snapshot, trial: Trial, hash: &str, turn: &mut Turn) {
    let Some(template) = trial.record.accepted.as_ref().map(|accepted| &accepted.template) else { return };
    let kms = KmsKey {
        provider: record::provider(snapshot, trial.key_id, template),
        plugin: PluginRecord { salt: Some(snapshot.fresh.salt.clone()), ..trial.record.clone() },
        key_check: trial.key_check,
    };
    let passed = format!("the preflight of key {} passed for hash {hash}", trial.key_id);
    preflight::done(snapshot, trial.key_id, trial.then, kms, &passed, turn);
}
