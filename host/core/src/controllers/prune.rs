//! What is deleted: revisions that nothing names any more (objects: kept-revisions), key secrets of KMS keys
//! that have left (decision 0007), and unused key secrets beyond the ten newest
//! (openshift: keep-ten-unused-keys). Keys are deleted only when nothing else is under way, and never while
//! an existing configuration names them (invariant: secret-outlives-configuration).

use std::collections::BTreeSet;

use super::{Deployed, Deployment, Turn};
use crate::formats::key_secret::KeySecret;
use crate::formats::revision::RevisionContent;
use crate::ids::{KeyId, Mode, Revision};
use crate::machine::{EtcdHistory, Key, Step};
use crate::outcome::Action;
use crate::snapshot::Snapshot;

/// How many unused key secrets are kept (openshift: keep-ten-unused-keys).
const KEPT: usize = 10;

/// The prune controller.
pub(super) fn decide(
    snapshot: &Snapshot,
    deployment: &Deployment<'_>,
    deployed: &Deployed<'_>,
    settled: bool,
    turn: &mut Turn,
) {
    let Deployment::Converged { revision, content } = deployment else { return };
    turn.degraded("EncryptionPruneControllerDegraded", None);
    if snapshot.openshift().is_none() {
        // OpenShift prunes its revisions itself.
        revisions(snapshot, *revision, content, turn);
    }
    if settled && deployed.desired.step == Step::Settled {
        keys(snapshot, deployed, turn);
        let newest = deployed.newest().map(|key| key.id);
        if deployed.facts.history == EtcdHistory::Kept && older(deployed, newest).next().is_some() {
            let rest: Vec<String> = older(deployed, newest).map(|key| format!("key {}", key.id)).collect();
            let message = format!(
                "everything is stored under the newest key. The provider of {} leaves when etcd has compacted the history from before the migration, usually within two compaction intervals of kube-apiserver (--etcd-compaction-interval, default 5m). Until then keep its KEK and its permission to encrypt",
                rest.join(", ")
            );
            turn.explain(message.clone());
            turn.unfinished("HistoryNotCompacted", message);
            turn.again_after(snapshot.wanted.request_timeout);
        }
    }
}

/// KMS keys of the deployed configuration that are older than the newest key.
fn older<'a>(deployed: &'a Deployed<'_>, newest: Option<KeyId>) -> impl Iterator<Item = &'a Key> {
    deployed.kms_keys().filter(move |key| Some(key.id) < newest)
}

/// Kept are the converged revision, those that a node names, and the one before. That one is not kept if its
/// plugins are gone, since no node could go back to it.
fn revisions(snapshot: &Snapshot, converged: Revision, content: &RevisionContent, turn: &mut Turn) {
    let mut kept: BTreeSet<Revision> = snapshot
        .servers
        .values()
        .flat_map(|server| {
            [
                server.agent.as_ref().map(|agent| agent.spec.revision),
                server.status().map(|status| status.revision),
            ]
        })
        .flatten()
        .chain([converged])
        .collect();
    let current = content.kms_keys();
    let before = snapshot.revisions.range(..converged).next_back().filter(|(_, before)| {
        before.content.as_ref().is_ok_and(|before| before.kms_keys().is_subset(&current))
    });
    kept.extend(before.map(|(revision, _)| *revision));
    for (other, stored) in snapshot.revisions.range(..converged) {
        if !kept.contains(other) {
            turn.act(Action::DeleteRevision {
                revision: *other,
                resource_version: stored.resource_version.clone(),
            });
        }
    }
}

fn keys(snapshot: &Snapshot, deployed: &Deployed<'_>, turn: &mut Turn) {
    let Some(newest) = deployed.newest().map(|key| key.id) else { return };
    // A revision that cannot be decoded may name any key.
    let Some(named) = named(snapshot) else { return };
    let tried = snapshot.candidate.as_ref().and_then(|candidate| candidate.as_ref().ok()).map(|c| c.key_id);
    let superseded = |key: &KeySecret| key.id < newest || key.is_abandoned();
    let unused = |key: &&KeySecret| superseded(key) && !named.contains(&key.id) && tried != Some(key.id);
    let (retired, others): (Vec<&KeySecret>, Vec<&KeySecret>) =
        snapshot.keys.iter().filter(unused).partition(|key| key.mode == Mode::Kms);
    for key in retired {
        turn.explain(format!("key {} is retired: no configuration contains it", key.id));
        turn.act(Action::RetireKey { key_id: key.id, resource_version: key.resource_version.clone() });
    }
    // Secrets that cannot be decoded count as unused, and are not deleted.
    let undecodable = snapshot.undecodable.keys().filter_map(|name| KeyId::from_name(name));
    let mut all: Vec<(KeyId, Option<&KeySecret>)> =
        others.into_iter().map(|key| (key.id, Some(key))).chain(undecodable.map(|id| (id, None))).collect();
    all.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
    for key in all.into_iter().skip(KEPT).filter_map(|(_, key)| key) {
        turn.explain(format!("key {} is unused, and the {KEPT} newest unused keys are all newer", key.id));
        turn.act(Action::DeleteKey { key_id: key.id, resource_version: key.resource_version.clone() });
    }
}

/// Every key that a revision names; `None` if one of them cannot be decoded.
fn named(snapshot: &Snapshot) -> Option<BTreeSet<KeyId>> {
    let mut named = BTreeSet::new();
    for stored in snapshot.revisions.values() {
        named.append(&mut stored.content.as_ref().ok()?.key_ids());
    }
    Some(named)
}
