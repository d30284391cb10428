//! Tries new keys and updates in place on every control-plane node, next to the running plugins
//! (decision 0003).
//!
//! One node is asked first. Its answer contains the new key check, which the others must decrypt. So all
//! nodes are shown to reach the same KEK before a key exists (objects: candidate). The others are asked one
//! after another, each when those before it have passed, also if a key check exists from the beginning. So a
//! refused login happens on one node, and not on every one: some KMSs count refused logins, and then lock
//! out the plugins in use too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::key::{self, NextTrial, Then, Trial};
use super::{Turn, diagnosis, preflight_status, record, reports};
use crate::SecretBytes;
use crate::api::{
    ConditionStatus, KeyCheck, NodeError, PreflightAnswer, PreflightPurpose, PreflightRequest,
    PreflightResult,
};
use crate::formats::key_secret::{KeySecret, KmsKey, NULL_KEY};
use crate::ids::{KeyId, Mode, PluginDigest};
use crate::outcome::{Action, Candidate};
use crate::provider::{Diagnosis, Failure};
use crate::snapshot::{ServerView, Snapshot, StoredCandidate};

const DEGRADED: &str = "EncryptionKMSPreflightControllerDegraded";
const PROGRESSING: &str = "EncryptionKMSPreflightControllerProgressing";
/// How long a key check may fail on some node before another candidate is made. Each costs every node a start
/// of the plugin.
pub(super) const KEY_CHECK_PATIENCE: Duration = Duration::from_mins(10);

/// The preflight request of each node.
pub(super) fn decide(
    snapshot: &Snapshot,
    next_trial: NextTrial,
    turn: &mut Turn,
) -> BTreeMap<String, PreflightRequest> {
    if let Some(openshift) = snapshot.openshift() {
        preflight_status::decide(snapshot, openshift, next_trial, turn);
        return BTreeMap::new();
    }
    match next_trial {
        NextTrial::Hold => current_requests(snapshot),
        NextTrial::Nothing => {
            turn.degraded(DEGRADED, None);
            turn.condition(PROGRESSING, ConditionStatus::False, "AsExpected", "");
            nothing(snapshot, turn)
        }
        NextTrial::Try(trial) => attempt(snapshot, *trial, turn),
    }
}

fn current_requests(snapshot: &Snapshot) -> BTreeMap<String, PreflightRequest> {
    snapshot
        .servers
        .values()
        .filter_map(|server| Some((server.name.clone(), server.agent.as_ref()?.spec.preflight.clone()?)))
        .collect()
}

/// A candidate that became a key's content stays until every node runs it from a revision. So the plugin that
/// passed keeps running, and is not started twice.
fn nothing(snapshot: &Snapshot, turn: &mut Turn) -> BTreeMap<String, PreflightRequest> {
    let Some(version) = &snapshot.candidate_version else { return BTreeMap::new() };
    if let Some(Ok(candidate)) = &snapshot.candidate {
        let accepted = snapshot
            .key(candidate.key_id)
            .filter(|key| !key.is_abandoned())
            .and_then(|key| key.kms.as_ref()?.plugin.digest(key.id))
            .is_some_and(|digest| digest == candidate.hash);
        let deployed = snapshot.servers.values().all(|server| {
            server.agent.as_ref().is_some_and(|agent| {
                snapshot
                    .content(agent.spec.revision)
                    .and_then(|content| content.digests().remove(&candidate.key_id))
                    .is_some_and(|digest| digest == candidate.hash)
            })
        });
        if accepted && !deployed {
            return current_requests(snapshot);
        }
    }
    turn.act(Action::ClearPreflight { resource_version: version.clone() });
    BTreeMap::new()
}

/// The nodes that have to pass. A new key must pass on every node. New data of a key, and another way to
/// reach the same KEK, go past a silent node (decision 0047): otherwise a credential that expires would
/// expire on every node. No key is promoted by that, and the agent of a silent node probes the plugin itself
/// before it leads the API server to it.
fn asked(snapshot: &Snapshot, purpose: PreflightPurpose) -> Vec<&String> {
    let heard = |server: &&ServerView| !reports::is_silent(snapshot, server);
    let living = || snapshot.servers.values().filter(heard);
    let all = purpose == PreflightPurpose::NewKey || living().next().is_none();
    snapshot.servers.values().filter(|server| all || heard(server)).map(|server| &server.name).collect()
}

fn attempt(snapshot: &Snapshot, trial: Trial, turn: &mut Turn) -> BTreeMap<String, PreflightRequest> {
    let stored = match &snapshot.candidate {
        Some(Ok(candidate)) if trial.is(candidate) => candidate,
        _ => return write_candidate(snapshot, &trial, turn),
    };
    let names = asked(snapshot, trial.purpose);
    let answers: BTreeMap<&String, _> = snapshot
        .servers
        .values()
        .filter_map(|server| Some((&server.name, server.answer(&stored.hash)?)))
        .collect();
    let key_check = trial.key_check.clone().or_else(|| {
        // The key check of the first node, the only one that was asked without one. That node may have made
        // another key check since the others answered, which they then have to decrypt.
        let without = |name: &&&String| {
            let agent = snapshot.servers.get(**name).and_then(|server| server.agent.as_ref());
            agent
                .and_then(|agent| agent.spec.preflight.as_ref())
                .is_some_and(|asked| asked.key_check.is_none())
        };
        let first = names.iter().filter(without);
        let rest = names.iter().filter(|name| !without(name));
        first
            .chain(rest)
            .filter_map(|name| answers.get(*name))
            .filter(|answer| answer.result == PreflightResult::Succeeded)
            .find_map(|answer| answer.key_check.clone())
    });
    let requests = requests(&trial, &stored.hash, key_check.as_ref(), &names, snapshot);
    report(snapshot, &trial, stored, &names, turn);

    // An answer counts only for the key check that it names. If the first node makes another one, every node
    // has to decrypt that.
    let passed = names.iter().all(|name| {
        let answer = answers.get(*name);
        answer.is_some_and(|answer| {
            answer.result == PreflightResult::Succeeded && answer.key_check == key_check
        })
    });
    if let (true, Some(key_check)) = (passed, key_check) {
        accept(snapshot, trial, stored, key_check, turn);
    } else if trial.queued.is_empty() && key_check_fails(snapshot, &trial, stored, turn) {
        turn.explain(format!(
            "not every node can decrypt the key check of the candidate for key {}; another candidate replaces it",
            trial.key_id
        ));
        return write_candidate(snapshot, &trial, turn);
    }
    requests
}

/// Whether some node has not decrypted a new key check for long. If other trials wait, they have their turn
/// instead, and this trial has another candidate after them. The node that made the key check is not asked
/// again, and the KMS may have another key under that name since: only another candidate shows whether all
/// nodes reach the same one now.
fn key_check_fails(snapshot: &Snapshot, trial: &Trial, stored: &StoredCandidate, turn: &mut Turn) -> bool {
    let failed = snapshot.servers.values().filter_map(|server| server.answer(&stored.hash)?.failure.as_ref());
    if trial.purpose != PreflightPurpose::NewKey || !failed.into_iter().any(|f| f.phase == "key-check") {
        return false;
    }
    let age = turn.since(snapshot, "key-check-failed", stored.hash.0.clone());
    turn.again_after(KEY_CHECK_PATIENCE.saturating_sub(age).max(Duration::from_secs(1)));
    age >= KEY_CHECK_PATIENCE
}

/// The nodes are asked in the same decision. Actions are carried out in order, so the Secret exists before
/// the first node reads about it.
fn write_candidate(
    snapshot: &Snapshot,
    trial: &Trial,
    turn: &mut Turn,
) -> BTreeMap<String, PreflightRequest> {
    let mut plugin = trial.record.clone();
    plugin.salt = Some(snapshot.fresh.salt.clone());
    let Some(hash) = plugin.digest(trial.key_id) else { return BTreeMap::new() };
    let names = asked(snapshot, trial.purpose);
    let requests = requests(trial, &hash, trial.key_check.as_ref(), &names, snapshot);
    let message = format!("writing the candidate for key {} ({})", trial.key_id, trial.purpose);
    // The failure of the previous candidate is not about this one.
    turn.degraded(DEGRADED, None);
    turn.condition(PROGRESSING, ConditionStatus::True, "RunningPreflightCheck", &message);
    turn.wait("PreflightRunning", message);
    turn.act(Action::RequirePreflight {
        candidate: Box::new(Candidate { key_id: trial.key_id, purpose: trial.purpose, plugin, hash }),
        resource_version: snapshot.candidate_version.clone(),
    });
    requests
}

/// One node first. When it has passed, and there is a key check to decrypt, the others follow, one more each
/// time all nodes that were asked have passed. A node that was asked stays asked while there is a key check.
fn requests(
    trial: &Trial,
    hash: &PluginDigest,
    key_check: Option<&KeyCheck>,
    names: &[&String],
    snapshot: &Snapshot,
) -> BTreeMap<String, PreflightRequest> {
    let asked = |name: &str| {
        let asked = snapshot.servers.get(name)?.agent.as_ref()?.spec.preflight.as_ref()?;
        (asked.hash == *hash).then_some(asked)
    };
    let without_key_check =
        names.iter().find(|name| asked(name).is_some_and(|asked| asked.key_check.is_none()));
    let asked_before = || names.iter().find(|name| asked(name).is_some());
    let first = without_key_check.or_else(asked_before).or(names.first()).copied();
    let passed = |name: &str| {
        let answer = snapshot.servers.get(name).and_then(|server| server.answer(hash));
        answer.is_some_and(|answer| answer.result == PreflightResult::Succeeded)
    };
    let mut asked_so_far = names.iter().filter(|name| asked(name).is_some() || Some(**name) == first);
    let next = if asked_so_far.all(|name| passed(name)) {
        names.iter().find(|name| asked(name).is_none() && Some(**name) != first).copied()
    } else {
        None
    };
    names
        .iter()
        .filter(|name| {
            let is_asked = asked(name).is_some() || Some(**name) == next;
            Some(**name) == first || key_check.is_some() && is_asked
        })
        .map(|name| {
            let makes_it = trial.purpose == PreflightPurpose::NewKey && Some(*name) == first;
            let request = PreflightRequest {
                key_id: trial.key_id,
                hash: hash.clone(),
                purpose: trial.purpose,
                key_check: if makes_it || trial.key_check.is_none() && Some(*name) == first {
                    None
                } else {
                    key_check.cloned()
                },
            };
            ((*name).clone(), request)
        })
        .collect()
}

/// The conditions: which node fails with what, and the provider module's diagnosis with its remedy.
fn report(snapshot: &Snapshot, trial: &Trial, stored: &StoredCandidate, names: &[&String], turn: &mut Turn) {
    let (mut failures, mut kinds) = (Vec::new(), BTreeSet::new());
    let mut reason = "PreflightCheckFailed";
    let mut waiting = Vec::new();
    for name in names {
        let Some(server) = snapshot.servers.get(*name) else { continue };
        match server.answer(&stored.hash) {
            Some(answer) if answer.result == PreflightResult::Succeeded => {}
            Some(PreflightAnswer { result, failure: Some(failure), .. })
                if *result == PreflightResult::Failed || diagnosed(snapshot, stored, failure).is_some() =>
            {
                if failure.phase == "key-check" {
                    reason = "KEKMismatch";
                }
                failures.push(format!("node {name}: {}", explain(snapshot, stored, failure)));
                let cause = diagnosed(snapshot, stored, failure).map(|found| found.cause.clone());
                kinds.insert(cause.unwrap_or_else(|| diagnosis::kind(failure)));
            }
            _ => match blocks_answer(server, &stored.hash) {
                Some(error) => {
                    failures.push(format!("node {name}: {}: {}", error.reason, error.message));
                    kinds.insert(error.reason.clone());
                }
                None => waiting.push(name.as_str()),
            },
        }
    }
    let what = format!("preflight of key {} ({})", trial.key_id, trial.purpose);
    let failed = (!failures.is_empty()).then(|| format!("{what}: {}", failures.join("; ")));
    let mut message = if failures.is_empty() {
        format!("{what}: waiting for node {}", waiting.join(", "))
    } else {
        format!("{what}: {}", failures.join("; "))
    };
    if !trial.queued.is_empty() {
        let queued = trial.queued.iter().map(|(id, purpose)| format!("key {id} ({purpose})"));
        message = format!("{message}; next: {}", queued.collect::<Vec<_>>().join(", "));
    }
    let done = failures.is_empty() && waiting.is_empty();
    if !done {
        turn.wait(if failures.is_empty() { "PreflightRunning" } else { reason }, message.clone());
    }
    match failed {
        Some(message) => {
            // The words may differ at each attempt.
            let kinds = kinds.into_iter().collect::<Vec<_>>().join("; ");
            turn.degraded_by(DEGRADED, reason, format!("{what}: {kinds}"), &message);
        }
        None => turn.degraded(DEGRADED, None),
    }
    if done {
        turn.condition(PROGRESSING, ConditionStatus::False, "AsExpected", "");
    } else {
        turn.condition(PROGRESSING, ConditionStatus::True, "RunningPreflightCheck", &message);
    }
}

/// Why a node that was asked cannot answer, for example because its disk is full. Its other problems, such as
/// the plugin that the candidate is to replace, are not about the candidate.
fn blocks_answer<'a>(server: &'a ServerView, hash: &PluginDigest) -> Option<&'a NodeError> {
    let asked = server.agent.as_ref()?.spec.preflight.as_ref()?;
    let error = server.status()?.error.as_ref()?;
    (asked.hash == *hash && ["StepFailed", "NodeNotPrepared"].contains(&error.reason.as_str()))
        .then_some(error)
}

/// A failure in words, with the provider module's diagnosis if there is one.
fn explain(snapshot: &Snapshot, stored: &StoredCandidate, failure: &Failure) -> String {
    match diagnosed(snapshot, stored, failure) {
        Some(found) => diagnosis::diagnosed(found, failure).to_string(),
        None => diagnosis::seen(failure),
    }
}

/// The provider module's diagnosis. A trial that is not over counts as failing only if there is a diagnosis:
/// otherwise it may just be slow.
fn diagnosed<'s>(
    snapshot: &'s Snapshot,
    stored: &StoredCandidate,
    failure: &Failure,
) -> Option<&'s Diagnosis> {
    diagnosis::of(snapshot, Some(stored.request(snapshot.wanted.kms.as_ref())), failure)
}

/// Every node passed: the key secret is created, or updated, from exactly the candidate's bytes.
fn accept(snapshot: &Snapshot, trial: Trial, stored: &StoredCandidate, key_check: KeyCheck, turn: &mut Turn) {
    let Some(template) = stored.plugin.accepted.as_ref().map(|accepted| &accepted.template) else { return };
    let kms = KmsKey {
        provider: record::provider(snapshot, trial.key_id, template),
        plugin: stored.plugin.clone(),
        key_check: Some(key_check),
    };
    let passed = format!("every node passed the preflight of key {}", trial.key_id);
    done(snapshot, trial.key_id, trial.then, kms, &passed, turn);
}

/// What follows when a candidate has passed.
pub(super) fn done(snapshot: &Snapshot, id: KeyId, then: Then, kms: KmsKey, passed: &str, turn: &mut Turn) {
    match (then, snapshot.key(id)) {
        (Then::Create { reason }, None) => {
            let material = SecretBytes::new(NULL_KEY.to_vec());
            let key = KeySecret::new(id, Mode::Kms, material, Some(kms), reason);
            turn.explain(passed);
            key::create(snapshot, key, turn);
        }
        (Then::Update { fields }, Some(old)) => {
            let key = Box::new(KeySecret { kms: Some(Arc::new(kms)), ..old.clone() });
            turn.explain(format!("key {} is updated in place: {}", old.id, fields.join(", ")));
            turn.act(Action::UpdateKey { key, fields });
        }
        (Then::Sync { objects }, Some(old)) => {
            let key = Box::new(KeySecret { kms: Some(Arc::new(kms)), ..old.clone() });
            turn.explain(format!("key {} gets new data from {}", old.id, objects.join(", ")));
            turn.act(Action::SyncData { key, objects });
        }
        _ => {}
    }
}
