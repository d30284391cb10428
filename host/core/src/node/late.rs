//! A node that returns with a configuration that was superseded meanwhile (decision 0046): it was removed
//! with its objects, so that nobody waited for it, and no other API server may be able to read what its API
//! server writes.
//!
//! A reboot has emptied the folder of the sockets. The agent does not restore the links of keys that the
//! target lacks, so nothing can be written under them, and it installs the target before the API server
//! answers, as on a node that joins. A local key needs no socket, and a key that the target has for another
//! resource needs its link: in both cases the agent installs the target as early as it can, which may be
//! after the API server began to write.

use super::observe::Absence;
use super::view::{Target, View};
use crate::formats::encryption_config::ProviderConfiguration;
use crate::formats::revision::RevisionContent;
use crate::ids::{ConfigHash, GroupResource, KeyId, Revision};

/// Why the link of a key that served before the reboot is not restored now.
pub(super) fn blocked(view: &View<'_>, key_id: KeyId) -> Option<String> {
    match view.o.absence {
        Some(Absence::Elsewhere) => {
            return Some(format!(
                "another API server has no EncryptionNode of this node; the socket link of key {key_id} is restored when the operator has set this node's target revision"
            ));
        }
        Some(Absence::Unsure(since)) if since < view.o.policy.link_wait && !is_next(view) => {
            return Some(format!(
                "this node has no readable target revision; for {:?} the socket link of key {key_id} is not restored, because the configuration on this disk may be superseded",
                view.o.policy.link_wait
            ));
        }
        Some(Absence::Unread(since)) if since < view.o.policy.link_wait_unread => {
            return Some(format!(
                "no API server answers; for {:?} the socket link of key {key_id} is not restored, because the configuration on this disk may be superseded",
                view.o.policy.link_wait_unread
            ));
        }
        _ => {}
    }
    let target = view.target.as_ref()?;
    if target.plugins.contains_key(&key_id) {
        return (linked_with_target(view, key_id) && !is_ready(view, target)).then(|| {
            format!(
                "the configuration on this disk is superseded; the socket link of key {key_id}, which the target contains too, is restored when all plugins of revision {} are ready",
                target.revision
            )
        });
    }
    let names = |hash: &&ConfigHash| view.keys_of(hash).is_none_or(|keys| keys.contains(&key_id));
    let mut here = view.file.into_iter().chain(view.loaded);
    let needed = here.any(|hash| names(&hash) && !is_superseded(view, hash));
    (!needed).then(|| {
        format!(
            "the target does not contain key {key_id}: its socket link is not restored, and revision {} is installed before the API server serves",
            target.revision
        )
    })
}

/// Whether the spec names the installed revision or the one right after it. The node may have been off when
/// the spec changed, and its own API server reads no Secret before the links exist. A single revision removes
/// no key that somebody wrote with: before a key leaves, another one has to become the write key.
fn is_next(view: &View<'_>) -> bool {
    let named = view.o.spec.as_ref().map_or(Revision(0), |seen| seen.spec.revision);
    let here = view.file.and_then(|file| view.revision_of(file)).map(|(revision, _)| revision);
    named > Revision(0) && here.is_some_and(|here| named.0 <= here.0.saturating_add(1))
}

/// Whether the configuration here is superseded for one resource, and names a key that the target has for
/// another. The key's link is made in the reconcile pass that installs the target. An API server that runs
/// with the old configuration may write with it until it has loaded the target: a minute, and the time that
/// the plugins take.
pub(super) fn linked_with_target(view: &View<'_>, key_id: KeyId) -> bool {
    let names = |hash: &&ConfigHash| view.keys_of(hash).is_none_or(|keys| keys.contains(&key_id));
    let mut here = view.file.into_iter().chain(view.loaded);
    here.any(|hash| names(&hash) && is_superseded(view, hash))
}

/// Whether every plugin passes its probes and is linked, except those that are linked with the target.
fn is_ready(view: &View<'_>, target: &Target<'_>) -> bool {
    target.plugins.iter().all(|(key_id, needed)| {
        let pass = view.pass(&needed.instance, needed.external.as_deref());
        let linked = needed.external.is_some() || view.serves(&needed.instance);
        pass.is_some_and(|pass| pass.age <= view.o.policy.fresh)
            && (linked || linked_with_target(view, *key_id) && !view.on_disk(&needed.instance).trial)
    })
}

/// Whether the target supersedes the configuration of this hash.
pub(super) fn is_superseded(view: &View<'_>, hash: &ConfigHash) -> bool {
    view.target.as_ref().is_some_and(|target| supersedes(view, target.revision, target.content, hash))
}

/// Whether the revision in the file supersedes what the API server was last seen to have loaded.
pub(super) fn loaded_is_superseded(view: &View<'_>) -> bool {
    let Some((revision, content)) = view.file.and_then(|file| view.revision_of(file)) else { return false };
    view.o.disk.loaded.as_ref().is_some_and(|loaded| supersedes(view, revision, content, loaded))
}

/// Whether a revision supersedes the configuration of this hash: for some resource the revision does not read
/// what the configuration writes, or it encrypts what the configuration writes in plain text and does not
/// directly follow it.
pub(super) fn supersedes(
    view: &View<'_>,
    by: Revision,
    content: &RevisionContent,
    hash: &ConfigHash,
) -> bool {
    if content.hash() == *hash {
        return false;
    }
    let Some(config) = view.config_of(hash) else { return false };
    let now = &content.config;
    let revision = view.revision_of(hash).map_or(Revision(0), |(revision, _)| revision);
    let long_ago = revision.0.saturating_add(1) < by.0;
    let resources =
        || config.resources.iter().chain(&now.resources).flat_map(|entry| entry.resources.iter().flatten());
    resources().any(|resource| {
        // A resource without an entry is stored in plain text.
        let resource = GroupResource::parse(resource);
        let writes = config.providers_of(&resource).first().copied();
        let reads = now.providers_of(&resource);
        match writes.filter(|provider| provider.identity.is_none()) {
            Some(writes) => !reads.iter().any(|reads| is_same(reads, writes)),
            None => {
                let plain = |provider: &&ProviderConfiguration| provider.identity.is_some();
                let encrypts = reads.first().is_some_and(|first| !plain(first));
                encrypts && (long_ago || !reads.iter().any(plain))
            }
        }
    })
}

/// Whether one provider reads what the other writes. A KMS provider is identified by its name, with any
/// timeout; a local one by its keys, the first of which writes.
fn is_same(reads: &ProviderConfiguration, writes: &ProviderConfiguration) -> bool {
    match (&reads.kms, &writes.kms) {
        (Some(reads), Some(writes)) => reads.name == writes.name,
        (None, None) => {
            let keys = |of: &ProviderConfiguration| {
                [&of.aescbc, &of.aesgcm, &of.secretbox].map(|keys| keys.clone().map(|keys| keys.keys))
            };
            keys(reads).into_iter().zip(keys(writes)).any(|(reads, writes)| {
                let first = writes.as_ref().and_then(|keys| keys.first());
                first.is_some_and(|first| reads.is_some_and(|reads| reads.contains(first)))
            })
        }
        _ => false,
    }
}
