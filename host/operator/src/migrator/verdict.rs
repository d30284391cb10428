//! The meaning of the API server's responses for an object. Pure.
//!
//! Only what was seen counts (decision 0053): an object is done if its patch succeeded, if it is stored at a version
//! that only the write key can have written, or if the API server reports that exactly this object does not exist.
//! Every other response to the patch may come from a webhook or be about another object, so the object is read.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keyward_core::ids::GroupResource;

use crate::cluster::{CallError, Category};

/// The outcome for one object, or what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Under the write key, or gone.
    Done(&'static str),
    /// Try again, not before this time has passed.
    Again(Option<Duration>),
    /// This object is not rewritten; the run continues with the others.
    Failed(String),
    /// Not rewritten, and the reason is not this object's: it can be read, but the API server, etcd or the KMS failed
    /// to write it.
    Failing(String),
    /// The API server does not answer. The run pauses.
    Away(String),
    /// Refused with 401 or 403, by a webhook or because a permission is missing: only an access review shows which.
    Denied(String),
}

/// Attempts in a row for one object while the API server is busy or cannot be reached.
pub(super) const ATTEMPTS: u32 = 5;
/// Attempts after an internal error of the API server, as during an election in etcd. For an object that cannot be
/// decrypted the error is the same every time.
const INTERNAL_ATTEMPTS: u32 = 3;

/// The version from which on only the write key wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Start(Option<u64>);

impl Start {
    pub(crate) fn of(version: Option<&str>) -> Self {
        Self(version.and_then(|version| version.parse().ok()))
    }

    /// Whether this object was written after the start. Versions that cannot be compared prove nothing.
    pub(crate) fn is_before(self, object: &ObjectMeta) -> bool {
        let version = object.resource_version.as_deref().and_then(|version| version.parse::<u64>().ok());
        matches!((self.0, version), (Some(start), Some(version)) if version > start)
    }
}

/// The verdict of a no-op patch that succeeded. `before` and `after` are resourceVersions: the API server writes only
/// if the value is not under the write key (kubernetes: only-stale-values-are-rewritten).
pub(super) fn patched(before: Option<&str>, after: Option<&str>) -> Verdict {
    match after {
        None | Some("") => Verdict::Failed("the response to the patch has no resourceVersion".to_owned()),
        after if after == before => Verdict::Done("current"),
        Some(_) => Verdict::Done("rewritten"),
    }
}

/// Whether a failed patch is retried before the object is read. `attempt` counts from 1.
pub(super) fn again(error: &CallError, attempt: u32) -> Option<Verdict> {
    let attempts = match error.category() {
        Category::Throttled | Category::Unavailable | Category::Timeout => ATTEMPTS,
        Category::Unreadable => INTERNAL_ATTEMPTS,
        _ => return None,
    };
    let retry_after = || error.refusal().and_then(|refusal| refusal.retry_after);
    (attempt < attempts).then(|| Verdict::Again(retry_after()))
}

/// The verdict after a failed patch, from a get that reads etcd and involves no webhook
/// (kubernetes: gets-are-read-from-etcd).
pub(super) fn read_back(
    patch: Option<&CallError>,
    read: Result<&ObjectMeta, &CallError>,
    start: Start,
    resource: &GroupResource,
    full_name: &str,
) -> Verdict {
    let error = match read {
        Ok(found) if start.is_before(found) => return Verdict::Done("rewritten_by_another"),
        Ok(_) => {
            let Some(patch) = patch else { return Verdict::Again(None) };
            let message = format!("{}; {}", patch.cause, remedy(patch));
            return match patch.category() {
                Category::Forbidden => Verdict::Denied(message),
                Category::Unreadable | Category::Timeout | Category::Unavailable | Category::Throttled
                    if !by_webhook(patch) =>
                {
                    Verdict::Failing(message)
                }
                _ => Verdict::Failed(message),
            };
        }
        Err(error) => error,
    };
    let name = full_name.rsplit_once('/').map_or(full_name, |(_, name)| name);
    if error.refusal().is_some_and(|refusal| refusal.misses(resource, name)) {
        return Verdict::Done("gone");
    }
    match error.category() {
        Category::Forbidden => Verdict::Denied(error.cause.to_string()),
        Category::Throttled | Category::Unavailable | Category::Timeout => Verdict::Away(error.to_string()),
        _ => {
            let patch = patch.map(|patch| format!("{}; ", patch.cause)).unwrap_or_default();
            Verdict::Failed(format!(
                "{patch}it cannot be read: {}; restore the key that decrypts it, or delete the object",
                error.cause
            ))
        }
    }
}

/// Whether a webhook or a policy refused or failed: it may apply to some objects and not to others.
fn by_webhook(patch: &CallError) -> bool {
    let about =
        |message: &str| ["webhook", "admission", "AdmissionPolicy"].iter().any(|w| message.contains(w));
    patch.refusal().is_some_and(|refusal| about(&refusal.message))
}

/// The remedy for an object that was not rewritten.
fn remedy(patch: &CallError) -> String {
    let by_admission = |message: &str| message.contains("admission") || message.contains("AdmissionPolicy");
    match patch.refusal() {
        Some(refusal) if refusal.code == 404 && refusal.about.kind == "namespaces" => {
            let namespace = &refusal.about.name;
            format!("recreate the namespace {namespace:?}, or delete the object through the API")
        }
        Some(refusal) if by_admission(&refusal.message) => {
            "make the webhook or policy admit an update that changes nothing, or delete the object".to_owned()
        }
        _ => "older keys stay in the configuration until the object is rewritten or deleted".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::cluster::{About, Cause, Refusal};

    fn refused(code: u16, reason: &str, message: &str) -> CallError {
        about(code, reason, message, About::default())
    }

    fn about(code: u16, reason: &str, message: &str, about: About) -> CallError {
        let refusal = Refusal {
            code,
            reason: reason.to_owned(),
            message: message.to_owned(),
            retry_after: (code == 429).then_some(Duration::from_secs(3)),
            about,
            ..Default::default()
        };
        CallError { verb: "patch", object: "secrets n/a".into(), cause: Cause::Refused(Box::new(refusal)) }
    }

    fn of(kind: &str, name: &str) -> About {
        About { kind: kind.to_owned(), name: name.to_owned(), ..Default::default() }
    }

    fn stored(version: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some("a".into()),
            resource_version: Some(version.to_owned()),
            ..Default::default()
        }
    }

    fn judge(patch: &CallError, read: Result<&ObjectMeta, &CallError>) -> Verdict {
        read_back(Some(patch), read, Start::of(Some("100")), &GroupResource::parse("secrets"), "n/a")
    }

    #[test]
    fn patch_that_succeeded_is_done_unless_the_response_has_no_version() {
        assert_eq!(patched(Some("1"), Some("2")), Verdict::Done("rewritten"));
        assert_eq!(patched(Some("1"), Some("1")), Verdict::Done("current"));
        assert!(matches!(patched(Some("1"), None), Verdict::Failed(_)));
        assert!(matches!(patched(Some("1"), Some("")), Verdict::Failed(_)));
        assert!(matches!(patched(None, None), Verdict::Failed(_)));
    }

    /// After any of these refusals the object is stored as it was, under an older key.
    #[rstest]
    #[case::namespace_missing(404, "NotFound", "namespaces \"n\" not found")]
    #[case::webhook_says_not_found(404, "NotFound", "admission webhook \"p\" denied the request: no")]
    #[case::webhook_says_conflict(409, "Conflict", "admission webhook \"p\" denied the request: no")]
    #[case::webhook_says_gone(410, "Gone", "admission webhook \"p\" denied the request: no")]
    #[case::webhook_fails(500, "InternalError", "failed calling webhook \"p\"")]
    #[case::webhook_is_busy(429, "", "admission webhook \"p\" denied the request: busy")]
    #[case::webhook_is_away(503, "", "admission webhook \"p\" denied the request: away")]
    #[case::too_large(413, "RequestEntityTooLarge", "too large")]
    #[case::invalid(422, "Invalid", "Secret \"a\" is invalid")]
    #[case::not_served(404, "", "404 page not found")]
    fn object_that_was_not_rewritten_has_failed_with_the_servers_message(
        #[case] code: u16,
        #[case] reason: &str,
        #[case] message: &str,
    ) {
        let Verdict::Failed(failure) = judge(&refused(code, reason, message), Ok(&stored("100"))) else {
            panic!("not failed")
        };
        assert!(failure.contains(message), "{failure}");
    }

    #[rstest]
    #[case::kms(500, "InternalError", "rpc error: code = Unavailable desc = connection refused")]
    #[case::etcd(500, "InternalError", "etcdserver: no leader")]
    #[case::busy(429, "", "Too many requests")]
    #[case::starting(503, "ServiceUnavailable", "")]
    #[case::slow(504, "Timeout", "request did not complete")]
    fn object_that_can_be_read_but_not_written_is_not_the_reason(
        #[case] code: u16,
        #[case] reason: &str,
        #[case] message: &str,
    ) {
        let verdict = judge(&refused(code, reason, message), Ok(&stored("100")));
        let Verdict::Failing(failure) = verdict else { panic!("{verdict:?}") };
        assert!(failure.contains(message), "{failure}");
    }

    #[rstest]
    #[case(401, "Unauthorized")]
    #[case(403, "Forbidden")]
    fn refusal_that_may_be_about_permissions_is_reviewed(#[case] code: u16, #[case] reason: &str) {
        let patch = refused(code, reason, "admission webhook \"p\" denied the request: no");
        assert!(matches!(judge(&patch, Ok(&stored("7"))), Verdict::Denied(_)));
        let read = refused(code, reason, "no");
        assert!(matches!(judge(&refused(404, "NotFound", ""), Err(&read)), Verdict::Denied(_)));
    }

    #[rstest]
    #[case(404)]
    #[case(409)]
    #[case(403)]
    #[case(500)]
    fn object_is_done_if_it_was_written_after_the_start_or_does_not_exist(#[case] code: u16) {
        let patch = refused(code, "Other", "no");
        assert_eq!(judge(&patch, Ok(&stored("101"))), Verdict::Done("rewritten_by_another"));
        let gone = about(404, "NotFound", "secrets \"a\" not found", of("secrets", "a"));
        assert_eq!(judge(&patch, Err(&gone)), Verdict::Done("gone"));
    }

    #[rstest]
    #[case::of_a_namespace(of("namespaces", "n"))]
    #[case::of_another(of("secrets", "b"))]
    #[case::of_nothing(About::default())]
    fn not_found_counts_only_for_exactly_this_object(#[case] details: About) {
        let other = about(404, "NotFound", "not found", details);
        assert!(matches!(judge(&refused(404, "NotFound", ""), Err(&other)), Verdict::Failed(_)));
    }

    #[test]
    fn undecodable_object_has_failed_and_a_server_that_does_not_answer_pauses_the_run() {
        let undecodable = refused(500, "InternalError", "no matching prefix found");
        let Verdict::Failed(failure) = judge(&undecodable, Err(&undecodable)) else { panic!("not failed") };
        assert!(
            failure.contains("no matching prefix found") && failure.contains("restore the key"),
            "{failure}"
        );
        let away =
            CallError { verb: "get", object: "o".into(), cause: Cause::Timeout(Duration::from_secs(1)) };
        assert!(matches!(judge(&refused(503, "", ""), Err(&away)), Verdict::Away(_)));
    }

    #[rstest]
    #[case::busy(429, "", "Too many requests", Some(Duration::from_secs(3)))]
    #[case::starting(503, "ServiceUnavailable", "", None)]
    #[case::etcd(500, "InternalError", "etcdserver: leader changed", None)]
    fn errors_that_may_pass_are_retried(
        #[case] code: u16,
        #[case] reason: &str,
        #[case] message: &str,
        #[case] pause: Option<Duration>,
    ) {
        let error = refused(code, reason, message);
        assert_eq!(again(&error, 1), Some(Verdict::Again(pause)));
        assert_eq!(again(&error, ATTEMPTS), None, "then the object is read");
    }

    #[test]
    fn object_is_read_at_once_after_a_refusal() {
        for code in [400, 401, 403, 404, 409, 410, 413, 422] {
            assert_eq!(again(&refused(code, "Other", "no"), 1), None, "{code}");
        }
    }

    #[test]
    fn remedy_names_the_missing_namespace() {
        let missing = about(404, "NotFound", "namespaces \"n\" not found", of("namespaces", "n"));
        let Verdict::Failed(failure) = judge(&missing, Ok(&stored("7"))) else { panic!("not failed") };
        assert!(
            failure.contains("recreate the namespace \"n\", or delete the object through the API"),
            "{failure}"
        );
    }

    #[test]
    fn versions_that_cannot_be_compared_prove_nothing() {
        assert!(!Start::of(None).is_before(&stored("7")));
        assert!(!Start::of(Some("")).is_before(&stored("7")));
        assert!(!Start::of(Some("7")).is_before(&stored("x")));
        assert!(!Start::of(Some("7")).is_before(&stored("7")));
        assert!(Start::of(Some("9")).is_before(&stored("10")), "numbers, not text");
    }
}
