//! From running plugins to a loaded configuration: links, the file, the API server's metric, and the way back
//! (decision 0043).

use super::decide::{Draft, Refused, Step};
use super::drift::{self, EditedFile};
use super::late;
use super::observe::Refusal;
use super::view::{Needed, Problem, Target, View};

/// Renames a key's link over to an instance that passed its probes, key check included (invariant: key-check-before-serving).
pub(super) fn switch_links(view: &View<'_>, draft: &mut Draft) {
    for (key_id, needed) in view.to_serve() {
        let instance = &needed.instance;
        if needed.external.is_some() || needed.unfit().is_some() || view.serves(instance) {
            continue;
        }
        if view.on_disk(instance).trial {
            // The trial ends; the pod that replaces it has to pass its probes (`trial.rs`).
            continue;
        }
        let no_link = !view.o.disk.links.contains_key(key_id);
        if let Some(why) = late::blocked(view, *key_id).filter(|_| no_link) {
            draft.wait(why);
            continue;
        }
        if view.question(instance, None).key_check.is_none() {
            // Nothing else would show that it reaches the KEK under which objects are stored (decision 0023).
            let why = format!(
                "key {key_id} has no key check, so it cannot be verified that its plugin reaches the KEK; restore the key's Secret, or forget the key (keyward forget-key)"
            );
            draft.problem(Problem::new("KeyCheckMissing", why));
            continue;
        }
        match view.pass(instance, None) {
            Some(pass) if pass.age <= view.o.policy.fresh => {
                let why = format!("{instance} passed its probes and serves key {key_id} from now on");
                draft.step(Step::SwitchLink { key_id: *key_id, instance: instance.clone() }, why);
            }
            Some(_) => {
                draft.urgent.insert(instance.clone());
                draft.wait(format!(
                    "{instance} passed its probes some time ago; it is probed again before it serves"
                ));
            }
            None => not_ready(view, needed, draft),
        }
    }
}

/// Installs the configuration, waits until it is loaded, or puts the previous one back.
pub(super) fn configuration(view: &View<'_>, draft: &mut Draft) {
    if put_back(view, draft) {
        return;
    }
    let Some(target) = &view.target else { return };
    if view.is_complete(&target.hash, &target.plugins) {
        // A plugin that fails later is reported by its health.
        if view.o.disk.refusal.is_some() {
            draft.step(Step::ForgetRefusal, "the API server has loaded the configuration");
        }
        return;
    }
    if view.file == Some(&target.hash) {
        if view.loaded != view.file && view.loaded.is_some() {
            draft.wait(format!("waiting until the API server has loaded revision {}", target.revision));
        }
        // Plugins are replaced under the same configuration: nothing is installed, but the node is not
        // converged yet.
        through_links(view, target, draft);
        return;
    }
    if let Some(file) = view.file.filter(|file| !view.is_known(file)) {
        match drift::edited_file(view, target, draft) {
            EditedFile::Install => {}
            EditedFile::PutBack => return,
            EditedFile::Refuse => {
                let message =
                    format!("the configuration file ({file}) was not written by Keyward; it is not replaced");
                draft.problem(Problem::new("ForeignConfiguration", message));
                return;
            }
        }
    }
    if view.loaded.is_none()
        && !view.file.is_some_and(|file| late::is_superseded(view, file))
        && !late::loaded_is_superseded(view)
    {
        return;
    }
    if let Some(refusal) = view.o.disk.refusal.as_ref().filter(|refusal| refusal.revision == target.revision)
    {
        let pause = view.o.policy.after_refusal(refusal.attempts);
        draft.problem(Problem::new("ConfigurationRefused", refusal_message(refusal)));
        if refusal.elapsed < pause {
            draft.why.push(format!(
                "revision {} is tried again {pause:?} after it was rolled back",
                target.revision
            ));
            return;
        }
    }
    if through_links(view, target, draft) {
        let why = format!("every plugin of revision {} answers at its key's socket", target.revision);
        let step = Step::InstallConfiguration { revision: target.revision, hash: target.hash.clone() };
        draft.step(step, why);
    }
}

pub(super) fn refusal_message(refusal: &Refusal) -> String {
    format!(
        "the API server did not load revision {} (attempts: {}); see its log for the reason",
        refusal.revision, refusal.attempts
    )
}

/// Whether all plugins passed their probes through their keys' links recently. Once all have passed, those
/// that passed too long ago are probed again.
fn through_links(view: &View<'_>, target: &Target<'_>, draft: &mut Draft) -> bool {
    let (mut all, mut stale) = (true, Vec::new());
    for needed in target.plugins.values() {
        let instance = &needed.instance;
        // A trial is replaced by another start of the same instance before a link leads to it.
        let later = late::linked_with_target(view, instance.key_id) && !view.on_disk(instance).trial;
        let linked = view.serves(instance) || later;
        if needed.unfit().is_some() || needed.external.is_none() && !linked {
            // `switch_links` reports it.
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
                "every plugin has passed its probes; some are probed again before the configuration is installed",
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

/// Puts back what the API server still shows when it does not load the file, so that a restart is safe. A
/// server that does not answer may have been restarted on a file that it cannot load, and would never start
/// with it: then what it was last seen to have loaded is put back. Needs no spec.
fn put_back(view: &View<'_>, draft: &mut Draft) -> bool {
    let (loaded, failed_reloads) = match &view.o.server {
        Ok(reading) => (view.loaded, reading.failed_reloads),
        Err(unread) if unread.answers => return false,
        Err(_) => (view.o.disk.loaded.as_ref(), 0),
    };
    let Some(loaded) = loaded else { return false };
    let Some(file) = view.file else {
        // If the API server answers and has loaded the target, `configuration` installs the target again.
        let target_is_next = view.loaded.is_some() && view.target.as_ref().is_some_and(|t| t.hash == *loaded);
        let lost = !target_is_next && view.can_put_back(loaded);
        if lost {
            let step = Step::PutBack { hash: loaded.clone(), refused: None };
            draft.step(step, "the configuration file is missing");
        }
        return lost;
    };
    // A file that Keyward did not write is left to its author.
    let Some((revision, content)) = view.revision_of(file).filter(|_| file != loaded) else { return false };
    let overdue = view.o.file_age > view.o.policy.reload_deadline(content);
    if failed_reloads == 0 && !overdue {
        return false;
    }
    let before = view.o.disk.refusal.as_ref().filter(|refusal| refusal.revision == revision);
    let attempts = before.map_or(0, |refusal| refusal.attempts).saturating_add(1);
    let refusal = Refusal { revision, hash: file.clone(), attempts, elapsed: std::time::Duration::ZERO };
    if late::supersedes(view, revision, content, loaded) {
        draft.problem(Problem::new("ConfigurationRefused", refusal_message(&refusal)));
        draft.why.push(format!(
            "the configuration that it had loaded ({loaded}) is superseded and is not put back"
        ));
        return false;
    }
    let how = match (&view.o.server, overdue) {
        (Err(_), _) => "before the deadline and does not answer",
        (Ok(_), true) => "before the deadline",
        (Ok(_), false) => "and reports a failed reload",
    };
    if !view.can_put_back(loaded) {
        let message = format!(
            "{}; the configuration that it had loaded ({loaded}) is not on this disk",
            refusal_message(&refusal)
        );
        draft.problem(Problem::new("ConfigurationRefused", message));
        return false;
    }
    draft.problem(Problem::new("ConfigurationRefused", refusal_message(&refusal)));
    let refused = Some(Refused { revision, hash: file.clone(), attempts });
    let why = format!("the API server did not load revision {revision} {how}");
    draft.step(Step::PutBack { hash: loaded.clone(), refused }, why);
    true
}
