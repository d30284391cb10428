//! Which KEKs may be destroyed? The condition `KMSPluginDecommissionable`, and the retired keys
//! (decision 0060).
//!
//! The answer is about a KEK, not about a key number: several keys may name the same KEK. Only a scan of etcd
//! proves whether stored objects or backups need it. Core makes none, so the answer is at best Unknown.

use std::collections::{BTreeMap, BTreeSet};

use super::Turn;
use crate::api::{ConditionStatus, KeyStatus};
use crate::ids::KeyId;
use crate::provider::Origin;
use crate::snapshot::Snapshot;

const CONDITION: &str = "KMSPluginDecommissionable";
/// How many retired keys the status remembers.
const REMEMBERED: usize = 10;
/// The role of a key whose secret is gone.
pub(super) const RETIRED: &str = "retired";

/// Keys that the status records and whose secrets are gone, newest first.
pub(super) fn retired(snapshot: &Snapshot) -> Vec<KeyStatus> {
    let is_gone = |recorded: &&KeyStatus| {
        recorded.kek.is_some()
            && snapshot.key(recorded.key_id).is_none()
            && recorded.key_id <= snapshot.highest_key
    };
    let mut gone: Vec<KeyStatus> = snapshot
        .recorded_keys
        .iter()
        .filter(is_gone)
        .map(|recorded| KeyStatus { role: RETIRED.to_owned(), ..recorded.clone() })
        .collect();
    gone.sort_unstable_by_key(|recorded| std::cmp::Reverse(recorded.key_id));
    gone.truncate(REMEMBERED);
    gone
}

/// The condition.
pub(super) fn decide(snapshot: &Snapshot, turn: &mut Turn) {
    let retired = retired(snapshot);
    let in_use: BTreeSet<&BTreeMap<String, String>> = snapshot
        .keys
        .iter()
        .filter_map(|key| snapshot.evaluation(Origin::Stored, &key.kms.as_ref()?.plugin.kms).ok())
        .map(|evaluation| &evaluation.kek.key)
        .collect();
    let unknown = snapshot.keys.iter().any(|key| {
        key.kms.as_ref().is_some_and(|kms| snapshot.evaluation(Origin::Stored, &kms.plugin.kms).is_err())
    });
    let unknown = unknown || started(snapshot).any(|id| is_nameless(snapshot, &retired, id));
    let mut free = BTreeSet::new();
    let (mut held, mut held_keks) = (Vec::new(), BTreeSet::new());
    for key in &retired {
        let Some(kek) = key.kek.as_ref().filter(|kek| !in_use.contains(kek)) else { continue };
        match holder(snapshot, key.key_id) {
            Some(who) => {
                held.push(format!("key {}: {who}", key.key_id));
                held_keks.insert(kek);
            }
            None => drop(free.insert(kek)),
        }
    }
    // Another key may name the same KEK.
    free.retain(|kek| !held_keks.contains(kek));
    if free.is_empty() || unknown {
        let (reason, message) = match (unknown, held.is_empty()) {
            (true, _) => ("Unknown", "it is not known which KEKs the current keys use".to_owned()),
            (_, true) => ("NothingRetired", String::new()),
            (_, false) => ("StillHeld", held.join("; ")),
        };
        return turn.condition(CONDITION, ConditionStatus::False, reason, &message);
    }
    let named = |kek: &BTreeMap<String, String>| {
        let fields: Vec<String> = kek.iter().map(|(name, value)| format!("{name} {value}")).collect();
        format!("({})", fields.join(", "))
    };
    let keks: Vec<String> = free.into_iter().map(named).collect();
    let message = format!(
        "no key, revision or node needs {} any more, but stored objects were not checked, and backups may need it. Keep the KEK enabled, with its encrypt permission, until you have checked both",
        keks.join(", ")
    );
    turn.condition(CONDITION, ConditionStatus::Unknown, "NotVerified", &message);
}

/// Keys whose plugins can still be started: a revision or a node has them.
fn started(snapshot: &Snapshot) -> impl Iterator<Item = KeyId> {
    let contents = snapshot.revisions.values().filter_map(|stored| stored.content.as_ref().ok());
    let held = snapshot.servers.values().filter_map(|server| server.status());
    let held = held.flat_map(|status| status.held.iter().copied());
    contents.flat_map(|content| content.plugins.keys().copied()).chain(held)
}

/// Whether it is not known which KEK a key names: its secret is gone, and the status does not record it.
fn is_nameless(snapshot: &Snapshot, retired: &[KeyStatus], id: KeyId) -> bool {
    snapshot.key(id).is_none() && retired.iter().all(|key| key.key_id != id)
}

/// What can still start a plugin of this key: a revision or a node.
fn holder(snapshot: &Snapshot, id: KeyId) -> Option<String> {
    let revision = snapshot.revisions.iter().find(|(_, stored)| {
        stored.content.as_ref().map_or(true, |content| content.plugins.contains_key(&id))
    });
    let node = || {
        snapshot
            .servers
            .values()
            .find(|server| server.status().is_none_or(|status| status.held.contains(&id)))
    };
    revision.map(|(n, _)| format!("revision {n} still contains its plugin")).or_else(|| {
        node().map(|server| format!("node {} may still have its plugin's data on disk", server.name))
    })
}
