//! A lost revision that nodes were given is created again from `status.revisions` and the key secrets, if
//! that gives exactly the same bytes. For a key whose secret is gone too, another revision with the key is
//! used. Otherwise nothing is written (objects: missing-revision). OpenShift's controllers write plain text
//! for one rollout instead (openshift: lost-deployed-configuration).

use crate::api::{EncryptionNodeStatus, RevisionStatus};
use crate::formats::revision::RevisionContent;
use crate::ids::{ConfigHash, GroupResource, KeyId, Mode, Revision};
use crate::machine::{self, Key, ResourceKeys, State};
use crate::outcome::Action;
use crate::snapshot::{ServerView, Snapshot};

use super::{Assessment, Deployed, Turn};

/// Writes the revision that [`rebuild`] found.
pub(super) fn decide(assessment: &Assessment<'_>, turn: &mut Turn) {
    let Some((revision, content)) = &assessment.rebuilt else { return };
    turn.explain(format!(
        "revision {revision} was lost and is recreated: the status and the key secrets give the same bytes"
    ));
    turn.act(Action::ApplyConfig { revision: *revision, content: content.clone() });
}

/// The content of a lost revision, or why it cannot be recreated.
pub(super) fn rebuild(snapshot: &Snapshot, revision: Revision) -> Result<RevisionContent, String> {
    let recorded = snapshot
        .recorded_revisions
        .iter()
        .find(|recorded| recorded.n == revision)
        .ok_or("the status does not record its content")?;
    // One number names one configuration (invariant: one-revision-one-configuration). A node with other bytes
    // under this number would take these for its own.
    if let Some(node) = contradicts(snapshot, recorded) {
        return Err(format!("node {node} has another configuration under that number"));
    }
    for newest_identity_writes in [false, true] {
        let content = machine::encode(&state(snapshot, recorded, newest_identity_writes)?, None);
        if content.hash() == recorded.config_hash {
            return digests_match(snapshot, revision, &content).map(|()| content);
        }
    }
    Err("the key secrets and the other revisions do not give the same bytes".to_owned())
}

/// A node that was given, or has completely installed, another configuration under this number.
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

/// The state that these lists describe. A list that begins with `identity` does not show whether an identity
/// key writes.
fn state(
    snapshot: &Snapshot,
    recorded: &RevisionStatus,
    newest_identity_writes: bool,
) -> Result<State, String> {
    let mut state = State::default();
    for (resource, providers) in &recorded.lists {
        let mut keys = ResourceKeys::default();
        for (index, provider) in providers.iter().enumerate() {
            let Some((_, id)) = provider.split_once(':') else { continue };
            let id: KeyId = id.parse().map_err(|_| {
                format!("the status records the provider {provider:?}, which is not understood")
            })?;
            let key = known(snapshot, id).ok_or_else(|| format!("the secret of key {id} is gone as well"))?;
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

/// A key from its secret or, if that is gone, from the newest kept revision that has it. `None` if its secret
/// cannot be decoded, since it may still be repaired.
fn known(snapshot: &Snapshot, id: KeyId) -> Option<Key> {
    if snapshot.undecodable.keys().any(|name| KeyId::from_name(name) == Some(id)) {
        return None;
    }
    let kept = || snapshot.revisions.values().rev().filter_map(|stored| stored.content.as_ref().ok());
    let deployed = || kept().find_map(|content| machine::decode(content, []).ok()?.keys.remove(&id));
    snapshot.key(id).map(Key::of).or_else(deployed)
}

/// Whether a deployed key has no secret any more, decodable or not.
pub(super) fn is_lost(snapshot: &Snapshot, key: &Key) -> bool {
    key.mode != Mode::Identity
        && snapshot.key(key.id).is_none()
        && snapshot.undecodable.keys().all(|name| KeyId::from_name(name) != Some(key.id))
}

/// Reports every deployed key whose secret is gone. API servers read with it from the configuration that they
/// have loaded; nothing else has it.
pub(super) fn report(snapshot: &Snapshot, deployed: &Deployed<'_>, turn: &mut Turn) {
    let keys = deployed.state.iter().flat_map(|state| state.keys.values());
    for key in keys.filter(|key| is_lost(snapshot, key)) {
        let message = format!(
            "key {} is lost: the configuration in force contains it, but Secret {}/{} is gone; restore that Secret. Until then only API servers that have the current configuration can read what is stored under the key",
            key.id,
            snapshot.namespace,
            crate::names::key_secret(&snapshot.component, key.id)
        );
        turn.explain(message.clone());
        turn.notice(true, "KeyLost", message);
    }
}

/// A node that had a revision which is lost for good may have written with it. The keys that it read with
/// stay readable, as far as key secrets or other revisions have them. The rest is lost with it.
pub(super) fn read_on(snapshot: &Snapshot, newest: Revision, state: &mut State) {
    for recorded in snapshot.recorded_revisions.iter().filter(|recorded| recorded.n > newest) {
        for (resource, providers) in &recorded.lists {
            for id in keys_in(providers) {
                let is_unwanted = snapshot.key(id).is_some() && snapshot.usable().all(|key| key.id != id);
                if is_unwanted || snapshot.wanted.forget.contains(&id) {
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

/// A key secret that exists and cannot be decoded, of a key that a missing revision had. While it can be
/// repaired, neither is lost for good (invariant: unknown-is-not-absent). Returns the revision, too.
pub(super) fn undecodable(snapshot: &Snapshot, newest: Revision) -> Option<(Revision, &str)> {
    let gone = snapshot.recorded_revisions.iter().filter(|recorded| recorded.n > newest);
    let mut named = gone.flat_map(|recorded| {
        recorded.lists.values().flat_map(|list| keys_in(list)).map(|id| (recorded.n, id))
    });
    named.find_map(|(revision, id)| {
        let name = snapshot.undecodable.keys().find(|name| KeyId::from_name(name) == Some(id))?;
        Some((revision, name.as_str()))
    })
}

/// Whether nodes run exactly the plugins of the recreated revision, since an update in place gives other
/// plugins. Data from another revision may be older: some node must report such a plugin, unless no node has
/// reached this revision.
fn digests_match(snapshot: &Snapshot, revision: Revision, content: &RevisionContent) -> Result<(), String> {
    let hash = content.hash();
    let digests = content.digests();
    let borrowed = digests.iter().filter(|(id, _)| snapshot.key(**id).is_none());
    for (id, digest) in borrowed {
        let statuses = || snapshot.servers.values().filter_map(ServerView::status);
        let runs =
            |status: &EncryptionNodeStatus| status.plugins.iter().any(|plugin| plugin.digest == *digest);
        if statuses().any(|status| status.revision >= revision) && !statuses().any(runs) {
            return Err(format!("no node reports the plugin that another revision has for key {id}"));
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
                    "node {} runs another plugin for key {id} than its secret describes",
                    server.name
                ));
            }
        }
    }
    Ok(())
}
