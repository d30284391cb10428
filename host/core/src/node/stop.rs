//! What nothing needs any more stops and goes, but only when that is certain.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::decide::{Draft, Step};
use super::instance::Instance;
use super::observe::linked_keys;
use super::recovered::{self, Recovered};
use super::view::View;
use crate::formats::revision::RevisionContent;
use crate::ids::{KeyId, Revision};

/// Plugins that neither target nor candidate needs and that no configuration, installed or loaded, leads to.
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
        let may_be_the_one_before = runs_to_stay(view, instance) && !successor_passed(view, instance.key_id);
        if in_use.contains(&instance.key_id) && (serves || may_be_the_one_before) {
            continue;
        }
        draft.unneeded.insert(instance.clone());
        remove(view, instance, serves, draft);
    }
}

/// What was tried by hand and failed, and what gave way to what was tried and passed. That is certain without a spec: no
/// revision's own data are used while others are laid over them. A plugin whose login is refused, left alone, is started
/// over and over, and may lock its role out.
fn replaced(view: &View<'_>, draft: &mut Draft) {
    let needed = view.needed();
    let contents = || {
        let target = view.target.iter().map(|target| target.content);
        target.chain(view.o.disk.revisions.values().map(AsRef::as_ref))
    };
    let mut over: BTreeSet<Instance> = BTreeSet::new();
    for one in &view.o.disk.recovered {
        let key_id = one.key_id;
        for content in contents() {
            let Some(instance) = one.instance(content) else { continue };
            if one.withdrawn {
                over.insert(instance);
            } else if view.serves(&instance) && view.pass(&instance, None).is_some() {
                let own = content.digest(key_id).map(|digest| Instance::new(key_id, digest));
                let earlier = view
                    .o
                    .disk
                    .recovered
                    .iter()
                    .filter(|other| other.key_id == key_id && other.number < one.number);
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

/// It serves, or has served. No link ever led to what is only tried: where a key's plugin keeps failing, each of those
/// that are tried in its stead goes when the next one's turn comes, or they would become more and more.
fn runs_to_stay(view: &View<'_>, instance: &Instance) -> bool {
    let found = view.on_disk(instance);
    found.pod && !found.trial
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
    let digest = found.digest.as_ref();
    let dead = digest.is_some_and(|digest| view.o.disk.recovered.iter().any(|one| one.covers(digest)));
    let wait = match (serves, passed_lately && !dead) {
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

/// What was replaced by hand and is of no more use: it failed and is gone, a later one serves, or newer data are installed.
pub(super) fn recovered(view: &View<'_>, draft: &mut Draft) {
    let disk = &view.o.disk;
    let installed = view.target.as_ref().filter(|t| view.is_complete(&t.hash, &t.plugins));
    for one in &disk.recovered {
        let step = Step::ForgetRecovered { key_id: one.key_id, number: one.number };
        let is_there = || {
            let mut made = disk.revisions.values().filter_map(|content| one.instance(content));
            made.any(|instance| disk.instances.contains_key(&instance))
        };
        if one.withdrawn {
            if !is_there() {
                draft.step(
                    step,
                    format!("what was replaced for key {} by hand failed, and has stopped", one.key_id),
                );
            }
        } else if let Some(target) = installed.filter(|target| !is_used(one, target.content)) {
            let why = format!(
                "revision {} is installed with newer data for key {} than what was replaced by hand",
                target.revision, one.key_id
            );
            draft.step(step, why);
        } else if let Some(target) = installed.filter(|target| is_overtaken(view, one, target.content)) {
            let why =
                format!("what was replaced for key {} later serves revision {}", one.key_id, target.revision);
            draft.step(step, why);
        }
    }
}

fn is_used(one: &Recovered, content: &RevisionContent) -> bool {
    content.digest(one.key_id).is_some_and(|digest| one.covers(digest))
}

/// A later replacement holds, and what came of it serves.
fn is_overtaken(view: &View<'_>, one: &Recovered, content: &RevisionContent) -> bool {
    let later = recovered::in_force(&view.o.disk.recovered, one.key_id, content);
    later.is_some_and(|later| {
        later.number > one.number && later.instance(content).is_some_and(|i| view.serves(&i))
    })
}
