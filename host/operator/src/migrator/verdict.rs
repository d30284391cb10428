//! What the API server's answer to a no-op patch means for the object. Pure.

use std::time::Duration;

use keyward_core::api::MigrationFailure;

use crate::cluster::{CallError, Category};

/// How one object came out, or what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Rewritten, or found to be under the write key already.
    Done(&'static str),
    /// Again, no earlier than after this long.
    Again(Option<Duration>),
    /// This object cannot be rewritten; the others go on.
    Failed(String),
    /// None can be rewritten now: the API server is away. The run pauses.
    Away(String),
    /// None can be rewritten at all: the run ends.
    Refused(String),
}

/// So often one object is tried while the API server is away or busy; then the run pauses.
pub(super) const ATTEMPTS: u32 = 8;
/// So often where the API server says that it failed inside, as with an etcd that changes its leader. An object that
/// cannot be decrypted says the same, every time.
const INTERNAL_ATTEMPTS: u32 = 3;

/// `attempt` counts from 1. `before` and `after` are resourceVersions.
pub(super) fn verdict(
    answer: Result<Option<&str>, &CallError>,
    before: Option<&str>,
    attempt: u32,
) -> Verdict {
    let error = match answer {
        Ok(after) if after == before => return Verdict::Done("current"),
        Ok(_) => return Verdict::Done("rewritten"),
        Err(error) => error,
    };
    let message = || error.cause.to_string();
    let reason = error.refusal().map_or("", |refusal| refusal.reason.as_str());
    match error.category() {
        Category::NotFound => Verdict::Done("gone"),
        // Somebody else wrote it since it was listed, under the write key like every write now. A webhook may use the
        // same code for a refusal of its own, with another reason.
        Category::Conflict if reason == "Conflict" => Verdict::Done("rewritten_by_another"),
        Category::NotServed => Verdict::Refused(message()),
        Category::Forbidden if is_rbac(error) => Verdict::Refused(message()),
        Category::Throttled | Category::Unavailable | Category::Timeout => {
            if attempt < ATTEMPTS {
                Verdict::Again(error.refusal().and_then(|refusal| refusal.retry_after))
            } else {
                Verdict::Away(message())
            }
        }
        Category::Unreadable if attempt < INTERNAL_ATTEMPTS => Verdict::Again(None),
        Category::Unreadable
        | Category::Conflict
        | Category::Forbidden
        | Category::Invalid
        | Category::Expired
        | Category::Malformed => Verdict::Failed(message()),
    }
}

/// Whether the credential may not patch this resource at all; an admission webhook that refuses one object has a
/// message of its own.
fn is_rbac(error: &CallError) -> bool {
    error.refusal().is_some_and(|refusal| {
        refusal.code == 401
            || (refusal.message.contains(" is forbidden: User ")
                && refusal.message.contains(" cannot patch resource "))
    })
}

/// The failures that a status carries: the first hundred, one an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Failures {
    kept: Vec<MigrationFailure>,
}

impl Failures {
    const KEPT: usize = 100;

    pub(super) fn resumed(kept: Vec<MigrationFailure>) -> Self {
        Self { kept }
    }

    pub(super) fn add(&mut self, object: String, message: String) {
        if self.kept.len() < Self::KEPT && self.kept.iter().all(|failure| failure.object != object) {
            self.kept.push(MigrationFailure { object, message });
        }
    }

    pub(super) fn kept(&self) -> &[MigrationFailure] {
        &self.kept
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::cluster::{Cause, Refusal};

    fn refused(code: u16, reason: &str, message: &str) -> CallError {
        let refusal = Refusal {
            code,
            reason: reason.to_owned(),
            message: message.to_owned(),
            retry_after: (code == 429).then_some(Duration::from_secs(3)),
            ..Default::default()
        };
        CallError { verb: "patch", object: "secrets n/a".into(), cause: Cause::Refused(Box::new(refusal)) }
    }

    #[test]
    fn answer_with_metadata_is_done_either_way() {
        assert_eq!(verdict(Ok(Some("2")), Some("1"), 1), Verdict::Done("rewritten"));
        assert_eq!(verdict(Ok(Some("1")), Some("1"), 1), Verdict::Done("current"));
    }

    #[rstest]
    #[case::deleted(404, "NotFound", "secrets \"a\" not found", Verdict::Done("gone"))]
    #[case::changed(409, "Conflict", "the object has been modified", Verdict::Done("rewritten_by_another"))]
    #[case::busy(429, "", "Too many requests", Verdict::Again(Some(Duration::from_secs(3))))]
    #[case::starting(503, "ServiceUnavailable", "", Verdict::Again(None))]
    #[case::etcd(500, "InternalError", "etcdserver: leader changed", Verdict::Again(None))]
    fn answers_that_are_no_failure(
        #[case] code: u16,
        #[case] reason: &str,
        #[case] message: &str,
        #[case] expected: Verdict,
    ) {
        assert_eq!(verdict(Err(&refused(code, reason, message)), Some("1"), 1), expected);
    }

    #[rstest]
    #[case::webhook(403, "Forbidden", "admission webhook \"policy.example.com\" denied the request: no")]
    #[case::webhook_with_a_conflict_code(
        409,
        "",
        "admission webhook \"policy.example.com\" denied the request"
    )]
    #[case::too_large(413, "RequestEntityTooLarge", "too large")]
    #[case::invalid(422, "Invalid", "Secret \"a\" is invalid")]
    fn refusal_of_one_object_fails_it_with_the_servers_words(
        #[case] code: u16,
        #[case] reason: &str,
        #[case] message: &str,
    ) {
        let Verdict::Failed(said) = verdict(Err(&refused(code, reason, message)), Some("1"), 1) else {
            panic!("not failed")
        };
        assert!(said.contains(message), "{said}");
    }

    #[test]
    fn server_that_stays_away_pauses_the_run_and_one_that_fails_inside_fails_the_object() {
        let away =
            CallError { verb: "patch", object: "o".into(), cause: Cause::Timeout(Duration::from_secs(1)) };
        assert_eq!(verdict(Err(&away), None, ATTEMPTS - 1), Verdict::Again(None));
        assert!(matches!(verdict(Err(&away), None, ATTEMPTS), Verdict::Away(_)));
        let undecryptable = refused(500, "InternalError", "no matching prefix found");
        assert!(matches!(verdict(Err(&undecryptable), None, INTERNAL_ATTEMPTS), Verdict::Failed(_)));
    }

    #[test]
    fn missing_permission_ends_the_run_rather_than_failing_every_object() {
        let message =
            "secrets \"a\" is forbidden: User \"x\" cannot patch resource \"secrets\" in API group \"\"";
        assert!(matches!(verdict(Err(&refused(403, "Forbidden", message)), None, 1), Verdict::Refused(_)));
    }

    #[test]
    fn hundred_failures_are_kept_one_an_object() {
        let mut failures = Failures::default();
        for n in 0..300 {
            failures.add(format!("n/{}", n % 150), "m".into());
        }
        assert_eq!(failures.kept().len(), 100);
        assert_eq!(failures.kept()[99].object, "n/99");
    }
}
