//! What a change of the whole spec does, when it is carried out completely.

use std::collections::BTreeSet;

use super::{new_key, total};
use crate::api::{ForgetRequest, PluginSettings};
use crate::formats::revision::RevisionContent;
use crate::ids::{GroupResource, KeyId, Mode, Revision};
use crate::names;
use crate::platform::Unreadable;
use crate::provider::{Effect, Evaluation, Origin};
use crate::snapshot::{Snapshot, Wanted};

/// What is in force before a change: settled, with nothing under way.
#[derive(Clone, Debug)]
pub struct InForce<'a> {
    /// The newest key's mode; `identity` if there is none.
    pub mode: Mode,
    /// The evaluation of the newest key's configuration, if it is a KMS key.
    pub evaluation: Option<&'a Evaluation>,
    /// The token that the newest key was made for.
    pub external_reason: &'a str,
    /// How plugins are run, and the timeout of the API server's calls to them.
    pub settings: (&'a PluginSettings, &'a str),
    /// Resources that are written under a key.
    pub encrypted: BTreeSet<GroupResource>,
    /// Whether Keyward is paused.
    pub is_paused: bool,
    /// The requests to forget keys.
    pub requests: &'a [ForgetRequest],
}

impl<'a> InForce<'a> {
    /// The result of this spec, when it is carried out completely. Without a mode, or with an unknown one,
    /// nothing is encrypted.
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
            is_paused: wanted.paused.is_some(),
            requests: &wanted.requests,
        }
    }

    /// What is deployed, independently of the stored spec. The evaluation is that of the newest key's
    /// configuration as it was stored. A pause and the requests to forget keys are those of the stored spec,
    /// since they are nowhere else.
    ///
    /// # Errors
    /// What cannot be read or is not understood, so that it is not known what is deployed
    /// (invariant: unknown-is-not-absent). An unreadable Secret may be the key that everything is stored
    /// under.
    pub fn deployed(snapshot: &'a Snapshot, stored: &'a Wanted) -> Result<Self, Vec<Unreadable>> {
        let unknown = unknown(snapshot);
        if !unknown.is_empty() {
            return Err(unknown);
        }
        let key = snapshot.usable().next();
        let kms = key.and_then(|key| key.kms.as_ref());
        let accepted = kms.and_then(|kms| kms.plugin.accepted.as_ref());
        let evaluation = kms.map(|kms| snapshot.evaluation(Origin::Stored, &kms.plugin.kms)).transpose();
        let evaluation = match evaluation {
            Ok(evaluation) => evaluation,
            // It is compared only with another KMS configuration.
            Err(_) if snapshot.wanted.mode != Ok(Mode::Kms) => None,
            Err(error) => {
                let id = key.map(|key| key.id).unwrap_or_default();
                let what = format!("the KMS configuration of key {id}");
                return Err(vec![Unreadable { what, why: error.to_string() }]);
            }
        };
        let newest = snapshot.content(snapshot.newest_revision());
        Ok(Self {
            mode: key.map_or(Mode::Identity, |key| key.mode),
            evaluation,
            external_reason: key.map_or("", |key| &key.external_reason),
            settings: (
                accepted.map_or(&snapshot.wanted.settings, |accepted| &accepted.settings),
                kms.map_or(&snapshot.wanted.kms_timeout, |kms| &kms.provider.timeout),
            ),
            encrypted: newest.map(RevisionContent::encrypted).unwrap_or_default(),
            is_paused: stored.paused.is_some(),
            requests: &stored.requests,
        })
    }
}

/// Why it is not known what is deployed; empty if it is known. A key secret that cannot be decoded is not in
/// it: the operator does not use it, and reports it.
fn unknown(snapshot: &Snapshot) -> Vec<Unreadable> {
    let mut unknown = snapshot.unreadable.clone();
    let secret = |name: &str| format!("secret {}/{name}", snapshot.namespace);
    let newest = snapshot.newest_revision();
    let stored = snapshot.revisions.get(&newest).map(|stored| stored.understood().map(drop));
    if let Some(Err(error)) = stored {
        let what = secret(&names::revision_secret(newest));
        unknown.push(Unreadable { what, why: error.to_string() });
    }
    // If the whole list cannot be read, every revision seems to be missing.
    if snapshot.unreadable.is_empty()
        && let Some((revision, by)) = recorded(snapshot).filter(|(recorded, _)| *recorded > newest)
    {
        unknown.push(Unreadable {
            what: secret(&names::revision_secret(revision)),
            why: format!("it does not exist, and {by} records revision {revision}"),
        });
    }
    unknown
}

/// The newest revision that the status or a node records, and which of them records it.
fn recorded(snapshot: &Snapshot) -> Option<(Revision, String)> {
    let status = snapshot.recorded_revisions.iter().map(|recorded| (recorded.n, "the status".to_owned()));
    let nodes = snapshot
        .servers
        .values()
        .filter_map(|server| Some((server.status()?.revision, format!("the agent of node {}", server.name))));
    status.chain(nodes).max_by_key(|(revision, _)| *revision)
}

/// What a change does, when it is carried out completely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The total: the most costly of the effects.
    pub effect: Effect,
    /// Why a key is made; `None` if none is. For `identity` it is a key that encrypts nothing.
    pub new_key: Option<&'static str>,
    /// Plugins of keys in use are replaced.
    pub in_place: bool,
    /// Resources whose objects are rewritten under the write key.
    pub reencrypted: BTreeSet<GroupResource>,
    /// Resources whose objects are rewritten in plain text.
    pub decrypted: BTreeSet<GroupResource>,
    /// Keys that a new request asks to forget, or asks to forget with a greater accepted loss.
    pub forgotten: BTreeSet<KeyId>,
}

/// The change from what is in force to this spec. `wanted` is the spec as the operator acts on it, with the
/// resources that stay encrypted because their decryption is not confirmed
/// ([`keep_encrypted`](crate::platform::kubernetes::keep_encrypted)). `None` if the spec has no mode, so that
/// nothing can be done.
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
    let forgotten: BTreeSet<KeyId> =
        requested(before.requests, wanted).map(|request| request.key_id).collect();
    let is_paused = wanted.paused.is_some();
    let effects = [
        (is_paused && !before.is_paused, Effect::Pause),
        (!is_paused && before.is_paused, Effect::Resume),
        (in_place, Effect::InPlace),
        (!reencrypted.is_empty(), Effect::ReEncrypt),
        (new_key.is_some() && mode != Mode::Identity, Effect::NewKey),
        (!decrypted.is_empty() || new_key.is_some() && mode == Mode::Identity, Effect::Decrypt),
        (!forgotten.is_empty(), Effect::Forget),
    ];
    let effect = effects.into_iter().filter(|(holds, _)| *holds).map(|(_, effect)| effect).max();
    let effect = effect.unwrap_or(Effect::None);
    Some(Change { effect, new_key, in_place, reencrypted, decrypted, forgotten })
}

/// Requests to forget keys that are new, or that accept more than before. The number of counted objects makes
/// no difference.
fn requested<'w>(before: &[ForgetRequest], wanted: &'w Wanted) -> impl Iterator<Item = &'w ForgetRequest> {
    let is_same = |one: &ForgetRequest, other: &ForgetRequest| {
        one.key_id == other.key_id
            && one.requested_at == other.requested_at
            && (one.accept_keyward_loss || !other.accept_keyward_loss)
    };
    wanted.requests.iter().filter(move |request| !before.iter().any(|known| is_same(known, request)))
}
