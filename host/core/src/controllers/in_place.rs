//! When is a key updated in place? DESIGN.md, Decisions 1 and 2: same KEK, other configuration, rendering or data.

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

/// Decisions 1 and 2: the active key follows the spec, every key in the configuration follows what it refers to. The
/// newest first.
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
        // The newest KMS key takes the spec's configuration where that names its KEK; any other its own.
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
                    // What is wrong with the spec is often wrong with the key that was made of it.
                    if !trouble.iter().any(|known| known.told().ends_with(why.told())) {
                        trouble.push(why.within(&format!("key {} goes on as deployed", key.id)));
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

/// A spec with a mistake changes nothing: each plugin goes on with the settings that it has.
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
