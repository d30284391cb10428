//! Which revision comes next: CONTRACT 2.3 and 3.2 on a converged state, OBJECTS.md's exceptions between revisions.

use std::collections::BTreeSet;

use super::{Deployed, Deployment, Turn, forget, health, lost, managed};
use crate::formats::key_secret::KeySecret;
use crate::formats::revision::RevisionContent;
use crate::ids::{GroupResource, KeyId, Mode, Revision};
use crate::machine::{self, State, Step};
use crate::outcome::Action;
use crate::snapshot::Snapshot;

const DEGRADED: &str = "EncryptionStateControllerDegraded";

/// The state controller. Answers whether what is deployed is what should be.
pub(super) fn decide(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    deployed: &Deployed<'_>,
    turn: &mut Turn,
) -> bool {
    let between;
    let next = match deployment {
        // CONTRACT 3: what cannot be judged leaves its condition as it is.
        Deployment::Blocked => return false,
        _ if turn.abandons => return false,
        // CONTRACT 3.2: no C and no key secrets, nothing to do.
        Deployment::Nothing if deployed.desired.step == Step::NoKeys => {
            turn.degraded(DEGRADED, None);
            return true;
        }
        Deployment::Nothing | Deployment::Converged { .. } if !deployed.left_behind => {
            &deployed.desired.state
        }
        // OBJECTS.md, "Between revisions": (a) the same lists with a key's new content; (b) without a key that was
        // abandoned; and without one that the admin gave up, else a dead provider blocks every reload for ever. Nothing
        // else may be decided. Nor where a newer revision is gone for good.
        _ => match &deployed.state {
            Some(state) => {
                let mut lists =
                    machine::without(state, &deployed.backed, &deployed.facts, &everywhere(snapshot));
                if deployed.left_behind {
                    lost::read_on(snapshot, snapshot.newest_revision(), &mut lists);
                }
                between = lists;
                &between
            }
            None => return false,
        },
    };
    turn.degraded(DEGRADED, None);
    let content = machine::encode(next, deployed.content);
    // One that is gone for good is left behind by another with a number above its own: what was claimed before holds no
    // longer then.
    if deployed.content.is_some_and(|old| is_same(old, &content)) && !deployed.left_behind {
        if let Some(openshift) = snapshot.openshift() {
            managed::restore(openshift, content, turn);
        }
        return deployment.is_converged();
    }
    let waits = deployment.is_converged() && !deployed.left_behind && !may_go_on(snapshot, deployed, turn);
    if waits {
        return false;
    }
    publish(snapshot, deployed, next, content, turn);
    false
}

/// As a revision of our own, or as OpenShift's desired configuration.
fn publish(
    snapshot: &Snapshot,
    deployed: &Deployed<'_>,
    next: &State,
    content: RevisionContent,
    turn: &mut Turn,
) {
    match snapshot.openshift() {
        Some(openshift) => managed::publish(snapshot, openshift, deployed, next, content, turn),
        None => apply(snapshot, deployed, next, content, turn),
    }
}

/// Which keys every API server reads a resource with while another revision is on its way: those of what was loaded
/// everywhere before, where that is still there and understood.
fn everywhere(snapshot: &Snapshot) -> impl Fn(&GroupResource, KeyId) -> bool {
    let before = snapshot.content(snapshot.last_converged);
    let before = before.and_then(|content| machine::decode(content, snapshot.usable()).ok());
    move |resource, id| {
        let keys = before.as_ref().and_then(|state| state.resources.get(resource));
        keys.is_some_and(|keys| keys.read.contains(&id))
    }
}

/// Health gates (Decisions 13), and what has to be written first.
fn may_go_on(snapshot: &Snapshot, deployed: &Deployed<'_>, turn: &mut Turn) -> bool {
    let Some(newest) = deployed.newest() else { return true };
    let mut needs: BTreeSet<KeyId> =
        [newest].iter().filter(|key| key.mode == Mode::Kms).map(|key| key.id).collect();
    let step = deployed.desired.step;
    let what = match step {
        Step::WriteKey => format!("making key {} the write key", newest.id),
        // One that runs nowhere yet has passed its preflight, and is all that there is.
        Step::Dropped => {
            needs = take_over(deployed).filter(|id| deployed.kms_keys().any(|key| key.id == *id)).collect();
            let heirs: Vec<String> = needs.iter().map(ToString::to_string).collect();
            format!(
                "key {} takes over from one that leaves, unless it is given up too; that",
                heirs.join(", ")
            )
        }
        // Other data, or another plugin, for keys that stay: what is unwell may be waiting for just that.
        Step::Settled if !takes_out(deployed) => return true,
        Step::Settled => "taking keys out that nothing needs any more".to_owned(),
        Step::Decrypt => return forget_migrated(snapshot, deployed, turn),
        _ => return true,
    };
    // Where nothing is deployed there is nothing that could be unwell.
    let gate = deployed.content.and_then(|content| health::gate(snapshot, content, &needs, &what));
    if let Some(why) = gate {
        turn.wait_above_all("PluginUnhealthy", why);
        data_ahead(snapshot, deployed, turn);
        return false;
    }
    true
}

/// Other data, or another plugin, for keys that stay, ahead of the step that waits for one that is unwell: it may be that it is
/// unwell for want of just that.
fn data_ahead(snapshot: &Snapshot, deployed: &Deployed<'_>, turn: &mut Turn) {
    let (Some(state), Some(old)) = (&deployed.state, deployed.content) else { return };
    let content = machine::encode(state, Some(old));
    if !is_same(old, &content) {
        publish(snapshot, deployed, state, content, turn);
    }
}

/// Whether some resource is not read with every key any more.
fn takes_out(deployed: &Deployed<'_>) -> bool {
    let desired = &deployed.desired.state.resources;
    deployed.state.iter().flat_map(|state| &state.resources).any(|(resource, keys)| {
        let stays = |id: &KeyId| desired.get(resource).is_some_and(|keys| keys.read.contains(id));
        !keys.read.iter().all(stays)
    })
}

/// Keys that become the writer of something.
fn take_over<'a>(deployed: &'a Deployed<'_>) -> impl Iterator<Item = KeyId> + 'a {
    let lists = deployed.desired.state.resources.iter();
    lists.filter_map(|(resource, keys)| keys.write.filter(|id| deployed.writer(resource) != Some(*id)))
}

/// Decisions 11: no key may claim a resource that is about to be written in plain text; should it come back to the list,
/// it is re-encrypted. One a turn and key: the second would depend on a resourceVersion that the first has moved on.
fn forget_migrated(snapshot: &Snapshot, deployed: &Deployed<'_>, turn: &mut Turn) -> bool {
    let wanted = &snapshot.wanted.resources;
    let left = |resource: &&GroupResource| {
        !wanted.contains(resource) && deployed.desired.state.resources.contains_key(resource)
    };
    let mut clean = true;
    for key in &snapshot.keys {
        let Some(resource) = key.migrated.iter().find(left).cloned() else { continue };
        clean = false;
        turn.explain(format!(
            "{resource} left the list and is about to be decrypted: key {} does not claim it",
            key.id
        ));
        let migrated = key.migrated.iter().filter(|other| **other != resource).cloned().collect();
        let key = Box::new(KeySecret { migrated, ..key.clone() });
        turn.act(Action::ForgetMigrated { resource, key });
    }
    clean
}

/// The same configuration, and the same would run.
pub(super) fn is_same(old: &RevisionContent, new: &RevisionContent) -> bool {
    old.config == new.config
        && old.plugins.len() == new.plugins.len()
        && old.plugins.iter().all(|(id, plugin)| {
            new.plugins.get(id).is_some_and(|other| plugin.salt == other.salt && plugin.runs_the_same(other))
        })
}

fn apply(
    snapshot: &Snapshot,
    deployed: &Deployed<'_>,
    next: &State,
    content: RevisionContent,
    turn: &mut Turn,
) {
    match forget::before_leaving(snapshot, deployed, next) {
        Ok(None) => {}
        Ok(Some(action)) => turn.act(action),
        Err(why) => return turn.wait_above_all("KeywardObjectsAtRisk", why),
    }
    let mut number = snapshot.next_revision(snapshot.highest_revision);
    if leaves_a_writer(deployed, next) {
        // A node that is off takes the number after its own for one that reads what it writes (`node/late.rs`).
        number = number.and_then(|revision| snapshot.next_revision(revision));
    }
    let Some(revision) = number else {
        let highest = snapshot.highest_revision;
        let message = format!("no number is left for another revision: an object names revision {highest}");
        return turn.degraded_too(DEGRADED, "Error", &message);
    };
    turn.explain(format!("revision {revision}: {}", why(deployed, next)));
    if snapshot.recorded_revision < revision || snapshot.recorded_key < snapshot.highest_key {
        turn.act(Action::RecordHighWater { key_id: snapshot.highest_key, revision });
    }
    // Publication is recorded before a revision may have the key first (Decisions 5); and again with each that makes it
    // the writer of something.
    for id in promoted(next) {
        let becomes = |(resource, keys): (&GroupResource, &machine::ResourceKeys)| {
            (keys.write == Some(id) && deployed.writer(resource) != Some(id)).then(|| resource.clone())
        };
        let becomes = next.resources.iter().filter_map(becomes).collect();
        record_publication(snapshot, id, revision, &becomes, turn);
    }
    turn.act(Action::ApplyConfig { revision, content: Box::new(content) });
}

/// Whether some resource is not read any more with the key that writes it: one that was given up.
fn leaves_a_writer(deployed: &Deployed<'_>, next: &State) -> bool {
    let Some(state) = &deployed.state else { return false };
    state.resources.iter().any(|(resource, keys)| {
        let reads = |id| next.resources.get(resource).is_some_and(|keys| keys.read.contains(&id));
        keys.write.is_some_and(|id| !reads(id))
    })
}

pub(super) fn promoted(next: &State) -> Vec<KeyId> {
    let mut ids: Vec<KeyId> = next.resources.values().filter_map(|keys| keys.write).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// `becomes`: what the key begins to write. It may have been its writer before, and others since (a key that was given up and
/// taken back, one that takes over from another, a resource that left the list and came back), so what it claims from then
/// ends in the same write: neither that, nor a migration from before (told apart by `since`), nor a claim decided before (it
/// depends on the key secret's resourceVersion) passes for one of now.
pub(super) fn record_publication(
    snapshot: &Snapshot,
    id: KeyId,
    revision: Revision,
    becomes: &BTreeSet<GroupResource>,
    turn: &mut Turn,
) {
    let again = !becomes.is_empty();
    let is_due = |recorded: Option<Revision>| recorded.is_none_or(|recorded| again && recorded < revision);
    let Some(key) = snapshot.key(id).filter(|key| is_due(key.write_published)) else { return };
    let mut key = key.clone();
    key.write_published = Some(revision);
    let claimed: Vec<String> =
        key.migrated.iter().filter(|resource| becomes.contains(resource)).map(ToString::to_string).collect();
    if !claimed.is_empty() {
        turn.explain(format!(
            "key {id} is about to write {} again: others may have written it meanwhile, so that it does not claim it",
            claimed.join(", ")
        ));
        key.migrated.retain(|resource| !becomes.contains(resource));
    }
    turn.act(Action::RecordPublication { key: Box::new(key), revision });
}

pub(super) fn why(deployed: &Deployed<'_>, next: &State) -> String {
    let newest = next.keys.keys().next_back().map(ToString::to_string).unwrap_or_default();
    let lists_change = deployed.state.as_ref().is_none_or(|state| state.resources != next.resources);
    if deployed.left_behind {
        return "a newer one is gone for good, or another configuration was loaded somewhere: what was claimed before does not count".to_owned();
    }
    if !lists_change {
        return "the same lists, with changed content of a key".to_owned();
    }
    match deployed.desired.step {
        Step::Dropped => "keys that were superseded or given up leave".to_owned(),
        Step::Decrypt => "what left the list is written in plain text from now on".to_owned(),
        Step::Decrypting => "what left the list is decrypted: its entry leaves".to_owned(),
        Step::ReadKeys => format!("key {newest} becomes a read key; the writer stays as it is"),
        Step::WriteKey => format!("every API server can read with key {newest}: it becomes the write key"),
        Step::Settled => format!("everything is stored under key {newest}: keys that nothing needs leave"),
        Step::NoKeys | Step::Migrating => "the configuration changes".to_owned(),
    }
}
