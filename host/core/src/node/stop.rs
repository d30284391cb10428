//! What nothing needs any more stops and goes, but only when that is certain.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::decide::{Draft, Step};
use super::instance::Instance;
use super::observe::linked_keys;
use super::view::View;
use crate::ids::{KeyId, Revision};

/// Plugins that neither target nor candidate needs and that no configuration, installed or loaded, leads to.
pub(super) fn plugins(view: &View<'_>, draft: &mut Draft) {
    let Some(in_use) = keys_in_use(view) else { return };
    let needed = view.needed();
    let present: BTreeSet<&Instance> = view.o.disk.instances.keys().collect();
    for instance in present {
        if needed.contains_key(instance) || asked_for(view, instance) {
            continue;
        }
        let serves = view.may_serve(instance);
        if in_use.contains(&instance.key_id) && (serves || !successor_passed(view, instance.key_id)) {
            continue;
        }
        draft.unneeded.insert(instance.clone());
        remove(view, instance, serves, draft);
    }
}

/// The keys whose links are named by a configuration that is, or may soon be, in force. `None` where that cannot be
/// told: then nothing is stopped.
fn keys_in_use(view: &View<'_>) -> Option<BTreeSet<KeyId>> {
    let seen = view.o.spec.as_ref()?;
    if seen.spec.revision > Revision(0) && view.target.is_none() {
        return None;
    }
    let mut keys = view.keys_of(view.loaded?)?;
    if let Some(file) = view.file {
        keys.append(&mut view.keys_of(file)?);
    }
    keys.extend(view.target.iter().flat_map(|target| linked_keys(&target.content.config)));
    Some(keys)
}

/// A candidate that cannot be read just now is still asked for.
fn asked_for(view: &View<'_>, instance: &Instance) -> bool {
    view.request().is_some_and(|request| Instance::new(request.key_id, &request.hash) == *instance)
}

/// The instance that the key's link leads to has passed through the link: the one before may stop.
fn successor_passed(view: &View<'_>, key_id: KeyId) -> bool {
    view.serving(key_id).is_some_and(|serving| view.pass(&serving, None).is_some())
}

fn remove(view: &View<'_>, instance: &Instance, serves: bool, draft: &mut Draft) {
    let policy = &view.o.policy;
    let unneeded = view.o.unneeded.get(instance).copied().unwrap_or_default();
    let found = view.on_disk(instance);
    let passed_lately = view
        .o
        .disk
        .preflight
        .as_ref()
        .is_some_and(|answer| Instance::new(instance.key_id, &answer.hash) == *instance);
    let wait = match (serves, passed_lately) {
        (true, _) => policy.drain,
        (false, true) => policy.linger,
        (false, false) => Duration::ZERO,
    };
    if found.pod && unneeded < wait {
        draft.why.push(format!("{instance} is not needed any more; it stops after {wait:?}"));
        return;
    }
    if serves {
        draft
            .step(Step::RemoveLink(instance.key_id), format!("no configuration has key {}", instance.key_id));
    }
    if found.pod {
        draft.step(Step::RemovePod(instance.clone()), format!("nothing needs {instance}"));
    } else if found.files || found.folder {
        if found.listening && unneeded < policy.stop_deadline {
            draft.wait(format!("{instance} has not stopped yet"));
        } else {
            draft.step(Step::RemoveFiles(instance.clone()), format!("{instance} has stopped"));
        }
    }
}

/// Kept revisions and configurations beyond the installed one and the one before it.
pub(super) fn kept(view: &View<'_>, draft: &mut Draft) {
    let Some(target) = view.target.as_ref().filter(|t| view.is_complete(&t.hash, &t.plugins)) else { return };
    let revisions: &BTreeMap<Revision, _> = &view.o.disk.revisions;
    // One before, unless it has plugins that are gone: nobody could go back to it.
    let wanted = target.content.kms_keys();
    let before = revisions.range(..target.revision).next_back();
    let before = before.filter(|(_, before)| before.kms_keys().is_subset(&wanted)).map(|(n, _)| *n);
    for revision in revisions.keys().filter(|n| **n != target.revision && Some(**n) != before) {
        draft.step(Step::ForgetRevision(*revision), format!("revision {} is installed", target.revision));
    }
    for hash in view.o.disk.configurations.keys().filter(|hash| **hash != target.hash) {
        draft.step(
            Step::ForgetConfiguration(hash.clone()),
            format!("revision {} is installed", target.revision),
        );
    }
}
