//! A revision that nodes were given and that is gone is made anew, from `status.revisions` and the key secrets (of a key
//! whose secret is gone too, from what another revision has of it), if that gives the very same bytes; else nothing is
//! written (OBJECTS.md, "Beginnings and ends"). CONTRACT 2.5 writes in plain text for a while instead.

use crate::api::{EncryptionNodeStatus, RevisionStatus};
use crate::formats::revision::RevisionContent;
use crate::ids::{ConfigHash, GroupResource, KeyId, Mode, Revision};
use crate::machine::{self, Key, ResourceKeys, State};
use crate::outcome::Action;
use crate::snapshot::{ServerView, Snapshot};

use super::{Assessment, Deployed, Turn};

/// Writes what [`rebuild`] found.
pub(super) fn decide(assessment: &Assessment<'_>, turn: &mut Turn) {
    let Some((revision, content)) = &assessment.rebuilt else { return };
    turn.explain(format!(
        "revision {revision} was lost: status and key secrets give the same bytes, so it is made anew"
    ));
    turn.act(Action::ApplyConfig { revision: *revision, content: content.clone() });
}

/// The content of a lost revision, or why it cannot be made anew.
pub(super) fn rebuild(snapshot: &Snapshot, revision: Revision) -> Result<RevisionContent, String> {
    let told = snapshot
        .told_revisions
        .iter()
        .find(|told| told.n == revision)
        .ok_or("the status does not tell what it held")?;
    // One number names one configuration: a node that has other bytes by it would take these for its own.
    if let Some(node) = contradicts(snapshot, told) {
        return Err(format!("node {node} has another configuration by that number"));
    }
    for newest_identity_writes in [false, true] {
        let content = machine::encode(&state(snapshot, told, newest_identity_writes)?, None);
        if content.hash() == told.config_hash {
            return digests_match(snapshot, revision, &content).map(|()| content);
        }
    }
    Err("neither key secrets nor other revisions give the bytes that it had".to_owned())
}

/// A node that was given, or completely has, a revision of this number whose configuration is another.
fn contradicts<'a>(snapshot: &'a Snapshot, recorded: &RevisionStatus) -> Option<&'a str> {
    let differs = |revision: Revision, hash: &Option<ConfigHash>| {
        revision == recorded.n && hash.as_ref().is_some_and(|hash| *hash != recorded.config_hash)
    };
    let contradicts = |server: &&ServerView| {
        let spec = server.agent.as_ref().map(|agent| &agent.spec);
        spec.is_some_and(|spec| differs(spec.revision, &spec.config_hash))
            || server.status().is_some_and(|status| differs(status.revision, &status.loaded_hash))
    };
    snapshot.servers.values().find(contradicts).map(|server| server.name.as_str())
}

/// The state that these lists came from. A list that begins with `identity` does not tell whether an identity key
/// writes.
fn state(snapshot: &Snapshot, told: &RevisionStatus, newest_identity_writes: bool) -> Result<State, String> {
    let mut state = State::default();
    for (resource, providers) in &told.lists {
        let mut keys = ResourceKeys::default();
        for (index, provider) in providers.iter().enumerate() {
            let Some((_, id)) = provider.split_once(':') else { continue };
            let id: KeyId = id.parse().map_err(|_| format!("the status names a provider {provider:?}"))?;
            let key = known(snapshot, id).ok_or_else(|| format!("the secret of key {id} is gone too"))?;
            state.keys.insert(id, key);
            keys.read.push(id);
            if index == 0 {
                keys.write = Some(id);
            }
        }
        keys.read.sort_unstable_by(|a, b| b.cmp(a));
        if keys.write.is_none() && newest_identity_writes {
            let identity = |id: &&KeyId| state.keys.get(id).is_some_and(|key| key.mode == Mode::Identity);
            keys.write = keys.read.iter().find(identity).copied();
        }
        state.resources.insert(GroupResource::parse(resource), keys);
    }
    Ok(state)
}

/// A key by its secret; where that is gone, as the newest kept revision has it. One that cannot be decoded may be mended.
fn known(snapshot: &Snapshot, id: KeyId) -> Option<Key> {
    if snapshot.undecodable.keys().any(|name| KeyId::from_name(name) == Some(id)) {
        return None;
    }
    let kept = || snapshot.revisions.values().rev().filter_map(|stored| stored.content.as_ref().ok());
    let deployed = || kept().find_map(|content| machine::decode(content, []).ok()?.keys.remove(&id));
    snapshot.key(id).map(Key::of).or_else(deployed)
}

/// Whether a key of what is deployed has no secret any more, decodable or not.
pub(super) fn is_lost(snapshot: &Snapshot, key: &Key) -> bool {
    key.mode != Mode::Identity
        && snapshot.key(key.id).is_none()
        && snapshot.undecodable.keys().all(|name| KeyId::from_name(name) != Some(key.id))
}

/// Names every key that is deployed and whose secret is gone: API servers read with it from what they have loaded, and
/// nothing else has it.
pub(super) fn report(snapshot: &Snapshot, deployed: &Deployed<'_>, turn: &mut Turn) {
    let keys = deployed.state.iter().flat_map(|state| state.keys.values());
    for key in keys.filter(|key| is_lost(snapshot, key)) {
        let message = format!(
            "key {} is lost: the configuration in force has it, and its Secret {}/{} is gone. Restore that Secret; until then only API servers with the present configuration read what is stored under the key",
            key.id,
            snapshot.namespace,
            crate::names::key_secret(&snapshot.component, key.id)
        );
        turn.explain(message.clone());
        turn.notice(true, "KeyLost", message);
    }
}

/// Whoever had a revision that is gone for good may have written by it. What it read with is read on, as far as there are
/// key secrets for it, or other revisions that have it; the rest went with it.
pub(super) fn read_on(snapshot: &Snapshot, newest: Revision, state: &mut State) {
    for told in snapshot.told_revisions.iter().filter(|told| told.n > newest) {
        for (resource, providers) in &told.lists {
            for id in keys_in(providers) {
                let given_up = snapshot.key(id).is_some() && snapshot.usable().all(|key| key.id != id);
                if given_up || snapshot.wanted.forget.contains(&id) {
                    continue;
                }
                let Some(key) = known(snapshot, id) else { continue };
                let keys = state.resources.entry(GroupResource::parse(resource)).or_default();
                if keys.insert(id) {
                    state.keys.entry(id).or_insert(key);
                }
            }
        }
    }
}

fn keys_in(providers: &[String]) -> impl Iterator<Item = KeyId> {
    providers.iter().filter_map(|provider| provider.split_once(':')?.1.parse().ok())
}

/// A key secret that is there and cannot be decoded, of a key that a revision had which is gone: as long as it can be
/// mended, neither is gone for good (S7). With the revision.
pub(super) fn undecodable(snapshot: &Snapshot, newest: Revision) -> Option<(Revision, &str)> {
    let gone = snapshot.told_revisions.iter().filter(|told| told.n > newest);
    let mut named =
        gone.flat_map(|told| told.lists.values().flat_map(|list| keys_in(list)).map(|id| (told.n, id)));
    named.find_map(|(revision, id)| {
        let name = snapshot.undecodable.keys().find(|name| KeyId::from_name(name) == Some(id))?;
        Some((revision, name.as_str()))
    })
}

/// What runs must be what the new Secret says: an in-place update since then gives other plugins. What another revision has
/// of a key may be of another time: that somebody runs it has to be seen, unless nobody has come to this revision at all.
fn digests_match(snapshot: &Snapshot, revision: Revision, content: &RevisionContent) -> Result<(), String> {
    let hash = content.hash();
    let digests = content.digests();
    let borrowed = digests.iter().filter(|(id, _)| snapshot.key(**id).is_none());
    for (id, digest) in borrowed {
        let statuses = || snapshot.servers.values().filter_map(ServerView::status);
        let runs =
            |status: &EncryptionNodeStatus| status.plugins.iter().any(|plugin| plugin.digest == *digest);
        if statuses().any(|status| status.revision >= revision) && !statuses().any(runs) {
            return Err(format!("no node is seen to run the plugin that another revision has of key {id}"));
        }
    }
    for server in snapshot.servers.values() {
        let Some(status) = server.status().filter(|status| status.loaded_hash.as_ref() == Some(&hash)) else {
            continue;
        };
        for (id, digest) in &digests {
            let mut plugins = status.plugins.iter().filter(|plugin| plugin.key_id == *id);
            if !plugins.any(|plugin| plugin.digest == *digest) {
                return Err(format!(
                    "node {} runs another plugin for key {id} than its secret tells of",
                    server.name
                ));
            }
        }
    }
    Ok(())
}
