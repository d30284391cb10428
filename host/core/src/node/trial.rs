//! Trials: a plugin that only a preflight asks for is started once, and again only after a pause.
//!
//! It may end because its KMS refuses it, and whoever restarts it in a loop, as a kubelet does, gets its role locked
//! out for everybody ([`Policy::trial_first`]). So its pod is one that is never restarted, whatever becomes of this
//! agent, and each further start is decided here. Once a revision needs the plugin it gets a pod that is kept running:
//! the trial stops, and only when it is gone the other is written, so that what passes its probes afterwards is what
//! stays. No key's link leads to it before that, so nobody is without a plugin meanwhile.
//!
//! [`Policy::trial_first`]: super::policy::Policy::trial_first

use std::time::Duration;

use super::decide::{Draft, Step};
use super::instance::Instance;
use super::view::View;

/// Whether a preflight alone asks for this instance.
pub(super) fn is_trial(view: &View<'_>, instance: &Instance) -> bool {
    let mut wanted = view.to_serve();
    view.is_candidate(instance)
        && !view.may_serve(instance)
        && !wanted.any(|(_, needed)| needed.instance == *instance)
}

/// What to do about an instance that is needed and has a pod: nothing, unless that is a trial's.
pub(super) fn go_on(view: &View<'_>, instance: &Instance, draft: &mut Draft) {
    let found = view.on_disk(instance);
    if !found.trial || view.may_serve(instance) {
        return;
    }
    if !is_trial(view, instance) {
        let why = format!("the target needs {instance}: its trial ends, and it is started to stay");
        draft.step(Step::RemovePod(instance.clone()), why);
        return;
    }
    let Some(ended) = ended(view, instance) else { return };
    let pause = view.o.policy.after_trial(found.tries);
    if ended < pause {
        draft.wait(format!("{instance} ended by itself; it is started again {pause:?} after that"));
        return;
    }
    let why = format!("{instance} ended by itself {} times; it is started again", found.tries);
    draft.step(Step::WritePod { instance: instance.clone(), trial: true }, why);
}

/// Since when the trial's process is known to be gone. Where nothing is known of it but silence, that counts after the
/// longest pause.
fn ended(view: &View<'_>, instance: &Instance) -> Option<Duration> {
    if view.settled().is_some() {
        // It has done what it was for.
        return None;
    }
    let failing = view.probed(instance, None)?.failing.as_ref()?;
    // An image that cannot be had is asked for again by whoever runs the pod.
    let silent = failing.failure.phase == "start";
    let gone = failing.failure.exit_code.is_some() || failing.since >= view.o.policy.trial_longest;
    (silent && gone).then_some(failing.since)
}
