//! When may a key be superseded that is still on its way? Only while no revision ever had it first: then nothing is
//! stored under it (DESIGN.md, Decisions 5). And when must it be? When no node could ever go on with it: its KEK was
//! made anew under its name after every node had passed the preflight, so that its key check is refused.
//!
//! Publication and abandonment write the same object, each depending on the version that was read: of two controllers
//! that decide differently, one loses.

use std::time::Duration;

use super::{Deployed, Turn, preflight};
use crate::formats::key_secret::{KeySecret, rfc3339};
use crate::formats::provider_lists::{self, ListedKey, ProviderList};
use crate::ids::{KeyId, Mode, PluginDigest};
use crate::outcome::{Action, Waiting};
use crate::snapshot::Snapshot;

/// The newest key, where it can still be superseded.
pub(super) fn newest(snapshot: &Snapshot) -> Option<&KeySecret> {
    snapshot.usable().next().filter(|key| never_wrote(snapshot, key))
}

/// An older key that never wrote: two writers at once each made one. The newer one is enough (S6).
pub(super) fn overtaken(snapshot: &Snapshot) -> Option<(&KeySecret, &KeySecret)> {
    let newest = snapshot.usable().next()?;
    let older = snapshot.usable().skip(1).find(|key| never_wrote(snapshot, key))?;
    Some((older, newest))
}

/// A key on its way whose plugins do not decrypt its key check on some node.
pub(super) struct Refused<'a> {
    pub(super) key: &'a KeySecret,
    /// What is wrong, since when, and what is waited for.
    pub(super) told: String,
    /// For so long that another key is to be made.
    pub(super) is_over: bool,
}

/// The newest key, where it was deployed and some node refuses it. A new key check would not do: the KEK that passed the
/// preflight is gone, and one number names one KEK for ever (S5).
pub(super) fn refused<'a>(
    snapshot: &'a Snapshot,
    deployed: &Deployed<'_>,
    turn: &mut Turn,
) -> Option<Refused<'a>> {
    let key = newest(snapshot)?;
    // What an in-place candidate of it reaches says nothing of the key itself.
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
    let told = format!(
        "the plugin of key {} on node {} does not decrypt the key check since {since}: another KEK answers by its name. Nothing was written with this key; if that lasts for {} minutes, another key is made instead",
        key.id,
        nodes.join(", "),
        preflight::KEY_CHECK_PATIENCE.as_secs() / 60
    );
    // Said beside what keeps the rollout: this is what it waits for.
    match &mut turn.waiting {
        Some(waiting) => waiting.message = format!("{}; {told}", waiting.message),
        None => turn.waiting = Some(Waiting { reason: "KEKMismatch".to_owned(), message: told.clone() }),
    }
    Some(Refused { key, told, is_over: left.is_zero() })
}

/// Neither its record nor any revision that exists says that something may be stored under it.
pub(super) fn never_wrote(snapshot: &Snapshot, key: &KeySecret) -> bool {
    // Others' controllers keep no such record.
    snapshot.openshift().is_none()
        && key.write_published.is_none()
        && key.migrated.is_empty()
        && writes_nowhere(snapshot, key.id)
}

/// No revision that exists has it first, nor had one that is gone and still told of; one that cannot be read might.
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

/// The lists of revisions that are gone, as far as the status tells of them.
fn gone_lists(snapshot: &Snapshot) -> impl Iterator<Item = &Vec<String>> {
    let gone = snapshot.told_revisions.iter().filter(|told| !snapshot.revisions.contains_key(&told.n));
    gone.flat_map(|told| told.lists.values())
}

/// Whether a provider in CONTRACT.md's notation is this key's.
fn names(provider: &str, id: KeyId) -> bool {
    provider.split_once(':').is_some_and(|(_, n)| n == id.to_string())
}

/// Whether a list may have an identity key as its writer: it begins with `identity` and has the key's number behind it
/// (CONTRACT 1.5), which does not tell it from one that only reads.
pub(super) fn may_write_plain(snapshot: &Snapshot, id: KeyId) -> bool {
    let plain = |list: &Vec<String>| list.first().is_some_and(|first| first == "identity");
    if gone_lists(snapshot).any(|list| plain(list) && list.contains(&format!("aesgcm:{id}"))) {
        return true;
    }
    let is_key = |key: &ListedKey<'_>| key.id == id && key.mode == Mode::Identity;
    snapshot.revisions.values().any(|stored| {
        let content = stored.content.as_ref().ok();
        let lists = content.and_then(|content| provider_lists::lists(&content.config).ok());
        // One that is not understood may.
        lists.is_none_or(|lists| lists.values().any(|list| list.writes_plain && list.keys.iter().any(is_key)))
    })
}

/// Annotates it. Its number is not used again.
pub(super) fn abandon(snapshot: &Snapshot, key: &KeySecret, reason: &str, turn: &mut Turn) {
    turn.explain(format!("key {} was never a write key and is superseded: {reason}", key.id));
    let key = Box::new(KeySecret { abandoned: Some(rfc3339(&snapshot.now)), ..key.clone() });
    turn.act(Action::AbandonKey { key, reason: reason.to_owned() });
}
