//! Errors of a call to the API server, by kind.

use std::fmt;
use std::time::Duration;

use keyward_core::ids::GroupResource;

/// A call that failed. It never contains a body: a response about Secrets may contain their data.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{verb} {object}: {cause}")]
pub struct CallError {
    /// `get`, `list`, `create`, `update`, `patch`, `delete`.
    pub verb: &'static str,
    /// For example `secrets keyward-system/encryption-config-3`.
    pub object: String,
    /// Why.
    pub cause: Cause,
}

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Cause {
    /// The API server refused the request.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// No response in time; it is not known whether a write happened.
    #[error("no response within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// The API server cannot be reached.
    #[error("cannot reach the API server: {0}")]
    Transport(String),
    /// The response is not of the requested type. Has the position, and nothing of the text.
    #[error("the response cannot be parsed (line {line}, column {column})")]
    Malformed {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// The response lacks a field that every response of an API server has: it proves nothing.
    #[error("the response has no {0}")]
    Incomplete(&'static str),
    /// The response is longer than this many bytes.
    #[error("the response is longer than {0} bytes")]
    TooLong(usize),
    /// The request could not be built: a bug of Keyward.
    #[error("the request cannot be built: {0}")]
    Request(String),
}

/// A `Status`, or the response of a proxy in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub code: u16,
    /// The API server's `reason`; empty if the response was not a `Status`.
    pub reason: String,
    /// The API server's message, cut to a bounded length.
    pub message: String,
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
    /// With 410: where an expired list continues.
    pub continue_token: Option<String>,
    /// The object that the API server names; a webhook chooses its own.
    pub about: About,
}

/// `details` of a `Status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// An object's name.
    pub name: String,
    /// Its API group.
    pub group: String,
    /// Its resource, despite the name: `secrets`.
    pub kind: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = if self.message.is_empty() { "no message" } else { &self.message };
        write!(f, "{message} ({}", self.code)?;
        if self.reason.is_empty() { f.write_str(")") } else { write!(f, " {})", self.reason) }?;
        if message.contains("strict decoding error: unknown field") {
            f.write_str(
                "; the CRDs are older than this operator: keyward crds | kubectl apply --server-side -f -",
            )?;
        }
        Ok(())
    }
}

/// The bounded label of a failure, for metrics, Events and conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    /// The object does not exist.
    NotFound,
    /// The API does not serve this kind of object: CRDs are missing.
    NotServed,
    /// The precondition does not hold any more: another writer was first.
    Conflict,
    /// RBAC or an admission webhook refused.
    Forbidden,
    /// The object is not valid.
    Invalid,
    /// A list's continue token has expired.
    Expired,
    /// Too many requests.
    Throttled,
    /// No response in time.
    Timeout,
    /// The API server cannot be reached, or is not ready.
    Unavailable,
    /// The object exists and cannot be read: the API server had an internal error, as it has when it cannot decrypt.
    Unreadable,
    /// The response is not what an API server sends.
    Malformed,
}

impl Category {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::NotServed => "not_served",
            Self::Conflict => "conflict",
            Self::Forbidden => "forbidden",
            Self::Invalid => "invalid",
            Self::Expired => "expired",
            Self::Throttled => "throttled",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Unreadable => "unreadable",
            Self::Malformed => "malformed",
        }
    }

    /// Whether the same call may succeed in a moment by itself.
    pub fn is_passing(self) -> bool {
        matches!(self, Self::Throttled | Self::Timeout | Self::Unavailable)
    }
}

impl CallError {
    /// The refusal, if the API server answered.
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.cause {
            Cause::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The category.
    pub fn category(&self) -> Category {
        match &self.cause {
            Cause::Refused(refusal) => refusal.category(),
            Cause::Timeout(_) => Category::Timeout,
            Cause::Transport(_) => Category::Unavailable,
            Cause::Malformed { .. } | Cause::Incomplete(_) | Cause::TooLong(_) | Cause::Request(_) => {
                Category::Malformed
            }
        }
    }
}

impl Refusal {
    /// Whether exactly this object does not exist. Another missing object, for example its namespace, gives a 404 too.
    pub fn misses(&self, resource: &GroupResource, name: &str) -> bool {
        self.category() == Category::NotFound
            && self.about.name == name
            && self.about.kind == resource.resource
            && self.about.group == resource.group
    }

    /// The category.
    pub fn category(&self) -> Category {
        match self.code {
            // A path that is not served is answered in plain text, not with a Status.
            404 if self.reason.is_empty() => Category::NotServed,
            404 => Category::NotFound,
            409 => Category::Conflict,
            401 | 403 => Category::Forbidden,
            410 => Category::Expired,
            // A watch cache that cannot be filled, for example because an object in it cannot be decrypted.
            429 if self.message.starts_with("storage is (re)initializing") => Category::Unavailable,
            429 => Category::Throttled,
            408 | 504 => Category::Timeout,
            502 | 503 => Category::Unavailable,
            500..=599 => Category::Unreadable,
            _ => Category::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn missing_namespace_is_not_a_missing_object() {
        let missing = |group: &str, kind: &str, name: &str| Refusal {
            code: 404,
            reason: "NotFound".to_owned(),
            about: About { name: name.to_owned(), group: group.to_owned(), kind: kind.to_owned() },
            ..Default::default()
        };
        let secrets = GroupResource::parse("secrets");
        assert!(missing("", "secrets", "a").misses(&secrets, "a"));
        for other in [
            missing("", "namespaces", "a"),
            missing("", "secrets", "b"),
            missing("example.com", "secrets", "a"),
            missing("", "", ""),
            Refusal { code: 409, ..missing("", "secrets", "a") },
        ] {
            assert!(!other.misses(&secrets, "a"), "{other:?}");
        }
    }

    #[rstest]
    #[case::crd_missing(404, "", "404 page not found", Category::NotServed)]
    #[case::object_missing(404, "NotFound", "secrets \"a\" not found", Category::NotFound)]
    #[case::stale_write(409, "Conflict", "the object has been modified", Category::Conflict)]
    #[case::created_by_another(409, "AlreadyExists", "secrets \"a\" already exists", Category::Conflict)]
    #[case::priority_and_fairness(429, "", "Too many requests, please try again later.", Category::Throttled)]
    #[case::cold_cache(429, "TooManyRequests", "storage is (re)initializing", Category::Unavailable)]
    #[case::undecryptable(500, "InternalError", "no matching prefix found", Category::Unreadable)]
    #[case::webhook(400, "", "admission webhook \"x\" denied the request", Category::Invalid)]
    fn refusals_have_bounded_labels(
        #[case] code: u16,
        #[case] reason: &str,
        #[case] message: &str,
        #[case] expected: Category,
    ) {
        let refusal =
            Refusal { code, reason: reason.to_owned(), message: message.to_owned(), ..Default::default() };
        assert_eq!(refusal.category(), expected);
    }
}
