//! Trials: a plugin that only a preflight asks for is started once, and again only after a pause
//! (decision 0037).
//!
//! It may exit because its KMS refuses its login. Restarts in a loop, as a kubelet does them, would lock its
//! role out for every plugin ([`Policy::trial_first`]). So its pod is never restarted, also if this agent
//! stops, and each further start is decided here. Once a revision needs the plugin, it gets a pod that is
//! kept running: the trial stops, and the other pod is written only when the trial is gone, so that the
//! process that passes its probes afterwards is the one that serves. No key's link leads to it before that,
//! so no API server lacks a plugin meanwhile.
//!
//! [`Policy::trial_first`]: super::policy::Policy::trial_first

use std::time::Duration;

use super::decide::{Draft, Step};
use super::instance::Instance;
use super::view::View;

/// Whether only a preflight asks for this instance.
pub(super) fn is_trial(view: &View<'_>, instance: &Instance) -> bool {
    let mut wanted = view.to_serve();
    view.is_candidate(instance)
        && !view.may_serve(instance)
        && !wanted.any(|(_, needed)| needed.instance == *instance)
}

/// Handles an instance that is needed and has a pod. Only a trial's pod needs a step.
pub(super) fn go_on(view: &View<'_>, instance: &Instance, draft: &mut Draft) {
    let found = view.on_disk(instance);
    if !found.trial || view.may_serve(instance) {
        return;
    }
    if !is_trial(view, instance) {
        let why = format!("the target needs {instance}: its trial ends, and it is started again to serve");
        draft.step(Step::RemovePod(instance.clone()), why);
        return;
    }
    let Some(ended) = ended(view, instance) else { return };
    let pause = view.o.policy.after_trial(found.tries);
    if ended < pause {
        draft.wait(format!("{instance} exited; it is started again {pause:?} after that"));
        return;
    }
    let why = format!("{instance} exited after start {}; it is started again", found.tries);
    draft.step(Step::WritePod { instance: instance.clone(), trial: true }, why);
}

/// For how long the trial's process is known to be gone. A process that is only silent counts as gone after
/// the longest pause.
fn ended(view: &View<'_>, instance: &Instance) -> Option<Duration> {
    if view.settled().is_some() {
        // The preflight has succeeded.
        return None;
    }
    let failing = view.probed(instance, None)?.failing.as_ref()?;
    // The kubelet itself tries again to pull an image.
    let silent = failing.failure.phase == "start";
    let gone = failing.failure.exit_code.is_some() || failing.since >= view.o.policy.trial_longest;
    (silent && gone).then_some(failing.since)
}
