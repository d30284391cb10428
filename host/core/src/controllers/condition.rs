//! `Encrypted` as CONTRACT 3.5 says, and `Progressing` with its phase.

use super::{Deployed, Deployment, Turn};
use crate::api::ConditionStatus::{False, True};
use crate::ids::{GroupResource, Mode};
use crate::machine::State;
use crate::snapshot::Snapshot;

/// The condition controller: last, since it tells what the others wait for.
pub(super) fn decide(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    deployed: &Deployed<'_>,
    turn: &mut Turn,
) {
    // CONTRACT 3.5: in transition the condition is left as it is.
    if deployment.is_converged() {
        let (status, reason, message) = encrypted(snapshot, deployed);
        turn.condition("Encrypted", if status { True } else { False }, reason, &message);
    }
    let rollout = turn.waiting.clone().filter(|waiting| {
        [
            "RolloutStopped",
            "NodeNotPrepared",
            "ForeignConfiguration",
            "RevisionLost",
            "RevisionUnreadable",
            "Unreadable",
            "NoControlPlane",
        ]
        .contains(&waiting.reason.as_str())
    });
    match rollout {
        Some(waiting) => {
            turn.condition("EncryptionRolloutControllerDegraded", True, &waiting.reason, &waiting.message);
        }
        None => turn.condition("EncryptionRolloutControllerDegraded", False, "AsExpected", ""),
    }
    match turn.waiting.clone() {
        Some(waiting) => turn.condition("Progressing", True, &waiting.reason, &waiting.message),
        None => match turn.actions.first().map(crate::outcome::Action::kind) {
            Some(kind) => turn.condition("Progressing", True, kind, ""),
            None => turn.condition("Progressing", False, "AsExpected", ""),
        },
    }
}

fn encrypted(snapshot: &Snapshot, deployed: &Deployed<'_>) -> (bool, &'static str, String) {
    let targets = &snapshot.wanted.resources;
    if snapshot.usable().next().is_none() && snapshot.undecodable.is_empty() {
        // CONTRACT 3.5 says so of any cluster without key secrets; what API servers encrypt with is no less encrypted.
        let state = deployed.state.as_ref().filter(|_| snapshot.openshift().is_none());
        let writer = targets.iter().find_map(|target| state?.write_key(target));
        if let Some(key) = writer.filter(|key| key.mode != Mode::Identity) {
            let why =
                if snapshot.key(key.id).is_some() { "which is given up" } else { "whose secret is gone" };
            let message = format!("Encrypted with key {}, {why}; another key is needed", key.id);
            return (false, "EncryptionInProgress", message);
        }
        return (false, "EncryptionDisabled", "Encryption is not enabled".to_owned());
    }
    let identity = |state: &State| {
        targets
            .iter()
            .find_map(|target| state.write_key(target).filter(|key| key.mode == Mode::Identity))
            .cloned()
    };
    let decryption = |migrated: bool| {
        if migrated {
            (
                false,
                "DecryptionCompleted",
                "Encryption mode set to identity and everything is decrypted".to_owned(),
            )
        } else {
            (
                false,
                "DecryptionInProgress",
                "Encryption mode set to identity and decryption is not finished".to_owned(),
            )
        }
    };
    // What left the list stays encrypted, so that "everything is decrypted" speaks of it too.
    let all_migrated =
        |migrated: &[GroupResource]| deployed.covered(snapshot).all(|target| migrated.contains(target));
    if let Some(key) = identity(&deployed.desired.state) {
        return decryption(all_migrated(&key.migrated));
    }
    let none = State::default();
    let state = deployed.state.as_ref().unwrap_or(&none);
    for target in targets {
        if !state.resources.contains_key(target) {
            return (false, "EncryptionInProgress", format!("Resource {target} is not encrypted"));
        }
        if let Some(key) = state.write_key(target).filter(|key| key.mode == Mode::Identity) {
            return decryption(all_migrated(&key.migrated));
        }
        let mut covered = false;
        for key in state.read_keys(target) {
            if key.mode == Mode::Identity {
                return (false, "EncryptionInProgress", "Encryption is ongoing".to_owned());
            }
            if key.migrated.contains(target) {
                covered = true;
                break;
            }
        }
        if !covered {
            return (false, "EncryptionInProgress", format!("Resource {target} is being encrypted"));
        }
    }
    let all: Vec<String> = targets.iter().map(ToString::to_string).collect();
    (true, "EncryptionCompleted", format!("All resources encrypted: {}", all.join(", ")))
}
