//! Which revision comes next: on a converged cluster the next configuration (openshift: read-keys-come-first,
//! openshift: write-key-needs-all-servers, openshift: prune-after-migration,
//! openshift: apply-desired-configuration), otherwise the exceptions (objects: between-revisions).

use std::collections::BTreeSet;

use super::{Deployed, Deployment, Turn, forget, health, lost, managed};
use crate::formats::key_secret::KeySecret;
use crate::formats::revision::RevisionContent;
use crate::ids::{GroupResource, KeyId, Mode, Revision};
use crate::machine::{self, State, Step};
use crate::outcome::Action;
use crate::snapshot::Snapshot;

const DEGRADED: &str = "EncryptionStateControllerDegraded";

/// The state controller. Returns whether what is deployed is what should be deployed.
pub(super) fn decide(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    deployed: &Deployed<'_>,
    turn: &mut Turn,
) -> bool {
    let between;
    let next = match deployment {
        // If nothing can be decided, the condition stays as it is (openshift: controllers-run-when-managed).
        Deployment::Blocked => return false,
        _ if turn.abandons => return false,
        // Without a configuration and without a key secret there is nothing to do
        // (openshift: apply-desired-configuration).
        Deployment::Nothing if deployed.desired.step == Step::NoKeys => {
            turn.degraded(DEGRADED, None);
            return true;
        }
        Deployment::Nothing | Deployment::Converged { .. } if !deployed.must_be_superseded => {
            &deployed.desired.state
        }
        // Only this is decided between revisions (objects: between-revisions), and while a newer revision is
        // lost for good: the same lists with new content of a key; and the lists without an abandoned or a
        // forgotten key, since the dead provider of a forgotten key blocks every reload.
        _ => match &deployed.state {
            Some(state) => {
                let mut lists =
                    machine::without(state, &deployed.backed, &deployed.facts, &everywhere(snapshot));
                if deployed.must_be_superseded {
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
    // A lost revision is superseded by one with a higher number. Earlier records of migration do not count
    // then.
    if deployed.content.is_some_and(|old| is_same(old, &content)) && !deployed.must_be_superseded {
        if let Some(openshift) = snapshot.openshift() {
            managed::restore(openshift, content, turn);
        }
        return deployment.is_converged();
    }
    let waits =
        deployment.is_converged() && !deployed.must_be_superseded && !may_go_on(snapshot, deployed, turn);
    if waits {
        return false;
    }
    publish(snapshot, deployed, next, content, turn);
    false
}

/// Writes a revision or, on OpenShift, the desired configuration.
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

/// The keys that every API server reads a resource with while another revision is rolled out: those of the
/// last converged revision, if it still exists and is understood.
fn everywhere(snapshot: &Snapshot) -> impl Fn(&GroupResource, KeyId) -> bool {
    let before = snapshot.content(snapshot.last_converged);
    let before = before.and_then(|content| machine::decode(content, snapshot.usable()).ok());
    move |resource, id| {
        let keys = before.as_ref().and_then(|state| state.resources.get(resource));
        keys.is_some_and(|keys| keys.read.contains(&id))
    }
}

/// Health gates (decision 0013), and what has to be written before the step.
fn may_go_on(snapshot: &Snapshot, deployed: &Deployed<'_>, turn: &mut Turn) -> bool {
    let Some(newest) = deployed.newest() else { return true };
    let mut needs: BTreeSet<KeyId> =
        [newest].iter().filter(|key| key.mode == Mode::Kms).map(|key| key.id).collect();
    let step = deployed.desired.step;
    let what = match step {
        Step::WriteKey => format!("making key {} the write key", newest.id),
        // A successor that runs nowhere yet has passed its preflight, and there is no other.
        Step::Dropped => {
            needs = new_writers(deployed).filter(|id| deployed.kms_keys().any(|key| key.id == *id)).collect();
            let successors: Vec<String> = needs.iter().map(ToString::to_string).collect();
            format!(
                "making key {} the write key in place of one that leaves (unless you forget it too)",
                successors.join(", ")
            )
        }
        // New content for keys that stay: an unhealthy plugin may need exactly that.
        Step::Settled if !removes_keys(deployed) => return true,
        Step::Settled => "removing keys that nothing needs any more".to_owned(),
        Step::Decrypt => return forget_migrated(snapshot, deployed, turn),
        _ => return true,
    };
    // If nothing is deployed, no plugin can be unhealthy.
    let gate = deployed.content.and_then(|content| health::gate(snapshot, content, &needs, &what));
    if let Some(why) = gate {
        turn.wait_above_all("PluginUnhealthy", why);
        data_ahead(snapshot, deployed, turn);
        return false;
    }
    true
}

/// Publishes new content for keys that stay, ahead of the step that waits for an unhealthy plugin: the plugin
/// may need exactly that content.
fn data_ahead(snapshot: &Snapshot, deployed: &Deployed<'_>, turn: &mut Turn) {
    let (Some(state), Some(old)) = (&deployed.state, deployed.content) else { return };
    let content = machine::encode(state, Some(old));
    if !is_same(old, &content) {
        publish(snapshot, deployed, state, content, turn);
    }
}

/// Whether a key leaves the list of some resource.
fn removes_keys(deployed: &Deployed<'_>) -> bool {
    let desired = &deployed.desired.state.resources;
    deployed.state.iter().flat_map(|state| &state.resources).any(|(resource, keys)| {
        let stays = |id: &KeyId| desired.get(resource).is_some_and(|keys| keys.read.contains(id));
        !keys.read.iter().all(stays)
    })
}

/// Keys that become the writer of some resource.
fn new_writers<'a>(deployed: &'a Deployed<'_>) -> impl Iterator<Item = KeyId> + 'a {
    let lists = deployed.desired.state.resources.iter();
    lists.filter_map(|(resource, keys)| keys.write.filter(|id| deployed.writer(resource) != Some(*id)))
}

/// No key may record as migrated a resource that is about to be written in plain text (decision 0011): if it
/// comes back to the list, it is re-encrypted. One for each key and pass: the first write changes the
/// resourceVersion that a second one would depend on.
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
            "{resource} left the list and is being decrypted; it no longer counts as migrated to key {}",
            key.id
        ));
        let migrated = key.migrated.iter().filter(|other| **other != resource).cloned().collect();
        let key = Box::new(KeySecret { migrated, ..key.clone() });
        turn.act(Action::ForgetMigrated { resource, key });
    }
    clean
}

/// Whether the configuration is the same, and the same plugins would run.
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
        // A node that is off assumes that the revision with the next number can read what it writes
        // (`node/late.rs`), so that number is skipped (invariant: returning-node-does-not-write).
        number = number.and_then(|revision| snapshot.next_revision(revision));
    }
    let Some(revision) = number else {
        let highest = snapshot.highest_revision;
        let message = format!("no revision number is left: an object already uses revision {highest}");
        return turn.degraded_too(DEGRADED, "Error", &message);
    };
    turn.explain(format!("revision {revision}: {}", why(deployed, next)));
    if snapshot.recorded_revision < revision || snapshot.recorded_key < snapshot.highest_key {
        turn.act(Action::RecordHighWater { key_id: snapshot.highest_key, revision });
    }
    // Publication is recorded before a revision may have the key as its writer
    // (invariant: publication-first). It is recorded again with each revision that makes the key the writer
    // of a resource.
    for id in promoted(next) {
        let becomes = |(resource, keys): (&GroupResource, &machine::ResourceKeys)| {
            (keys.write == Some(id) && deployed.writer(resource) != Some(id)).then(|| resource.clone())
        };
        let becomes = next.resources.iter().filter_map(becomes).collect();
        record_publication(snapshot, id, revision, &becomes, turn);
    }
    turn.act(Action::ApplyConfig { revision, content: Box::new(content) });
}

/// Whether some resource is no longer read with the key that writes it: a forgotten key.
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

/// `becomes`: the resources whose writer the key becomes. If it was their writer before, another key may have
/// written since: the key was forgotten and its request removed, it is the successor of another, or a resource
/// left the list and came back. So the same write removes its records of migration for these resources. Neither
/// a migration from before, which has another `since`, nor a record that was decided before and depends on the
/// key secret's resourceVersion, counts for this time as the writer (decision 0056). On OpenShift no record is
/// removed.
pub(super) fn record_publication(
    snapshot: &Snapshot,
    id: KeyId,
    revision: Revision,
    becomes: &BTreeSet<GroupResource>,
    turn: &mut Turn,
) {
    let is_due = |recorded: Option<Revision>| {
        recorded.is_none_or(|recorded| !becomes.is_empty() && recorded < revision)
    };
    let Some(key) = snapshot.key(id).filter(|key| is_due(key.write_published)) else { return };
    let mut key = key.clone();
    key.write_published = Some(revision);
    let (again, migrated): (Vec<GroupResource>, Vec<GroupResource>) =
        key.migrated.into_iter().partition(|resource| becomes.contains(resource));
    key.migrated = migrated;
    if !again.is_empty() {
        let names: Vec<String> = again.iter().map(ToString::to_string).collect();
        turn.explain(format!(
            "key {id} becomes the write key of {} again; other keys may have written meanwhile, so the earlier records of migration no longer count",
            names.join(", ")
        ));
    }
    turn.act(Action::RecordPublication { key: Box::new(key), revision, again });
}

pub(super) fn why(deployed: &Deployed<'_>, next: &State) -> String {
    let newest = next.keys.keys().next_back().map(ToString::to_string).unwrap_or_default();
    let lists_change = deployed.state.as_ref().is_none_or(|state| state.resources != next.resources);
    if deployed.must_be_superseded {
        return "a newer revision is lost, or an API server had loaded another configuration; earlier migrations no longer count".to_owned();
    }
    if !lists_change {
        return "same provider lists; the content of a key changed".to_owned();
    }
    match deployed.desired.step {
        Step::Dropped => "superseded, abandoned or forgotten keys leave".to_owned(),
        Step::Decrypt => "resources that left the list are written in plain text from now on".to_owned(),
        Step::Decrypting => "resources that left the list are decrypted; their entries leave".to_owned(),
        Step::ReadKeys => format!("key {newest} becomes a read key; the write key does not change"),
        Step::WriteKey => format!("every API server can read with key {newest}; it becomes the write key"),
        Step::Settled => format!("everything is stored under key {newest}; keys that nothing needs leave"),
        Step::NoKeys | Step::Migrating => "the configuration changes".to_owned(),
    }
}
