//! Rewrites one object: patches it, and reads it if the patch fails, until the outcome is known.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keyward_core::ids::GroupResource;
use keyward_core::names;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::discovery::Served;
use super::pace::Load;
use super::run::Tools;
use super::verdict::{self, Start, Verdict};
use crate::cluster::{CallError, Category};

/// Longest `Retry-After` that is obeyed.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The outcome for one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RewriteOutcome {
    /// Under the write key, or gone.
    Done(&'static str),
    /// Not rewritten, because of this object.
    Failed(String),
    /// Not rewritten, for a reason that is not this object's.
    Failing(String),
    /// The API server does not answer.
    Away(String),
    /// This credential is not allowed to rewrite any object.
    Refused(String),
    /// Not tried: the run is stopping.
    Skipped,
}

/// Rewrites objects of one resource.
pub(super) struct Rewriter<'a> {
    pub(super) tools: &'a Tools,
    pub(super) served: &'a Served,
    pub(super) resource: &'a GroupResource,
    pub(super) start: Start,
    /// Objects that were written since the start need no patch: an earlier attempt tried every object.
    pub(super) skips_newer: bool,
    pub(super) halt: &'a CancellationToken,
    /// The access review of this run: made once, at the first refusal.
    pub(super) rights: &'a OnceCell<Rights>,
}

/// The result of an access review of the operator's own permissions on a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    Enough,
    /// The missing permissions, and the remedy.
    Missing(String),
    /// The operator is not allowed to create the review.
    Unknown(String),
}

impl Rewriter<'_> {
    /// `listed`: its metadata, if it was just listed.
    pub(super) async fn rewrite(&self, full_name: &str, listed: Option<&ObjectMeta>) -> RewriteOutcome {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(5))
            .with_jitter()
            .without_max_times()
            .build();
        let mut attempt = 0;
        loop {
            let slot = self.tools.pace.slot().await;
            if self.halt.is_cancelled() {
                return RewriteOutcome::Skipped;
            }
            attempt += 1;
            let verdict = self.attempt(full_name, listed, attempt).await;
            let busy = matches!(verdict, Verdict::Again(_) | Verdict::Away(_));
            self.tools.pace.observed(slot, if busy { Load::Busy } else { Load::Fine });
            match verdict {
                Verdict::Done(outcome) => return RewriteOutcome::Done(outcome),
                Verdict::Failed(message) => return RewriteOutcome::Failed(message),
                Verdict::Failing(message) => return RewriteOutcome::Failing(message),
                Verdict::Away(message) => return RewriteOutcome::Away(message),
                Verdict::Denied(message) => return self.denied(message).await,
                Verdict::Again(after) => {
                    let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
                    let pause = pause.max(after.unwrap_or_default()).min(LONGEST_PAUSE);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.halt.cancelled() => return RewriteOutcome::Skipped,
                    }
                }
            }
        }
    }

    async fn attempt(&self, full_name: &str, listed: Option<&ObjectMeta>, attempt: u32) -> Verdict {
        let collection = self.served.collection_of(full_name);
        let judged = |patch: Option<&CallError>, read: Result<&ObjectMeta, &CallError>| {
            verdict::read_back(patch, read, self.start, self.resource, full_name)
        };
        let found;
        let object = match listed {
            Some(object) => object,
            None => match self.tools.cluster.get_metadata(&collection, self.resource, full_name).await {
                Ok(object) => {
                    found = object;
                    &found
                }
                Err(error) => return judged(None, Err(&error)),
            },
        };
        if self.start.is_before(object) && (self.skips_newer || listed.is_none()) {
            return Verdict::Done("rewritten_by_another");
        }
        let result = self.tools.cluster.touch(&collection, &self.resource.to_string(), object).await;
        let error = match result {
            Ok(written) => {
                let after = written.metadata.resource_version;
                return verdict::patched(object.resource_version.as_deref(), after.as_deref());
            }
            Err(error) => error,
        };
        if let Some(again) = verdict::again(&error, attempt) {
            return again;
        }
        let read = self.tools.cluster.get_metadata(&collection, self.resource, full_name).await;
        judged(Some(&error), read.as_ref())
    }

    /// The refusal of a webhook fails one object; a missing permission ends the run.
    async fn denied(&self, message: String) -> RewriteOutcome {
        match self.rights.get_or_try_init(|| rights(self.tools, self.resource)).await {
            Ok(Rights::Enough | Rights::Unknown(_)) => RewriteOutcome::Failed(message),
            Ok(Rights::Missing(missing)) => RewriteOutcome::Refused(missing.clone()),
            Err(error) => RewriteOutcome::Away(error.to_string()),
        }
    }
}

/// The operator's permissions on a resource, by an access review of the API server.
pub(super) async fn rights(tools: &Tools, resource: &GroupResource) -> Result<Rights, CallError> {
    let mut results = Vec::new();
    for verb in names::MIGRATION_VERBS {
        results.push((verb, tools.cluster.is_allowed(verb, resource).await));
    }
    judged(results, resource)
}

/// A review that the operator is not allowed to create proves nothing: the requests themselves show what is missing.
fn judged(
    results: Vec<(&'static str, Result<bool, CallError>)>,
    resource: &GroupResource,
) -> Result<Rights, CallError> {
    let (mut missing, mut unknown) = (Vec::new(), None);
    for (verb, result) in results {
        match result {
            Ok(true) => {}
            Ok(false) => missing.push(verb),
            Err(error) if error.category() == Category::Forbidden => unknown = Some(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    if !missing.is_empty() {
        return Ok(Rights::Missing(format!(
            "the operator is not allowed to {} {resource} in all namespaces; add the verbs {} on {resource} to the ClusterRole keyward-operator",
            missing.join(", "),
            names::MIGRATION_VERBS.join(", ")
        )));
    }
    Ok(unknown.map_or(Rights::Enough, Rights::Unknown))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::{Cause, Refusal};

    fn error(cause: Cause) -> CallError {
        CallError { verb: "create", object: "selfsubjectaccessreviews".into(), cause }
    }

    fn forbidden() -> CallError {
        let refusal = Refusal { code: 403, reason: "Forbidden".into(), ..Default::default() };
        error(Cause::Refused(Box::new(refusal)))
    }

    #[test]
    fn forbidden_review_is_unknown_and_ends_no_run() {
        let secrets = GroupResource::parse("secrets");
        let all = |result: fn() -> Result<bool, CallError>| {
            judged(names::MIGRATION_VERBS.map(|verb| (verb, result())).into(), &secrets)
        };
        assert!(matches!(all(|| Err(forbidden())), Ok(Rights::Unknown(_))));
        assert!(matches!(all(|| Ok(true)), Ok(Rights::Enough)));
        assert!(
            matches!(all(|| Ok(false)), Ok(Rights::Missing(message)) if message.contains("patch secrets"))
        );
        assert!(all(|| Err(error(Cause::Timeout(Duration::from_secs(1))))).is_err(), "the run pauses");
        let some = vec![("get", Err(forbidden())), ("patch", Ok(false))];
        assert!(matches!(judged(some, &secrets), Ok(Rights::Missing(_))));
    }
}
