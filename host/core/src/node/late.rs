//! A node that comes back with a configuration that was withdrawn meanwhile (DESIGN.md, "Joining and returning"): it was
//! given up with its objects, so that nobody waited for it, and what its API server writes by its old configuration no
//! other one could read.
//!
//! A reboot has emptied the folder of the sockets. The links of keys that the target does not have are not made again,
//! so that nothing can be written under them, and the target is installed before the API server answers, as on a node
//! that joins. A local key needs no socket, and that of a key which the target has for another resource is needed: there the
//! target is installed as early as the agent can, which may be after the API server began to write.

use super::observe::Absence;
use super::view::{Target, View};
use crate::formats::encryption_config::ProviderConfiguration;
use crate::formats::revision::RevisionContent;
use crate::ids::{ConfigHash, GroupResource, KeyId, Revision};

/// Why the link of a key that served before the reboot is not made again now.
pub(super) fn held(view: &View<'_>, key_id: KeyId) -> Option<String> {
    match view.o.absence {
        Some(Absence::Elsewhere) => {
            return Some(format!(
                "another API server knows no EncryptionNode of this node: the link of key {key_id} is made again when the operator has said which revision is in force"
            ));
        }
        Some(Absence::Unsure(since)) if since < view.o.policy.hold && !is_next(view) => {
            return Some(format!(
                "no revision in force is told to this node: for {:?} the link of key {key_id} is not made again, in case the configuration here was withdrawn",
                view.o.policy.hold
            ));
        }
        Some(Absence::Unread(since)) if since < view.o.policy.hold_unread => {
            return Some(format!(
                "the API cannot be asked: for {:?} the link of key {key_id} is not made again, in case the configuration here was withdrawn",
                view.o.policy.hold_unread
            ));
        }
        _ => {}
    }
    let target = view.target.as_ref()?;
    if target.plugins.contains_key(&key_id) {
        return (comes_with_target(view, key_id) && !is_ready(view, target)).then(|| {
            format!(
                "the configuration here was withdrawn: the link of key {key_id}, which it has too, is made again when all plugins of revision {} are ready",
                target.revision
            )
        });
    }
    let names = |hash: &&ConfigHash| view.keys_of(hash).is_none_or(|keys| keys.contains(&key_id));
    let mut here = view.file.into_iter().chain(view.loaded);
    let needed = here.any(|hash| names(&hash) && !is_late(view, hash));
    (!needed).then(|| {
        format!(
            "key {key_id} was withdrawn: its link is not made again, and revision {} is installed before the API server serves",
            target.revision
        )
    })
}

/// Whether the node is told of what it has installed, or of the revision after that. It may have been off while it was told,
/// and its own API server reads no Secret before the links are there. One revision alone takes no key away by which somebody
/// wrote: before a key leaves, another has to become the writer.
fn is_next(view: &View<'_>) -> bool {
    let told = view.o.spec.as_ref().map_or(Revision(0), |seen| seen.spec.revision);
    let here = view.file.and_then(|file| view.revision_of(file)).map(|(revision, _)| revision);
    told > Revision(0) && here.is_some_and(|here| told.0 <= here.0.saturating_add(1))
}

/// Whether what is here was withdrawn for one resource, and leads to a key that the target has for another. Its link is
/// made in the turn in which the target is installed. An API server that runs with what was here by then may write by it until
/// it has looked at its file and loaded that: a minute, and what the plugins take.
pub(super) fn comes_with_target(view: &View<'_>, key_id: KeyId) -> bool {
    let names = |hash: &&ConfigHash| view.keys_of(hash).is_none_or(|keys| keys.contains(&key_id));
    let mut here = view.file.into_iter().chain(view.loaded);
    here.any(|hash| names(&hash) && is_late(view, hash))
}

/// Every plugin passes, and is linked but for those that come with the target.
fn is_ready(view: &View<'_>, target: &Target<'_>) -> bool {
    target.plugins.iter().all(|(key_id, needed)| {
        let pass = view.pass(&needed.instance, needed.external.as_deref());
        let linked = needed.external.is_some() || view.serves(&needed.instance);
        pass.is_some_and(|pass| pass.age <= view.o.policy.fresh)
            && (linked || comes_with_target(view, *key_id) && !view.on_disk(&needed.instance).trial)
    })
}

/// Whether the configuration of this hash was withdrawn when the target was made.
pub(super) fn is_late(view: &View<'_>, hash: &ConfigHash) -> bool {
    view.target.as_ref().is_some_and(|target| was_withdrawn(view, target.revision, target.content, hash))
}

/// Whether what the API server was last seen to have loaded was withdrawn when the revision in the file was installed.
pub(super) fn was_late(view: &View<'_>) -> bool {
    let Some((revision, content)) = view.file.and_then(|file| view.revision_of(file)) else { return false };
    view.o.disk.loaded.as_ref().is_some_and(|loaded| was_withdrawn(view, revision, content, loaded))
}

/// Whether the configuration of this hash was withdrawn when this revision was made: that does not read what it writes, or
/// it writes in plain text what that encrypts, and was not the one before it.
pub(super) fn was_withdrawn(
    view: &View<'_>,
    than: Revision,
    content: &RevisionContent,
    hash: &ConfigHash,
) -> bool {
    if content.hash() == *hash {
        return false;
    }
    let Some(config) = view.config_of(hash) else { return false };
    let now = &content.config;
    let revision = view.revision_of(hash).map_or(Revision(0), |(revision, _)| revision);
    let long_ago = revision.0.saturating_add(1) < than.0;
    let resources =
        || config.resources.iter().chain(&now.resources).flat_map(|entry| entry.resources.iter().flatten());
    resources().any(|resource| {
        // What is not named is plain text.
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

/// Whether one reads what the other writes: a KMS provider is its name, whatever its timeout; a local one its keys, of
/// which the first writes.
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
