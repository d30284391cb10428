//! Stops and removes what nothing needs any more, but only when that is certain
//! (invariant: plugins-before-configuration).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::decide::{Draft, Step};
use super::instance::Instance;
use super::observe::linked_keys;
use super::recovered::{self, Recovered};
use super::view::View;
use crate::formats::revision::RevisionContent;
use crate::ids::{KeyId, Revision};

/// Stops plugins that neither target nor candidate needs, and to which no installed or loaded configuration
/// leads.
pub(super) fn plugins(view: &View<'_>, draft: &mut Draft) {
    replaced(view, draft);
    let Some(in_use) = keys_in_use(view) else { return };
    let needed = view.needed();
    let present: BTreeSet<&Instance> = view.o.disk.instances.keys().collect();
    for instance in present {
        if needed.contains_key(instance) || asked_for(view, instance) || draft.unneeded.contains(instance) {
            continue;
        }
        let serves = view.may_serve(instance);
        let may_be_predecessor = is_kept_running(view, instance) && !successor_passed(view, instance.key_id);
        if in_use.contains(&instance.key_id) && (serves || may_be_predecessor) {
            continue;
        }
        draft.unneeded.insert(instance.clone());
        remove(view, instance, serves, draft);
    }
}

/// Stops the instances of replacement credentials that failed, and the predecessors of those that passed.
/// That is certain without a spec: no revision's own data are used while others are laid over them. A plugin
/// whose login is refused would otherwise be restarted again and again, and might lock its role out.
fn replaced(view: &View<'_>, draft: &mut Draft) {
    let needed = view.needed();
    let contents = || {
        let target = view.target.iter().map(|target| target.content);
        target.chain(view.o.disk.revisions.values().map(AsRef::as_ref))
    };
    let mut over: BTreeSet<Instance> = BTreeSet::new();
    for replacement in &view.o.disk.recovered {
        let key_id = replacement.key_id;
        for content in contents() {
            let Some(instance) = replacement.instance(content) else { continue };
            if replacement.rolled_back {
                over.insert(instance);
            } else if view.serves(&instance) && view.pass(&instance, None).is_some() {
                let own = content.digest(key_id).map(|digest| Instance::new(key_id, digest));
                let earlier = view
                    .o
                    .disk
                    .recovered
                    .iter()
                    .filter(|other| other.key_id == key_id && other.number < replacement.number);
                over.extend(own.into_iter().chain(earlier.filter_map(|other| other.instance(content))));
            }
        }
    }
    for instance in over {
        let there = view.o.disk.instances.contains_key(&instance);
        if there
            && !needed.contains_key(&instance)
            && !view.may_serve(&instance)
            && !asked_for(view, &instance)
        {
            draft.unneeded.insert(instance.clone());
            remove(view, &instance, false, draft);
        }
    }
}

/// The keys whose links are named by a configuration that is, or may soon be, in force. `None` if that is not
/// known: then nothing is stopped (invariant: unknown-is-not-absent).
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

/// Whether the request names this instance, also while its candidate cannot be read.
fn asked_for(view: &View<'_>, instance: &Instance) -> bool {
    view.request().is_some_and(|request| Instance::new(request.key_id, &request.hash) == *instance)
}

/// Whether it serves, or may have served. No link ever led to a trial. If a key's plugin keeps failing, each
/// trial for the key is removed when the next one starts; otherwise their number would grow.
fn is_kept_running(view: &View<'_>, instance: &Instance) -> bool {
    let found = view.on_disk(instance);
    found.pod && !found.trial
}

/// Whether the instance that the key's link leads to has passed through the link: its predecessor may stop.
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
    let digest = found.digest.as_ref();
    let is_replaced =
        digest.is_some_and(|digest| view.o.disk.recovered.iter().any(|found| found.covers(digest)));
    let wait = match (serves, passed_lately && !is_replaced) {
        (true, _) => policy.drain,
        (false, true) => policy.linger,
        (false, false) => Duration::ZERO,
    };
    if found.pod && unneeded < wait {
        draft.why.push(format!("nothing needs {instance} any more; it stops after {wait:?}"));
        return;
    }
    if serves {
        draft.step(
            Step::RemoveLink(instance.key_id),
            format!("no configuration contains key {}", instance.key_id),
        );
    }
    if found.pod {
        draft.step(Step::RemovePod(instance.clone()), format!("nothing needs {instance} any more"));
    } else if found.files || found.folder {
        if found.listening && unneeded < policy.stop_deadline {
            draft.wait(format!("{instance} has not stopped yet"));
        } else {
            draft.step(Step::RemoveFiles(instance.clone()), format!("{instance} has stopped"));
        }
    }
}

/// Removes stored revisions and configurations, except the installed one and its predecessor.
pub(super) fn kept(view: &View<'_>, draft: &mut Draft) {
    let Some(target) = view.target.as_ref().filter(|t| view.is_complete(&t.hash, &t.plugins)) else { return };
    let revisions: &BTreeMap<Revision, _> = &view.o.disk.revisions;
    // The predecessor stays, unless it has plugins that are gone: the node could not return to it.
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

/// Removes records of replacement credentials that are not used any more: one that failed and has stopped,
/// one whose successor serves, one for which newer data are installed.
pub(super) fn recovered(view: &View<'_>, draft: &mut Draft) {
    let disk = &view.o.disk;
    let installed = view.target.as_ref().filter(|t| view.is_complete(&t.hash, &t.plugins));
    for replacement in &disk.recovered {
        let key_id = replacement.key_id;
        let step = Step::ForgetRecovered { key_id, number: replacement.number };
        let is_there = || {
            let mut made = disk.revisions.values().filter_map(|content| replacement.instance(content));
            made.any(|instance| disk.instances.contains_key(&instance))
        };
        if replacement.rolled_back {
            if !is_there() {
                let why = format!(
                    "the plugin with the replacement credential of key {key_id} failed and has stopped"
                );
                draft.step(step, why);
            }
        } else if let Some(target) = installed.filter(|target| !is_used(replacement, target.content)) {
            let why = format!(
                "revision {} is installed; for key {key_id} it has newer data than the replacement credential",
                target.revision
            );
            draft.step(step, why);
        } else if let Some(target) = installed.filter(|target| is_replaced(view, replacement, target.content))
        {
            let why =
                format!("a later replacement credential of key {key_id} serves revision {}", target.revision);
            draft.step(step, why);
        }
    }
}

fn is_used(replacement: &Recovered, content: &RevisionContent) -> bool {
    content.digest(replacement.key_id).is_some_and(|digest| replacement.covers(digest))
}

/// Whether a later replacement is in force, and its instance serves.
fn is_replaced(view: &View<'_>, replacement: &Recovered, content: &RevisionContent) -> bool {
    let later = recovered::in_force(&view.o.disk.recovered, replacement.key_id, content);
    later.is_some_and(|later| {
        later.number > replacement.number && later.instance(content).is_some_and(|i| view.serves(&i))
    })
}
