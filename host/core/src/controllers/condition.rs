//! `Encrypted` with OpenShift's meaning, `Progressing` with the current step, and `Ready`.

use super::{Deployed, Deployment, Turn, health, lost};
use crate::api::ConditionStatus::{self, False, True, Unknown};
use crate::ids::{GroupResource, Mode};
use crate::machine::State;
use crate::snapshot::Snapshot;

/// The condition controller. It runs last, since it reports what the others wait for.
pub(super) fn decide(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    deployed: &Deployed<'_>,
    turn: &mut Turn,
) {
    // While nodes have not converged, the condition stays as it is (openshift: encrypted-condition).
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
    // On OpenShift the operator CR's conditions are OpenShift's own.
    if snapshot.openshift().is_none() {
        let (status, reason, message) = ready(snapshot, deployment, deployed, turn);
        turn.condition("Ready", status, &reason, &message);
    }
}

/// Whether everything is as the spec asks, on every API server, and this pass observed each part of it
/// (invariant: ready-is-true). A part that was not observed counts as not ready.
fn ready(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    deployed: &Deployed<'_>,
    turn: &Turn,
) -> (ConditionStatus, String, String) {
    let not = |reason: &str, message: String| (False, reason.to_owned(), message);
    if let Some(waiting) = turn.waiting.as_ref().filter(|_| !snapshot.unreadable.is_empty()) {
        return (Unknown, waiting.reason.clone(), waiting.message.clone());
    }
    let trouble = turn.conditions.iter().find(|c| c.type_.ends_with("Degraded") && c.status == True);
    if let Some(trouble) = trouble {
        // "Error" alone says nothing.
        let reason = if trouble.reason == "Error" { &trouble.type_ } else { &trouble.reason };
        return not(reason, trouble.message.clone());
    }
    if let Some(waiting) = &turn.waiting {
        return not(&waiting.reason, waiting.message.clone());
    }
    if let Some(action) = turn.actions.first() {
        return not(action.kind(), "the operator is carrying out the next step".to_owned());
    }
    if let Err((reason, message)) = as_asked(snapshot, deployment, deployed) {
        return not(reason, message);
    }
    if let Some(rest) = &turn.unfinished {
        return not(&rest.reason, rest.message.clone());
    }
    let Deployment::Converged { revision, content } = deployment else {
        let nothing = "encryption is not requested, and nothing is encrypted".to_owned();
        return (True, "AsRequested".to_owned(), nothing);
    };
    if let Some(why) = health::gate(snapshot, content, &content.kms_keys(), "readiness") {
        return not("PluginUnhealthy", why);
    }
    let newest = deployed.newest().map(|key| format!("key {} ({})", key.id, key.mode)).unwrap_or_default();
    let notices: String =
        snapshot.wanted.notices.iter().map(|notice| format!("; warning: {notice}")).collect();
    let message = format!(
        "{} are stored under {newest}; every API server ({}) has loaded revision {revision}{notices}",
        resources(deployed.covered(snapshot)),
        snapshot.servers.len()
    );
    (True, "AsRequested".to_owned(), message)
}

/// Compares what is deployed with the spec: the newest key has the requested mode and is the only writer of
/// every resource, and everything was rewritten under it.
fn as_asked(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    deployed: &Deployed<'_>,
) -> Result<(), (&'static str, String)> {
    const PENDING: &str = "EncryptionInProgress";
    let wanted = &snapshot.wanted;
    let mode = wanted
        .mode
        .clone()
        .map_err(|mode| ("SpecInvalid", format!("spec.encryption.type {mode:?} is unknown")))?;
    if !deployment.is_converged() {
        return Err((PENDING, "not every API server has loaded the newest revision".to_owned()));
    }
    let nothing = deployed.newest().is_none() && snapshot.undecodable.is_empty();
    let writers = deployed.state.iter().flat_map(|state| state.resources.values());
    if mode == Mode::Identity && nothing && writers.into_iter().all(|keys| keys.write.is_none()) {
        return Ok(());
    }
    let (Some(state), Some(newest)) = (&deployed.state, deployed.newest()) else {
        return Err((PENDING, "no key is in use yet".to_owned()));
    };
    if newest.mode != mode {
        return Err((
            PENDING,
            format!("key {} has mode {}, but the spec requests {mode}", newest.id, newest.mode),
        ));
    }
    let token = &wanted.external_reason;
    let carried_out = snapshot.key(newest.id).is_some_and(|key| key.external_reason == *token);
    if mode != Mode::Identity && !token.is_empty() && !carried_out {
        return Err((
            PENDING,
            format!("the re-encryption that spec.reencrypt {token:?} requests is not complete"),
        ));
    }
    for resource in deployed.covered(snapshot) {
        if !wanted.resources.contains(resource) {
            return Err((
                PENDING,
                format!("the configuration still contains {resource}, which is not in spec.resources"),
            ));
        }
        if state.write_key(resource).is_none_or(|key| key.id != newest.id) {
            return Err((PENDING, format!("key {} is not yet the write key of {resource}", newest.id)));
        }
        if !newest.migrated.contains(resource) {
            return Err((PENDING, format!("not all {resource} are stored under key {} yet", newest.id)));
        }
    }
    Ok(())
}

fn resources<'a>(all: impl Iterator<Item = &'a GroupResource>) -> String {
    all.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn encrypted(snapshot: &Snapshot, deployed: &Deployed<'_>) -> (bool, &'static str, String) {
    let targets = &snapshot.wanted.resources;
    // A cluster without usable key secrets is still encrypted if the deployed write key encrypts
    // (openshift: encrypted-condition).
    let writers = || targets.iter().filter_map(|target| deployed.state.as_ref()?.write_key(target));
    if let Some(key) = writers().find(|key| lost::is_lost(snapshot, key)) {
        let message = format!(
            "Encrypted with key {}, which is lost (its secret is gone); a new key must replace it",
            key.id
        );
        return (false, "EncryptionInProgress", message);
    }
    if snapshot.usable().next().is_none() && snapshot.undecodable.is_empty() {
        if let Some(key) = writers().find(|key| key.mode != Mode::Identity) {
            let message = format!(
                "Encrypted with key {}, which is abandoned or forgotten; a new key must replace it",
                key.id
            );
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
    // A resource that left the list stays encrypted, so "everything is decrypted" covers it too.
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
