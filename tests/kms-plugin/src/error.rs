//! What can go wrong between the plugin and Vault, in the words of Vault and of its Go client.
//!
//! A plugin's words are what a provider module's diagnosis has to go by, and the real plugin is a Go program: so texts
//! of the network and of TLS are put as Go puts them, and Vault's own are passed on as they come. No text holds a
//! credential, a plaintext or a ciphertext: bodies of requests and headers are never quoted.

use std::error::Error;

use reqwest::StatusCode;
use rustls::{CertificateError, InvalidMessage};
use tonic::{Code, Status};

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    /// Vault answered with an error.
    #[error("failed to {what}: Error making API request.\n\n{}URL: {request}\nCode: {}. {}", namespace_line(.namespace), .status.as_u16(), listed(.errors))]
    Refused {
        what: &'static str,
        /// Method and URL.
        request: String,
        namespace: String,
        status: StatusCode,
        errors: Vec<String>,
    },
    /// No answer came.
    #[error("failed to {what}: {request}: {reason}")]
    Unreachable {
        what: &'static str,
        /// Method and URL.
        request: String,
        reason: String,
        timed_out: bool,
    },
    /// The answer is not what Vault documents.
    #[error("failed to {what}: unexpected answer: {reason}")]
    Unexpected { what: &'static str, reason: String },
    /// The caller asked for something that cannot be.
    #[error("failed to {what}: {reason}")]
    Invalid { what: &'static str, reason: String },
}

impl BackendError {
    /// Vault says so of a token that is unknown or expired, and of one whose policy does not allow the request.
    pub(crate) fn is_permission_denied(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::FORBIDDEN, .. })
    }

    /// Whether the same request may succeed a little later: Vault is away, sealed, or has too much to do.
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

fn listed(errors: &[String]) -> String {
    let listed: Vec<_> = errors.iter().map(|error| format!("* {error}")).collect();
    format!("Errors:\n\n{}", listed.join("\n"))
}

/// What Go's HTTP client would say of a request that got no answer. `host` is what was connected to, `server_name` what
/// its certificate had to be for.
pub(crate) fn reason(error: &reqwest::Error, host: &str, server_name: &str) -> String {
    if error.is_timeout() {
        return "context deadline exceeded".to_owned();
    }
    let mut innermost = String::new();
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(current) = next {
        if let Some(tls) = current.downcast_ref::<rustls::Error>() {
            return tls_reason(tls, server_name);
        }
        // An io::Error's source is the source of what it wraps: what it wraps has to be asked for.
        let io = current.downcast_ref::<std::io::Error>();
        if let Some(io) = io.filter(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return match io.raw_os_error() {
                Some(_) => format!("dial tcp {host}: connect: connection refused"),
                None => io.to_string(),
            };
        }
        innermost = current.to_string();
        next = match io.and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => current.source(),
        };
    }
    if error.is_connect() { format!("dial tcp {host}: {innermost}") } else { innermost }
}

fn tls_reason(error: &rustls::Error, server_name: &str) -> String {
    let x509 = |text: &str| format!("tls: failed to verify certificate: x509: {text}");
    match error {
        rustls::Error::InvalidCertificate(problem) => match problem {
            CertificateError::UnknownIssuer => x509("certificate signed by unknown authority"),
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => {
                x509("certificate has expired or is not yet valid")
            }
            CertificateError::NotValidForNameContext { presented, .. } => {
                let names: Vec<_> = presented.iter().map(|name| bare_name(name)).collect();
                x509(&format!("certificate is valid for {}, not {server_name}", names.join(", ")))
            }
            other => x509(&other.to_string()),
        },
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "http: server gave HTTP response to HTTPS client".to_owned()
        }
        other => format!("tls: {other}"),
    }
}

/// `localhost` of `DnsName("localhost")`.
fn bare_name(name: &str) -> &str {
    name.split_once('(').map_or(name, |(_, inner)| inner.trim_end_matches(')')).trim_matches('"')
}
