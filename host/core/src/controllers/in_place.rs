//! When is a key updated in place? When it names the same KEK, and its configuration, rendering or data
//! differ (decision 0001, decision 0002).

use super::Deployed;
use super::key::{Then, Trial};
use super::record::{self, Trouble, Wanted};
use crate::api::PreflightPurpose;
use crate::effect;
use crate::formats::key_secret::KmsKey;
use crate::ids::Mode;
use crate::machine::Key;
use crate::provider::{Effect, Origin};
use crate::snapshot::Snapshot;

/// The trials of updates, the newest key first. The newest KMS key follows the spec; every key in the
/// configuration follows its referenced objects (decision 0001, decision 0002).
pub(super) fn trials(
    snapshot: &Snapshot,
    deployed: &Deployed<'_>,
    desired: Option<&Wanted<'_>>,
    trouble: &mut Vec<Trouble>,
) -> Vec<Trial> {
    let mut in_use: Vec<&Key> =
        deployed.desired.state.keys.values().filter(|key| key.backed && key.mode == Mode::Kms).collect();
    in_use.sort_unstable_by_key(|key| std::cmp::Reverse(key.id));
    let active = in_use.first().map(|key| key.id);
    let mut trials = Vec::new();
    for key in in_use {
        let Some(stored) = key.kms.as_deref() else { continue };
        // The newest KMS key gets the spec's configuration if that names its KEK; every other key keeps its
        // own.
        let spec =
            desired.filter(|now| active == Some(key.id) && same_kek(snapshot, &stored.plugin.kms, now));
        let own;
        let now = match spec {
            Some(now) => now,
            None => match record::wanted(snapshot, Origin::Stored, &stored.plugin.kms) {
                Ok(mut found) => {
                    keep_settings(snapshot, stored, &mut found);
                    own = found;
                    &own
                }
                Err(why) => {
                    // A mistake of the spec is often one of the key that was made from it, too.
                    if !trouble.iter().any(|known| known.message().ends_with(why.message())) {
                        trouble.push(why.within(&format!("key {} stays as deployed", key.id)));
                    }
                    continue;
                }
            },
        };
        let difference = record::difference(snapshot, stored, now);
        if difference.is_empty() {
            continue;
        }
        let update = spec.is_some() && !difference.fields.is_empty();
        trials.push(Trial {
            key_id: key.id,
            purpose: if update { PreflightPurpose::InPlace } else { PreflightPurpose::Sync },
            record: now.record.clone(),
            key_check: stored.key_check.clone(),
            then: if update {
                Then::Update { fields: [difference.fields, difference.objects].concat() }
            } else {
                Then::Sync { objects: [difference.objects, difference.fields].concat() }
            },
            queued: Vec::new(),
        });
    }
    trials
}

/// A spec with a mistake changes nothing: each plugin keeps its settings (decision 0062).
fn keep_settings(snapshot: &Snapshot, stored: &KmsKey, found: &mut Wanted<'_>) {
    if snapshot.wanted.mistakes.is_empty() {
        return;
    }
    if let (Some(now), Some(old)) = (&mut found.record.accepted, &stored.plugin.accepted) {
        now.settings.clone_from(&old.settings);
    }
}

fn same_kek(snapshot: &Snapshot, stored: &serde_json::Value, now: &Wanted<'_>) -> bool {
    let before = snapshot.evaluation(Origin::Stored, stored);
    before.is_ok_and(|before| effect::total(before, now.evaluation) < Effect::NewKey)
}
