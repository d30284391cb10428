//! When is a new key made? CONTRACT 3.1. What is updated in place is in `in_place.rs`, which key is given up for another
//! in `abandon.rs`.

use std::time::Duration;

use super::record::{self, Trouble, Wanted};
use super::{Deployed, Deployment, Turn, abandon, in_place, preflight_status};
use crate::SecretBytes;
use crate::api::{Canary, PreflightPurpose, PreflightResult};
use crate::effect::{self, MODE_CHANGED, PROVIDER_CHANGED};
use crate::formats::key_secret::{KeySecret, NULL_KEY};
use crate::formats::revision::PluginRecord;
use crate::ids::{GroupResource, KeyId, Mode};
use crate::machine::{self, History, Key};
use crate::outcome::Action;
use crate::provider::{Effect, Failure, Origin};
use crate::snapshot::{Snapshot, StoredCandidate};

/// CONTRACT 3.1, row 12.
const ROTATION_INTERVAL: Duration = Duration::from_hours(168);
/// Of CONTRACT 3.1's reasons those for which a key is not even completed. Age and a wish to re-encrypt can wait.
const SUPERSEDES: [&str; 2] = [MODE_CHANGED, PROVIDER_CHANGED];
const AGED: &str = "rotation-interval-has-passed";
/// A trial that has failed for so long lets the others have their turn.
const PATIENCE: Duration = Duration::from_mins(2);
/// The same where it may be the login that is refused. Each turn starts a plugin anew, so that a node's own pauses begin anew
/// too ([`crate::node::Policy::trial_first`]). A KMS that counts refused logins of a role forgets them a quarter of an hour
/// after the last one, and locks out at the fifth: with turns of this length they come to four at the most.
pub(crate) const LOGIN_PATIENCE: Duration = Duration::from_mins(30);
/// Since when the candidate fails.
const FAILED: &str = "preflight-failed";

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
    /// What is tried after it, where it keeps failing.
    pub(super) queued: Vec<(KeyId, PreflightPurpose)>,
}

/// What becomes of a candidate that passes.
pub(super) enum Then {
    Create { reason: String },
    Update { fields: Vec<String> },
    Sync { objects: Vec<String> },
}

impl Trial {
    /// Whether this is what the candidate tries.
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
) -> Wish {
    const CONDITION: &str = "EncryptionKeyControllerDegraded";
    still_failing(snapshot, turn);
    if matches!(deployment, Deployment::Blocked) {
        return Wish::Hold;
    }
    // An object that a restore brought back may be changed by the next action, and its number be named no more.
    if snapshot.recorded_key < snapshot.named_key {
        turn.act(Action::RecordHighWater {
            key_id: snapshot.named_key,
            revision: snapshot.recorded_revision,
        });
    }
    let undecodable = snapshot.undecodable.iter().map(|(name, error)| {
        Trouble::Wrong(format!(
            "key secret {name} is not used: {error}; mend it, or delete it if nothing is stored under its key"
        ))
    });
    let excess = snapshot.excess.iter().map(|excess| Trouble::Wrong(excess.to_string()));
    let mut trouble: Vec<Trouble> = undecodable.chain(excess).collect();
    let wish = decided(snapshot, deployment, deployed, &mut trouble, turn);
    let told: Vec<&str> = trouble.iter().map(Trouble::told).collect();
    turn.degraded(CONDITION, (!told.is_empty()).then(|| ("Error", told.join("; "))));
    wish
}

fn decided(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    deployed: &Deployed<'_>,
    trouble: &mut Vec<Trouble>,
    turn: &mut Turn,
) -> Wish {
    let mode = match mode(snapshot) {
        Ok(mode) => Some(mode),
        Err(why) => {
            trouble.push(Trouble::Wrong(why));
            None
        }
    };
    if mode == Some(Mode::Identity) && matches!(deployment, Deployment::Nothing) && snapshot.keys.is_empty() {
        return Wish::Nothing; // CONTRACT 3.1, 3
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
    // Keys in use come first: reads depend on them (Decisions 2).
    let mut trials = in_place::trials(snapshot, deployed, desired.as_ref(), trouble);

    if let Some((older, newest)) = abandon::overtaken(snapshot) {
        abandon::abandon(snapshot, older, &format!("key {} was made at the same time", newest.id), turn);
        return Wish::Hold;
    }
    if let Some(mode) = mode
        && let Some(key) = abandon::newest(snapshot)
        && let Ok(Some(reason)) = change(snapshot, &Key::of(key), mode, desired.as_ref())
        && SUPERSEDES.contains(&reason.as_str())
    {
        abandon::abandon(snapshot, key, &reason, turn);
        return Wish::Hold;
    }
    if let Some(refused) = abandon::refused(snapshot, deployed, turn) {
        if refused.is_over {
            abandon::abandon(snapshot, refused.key, "its canary is refused", turn);
            return Wish::Hold;
        }
        trouble.push(Trouble::Wrong(refused.told));
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
                        return Wish::Nothing;
                    }
                    (Ok(id), now) => trials.extend(now.map(|now| new_key(id, now.record, reason))),
                }
            }
        }
    }
    choose(snapshot, trials, trouble, turn)
}

/// A new key only from a converged state: at most one is in transition (S6). Where the writer was given up in the middle
/// of a rollout, and no key may take over, none is, and where its plugin is dead that rollout never ends.
fn may_begin(snapshot: &Snapshot, deployment: &Deployment<'_>, deployed: &Deployed<'_>) -> bool {
    let without_heir = || {
        let writers = deployed
            .state
            .iter()
            .flat_map(|state| state.resources.values().filter_map(|keys| state.key(keys.write?)));
        let mut given_up =
            writers.filter(|key| key.mode == Mode::Kms && snapshot.wanted.forget.contains(&key.id));
        given_up.any(|writer| {
            !deployed.backed.iter().any(|key| machine::may_take_over(key, writer.id, &deployed.facts))
        })
    };
    let rolling = matches!(deployment, Deployment::Rolling { .. });
    // One that is refused is on its way all the same; it is abandoned first.
    deployment.is_converged() || rolling && abandon::newest(snapshot).is_none() && without_heir()
}

/// The mode, where the spec has no mistake.
fn mode(snapshot: &Snapshot) -> Result<Mode, String> {
    let wanted = &snapshot.wanted;
    if !wanted.mistakes.is_empty() {
        return Err(wanted.mistakes.join("; "));
    }
    wanted.mode.clone().map_err(|mode| Mode::unknown(&mode))
}

/// The number of the key that is to be made. A candidate that passed, and whose key secret could not be made, keeps its own.
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
        format!("no number is left for another key: an object names key {}", snapshot.highest_key)
    })
}

fn new_key(key_id: KeyId, record: PluginRecord, reason: String) -> Trial {
    Trial {
        key_id,
        purpose: PreflightPurpose::NewKey,
        record,
        canary: None,
        then: Then::Create { reason },
        queued: Vec::new(),
    }
}

/// One trial at a time. The one under way goes on; where it keeps failing, the others get their turn, so that a new key
/// that cannot be had does not keep credentials of keys in use from being followed, nor the other way round.
fn choose(snapshot: &Snapshot, mut trials: Vec<Trial>, trouble: &[Trouble], turn: &mut Turn) -> Wish {
    preflight_status::failed_last(snapshot, &mut trials);
    let candidate = snapshot.candidate.as_ref().and_then(|candidate| candidate.as_ref().ok());
    let under_way = candidate.and_then(|candidate| trials.iter().position(|trial| trial.is(candidate)));
    let unknown = trouble.iter().any(|trouble| matches!(trouble, Trouble::Unknown(_)));
    let index = match (candidate, under_way) {
        (Some(candidate), Some(at)) if has_failed_for_long(snapshot, candidate, turn) => {
            at.saturating_add(1).checked_rem(trials.len()).unwrap_or(0)
        }
        (_, Some(at)) => at,
        // What it tries cannot be seen now: that is no reason to stop it (S7).
        (Some(candidate), None) if unknown && trials.iter().all(|t| t.key_id != candidate.key_id) => {
            return Wish::Hold;
        }
        // What it is to become has been changed meanwhile: that is tried at once (Decisions 3).
        (Some(candidate), None) => {
            trials.iter().position(|trial| trial.key_id == candidate.key_id).unwrap_or(0)
        }
        (None, _) => 0,
    };
    if index >= trials.len() {
        return Wish::Nothing;
    }
    trials.rotate_left(index);
    let queued = trials.iter().skip(1).map(|trial| (trial.key_id, trial.purpose)).collect();
    Wish::Try(Box::new(Trial { queued, ..trials.swap_remove(0) }))
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

/// That the candidate fails is not forgotten while it is tried again, nor where nothing can be decided for a moment.
fn still_failing(snapshot: &Snapshot, turn: &mut Turn) {
    if let Some(Ok(candidate)) = &snapshot.candidate
        && snapshot.ages.get(FAILED).is_some_and(|age| age.value == candidate.hash.0)
    {
        turn.since(snapshot, FAILED, candidate.hash.0.clone());
    }
}

/// CONTRACT 3.1, 5: the first match wins, for each resource. The reason as CONTRACT 3.1, 6 writes it.
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
        // Row 1. One that exists is added by the next revision; before that, others may have to leave (`Step::Dropped`).
        let lacks = mode != Mode::Identity && deployed.newest().is_none();
        return Ok(lacks.then(|| "key-does-not-exist".to_owned()));
    };
    if snapshot
        .key(latest.id)
        .map_or_else(|| snapshot.wanted.forget.contains(&latest.id), |secret| snapshot.is_given_up(secret))
    {
        // Decisions 15: its provider cannot leave before another key can write. A newer one that exists is added by the next
        // revision, as in row 1.
        let lacks = deployed.newest().is_none_or(|newest| newest.id < latest.id);
        return Ok(lacks.then(|| format!("encryption-config-key-{}-forgotten", latest.id)));
    }
    if !latest.backed {
        return Ok(Some(format!("encryption-config-key-{}-not-backed-by-secret", latest.id))); // row 3
    }
    let change = change(snapshot, latest, mode, now)?;
    // Row 4 holds while read keys leave as CONTRACT 2.3 says. KMS keys that wait for etcd's history need nothing any more,
    // and row 5 says what is under way.
    let counted = deployed.facts.history == History::Untold;
    if counted && state.read_keys(resource).filter(|key| key.backed).count() > 2
        || !deployed.covered(snapshot).all(|target| latest.migrated.contains(target))
    {
        // Rows 4 and 5: one transition at a time.
        // A key that is still on its way has no age yet: that is nothing to wait for.
        if let Some(reason) = change.filter(|reason| reason != AGED) {
            turn.wait_behind(
                "KeyInTransition",
                format!("a new key ({reason}) waits until key {} has finished its transition", latest.id),
            );
        }
        return Ok(None);
    }
    Ok(change)
}

/// Rows 6 to 12: what about the latest key is not as it should be. But for its age that is [`effect::new_key`]'s, which
/// `plan` shows.
fn change(
    snapshot: &Snapshot,
    latest: &Key,
    mode: Mode,
    now: Option<&Wanted<'_>>,
) -> Result<Option<String>, String> {
    let kek = match (latest.mode, mode) {
        (Mode::Kms, Mode::Kms) => {
            let Some(stored) = &latest.kms else {
                // row 8
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
    // A key whose secret is not there was made for a token that nobody knows.
    let external = &snapshot.wanted.external_reason;
    let made_for = secret.map_or(external, |secret| &secret.external_reason);
    if let Some(reason) = effect::new_key((latest.mode, mode), kek, (made_for, external)) {
        return Ok(Some(reason.to_owned()));
    }
    let age = secret.and_then(|secret| secret.migrated_at).map(|at| snapshot.now.duration_since(at));
    let old = age.is_none_or(|age| Duration::try_from(age).is_ok_and(|age| age > ROTATION_INTERVAL));
    Ok((mode.is_local() && old).then(|| AGED.to_owned())) // row 12
}

/// Row 9. Another provider's type is told apart without the module of the one before, which may be gone. Another version of
/// the same KEK is in place, and once the API servers have adopted it `rotation.rs` has everything re-encrypted.
fn kek(
    snapshot: &Snapshot,
    latest: &Key,
    stored: &serde_json::Value,
    now: &Wanted<'_>,
) -> Result<Effect, String> {
    if stored.get("type") != now.record.kms.get("type") {
        return Ok(Effect::NewKey);
    }
    // A stored configuration that the module cannot read is a fact, and no reason for a new key.
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

/// The high-water mark first (S5), then the key.
pub(super) fn create(snapshot: &Snapshot, mut key: KeySecret, turn: &mut Turn) {
    key.external_reason.clone_from(&snapshot.wanted.external_reason);
    // OpenShift has no place for the mark: S5 comes from the objects there.
    if snapshot.recorded_key < key.id && snapshot.openshift().is_none() {
        turn.act(Action::RecordHighWater { key_id: key.id, revision: snapshot.recorded_revision });
    }
    turn.act(Action::CreateKey { key: Box::new(key) });
}
