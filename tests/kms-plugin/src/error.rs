//! Errors between the plugin and Vault, with the texts of Vault and of its Go client.
//!
//! A provider module's diagnosis depends on the plugin's texts, and the real plugin is a Go program. So
//! network and TLS errors have Go's texts, and Vault's own texts are passed on unchanged. No text contains a
//! credential, a plaintext or a ciphertext: bodies of requests and headers are never quoted.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use reqwest::StatusCode;
use rustls::{AlertDescription, CertificateError, InvalidMessage, pki_types::UnixTime};
use tonic::{Code, Status};

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    /// Vault returned an error.
    #[error("failed to {what}: Error making API request.\n\n{}URL: {request}\nCode: {}. {answer}", namespace_line(.namespace), .status.as_u16())]
    Refused {
        what: &'static str,
        /// Method and URL.
        request: String,
        namespace: String,
        status: StatusCode,
        answer: Answer,
    },
    /// Vault did not respond.
    #[error("failed to {what}: {request}: {reason}")]
    Unreachable {
        what: &'static str,
        /// Method and URL, quoted as by Go's client: `Put "https://…"`.
        request: String,
        reason: String,
        timed_out: bool,
    },
    /// The response is not as documented by Vault.
    #[error("failed to {what}: {reason}")]
    Unexpected { what: &'static str, reason: String },
    /// The request is invalid.
    #[error("failed to {what}: {reason}")]
    Invalid { what: &'static str, reason: String },
}

impl BackendError {
    /// Vault reports this for an unknown or expired token, and for a token whose policy does not allow the
    /// request.
    pub(crate) fn is_permission_denied(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::FORBIDDEN, .. })
    }

    /// Whether the same request may succeed later: Vault is unavailable, sealed or busy.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                status.is_server_error()
                    || matches!(
                        *status,
                        StatusCode::REQUEST_TIMEOUT
                            | StatusCode::PRECONDITION_FAILED
                            | StatusCode::TOO_MANY_REQUESTS
                    )
            }
            Self::Unreachable { .. } => true,
            Self::Unexpected { .. } | Self::Invalid { .. } => false,
        }
    }

    /// The gRPC code for the API server.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Refused { status, .. } => match *status {
                StatusCode::BAD_REQUEST => Code::InvalidArgument,
                StatusCode::FORBIDDEN => Code::PermissionDenied,
                StatusCode::NOT_FOUND => Code::NotFound,
                StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
                StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                    Code::Unavailable
                }
                _ => Code::Internal,
            },
            Self::Unreachable { timed_out: true, .. } => Code::DeadlineExceeded,
            Self::Unreachable { .. } => Code::Unavailable,
            Self::Unexpected { .. } => Code::Internal,
            Self::Invalid { .. } => Code::InvalidArgument,
        }
    }
}

impl From<BackendError> for Status {
    fn from(error: BackendError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

fn namespace_line(namespace: &str) -> String {
    match namespace {
        "" => String::new(),
        namespace => format!("Namespace: {namespace}\n"),
    }
}

/// The text of an error response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Errors of Vault.
    Errors(Vec<String>),
    /// Another text, for example of a proxy or a load balancer.
    Raw(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errors(errors) => {
                let listed: Vec<_> = errors.iter().map(|error| format!("* {error}")).collect();
                write!(f, "Errors:\n\n{}", listed.join("\n"))
            }
            Self::Raw(text) => write!(f, "Raw Message:\n\n{text}"),
        }
    }
}

/// Go's error for a text that is not JSON.
pub(crate) fn no_json(body: &[u8], error: &serde_json::Error) -> String {
    match String::from_utf8_lossy(body).trim_start().chars().next() {
        Some(first) if !"{[\"-0123456789tfn".contains(first) => {
            format!("invalid character {first:?} looking for beginning of value")
        }
        _ => format!("no JSON: {error}"),
    }
}

/// The error of Go's HTTP client for a request without a response. `host` is the host of the connection,
/// `server_name` the name that its certificate had to be for. With a proxy, the connection is to the proxy.
pub(crate) fn reason(error: &reqwest::Error, host: &str, server_name: &str, proxy: Option<&str>) -> String {
    if error.is_timeout() {
        return "context deadline exceeded".to_owned();
    }
    match proxy {
        Some(_)
            if error_chain(error).any(|cause| cause.to_string().contains("proxy authorization required")) =>
        {
            "Proxy Authentication Required".to_owned()
        }
        Some(proxy) if error.is_connect() && error_chain(error).all(|cause| !cause.is::<rustls::Error>()) => {
            format!("proxyconnect tcp: {}", direct(error, proxy, server_name))
        }
        _ => direct(error, host, server_name),
    }
}

/// An error and its sources.
fn error_chain(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |cause| below(*cause))
}

/// The source of an `io::Error` is the source of the error that it wraps, so the wrapped error is read with
/// `get_ref`.
fn below<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source())
}

fn direct(error: &reqwest::Error, host: &str, server_name: &str) -> String {
    let mut innermost = String::new();
    for current in error_chain(error) {
        if let Some(tls) = current.downcast_ref::<rustls::Error>() {
            return tls_reason(tls, server_name);
        }
        let io = current.downcast_ref::<std::io::Error>();
        if let Some(io) = io.filter(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return match io.raw_os_error() {
                Some(_) => format!("dial tcp {host}: connect: connection refused"),
                None => io.to_string(),
            };
        }
        innermost = current.to_string();
        if let Some(why) = innermost.strip_prefix("failed to lookup address information: ") {
            return format!("dial tcp: lookup {}: {}", host_of(host), lookup_reason(why));
        }
    }
    if error.is_connect() { format!("dial tcp {host}: {innermost}") } else { innermost }
}

fn tls_reason(error: &rustls::Error, server_name: &str) -> String {
    let x509 = |text: &str| format!("tls: failed to verify certificate: x509: {text}");
    match error {
        rustls::Error::InvalidCertificate(problem) => match problem {
            CertificateError::UnknownIssuer => x509("certificate signed by unknown authority"),
            CertificateError::Expired | CertificateError::NotValidYet => x509(OUT_OF_DATE),
            CertificateError::ExpiredContext { time, not_after } => {
                x509(&format!("{OUT_OF_DATE}: current time {} is after {}", date(*time), date(*not_after)))
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                x509(&format!("{OUT_OF_DATE}: current time {} is before {}", date(*time), date(*not_before)))
            }
            CertificateError::NotValidForNameContext { presented, .. } => {
                x509(&not_for(presented, server_name))
            }
            other => x509(&other.to_string()),
        },
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "http: server gave HTTP response to HTTPS client".to_owned()
        }
        rustls::Error::AlertReceived(alert) => format!("remote error: tls: {}", alert_words(*alert)),
        other => format!("tls: {other}"),
    }
}

/// Go's name of an alert.
fn alert_words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => "certificate required".to_owned(),
        AlertDescription::BadCertificate => "bad certificate".to_owned(),
        AlertDescription::HandshakeFailure => "handshake failure".to_owned(),
        other => format!("{other:?}"),
    }
}

const OUT_OF_DATE: &str = "certificate has expired or is not yet valid";

fn date(time: UnixTime) -> String {
    let at = i64::try_from(time.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    at.map_or_else(|| "an unknown time".to_owned(), |at| at.to_string())
}

/// Go's error for a certificate with other names. Go lists the certificate's names of the wanted kind.
/// `presented` is in rustls' format: `DnsName("localhost")`, `IpAddress(127.0.0.1)`. If there is no name at
/// all, Go checks whether the common name matches. rustls does not show that name, so this assumes that it
/// does.
fn not_for(presented: &[String], wanted: &str) -> String {
    if presented.is_empty() {
        return "certificate relies on legacy Common Name field, use SANs instead".to_owned();
    }
    let is_ip = wanted.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let names = presented.iter().filter(|name| name.starts_with("IpAddress") == is_ip);
    let names: Vec<_> = names.map(|name| bare_name(name)).collect();
    match (names.is_empty(), is_ip) {
        (false, _) => format!("certificate is valid for {}, not {wanted}", names.join(", ")),
        (true, true) => {
            format!("cannot validate certificate for {wanted} because it doesn't contain any IP SANs")
        }
        (true, false) => format!("certificate is not valid for any names, but wanted to match {wanted}"),
    }
}

/// The host without its port.
fn host_of(authority: &str) -> &str {
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

/// Go's text for an unknown name; Go repeats the other texts of the C library.
fn lookup_reason(why: &str) -> &str {
    match why {
        "Name or service not known" | "No address associated with hostname" => "no such host",
        other => other,
    }
}

/// `localhost` of `DnsName("localhost")`.
fn bare_name(name: &str) -> &str {
    name.split_once('(').map_or(name, |(_, inner)| inner.trim_end_matches(')')).trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_for_a_certificate_with_other_names_is_gos() {
        let both = ["DnsName(\"localhost\")".to_owned(), "IpAddress(127.0.0.1)".to_owned()];
        assert_eq!(not_for(&both, "vault"), "certificate is valid for localhost, not vault");
        assert_eq!(not_for(&both, "127.0.0.2"), "certificate is valid for 127.0.0.1, not 127.0.0.2");
        assert_eq!(
            not_for(&both[..1], "127.0.0.2"),
            "cannot validate certificate for 127.0.0.2 because it doesn't contain any IP SANs"
        );
        assert_eq!(not_for(&[], "vault"), "certificate relies on legacy Common Name field, use SANs instead");
        assert_eq!(
            not_for(&both[1..], "vault"),
            "certificate is not valid for any names, but wanted to match vault"
        );
    }

    #[test]
    fn times_and_hosts_have_gos_format() {
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_hours(438_288));
        assert_eq!(date(time), "2020-01-01T00:00:00Z");
        assert_eq!(host_of("vault.example.com:8200"), "vault.example.com");
        assert_eq!(lookup_reason("Name or service not known"), "no such host");
    }
}
