//! What a change of the whole spec does, once it is carried out to the end.

use std::collections::BTreeSet;

use super::{new_key, total};
use crate::api::PluginSettings;
use crate::ids::{GroupResource, Mode};
use crate::provider::{Effect, Evaluation};
use crate::snapshot::{Snapshot, Wanted};

/// What is in force before a change: settled, nothing under way.
#[derive(Clone, Debug)]
pub struct InForce<'a> {
    /// Of the newest key; `identity` where there is none.
    pub mode: Mode,
    /// Of the newest key's configuration, where it is a KMS key.
    pub evaluation: Option<&'a Evaluation>,
    /// The token that the newest key was made for.
    pub external_reason: &'a str,
    /// How plugins are run, and how long the API server waits for them.
    pub settings: (&'a PluginSettings, &'a str),
    /// Resources that are written under a key.
    pub encrypted: BTreeSet<GroupResource>,
}

impl<'a> InForce<'a> {
    /// What this spec comes to, once it is carried out. Without a mode, or with one that does not exist, nothing is
    /// encrypted.
    pub fn settled(wanted: &'a Wanted, evaluation: Option<&'a Evaluation>) -> Self {
        let mode = wanted.mode.clone().unwrap_or(Mode::Identity);
        Self {
            mode,
            evaluation,
            external_reason: &wanted.external_reason,
            settings: (&wanted.settings, &wanted.kms_timeout),
            encrypted: if mode == Mode::Identity {
                BTreeSet::new()
            } else {
                wanted.resources.iter().cloned().collect()
            },
        }
    }

    /// What is deployed, whatever the stored spec says. The evaluation is that of the newest key's configuration, as it was
    /// stored.
    pub fn deployed(snapshot: &'a Snapshot) -> Self {
        let key = snapshot.usable().next();
        let kms = key.and_then(|key| key.kms.as_ref());
        let accepted = kms.and_then(|kms| kms.plugin.accepted.as_ref());
        let newest = snapshot.content(snapshot.newest_revision());
        Self {
            mode: key.map_or(Mode::Identity, |key| key.mode),
            evaluation: kms
                .and_then(|kms| snapshot.evaluation(crate::provider::Origin::Stored, &kms.plugin.kms).ok()),
            external_reason: key.map_or("", |key| &key.external_reason),
            settings: (
                accepted.map_or(&snapshot.wanted.settings, |accepted| &accepted.settings),
                kms.map_or(&snapshot.wanted.kms_timeout, |kms| &kms.provider.timeout),
            ),
            encrypted: newest.map(crate::formats::revision::RevisionContent::encrypted).unwrap_or_default(),
        }
    }
}

/// What a change does, once it is carried out to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The total: the most costly of what follows.
    pub effect: Effect,
    /// Why a key is made; `None` where none is. For `identity` it is a key that encrypts nothing.
    pub new_key: Option<&'static str>,
    /// Plugins of keys in use are replaced.
    pub in_place: bool,
    /// Resources whose objects are rewritten under the write key.
    pub reencrypted: BTreeSet<GroupResource>,
    /// Resources whose objects are rewritten in plain text.
    pub decrypted: BTreeSet<GroupResource>,
}

/// What going from what is in force to this spec does. `wanted` is the spec as the operator acts on it: with what it keeps
/// encrypted because nobody confirmed its decryption ([`keep_encrypted`](crate::platform::kubernetes::keep_encrypted)).
/// `None` where it has no mode, so that nothing can be done.
pub fn between(before: &InForce<'_>, wanted: &Wanted, evaluation: Option<&Evaluation>) -> Option<Change> {
    let mode = wanted.mode.clone().ok()?;
    let kek = before.evaluation.zip(evaluation).map(|(old, new)| total(old, new));
    let new_key = new_key((before.mode, mode), kek, (before.external_reason, &wanted.external_reason));
    let targets: BTreeSet<GroupResource> =
        if mode == Mode::Identity { BTreeSet::new() } else { wanted.resources.iter().cloned().collect() };
    let decrypted: BTreeSet<GroupResource> = before.encrypted.difference(&targets).cloned().collect();
    let reencrypted = if new_key.is_some() || kek == Some(Effect::ReEncrypt) {
        targets
    } else {
        targets.difference(&before.encrypted).cloned().collect()
    };
    let settings = before.settings != (&wanted.settings, wanted.kms_timeout.as_str());
    let in_place =
        before.mode == Mode::Kms && settings || matches!(kek, Some(Effect::InPlace | Effect::ReEncrypt));
    let effects = [
        (in_place, Effect::InPlace),
        (!reencrypted.is_empty(), Effect::ReEncrypt),
        (new_key.is_some() && mode != Mode::Identity, Effect::NewKey),
        (!decrypted.is_empty() || new_key.is_some() && mode == Mode::Identity, Effect::Decrypt),
    ];
    let effect = effects.into_iter().filter(|(holds, _)| *holds).map(|(_, effect)| effect).max();
    Some(Change { effect: effect.unwrap_or(Effect::None), new_key, in_place, reencrypted, decrypted })
}
