//! When is a new key made (openshift: when-a-new-key-is-made)? Updates in place are decided in `in_place.rs`,
//! and in `abandon.rs` which key is abandoned for another.

use std::time::Duration;

use super::record::{self, Trouble, Wanted};
use super::{Deployed, Deployment, Turn, abandon, in_place, preflight_status};
use crate::SecretBytes;
use crate::api::{KeyCheck, PreflightPurpose, PreflightResult};
use crate::effect::{self, MODE_CHANGED, PROVIDER_CHANGED};
use crate::formats::key_secret::{KeySecret, NULL_KEY};
use crate::formats::revision::PluginRecord;
use crate::ids::{GroupResource, KeyId, Mode};
use crate::machine::{self, EtcdHistory, Key};
use crate::outcome::Action;
use crate::provider::{Effect, Failure, Origin};
use crate::snapshot::{Snapshot, StoredCandidate};

/// A local key is replaced when it is older than this (openshift: local-keys-rotate-weekly).
const ROTATION_INTERVAL: Duration = Duration::from_hours(168);
/// The reasons for which a key in transition is replaced before it is complete (openshift: mode-changed,
/// openshift: provider-changed). Age and a request to re-encrypt can wait.
const SUPERSEDES: [&str; 2] = [MODE_CHANGED, PROVIDER_CHANGED];
const AGED: &str = "rotation-interval-has-passed";
/// A trial that has failed for this long lets the others have their turn.
const PATIENCE: Duration = Duration::from_mins(2);
/// The same, if the login may be what fails. Each turn starts a plugin again, so the node's own pauses begin
/// again too ([`crate::node::Policy::trial_first`]). A KMS that counts refused logins of a role forgets them
/// a quarter of an hour after the last one, and locks the role at the fifth. With turns of this length there
/// are four at most.
pub(crate) const LOGIN_PATIENCE: Duration = Duration::from_mins(30);
/// The fact whose age is how long the candidate has failed.
const FAILED: &str = "preflight-failed";

/// What the preflight has to try.
pub(super) enum NextTrial {
    /// Nothing can be decided: a trial under way continues.
    Hold,
    /// There is nothing to try.
    Nothing,
    /// This is tried, and its `then` follows when it has passed.
    Try(Box<Trial>),
}

/// A candidate, and what follows when it passes.
pub(super) struct Trial {
    pub(super) key_id: KeyId,
    pub(super) purpose: PreflightPurpose,
    /// Without a salt.
    pub(super) record: PluginRecord,
    /// What it must decrypt; absent for a new key.
    pub(super) key_check: Option<KeyCheck>,
    pub(super) then: Then,
    /// What is tried after it, if it keeps failing.
    pub(super) queued: Vec<(KeyId, PreflightPurpose)>,
}

/// What follows when a candidate passes.
pub(super) enum Then {
    Create { reason: String },
    Update { fields: Vec<String> },
    Sync { objects: Vec<String> },
}

impl Trial {
    /// Whether the stored candidate is for this trial.
    pub(super) fn is(&self, candidate: &StoredCandidate) -> bool {
        candidate.key_id == self.key_id && candidate.plugin.runs_the_same(&self.record)
    }
}

/// The key controller.
pub(super) fn decide(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    deployed: &Deployed<'_>,
    turn: &mut Turn,
) -> NextTrial {
    const CONDITION: &str = "EncryptionKeyControllerDegraded";
    still_failing(snapshot, turn);
    if matches!(deployment, Deployment::Blocked) {
        return NextTrial::Hold;
    }
    // The next action may change a restored object, after which nothing names its number any more.
    if snapshot.recorded_key < snapshot.named_key {
        turn.act(Action::RecordHighWater {
            key_id: snapshot.named_key,
            revision: snapshot.recorded_revision,
        });
    }
    let undecodable = snapshot.undecodable.iter().map(|(name, error)| {
        Trouble::Wrong(format!(
            "key secret {name} is not used: {error}; fix it, or delete it if nothing is stored under its key"
        ))
    });
    let excess = snapshot.excess.iter().map(|excess| Trouble::Wrong(excess.to_string()));
    let mut trouble: Vec<Trouble> = undecodable.chain(excess).collect();
    let next = decided(snapshot, deployment, deployed, &mut trouble, turn);
    let messages: Vec<&str> = trouble.iter().map(Trouble::message).collect();
    turn.degraded(CONDITION, (!messages.is_empty()).then(|| ("Error", messages.join("; "))));
    next
}

fn decided(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    deployed: &Deployed<'_>,
    trouble: &mut Vec<Trouble>,
    turn: &mut Turn,
) -> NextTrial {
    let mode = match mode(snapshot) {
        Ok(mode) => Some(mode),
        Err(why) => {
            trouble.push(Trouble::Wrong(why));
            None
        }
    };
    if mode == Some(Mode::Identity) && matches!(deployment, Deployment::Nothing) && snapshot.keys.is_empty() {
        return NextTrial::Nothing; // (openshift: no-identity-key-without-encryption)
    }
    let desired = match (mode, &snapshot.wanted.kms) {
        (Some(Mode::Kms), Some(kms)) => match record::wanted(snapshot, Origin::Desired, kms) {
            Ok(now) => Some(now),
            Err(why) => {
                trouble.push(why.within("failed to create key"));
                None
            }
        },
        _ => None,
    };
    // Keys in use come first, since reads depend on them (decision 0036).
    let mut trials = in_place::trials(snapshot, deployed, desired.as_ref(), trouble);

    if let Some((older, newest)) = abandon::overtaken(snapshot) {
        abandon::abandon(snapshot, older, &format!("key {} was created at the same time", newest.id), turn);
        return NextTrial::Hold;
    }
    if let Some(mode) = mode
        && let Some(key) = abandon::newest(snapshot)
        && let Ok(Some(reason)) = change(snapshot, &Key::of(key), mode, desired.as_ref())
        && SUPERSEDES.contains(&reason.as_str())
    {
        abandon::abandon(snapshot, key, &reason, turn);
        return NextTrial::Hold;
    }
    if let Some(refused) = abandon::refused(snapshot, deployed, turn) {
        if refused.is_over {
            abandon::abandon(snapshot, refused.key, "its key check is refused", turn);
            return NextTrial::Hold;
        }
        trouble.push(Trouble::Wrong(refused.message));
    }
    if let Some(mode) = mode.filter(|_| may_begin(snapshot, deployment, deployed)) {
        match needs_new_key(snapshot, deployed, mode, desired.as_ref(), turn) {
            Err(why) => trouble.push(Trouble::Wrong(why)),
            Ok(None) => {}
            Ok(Some(reason)) => {
                turn.explain(format!("a new key is needed: {reason}"));
                match (number(snapshot, desired.as_ref()), desired) {
                    (Err(why), _) => trouble.push(Trouble::Wrong(why)),
                    (Ok(id), _) if mode != Mode::Kms => {
                        create_local(snapshot, id, mode, reason, turn);
                        return NextTrial::Nothing;
                    }
                    (Ok(id), now) => trials.extend(now.map(|now| new_key(id, now.record, reason))),
                }
            }
        }
    }
    choose(snapshot, trials, trouble, turn)
}

/// A new key is made only from a converged state, since at most one key is in transition
/// (invariant: one-transition). The exception is a writer that was forgotten in the middle of a rollout and
/// that no other key may replace: no key is in transition then, and if the writer's plugin is dead, that
/// rollout never ends (objects: between-revisions).
fn may_begin(snapshot: &Snapshot, deployment: &Deployment<'_>, deployed: &Deployed<'_>) -> bool {
    let without_successor = || {
        let writers = deployed
            .state
            .iter()
            .flat_map(|state| state.resources.values().filter_map(|keys| state.key(keys.write?)));
        let mut forgotten =
            writers.filter(|key| key.mode == Mode::Kms && snapshot.wanted.forget.contains(&key.id));
        forgotten.any(|writer| {
            !deployed.backed.iter().any(|key| machine::may_replace_writer(key, writer.id, &deployed.facts))
        })
    };
    let rolling = matches!(deployment, Deployment::Rolling { .. });
    // A refused key is in transition as well; it is abandoned first.
    deployment.is_converged() || rolling && abandon::newest(snapshot).is_none() && without_successor()
}

/// The mode, if the spec has no mistake.
fn mode(snapshot: &Snapshot) -> Result<Mode, String> {
    let wanted = &snapshot.wanted;
    if !wanted.mistakes.is_empty() {
        return Err(wanted.mistakes.join("; "));
    }
    wanted.mode.clone().map_err(|mode| Mode::unknown(&mode))
}

/// The number of the next key. A candidate that passed, and whose key secret could not be created, keeps its
/// number.
fn number(snapshot: &Snapshot, desired: Option<&Wanted<'_>>) -> Result<KeyId, String> {
    let again = match (&snapshot.candidate, snapshot.retry_key, desired) {
        (Some(Ok(candidate)), Some(id), Some(now))
            if candidate.key_id == id && candidate.plugin.runs_the_same(&now.record) =>
        {
            Some(id)
        }
        _ => None,
    };
    again.or_else(|| snapshot.next_key()).ok_or_else(|| {
        format!("no key number is left: an object already uses key number {}", snapshot.highest_key)
    })
}

fn new_key(key_id: KeyId, record: PluginRecord, reason: String) -> Trial {
    Trial {
        key_id,
        purpose: PreflightPurpose::NewKey,
        record,
        key_check: None,
        then: Then::Create { reason },
        queued: Vec::new(),
    }
}

/// Selects one trial (decision 0036). The one under way continues. If it keeps failing, the others have their
/// turn, so that a new key that cannot be created does not keep newer credentials from keys in use, and the
/// other way round.
fn choose(snapshot: &Snapshot, mut trials: Vec<Trial>, trouble: &[Trouble], turn: &mut Turn) -> NextTrial {
    preflight_status::failed_last(snapshot, &mut trials);
    let candidate = snapshot.candidate.as_ref().and_then(|candidate| candidate.as_ref().ok());
    let under_way = candidate.and_then(|candidate| trials.iter().position(|trial| trial.is(candidate)));
    let unknown = trouble.iter().any(|trouble| matches!(trouble, Trouble::Unknown(_)));
    let index = match (candidate, under_way) {
        (Some(candidate), Some(at)) if has_failed_for_long(snapshot, candidate, turn) => {
            at.saturating_add(1).checked_rem(trials.len()).unwrap_or(0)
        }
        (_, Some(at)) => at,
        // It is not known what the candidate tries, which is no reason to stop it
        // (invariant: unknown-is-not-absent).
        (Some(candidate), None) if unknown && trials.iter().all(|t| t.key_id != candidate.key_id) => {
            return NextTrial::Hold;
        }
        // The content of its key has changed meanwhile, and is tried at once (decision 0003).
        (Some(candidate), None) => {
            trials.iter().position(|trial| trial.key_id == candidate.key_id).unwrap_or(0)
        }
        (None, _) => 0,
    };
    if index >= trials.len() {
        return NextTrial::Nothing;
    }
    trials.rotate_left(index);
    let queued = trials.iter().skip(1).map(|trial| (trial.key_id, trial.purpose)).collect();
    NextTrial::Try(Box::new(Trial { queued, ..trials.swap_remove(0) }))
}

fn has_failed_for_long(snapshot: &Snapshot, candidate: &StoredCandidate, turn: &mut Turn) -> bool {
    let answers = snapshot.servers.values().filter_map(|server| server.answer(&candidate.hash));
    let failed: Vec<_> = answers.filter(|answer| answer.result == PreflightResult::Failed).collect();
    if failed.is_empty() {
        return false;
    }
    let logged_in = failed.iter().all(|answer| answer.failure.as_ref().is_some_and(Failure::is_after_status));
    let patience = if logged_in { PATIENCE } else { LOGIN_PATIENCE };
    let age = turn.since(snapshot, FAILED, candidate.hash.0.clone());
    if age < patience {
        turn.again_after(patience.saturating_sub(age));
    }
    age >= patience
}

/// Keeps the fact that the candidate fails, while it is tried again and while nothing can be decided.
fn still_failing(snapshot: &Snapshot, turn: &mut Turn) {
    if let Some(Ok(candidate)) = &snapshot.candidate
        && snapshot.ages.get(FAILED).is_some_and(|age| age.value == candidate.hash.0)
    {
        turn.since(snapshot, FAILED, candidate.hash.0.clone());
    }
}

/// Why a new key is needed: for each resource the first reason that holds
/// (openshift: when-a-new-key-is-made), as one text (openshift: key-reason-text).
fn needs_new_key(
    snapshot: &Snapshot,
    deployed: &Deployed<'_>,
    mode: Mode,
    now: Option<&Wanted<'_>>,
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
    now: Option<&Wanted<'_>>,
    turn: &mut Turn,
) -> Result<Option<String>, String> {
    let state = &deployed.desired.state;
    let Some(latest) = state.read_keys(resource).next() else {
        // No read key (openshift: key-does-not-exist). A key that exists is added by the next revision;
        // others may have to leave before (`Step::Dropped`).
        let lacks = mode != Mode::Identity && deployed.newest().is_none();
        return Ok(lacks.then(|| "key-does-not-exist".to_owned()));
    };
    if snapshot
        .key(latest.id)
        .map_or_else(|| snapshot.wanted.forget.contains(&latest.id), |secret| snapshot.is_forgotten(secret))
    {
        // The provider of a forgotten writer cannot leave before another key can write
        // (openshift: key-is-forgotten, decision 0039). A newer key that exists is added by the next
        // revision.
        let lacks = deployed.newest().is_none_or(|newest| newest.id < latest.id);
        return Ok(lacks.then(|| format!("encryption-config-key-{}-forgotten", latest.id)));
    }
    if !latest.backed {
        // (openshift: key-is-not-backed)
        return Ok(Some(format!("encryption-config-key-{}-not-backed-by-secret", latest.id)));
    }
    let change = change(snapshot, latest, mode, now)?;
    // The limit of two read keys (openshift: no-third-key) holds only where one predecessor stays
    // (openshift: one-predecessor-stays). On plain Kubernetes KMS keys that wait for etcd's history need
    // nothing any more, and the second check shows what is in transition.
    let counted = deployed.facts.history == EtcdHistory::NotTracked;
    if counted && state.read_keys(resource).filter(|key| key.backed).count() > 2
        || !deployed.covered(snapshot).all(|target| latest.migrated.contains(target))
    {
        // One transition at a time (openshift: one-transition-at-a-time). A key in transition has no age yet,
        // so nothing waits for its rotation.
        if let Some(reason) = change.filter(|reason| reason != AGED) {
            turn.wait_behind(
                "KeyInTransition",
                format!("a new key ({reason}) waits until key {} is migrated", latest.id),
            );
        }
        return Ok(None);
    }
    Ok(change)
}

/// Why the latest key is not as the spec asks (openshift: mode-changed, openshift: provider-changed,
/// openshift: external-reason-changed, openshift: local-keys-rotate-weekly). Except for the key's age
/// [`effect::new_key`] decides, which `plan` uses too.
fn change(
    snapshot: &Snapshot,
    latest: &Key,
    mode: Mode,
    now: Option<&Wanted<'_>>,
) -> Result<Option<String>, String> {
    let kek = match (latest.mode, mode) {
        (Mode::Kms, Mode::Kms) => {
            let Some(stored) = &latest.kms else {
                // (openshift: kms-key-without-state)
                return Err(format!(
                    "KMS-mode key \"{}\" has nil KMS state, possibly corrupted key secret",
                    latest.id
                ));
            };
            let Some(now) = now else { return Ok(None) };
            Some(kek(snapshot, latest, &stored.plugin.kms, now)?)
        }
        _ => None,
    };
    let secret = snapshot.key(latest.id);
    // It is not known for which token a key without a secret was made.
    let external = &snapshot.wanted.external_reason;
    let made_for = secret.map_or(external, |secret| &secret.external_reason);
    if let Some(reason) = effect::new_key((latest.mode, mode), kek, (made_for, external)) {
        return Ok(Some(reason.to_owned()));
    }
    let age = secret.and_then(|secret| secret.migrated_at).map(|at| snapshot.now.duration_since(at));
    let old = age.is_none_or(|age| Duration::try_from(age).is_ok_and(|age| age > ROTATION_INTERVAL));
    Ok((mode.is_local() && old).then(|| AGED.to_owned()))
}

/// The effect on the KEK (openshift: provider-changed, openshift: provider-instance). Another provider type
/// needs no evaluation by the previous module, which may be gone. Another version of the same KEK is an
/// update in place; when the API servers have adopted it, `rotation.rs` re-encrypts everything.
fn kek(
    snapshot: &Snapshot,
    latest: &Key,
    stored: &serde_json::Value,
    now: &Wanted<'_>,
) -> Result<Effect, String> {
    if stored.get("type") != now.record.kms.get("type") {
        return Ok(Effect::NewKey);
    }
    // A stored configuration that the module cannot read is no reason for a new key
    // (invariant: unknown-is-not-absent).
    let before = snapshot
        .evaluation(Origin::Stored, stored)
        .map_err(|error| format!("the configuration of key {}: {error}", latest.id))?;
    Ok(effect::total(before, now.evaluation))
}

/// Identity and local keys need no preflight.
fn create_local(snapshot: &Snapshot, id: KeyId, mode: Mode, reason: String, turn: &mut Turn) {
    let material =
        if mode.is_local() { snapshot.fresh.key.clone() } else { SecretBytes::new(NULL_KEY.to_vec()) };
    create(snapshot, KeySecret::new(id, mode, material, None, reason), turn);
}

/// Records the high-water mark first, then creates the key (invariant: one-number-one-kek).
pub(super) fn create(snapshot: &Snapshot, mut key: KeySecret, turn: &mut Turn) {
    key.external_reason.clone_from(&snapshot.wanted.external_reason);
    // OpenShift has no field for the mark; there the objects themselves show which numbers are used.
    if snapshot.recorded_key < key.id && snapshot.openshift().is_none() {
        turn.act(Action::RecordHighWater { key_id: key.id, revision: snapshot.recorded_revision });
    }
    turn.act(Action::CreateKey { key: Box::new(key) });
}
