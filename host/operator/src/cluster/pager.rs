//! Lists in pages, past what the API server cannot decode.
//!
//! One object that cannot be decrypted fails every list that contains it, also of metadata only, with a 500 that
//! names its key in etcd (kubernetes: one-unreadable-object-fails-the-list). The pager then requests smaller and
//! smaller pages until that object is the next one, returns its name, and continues behind it. It never requests a
//! list without a limit: an API server whose watch cache cannot be filled answers that with 429 for ever, while it
//! serves a list with a limit from etcd (kubernetes: watch-cache-may-never-be-ready).
//!
//! To begin in the middle, the pager makes a continue token itself. The format is internal to the API server
//! (kubernetes: continue-tokens). If the API server refuses the token, the list fails: the caller may begin at the
//! start, but an object that cannot be decoded is not passed.
//!
//! A response counts only if it has the fields of every list of an API server: `items` and a resourceVersion. An empty
//! document of a proxy is not the end of a list.

use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube_core::params::ListParams;
use kube_core::request::Request;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::verbs::parse;
use super::{Call, CallError, Category, Cause, Cluster};

/// Objects in a page (decision 0052).
const PAGE: u32 = 500;
/// The factor by which pages shrink before, and grow behind, an object that cannot be decoded.
const STEP: u32 = 8;

/// One step of a list.
pub(crate) enum Step<T> {
    /// Some objects, in the order of their names.
    Page(Page<T>),
    /// An object that exists and cannot be decoded.
    Undecodable(Undecodable),
    /// The end of the list.
    End,
}

/// Some objects.
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// How many objects follow, by the API server's count.
    pub(crate) remaining: u64,
}

/// An object that cannot be decoded.
pub(crate) struct Undecodable {
    /// `namespace/name`, or a name.
    pub(crate) name: String,
    pub(crate) error: CallError,
}

/// The scope of a collection. It decides the form of names in keys and tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Objects without a namespace.
    Cluster,
    /// All namespaces.
    Namespaces,
    /// One namespace.
    Namespace,
}

/// The position in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// At the beginning.
    Start,
    /// Behind this name.
    Behind(String),
    /// At the API server's continue token.
    Token(String),
    /// At the end.
    End,
}

/// A list in progress.
pub(crate) struct Pager<T> {
    path: String,
    resource: String,
    scope: Scope,
    labels: Option<String>,
    fields: Option<String>,
    metadata_only: bool,
    place: Place,
    limit: u32,
    /// Of the last response.
    version: String,
    _item: PhantomData<fn() -> T>,
}

#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct List<T> {
    metadata: ListMeta,
    /// `null` if nothing is left: an empty list of Go, in metadata-only responses. The field itself is required.
    #[serde(deserialize_with = "Option::deserialize")]
    items: Option<Vec<T>>,
}

impl<T: DeserializeOwned> Pager<T> {
    /// Lists the collection at this path; `resource` names it in errors.
    pub(crate) fn of(path: impl Into<String>, resource: &str, scope: Scope) -> Self {
        Self {
            path: path.into(),
            resource: resource.to_owned(),
            scope,
            labels: None,
            fields: None,
            metadata_only: false,
            place: Place::Start,
            limit: PAGE,
            version: String::new(),
            _item: PhantomData,
        }
    }

    /// Only objects with these labels.
    pub(crate) fn labels(mut self, labels: Option<&str>) -> Self {
        self.labels = labels.map(ToOwned::to_owned);
        self
    }

    /// Only the object of this name.
    pub(crate) fn named(mut self, name: &str) -> Self {
        self.fields = Some(format!("metadata.name={name}"));
        self
    }

    /// Requests metadata only: nothing secret reaches this process.
    pub(crate) fn metadata_only(mut self) -> Self {
        self.metadata_only = true;
        self
    }

    /// Begins behind this name.
    pub(crate) fn behind(mut self, name: Option<&str>) -> Self {
        self.place = name.map_or(Place::Start, |name| Place::Behind(name.to_owned()));
        self
    }

    /// The current resourceVersion of the collection, past objects that cannot be decoded.
    pub(crate) async fn version(mut self, cluster: &Cluster) -> Result<String, CallError> {
        self.limit = 1;
        loop {
            match self.next(cluster).await? {
                Step::Page(_) | Step::End => return Ok(self.version),
                Step::Undecodable(_) => {}
            }
        }
    }

    /// Whether an error means that the API server refuses the pager's own token, which begins behind a name.
    pub(crate) fn refuses_start(&self, error: &CallError) -> bool {
        matches!(self.place, Place::Behind(_))
            && error.category() == Category::Invalid
            && error.refusal().is_some_and(|refusal| refusal.message.contains("continue"))
    }

    /// The next step. An error does not move the pager.
    pub(crate) async fn next(&mut self, cluster: &Cluster) -> Result<Step<T>, CallError> {
        loop {
            if self.place == Place::End {
                return Ok(Step::End);
            }
            let call = Call { verb: "list", object: &self.resource.clone() };
            let list = cluster.read(&call, || self.request()).await.and_then(|body| parse(&call, &body));
            match list.and_then(|list| versioned(&call, list)) {
                Ok(list) => return Ok(Step::Page(self.advance(list))),
                Err(error) => match self.recover(&error) {
                    Recovery::Again => {}
                    Recovery::Past(name) => return Ok(Step::Undecodable(Undecodable { name, error })),
                    Recovery::None => return Err(error),
                },
            }
        }
    }

    fn request(&self) -> Result<http::Request<Vec<u8>>, kube_core::request::Error> {
        let params = ListParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            limit: Some(self.limit),
            continue_token: match &self.place {
                Place::Start | Place::End => None,
                Place::Behind(name) => Some(token_behind(self.scope, name)),
                Place::Token(token) => Some(token.clone()),
            },
            ..Default::default()
        };
        let request = Request::new(self.path.clone());
        if self.metadata_only { request.list_metadata(&params) } else { request.list(&params) }
    }

    fn advance(&mut self, list: List<T>) -> Page<T> {
        self.version = list.metadata.resource_version.unwrap_or_default();
        self.place = match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => Place::Token(token),
            None => Place::End,
        };
        self.limit = self.limit.saturating_mul(STEP).min(PAGE);
        let remaining = list.metadata.remaining_item_count.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        Page { items: list.items.unwrap_or_default(), remaining }
    }

    fn recover(&mut self, error: &CallError) -> Recovery {
        if let Cause::TooLong(_) = error.cause
            && self.limit > 1
        {
            self.limit = (self.limit / STEP).max(1);
            return Recovery::Again;
        }
        let Some(refusal) = error.refusal() else { return Recovery::None };
        match (error.category(), &self.place) {
            // The token is older than etcd's history; the response has a token that continues at the same name.
            (Category::Expired, _) => match &refusal.continue_token {
                Some(token) if Place::Token(token.clone()) != self.place => {
                    self.place = Place::Token(token.clone());
                    Recovery::Again
                }
                _ => Recovery::None,
            },
            (Category::Unreadable, place) => {
                let Some(name) = undecodable_name(self.scope, &refusal.message) else {
                    return Recovery::None;
                };
                // An object that was passed cannot be the next one: the response is about something else.
                if matches!(place, Place::Behind(passed) if name <= *passed) {
                    return Recovery::None;
                }
                if self.limit > 1 {
                    self.limit = (self.limit / STEP).max(1);
                    return Recovery::Again;
                }
                self.place = Place::Behind(name.clone());
                Recovery::Past(name)
            }
            _ => Recovery::None,
        }
    }
}

/// A list, if it has the resourceVersion at which it was read.
fn versioned<T>(call: &Call<'_>, list: List<T>) -> Result<List<T>, CallError> {
    match list.metadata.resource_version.as_deref() {
        Some(version) if !version.is_empty() => Ok(list),
        _ => Err(call.failed(Cause::Incomplete("resourceVersion"))),
    }
}

enum Recovery {
    Again,
    Past(String),
    None,
}

/// A continue token that begins behind this name at the newest state: revision -1, which the API server itself returns
/// once a token has expired. The name in it is relative to the collection.
fn token_behind(scope: Scope, name: &str) -> String {
    let relative = match (scope, name.split_once('/')) {
        (Scope::Namespace, Some((_, name))) => name,
        _ => name,
    };
    let token = serde_json::json!({"v": "meta.k8s.io/v1", "rv": -1, "start": format!("{relative}\0")});
    URL_SAFE_NO_PAD.encode(token.to_string())
}

/// The object in `unable to transform key "/registry/secrets/default/name": …`. The API server chooses the prefix, so
/// only the last segments count.
fn undecodable_name(scope: Scope, message: &str) -> Option<String> {
    let (_, rest) = message.split_once("transform key \"")?;
    let (key, _) = rest.split_once('"')?;
    let (before, name) = key.rsplit_once('/')?;
    match scope {
        Scope::Cluster => Some(name.to_owned()),
        Scope::Namespaces | Scope::Namespace => {
            let (_, namespace) = before.rsplit_once('/')?;
            Some(format!("{namespace}/{name}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Meta, Refusal};

    fn pager() -> Pager<Meta> {
        Pager::of("/api/v1/secrets", "secrets", Scope::Namespaces).metadata_only()
    }

    fn refused(code: u16, reason: &str, message: &str, token: Option<&str>) -> CallError {
        let refusal = Refusal {
            code,
            reason: reason.to_owned(),
            message: message.to_owned(),
            continue_token: token.map(ToOwned::to_owned),
            ..Default::default()
        };
        Call { verb: "list", object: "secrets" }.failed(Cause::Refused(Box::new(refusal)))
    }

    const UNDECODABLE: &str = "Internal error occurred: unable to transform key \"/registry/secrets/n1/s5\": no matching prefix found";

    #[test]
    fn pages_shrink_until_the_undecodable_object_is_next_and_grow_behind_it() {
        let mut pager = pager();
        let error = refused(500, "InternalError", UNDECODABLE, None);
        let mut limits = vec![];
        let name = loop {
            match pager.recover(&error) {
                Recovery::Again => limits.push(pager.limit),
                Recovery::Past(name) => break name,
                Recovery::None => panic!("no recovery"),
            }
        };
        assert_eq!(limits, [62, 7, 1]);
        assert_eq!(name, "n1/s5");
        assert_eq!(pager.place, Place::Behind("n1/s5".into()));
        pager.advance(List { metadata: ListMeta::default(), items: Some(vec![]) });
        assert_eq!(pager.limit, 8);
    }

    fn read(body: &str) -> Result<List<Meta>, CallError> {
        let call = Call { verb: "list", object: "secrets" };
        parse(&call, body.as_bytes()).and_then(|list| versioned(&call, list))
    }

    #[test]
    fn empty_list_is_the_end_in_both_notations() {
        for body in [
            r#"{"metadata":{"resourceVersion":"7"},"items":null}"#,
            r#"{"metadata":{"resourceVersion":"7"},"items":[]}"#,
        ] {
            let mut pager = pager();
            let page = pager.advance(read(body).unwrap());
            assert!(page.items.is_empty() && pager.place == Place::End, "{body}");
            assert_eq!(pager.version, "7");
        }
    }

    #[test]
    fn response_without_items_or_version_is_not_an_empty_list() {
        for body in [
            "{}",
            r#"{"metadata":{"resourceVersion":"7"}}"#,
            r#"{"metadata":{},"items":[]}"#,
            r#"{"metadata":{"resourceVersion":""},"items":null}"#,
            r#"{"items":[]}"#,
        ] {
            assert!(read(body).is_err(), "{body}");
        }
    }

    #[test]
    fn list_continues_at_the_same_name_after_its_token_expired() {
        let mut pager = pager();
        pager.place = Place::Token("old".into());
        let error = refused(410, "Expired", "too old", Some("new"));
        assert!(matches!(pager.recover(&error), Recovery::Again));
        assert_eq!(pager.place, Place::Token("new".into()));
        assert!(matches!(pager.recover(&error), Recovery::None), "the same token again makes no progress");
    }

    #[test]
    fn refusal_of_the_pagers_own_token_is_an_error_and_skips_no_object() {
        let mut pager = pager().behind(Some("n1/s5"));
        let error = refused(400, "BadRequest", "continue key is not valid", None);
        assert!(matches!(pager.recover(&error), Recovery::None));
        assert!(pager.refuses_start(&error));
        pager.place = Place::Token("the API server's".into());
        assert!(!pager.refuses_start(&error));
    }

    #[test]
    fn undecodable_object_is_not_passed_twice() {
        let error = refused(500, "InternalError", UNDECODABLE, None);
        for behind in ["n1/s5", "n1/s6"] {
            assert!(matches!(pager().behind(Some(behind)).recover(&error), Recovery::None), "{behind}");
        }
        assert!(matches!(pager().behind(Some("n1/s4")).recover(&error), Recovery::Again));
    }

    #[test]
    fn failures_that_name_no_object_are_errors() {
        let mut pager = pager();
        for error in [
            refused(500, "InternalError", "etcdserver: request timed out", None),
            refused(403, "Forbidden", "secrets is forbidden", None),
            refused(410, "Expired", "too old", None),
        ] {
            assert!(matches!(pager.recover(&error), Recovery::None), "{error}");
        }
    }

    #[test]
    fn own_tokens_begin_behind_a_name_at_the_newest_state() {
        let decoded = |scope| URL_SAFE_NO_PAD.decode(token_behind(scope, "n1/s5")).unwrap();
        let expected = br#"{"v":"meta.k8s.io/v1","rv":-1,"start":"n1/s5\u0000"}"#;
        assert_eq!(decoded(Scope::Namespaces), expected);
        let expected = br#"{"v":"meta.k8s.io/v1","rv":-1,"start":"s5\u0000"}"#;
        assert_eq!(decoded(Scope::Namespace), expected);
    }

    #[test]
    fn names_are_read_from_keys_with_and_without_a_namespace() {
        let named =
            |scope, key: &str| undecodable_name(scope, &format!("unable to transform key \"{key}\": no"));
        assert_eq!(named(Scope::Namespaces, "/registry/secrets/n1/s5").as_deref(), Some("n1/s5"));
        assert_eq!(named(Scope::Namespace, "/registry/example.com/things/n1/t").as_deref(), Some("n1/t"));
        assert_eq!(named(Scope::Cluster, "/registry/example.com/things/t").as_deref(), Some("t"));
        assert_eq!(undecodable_name(Scope::Cluster, "etcd is away"), None);
    }
}
