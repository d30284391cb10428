//! The answer to `spec.preflight`: the candidate runs beside the serving plugins and is probed
//! (decision 0003).

use super::decide::{Draft, Step};
use super::observe::Probed;
use super::view::{Candidate, Needed, View};
use crate::api::{PreflightAnswer, PreflightRequest, PreflightResult};
use crate::provider::Failure;

/// The present answer. Success is reported only once it is on disk.
pub(super) fn answer(view: &View<'_>, draft: &mut Draft) -> Option<PreflightAnswer> {
    let request = view.request()?;
    if let Some(settled) = view.settled() {
        return Some(settled.clone());
    }
    if view.unprepared() {
        // The error in the status says why.
        return None;
    }
    draft.busy = true;
    match &view.candidate {
        Candidate::None => None,
        Candidate::Waiting(_) => Some(running(request)),
        Candidate::Broken(why) => {
            draft.why.push(format!("the candidate for key {} cannot run: {why}", request.key_id));
            let failure = Failure { phase: "start".to_owned(), message: why.clone(), ..Default::default() };
            Some(PreflightAnswer { failure: Some(failure), attempts: 1, ..failed(request) })
        }
        Candidate::Ready(candidate) => Some(tried(view, request, candidate, draft)),
    }
}

fn tried(
    view: &View<'_>,
    request: &PreflightRequest,
    candidate: &Needed<'_>,
    draft: &mut Draft,
) -> PreflightAnswer {
    let instance = &candidate.instance;
    let external = candidate.external.as_deref();
    let question = view.question(instance, external);
    let probed = view.probed(instance, external);
    if let Some(Probed { pass: Some(pass), failing: None, attempts, .. }) = probed {
        let key_check = question.key_check.or_else(|| pass.key_check.clone());
        if key_check.is_none() {
            draft.wait(
                "waiting until the serving plugin has made the key check that the candidate must decrypt",
            );
            return running(request);
        }
        let answer = PreflightAnswer {
            result: PreflightResult::Succeeded,
            remote_key_id: Some(pass.remote_key_id.clone()),
            latency_millis: Some(millis(pass.latency)),
            started_in_millis: Some(millis(pass.started_in)),
            key_check,
            attempts: attempts.saturating_add(1),
            ..running(request)
        };
        let why = format!("the candidate for key {} passed its probes", request.key_id);
        draft.step(Step::KeepPreflight(Box::new(answer)), why);
        return running(request);
    }
    let definite = probed.filter(|probed| view.o.policy.is_definite(probed));
    let now = definite.and_then(|probed| probed.failing.as_ref()).map(|failing| &failing.failure);
    // While it is tried again, its previous failure is still reported.
    let Some(failure) = now.or_else(|| view.failed_before(instance, external)) else {
        // A candidate that still retries may log its reason long before it exits.
        let failing = probed.and_then(|probed| probed.failing.as_ref());
        let logs = failing.filter(|failing| !failing.failure.log_tail.is_empty());
        return PreflightAnswer { failure: logs.map(|failing| failing.failure.clone()), ..running(request) };
    };
    let probed = probed.or_else(|| view.o.probes.get(instance));
    draft.why.push(format!("the candidate for key {} fails: {}", request.key_id, failure.message));
    let remote_key_id = probed.and_then(|probed| probed.last.as_ref()?.remote_key_id.clone());
    PreflightAnswer {
        remote_key_id,
        failure: Some(failure.clone()),
        attempts: probed.map_or(0, |probed| probed.attempts).max(1),
        ..failed(request)
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn running(request: &PreflightRequest) -> PreflightAnswer {
    PreflightAnswer {
        hash: request.hash.clone(),
        result: PreflightResult::Running,
        remote_key_id: None,
        latency_millis: None,
        started_in_millis: None,
        key_check: None,
        failure: None,
        attempts: 0,
    }
}

fn failed(request: &PreflightRequest) -> PreflightAnswer {
    PreflightAnswer { result: PreflightResult::Failed, ..running(request) }
}
