//! When is a key abandoned? It may be abandoned while no revision ever had it as the writer: then nothing is
//! stored under it (decision 0005). It must be abandoned if no node can ever load it: its KEK was recreated
//! under the same name after every node had passed the preflight, so its key check is refused
//! (decision 0038).
//!
//! Publication and abandonment write the same object, and each write depends on the version that was read. If
//! two operators decide differently, one of them fails (invariant: publication-first).

use std::time::Duration;

use super::{Deployed, Turn, preflight};
use crate::formats::key_secret::{KeySecret, rfc3339};
use crate::formats::provider_lists::{self, ListedKey, ProviderList};
use crate::ids::{KeyId, Mode, PluginDigest};
use crate::outcome::{Action, Waiting};
use crate::snapshot::Snapshot;

/// The newest key, if it can still be abandoned.
pub(super) fn newest(snapshot: &Snapshot) -> Option<&KeySecret> {
    snapshot.usable().next().filter(|key| never_wrote(snapshot, key))
}

/// An older key that never wrote, because two operators made a key at the same time. The newer one is enough
/// (invariant: one-transition).
pub(super) fn overtaken(snapshot: &Snapshot) -> Option<(&KeySecret, &KeySecret)> {
    let newest = snapshot.usable().next()?;
    let older = snapshot.usable().skip(1).find(|key| never_wrote(snapshot, key))?;
    Some((older, newest))
}

/// A key in transition whose plugins do not decrypt its key check on some node.
pub(super) struct Refused<'a> {
    pub(super) key: &'a KeySecret,
    /// What is wrong, since when, and what is waited for.
    pub(super) message: String,
    /// It has lasted so long that another key replaces it.
    pub(super) is_over: bool,
}

/// The newest key, if it is deployed and some node refuses it. Another key check would not help: the KEK that
/// passed the preflight is gone, and one number names one KEK for ever (invariant: one-number-one-kek).
pub(super) fn refused<'a>(
    snapshot: &'a Snapshot,
    deployed: &Deployed<'_>,
    turn: &mut Turn,
) -> Option<Refused<'a>> {
    let key = newest(snapshot)?;
    // An in-place candidate of the key has another digest, and says nothing about the key itself.
    let digest = deployed.content?.digests().remove(&key.id)?;
    let refuses = |digest: &PluginDigest| {
        let refuses = snapshot
            .servers
            .values()
            .filter(|server| server.status().is_some_and(|status| status.kek_mismatch.contains(digest)));
        refuses.map(|server| server.name.as_str()).collect::<Vec<_>>()
    };
    let nodes = refuses(&digest);
    if nodes.is_empty() {
        return None;
    }
    let age = turn.since(snapshot, "kek-mismatch", format!("{}/{}", key.id, digest.0));
    let left = preflight::KEY_CHECK_PATIENCE.saturating_sub(age);
    turn.again_after(left.max(Duration::from_secs(1)));
    let since = snapshot.now.checked_sub(age).map_or_else(|_| String::new(), |at| rfc3339(&at));
    let message = format!(
        "the plugin of key {} on node {} has not decrypted the key check since {since}: the KMS has another KEK under the same name. Nothing is stored under this key; if this lasts {} minutes, another key replaces it",
        key.id,
        nodes.join(", "),
        preflight::KEY_CHECK_PATIENCE.as_secs() / 60
    );
    // Reported together with the wait of the rollout, since the rollout waits for this.
    match &mut turn.waiting {
        Some(waiting) => waiting.message = format!("{}; {message}", waiting.message),
        None => turn.waiting = Some(Waiting { reason: "KEKMismatch".to_owned(), message: message.clone() }),
    }
    Some(Refused { key, message, is_over: left.is_zero() })
}

/// Whether neither its record nor any existing revision shows that something may be stored under it.
pub(super) fn never_wrote(snapshot: &Snapshot, key: &KeySecret) -> bool {
    // OpenShift's controllers do not record publication.
    snapshot.openshift().is_none()
        && key.write_published.is_none()
        && key.migrated.is_empty()
        && writes_nowhere(snapshot, key.id)
}

/// Whether no revision has the key as its writer: no existing one, and no missing one that the status still
/// records. A revision that cannot be read may have it.
pub(super) fn writes_nowhere(snapshot: &Snapshot, id: KeyId) -> bool {
    let gone = gone_lists(snapshot).any(|list| list.first().is_some_and(|first| names(first, id)));
    !gone
        && snapshot.revisions.values().all(|stored| {
            let content = stored.content.as_ref().ok();
            let lists = content.and_then(|content| provider_lists::lists(&content.config).ok());
            let is_first = |list: &ProviderList<'_>| !list.writes_plain && list.writer() == Some(id);
            lists.is_some_and(|lists| !lists.values().any(is_first))
        })
}

/// The lists of missing revisions, as far as the status records them.
fn gone_lists(snapshot: &Snapshot) -> impl Iterator<Item = &Vec<String>> {
    let gone =
        snapshot.recorded_revisions.iter().filter(|recorded| !snapshot.revisions.contains_key(&recorded.n));
    gone.flat_map(|recorded| recorded.lists.values())
}

/// Whether a provider such as `kms:3` belongs to this key (openshift: provider-list-notation).
fn names(provider: &str, id: KeyId) -> bool {
    provider.split_once(':').is_some_and(|(_, n)| n == id.to_string())
}

/// Whether some list may have this identity key as its writer. Such a list begins with `identity` and
/// contains the key's number, as does a list in which the key only reads (openshift: providers-to-keys).
pub(super) fn may_write_plain(snapshot: &Snapshot, id: KeyId) -> bool {
    let plain = |list: &Vec<String>| list.first().is_some_and(|first| first == "identity");
    if gone_lists(snapshot).any(|list| plain(list) && list.contains(&format!("aesgcm:{id}"))) {
        return true;
    }
    let is_key = |key: &ListedKey<'_>| key.id == id && key.mode == Mode::Identity;
    snapshot.revisions.values().any(|stored| {
        let content = stored.content.as_ref().ok();
        let lists = content.and_then(|content| provider_lists::lists(&content.config).ok());
        // A configuration that is not understood may.
        lists.is_none_or(|lists| lists.values().any(|list| list.writes_plain && list.keys.iter().any(is_key)))
    })
}

/// Marks the key as abandoned. Its number is not used again.
pub(super) fn abandon(snapshot: &Snapshot, key: &KeySecret, reason: &str, turn: &mut Turn) {
    turn.explain(format!("key {} is abandoned (it was never a write key): {reason}", key.id));
    let key = Box::new(KeySecret { abandoned: Some(rfc3339(&snapshot.now)), ..key.clone() });
    turn.act(Action::AbandonKey { key, reason: reason.to_owned() });
}
