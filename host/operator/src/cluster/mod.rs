//! Calls to the API server.
//!
//! Each call has one attempt, one time limit and one size limit, and errors by kind. A body is never in a log or an
//! error. kube's own typed calls log the whole response if it cannot be parsed, which would publish Secrets, and they
//! drop the `Retry-After` header. So requests are built with kube's builder, sent with its client (connections, TLS,
//! credentials) and read here. Watches are kube's own: in this crate they never carry a Secret's data.

mod error;
mod mounted;
mod pager;
mod review;
mod verbs;

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube_core::response::Status;

pub use error::{About, CallError, Category, Cause, Refusal};
pub use mounted::Mounted;
pub(crate) use pager::{Pager, Scope, Step};
pub(crate) use verbs::{Meta, full_name};

/// The field manager of all that the operator writes.
pub(crate) const FIELD_MANAGER: &str = "keyward-operator";

/// Longest response that is read. A page of 500 Secrets of 1 MiB each does not fit, and is requested in smaller pages.
const LONGEST_RESPONSE: usize = 64 << 20;
/// Longest message of the API server that is kept: it is shown in statuses and Events.
const LONGEST_MESSAGE: usize = 512;

/// Which cluster, from the command line.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// Replaces all fields below.
    pub mounted: Option<Mounted>,
    /// A kubeconfig. Without it: `KUBECONFIG`, `~/.kube/config` or the Pod's environment, in this order.
    pub kubeconfig: Option<PathBuf>,
    /// A context in it.
    pub context: Option<String>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig does not name a cluster.
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(String),
    /// Not the environment of a Pod.
    #[error("--token-file works only in a Pod: {0} is not set, or does not have a value that a kubelet sets")]
    NoPod(&'static str),
    /// The CA cannot be read.
    #[error("cannot read the cluster's CA, {}: {source}", path.display())]
    Ca {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is neither kubeconfig nor Pod.
    #[error("no cluster is configured; set --kubeconfig or KUBECONFIG, or run in a Pod: {0}")]
    Infer(String),
    /// The client cannot be set up with it.
    #[error("the client cannot be set up: {0}")]
    Client(#[from] kube::Error),
}

/// The configuration for a kubeconfig and a context in it: by default `KUBECONFIG` or `~/.kube/config`, else the Pod's.
pub async fn config(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<kube::Config, ConnectError> {
    let options = KubeConfigOptions { context: context.map(ToOwned::to_owned), ..Default::default() };
    let unusable = |error: KubeconfigError| ConnectError::Kubeconfig(without_content(&error));
    match kubeconfig {
        Some(path) => {
            let named = |error: KubeconfigError| {
                ConnectError::Kubeconfig(format!("{}: {}", path.display(), without_content(&error)))
            };
            let kubeconfig = Kubeconfig::read_from(path).map_err(named)?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(named)
        }
        None if context.is_some() => kube::Config::from_kubeconfig(&options).await.map_err(unusable),
        None => kube::Config::infer().await.map_err(|error| {
            let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref());
            ConnectError::Infer(cause.map_or_else(String::new, without_content))
        }),
    }
}

/// What is wrong with a kubeconfig. The YAML parser's own message quotes lines of it, which contain keys and tokens.
fn without_content(error: &KubeconfigError) -> String {
    let KubeconfigError::Parse(error) = error else { return error.to_string() };
    match error.location() {
        Some(at) => format!("it is not a kubeconfig, at line {} column {}", at.line(), at.column()),
        None => "it is not a kubeconfig".to_owned(),
    }
}

/// A client without kube's retries, which last for minutes: callers here have their own deadlines and back-off.
pub async fn connect(connection: &Connection) -> Result<kube::Client, ConnectError> {
    let mut config = match &connection.mounted {
        Some(mounted) => mounted.config()?,
        None => config(connection.kubeconfig.as_deref(), connection.context.as_deref()).await?,
    };
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    Ok(kube::Client::try_from(config)?)
}

/// Calls to one API server, each within a time limit.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    timeout: Duration,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// A call as its errors name it.
pub(crate) struct Call<'a> {
    pub(crate) verb: &'static str,
    pub(crate) object: &'a str,
}

impl Call<'_> {
    pub(crate) fn failed(&self, cause: Cause) -> CallError {
        CallError { verb: self.verb, object: self.object.to_owned(), cause }
    }
}

impl Cluster {
    /// `timeout` limits each attempt of each call.
    pub fn new(client: kube::Client, timeout: Duration) -> Self {
        Self { client, timeout }
    }

    /// For watches, which have no end.
    pub(crate) fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// One attempt.
    pub(crate) async fn send(
        &self,
        call: &Call<'_>,
        request: Result<http::Request<Vec<u8>>, kube_core::request::Error>,
    ) -> Result<Vec<u8>, CallError> {
        let request = request.map_err(|error| call.failed(Cause::Request(error.to_string())))?;
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(cause)) => Err(call.failed(cause)),
            Err(_) => Err(call.failed(Cause::Timeout(self.timeout))),
        }
    }

    /// A read. Passing failures are retried twice, within a few seconds. Writes are never retried here: only another
    /// read shows whether a write without a response was carried out.
    pub(crate) async fn read(
        &self,
        call: &Call<'_>,
        request: impl Fn() -> Result<http::Request<Vec<u8>>, kube_core::request::Error>,
    ) -> Result<Vec<u8>, CallError> {
        const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
        for pause in PAUSES {
            match self.send(call, request()).await {
                Err(error) if error.category().is_passing() && !matches!(error.cause, Cause::Timeout(_)) => {
                    tokio::time::sleep(pause).await;
                }
                result => return result,
            }
        }
        self.send(call, request()).await
    }

    async fn exchange(&self, request: http::Request<Vec<u8>>) -> Result<Vec<u8>, Cause> {
        let transport = |error: &dyn std::error::Error| Cause::Transport(with_sources(error));
        let response =
            self.client.send(request.map(kube::client::Body::from)).await.map_err(|e| transport(&e))?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get(http::header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let body = match Limited::new(response.into_body(), LONGEST_RESPONSE).collect().await {
            Ok(body) => body.to_bytes().to_vec(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(Cause::TooLong(LONGEST_RESPONSE));
            }
            Err(error) => return Err(transport(error.as_ref())),
        };
        if status.is_success() {
            return Ok(body);
        }
        Err(Cause::Refused(Box::new(refusal(status.as_u16(), &body, retry_after))))
    }
}

fn refusal(code: u16, body: &[u8], retry_after: Option<Duration>) -> Refusal {
    match serde_json::from_slice::<Status>(body) {
        Ok(status) => Refusal {
            code,
            reason: status.reason,
            message: cut(&status.message, LONGEST_MESSAGE).to_owned(),
            retry_after: retry_after.or_else(|| {
                let seconds = status.details.as_ref().map(|details| details.retry_after_seconds)?;
                (seconds > 0).then(|| Duration::from_secs(seconds.into()))
            }),
            about: status.details.map_or_else(About::default, |details| About {
                name: details.name,
                group: details.group,
                kind: details.kind,
            }),
            continue_token: status.metadata.and_then(|metadata| metadata.continue_),
        },
        Err(_) => Refusal {
            code,
            message: cut(String::from_utf8_lossy(body).trim(), LONGEST_MESSAGE).to_owned(),
            retry_after,
            ..Default::default()
        },
    }
}

/// An error with its sources: kube's own text stops at `client error (Connect)`.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let message = cause.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        source = cause.source();
    }
    text
}

/// At most this many bytes, without cutting a character.
pub(crate) fn cut(text: &str, longest: usize) -> &str {
    if text.len() <= longest {
        return text;
    }
    let end = (0..=longest).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_time_of_a_retry_and_the_place_to_continue() {
        let body = br#"{"kind":"Status","metadata":{"continue":"abc"},"message":"too old","reason":"Expired","code":410,
            "details":{"retryAfterSeconds":4,"name":"a","kind":"secrets"}}"#;
        let refused = refusal(410, body, None);
        assert_eq!((refused.about.name.as_str(), refused.about.kind.as_str()), ("a", "secrets"));
        assert_eq!(refused.continue_token.as_deref(), Some("abc"));
        assert_eq!(refused.retry_after, Some(Duration::from_secs(4)));
        let plain =
            refusal(429, b"Too many requests, please try again later.\n", Some(Duration::from_secs(1)));
        assert_eq!(plain.retry_after, Some(Duration::from_secs(1)));
        assert_eq!(plain.message, "Too many requests, please try again later.");
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
    }
}
