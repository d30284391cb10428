//! From running plugins to a loaded configuration: links, the file, the API server's word, and the way back.

use super::decide::{Draft, Refused, Step};
use super::drift::{self, Mend};
use super::late;
use super::observe::Refusal;
use super::view::{Needed, Problem, Target, View};

/// Renames a key's link over to an instance that passed, key check included. What stands there already stays.
pub(super) fn switch_links(view: &View<'_>, draft: &mut Draft) {
    for (key_id, needed) in view.to_serve() {
        let instance = &needed.instance;
        if needed.external.is_some() || needed.unfit().is_some() || view.serves(instance) {
            continue;
        }
        if view.on_disk(instance).trial {
            // It ends; what is started in its place has to pass (`trial`).
            continue;
        }
        let no_link = !view.o.disk.links.contains_key(key_id);
        if let Some(why) = late::held(view, *key_id).filter(|_| no_link) {
            draft.wait(why);
            continue;
        }
        if view.question(instance, None).key_check.is_none() {
            // Nothing else would show that it reaches the KEK under which objects are stored (DESIGN.md, "Provider ABI").
            let why = format!(
                "key {key_id} has no key check, so its plugin cannot be shown to reach the KEK; restore the key's Secret, or give the key up (spec.forget)"
            );
            draft.problem(Problem::new("KeyCheckMissing", why));
            continue;
        }
        match view.pass(instance, None) {
            Some(pass) if pass.age <= view.o.policy.fresh => {
                let why = format!("{instance} passed; it serves key {key_id} from now on");
                draft.step(Step::SwitchLink { key_id: *key_id, instance: instance.clone() }, why);
            }
            Some(_) => {
                draft.urgent.insert(instance.clone());
                draft.wait(format!("{instance} passed a while ago; it is asked once more before it serves"));
            }
            None => not_ready(view, needed, draft),
        }
    }
}

/// The configuration file: installed, waited for, or put back.
pub(super) fn configuration(view: &View<'_>, draft: &mut Draft) {
    if put_back(view, draft) {
        return;
    }
    let Some(target) = &view.target else { return };
    if view.is_complete(&target.hash, &target.plugins) {
        // What befalls its plugins later is a matter of their health.
        if view.o.disk.refusal.is_some() {
            draft.step(Step::ForgetRefusal, "the API server has loaded the configuration");
        }
        return;
    }
    if view.file == Some(&target.hash) {
        if view.loaded != view.file && view.loaded.is_some() {
            draft.wait(format!("waiting until the API server has loaded revision {}", target.revision));
        }
        // Plugins replaced under the same configuration: nothing is installed, but the node is not done either.
        through_links(view, target, draft);
        return;
    }
    if let Some(file) = view.file.filter(|file| !view.is_known(file)) {
        match drift::mend(view, target, draft) {
            Mend::Install => {}
            Mend::PutBack => return,
            Mend::Refuse => {
                let message = format!(
                    "the configuration file holds something that Keyward did not write ({file}); it is not replaced"
                );
                draft.problem(Problem::new("ForeignConfiguration", message));
                return;
            }
        }
    }
    if view.loaded.is_none()
        && !view.file.is_some_and(|file| late::is_late(view, file))
        && !late::was_late(view)
    {
        return;
    }
    if let Some(refusal) = view.o.disk.refusal.as_ref().filter(|refusal| refusal.revision == target.revision)
    {
        let pause = view.o.policy.after_refusal(refusal.attempts);
        draft.problem(Problem::new("ConfigurationRefused", told(refusal)));
        if refusal.elapsed < pause {
            draft
                .why
                .push(format!("revision {} is tried again {pause:?} after it was put away", target.revision));
            return;
        }
    }
    if through_links(view, target, draft) {
        let why = format!("every plugin of revision {} answers at its key's socket", target.revision);
        let step = Step::InstallConfiguration { revision: target.revision, hash: target.hash.clone() };
        draft.step(step, why);
    }
}

pub(super) fn told(refusal: &Refusal) -> String {
    format!(
        "the API server did not load revision {} ({} attempts); its log says why",
        refusal.revision, refusal.attempts
    )
}

/// Whether all plugins passed through their keys' links lately. Those that passed too long ago are asked once more,
/// when all have passed at all.
fn through_links(view: &View<'_>, target: &Target<'_>, draft: &mut Draft) -> bool {
    let (mut all, mut stale) = (true, Vec::new());
    for needed in target.plugins.values() {
        let instance = &needed.instance;
        // One that is only tried gives way to another start of the same before a link leads to it.
        let comes = late::comes_with_target(view, instance.key_id) && !view.on_disk(instance).trial;
        let linked = view.serves(instance) || comes;
        if needed.unfit().is_some() || needed.external.is_none() && !linked {
            // Said by `switch_links`.
            all = false;
            continue;
        }
        match view.pass(instance, needed.external.as_deref()) {
            Some(pass) if pass.age <= view.o.policy.fresh => {}
            Some(_) => stale.push(instance.clone()),
            None => {
                all = false;
                not_ready(view, needed, draft);
            }
        }
    }
    if all && view.file != Some(&target.hash) {
        if !stale.is_empty() {
            draft.wait(
                "every plugin has passed; some are asked once more before the configuration is installed",
            );
        }
        draft.urgent.extend(stale.iter().cloned());
    }
    all && stale.is_empty()
}

fn not_ready(view: &View<'_>, needed: &Needed<'_>, draft: &mut Draft) {
    let instance = &needed.instance;
    let probed = view.probed(instance, needed.external.as_deref());
    let Some(failing) = probed.and_then(|probed| probed.failing.as_ref()) else {
        draft.wait(format!("waiting for {instance}"));
        return;
    };
    let message = format!("the plugin of key {}: {}", instance.key_id, failing.failure.message);
    if !probed.is_some_and(|probed| view.o.policy.is_definite(probed)) {
        draft.wait(message);
        return;
    }
    draft.busy = true;
    draft.problem(Problem::new(if failing.mismatch { "KEKMismatch" } else { "PluginNotReady" }, message));
}

/// Puts back what the API server still shows when it does not load the file, so that a restart is safe. While it shows
/// does not even answer, it may have been restarted on a file that it cannot load, and will never come up with that: then what it
/// was last seen to have loaded. Needs no spec.
fn put_back(view: &View<'_>, draft: &mut Draft) -> bool {
    let (loaded, failed_reloads) = match &view.o.server {
        Ok(reading) => (view.loaded, reading.failed_reloads),
        Err(unread) if unread.answers => return false,
        Err(_) => (view.o.disk.loaded.as_ref(), 0),
    };
    let Some(loaded) = loaded else { return false };
    let Some(file) = view.file else {
        // The target's own is installed again, where the API server answers.
        let to_come = view.loaded.is_some() && view.target.as_ref().is_some_and(|t| t.hash == *loaded);
        let lost = !to_come && view.can_put_back(loaded);
        if lost {
            let step = Step::PutBack { hash: loaded.clone(), refused: None };
            draft.step(step, "the configuration file is gone");
        }
        return lost;
    };
    // What somebody else wrote is theirs to mend.
    let Some((revision, content)) = view.revision_of(file).filter(|_| file != loaded) else { return false };
    let overdue = view.o.file_age > view.o.policy.reload_deadline(content);
    if failed_reloads == 0 && !overdue {
        return false;
    }
    let before = view.o.disk.refusal.as_ref().filter(|refusal| refusal.revision == revision);
    let attempts = before.map_or(0, |refusal| refusal.attempts).saturating_add(1);
    let refusal = Refusal { revision, hash: file.clone(), attempts, elapsed: std::time::Duration::ZERO };
    if late::was_withdrawn(view, revision, content, loaded) {
        draft.problem(Problem::new("ConfigurationRefused", told(&refusal)));
        draft.why.push(format!("what it had loaded ({loaded}) was withdrawn: it is not put back"));
        return false;
    }
    let how = match (&view.o.server, overdue) {
        (Err(_), _) => "within its time, and does not answer",
        (Ok(_), true) => "within its time",
        (Ok(_), false) => "and counts a failed reload",
    };
    if !view.can_put_back(loaded) {
        let message = format!("{}; what it had loaded ({loaded}) is not on this disk", told(&refusal));
        draft.problem(Problem::new("ConfigurationRefused", message));
        return false;
    }
    draft.problem(Problem::new("ConfigurationRefused", told(&refusal)));
    let refused = Some(Refused { revision, hash: file.clone(), attempts });
    let why = format!("the API server did not load revision {revision} {how}");
    draft.step(Step::PutBack { hash: loaded.clone(), refused }, why);
    true
}
