//! The one error type: which failure occurred between Keyward and a plugin, and in which phase.

use std::{fmt, path::PathBuf, time::Duration};

use tonic::Code;

use crate::rules::{MAX_ANNOTATION_BYTES, MAX_CIPHERTEXT_BYTES, MAX_KEY_ID_BYTES};

/// The phase of a failure. Provider modules receive it as `failure.phase` of provider.wit, with the same
/// names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Connecting to the plugin's socket.
    Start,
    /// The Status call.
    Status,
    /// The Encrypt call.
    Encrypt,
    /// Decrypt of bytes that the same plugin has just wrapped.
    Decrypt,
    /// Decrypt of a key check that was made earlier, possibly by another instance.
    KeyCheck,
}

impl Phase {
    /// The name in provider.wit.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Status => "status",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::KeyCheck => "key-check",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a plugin cannot be used.
///
/// Texts from a plugin are cleaned: one line, limited length, no byte that was sent or wrapped. A plugin may
/// also quote its own credentials, which this crate does not know. The caller must redact them before it
/// shortens or shows the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KmsError {
    /// There is no socket, or nothing accepts on it: the plugin does not run, has not started yet, or listens
    /// elsewhere.
    #[error("no KMS plugin answers at {}: {reason}", socket.display())]
    Unreachable {
        /// The Unix socket.
        socket: PathBuf,
        /// The operating system's error.
        reason: String,
    },
    /// The plugin accepts connections, but does not answer within the call's deadline.
    #[error("{phase}: no answer from the KMS plugin within {after:?}")]
    Timeout {
        /// The call that got no answer.
        phase: Phase,
        /// Its deadline.
        after: Duration,
    },
    /// The plugin answered a call with a gRPC error.
    #[error("{phase}: {code:?}: {message}")]
    Rpc {
        /// The call that failed.
        phase: Phase,
        /// The gRPC code.
        code: Code,
        /// The plugin's message.
        message: String,
    },
    /// The `healthz` of Status is not `ok`.
    #[error("status: the KMS plugin is unhealthy: {healthz}")]
    Unhealthy {
        /// The plugin's reason, never empty.
        healthz: String,
    },
    /// Status returns a version of the API that no API server accepts.
    #[error("status: version {version:?} is neither v2 nor v2beta1; an API server would refuse this plugin")]
    Version {
        /// The version that Status returned.
        version: String,
    },
    /// Status returned another version before. An API server treats that as a failure until it restarts.
    #[error("status: version changed from {before:?} to {now:?} while the plugin was running")]
    VersionChanged {
        /// The version in the first answer.
        before: String,
        /// The version in the last answer.
        now: String,
    },
    /// A `key_id` is empty or too long.
    #[error("{phase}: key_id has {bytes} bytes; an API server accepts 1 to {MAX_KEY_ID_BYTES}")]
    KeyId {
        /// The call that returned it.
        phase: Phase,
        /// Its length.
        bytes: usize,
    },
    /// A ciphertext is empty or too long.
    #[error("encrypt: the ciphertext has {bytes} bytes; an API server accepts 1 to {MAX_CIPHERTEXT_BYTES}")]
    Ciphertext {
        /// Its length.
        bytes: usize,
    },
    /// The ciphertext equals the plaintext.
    #[error("encrypt: the KMS plugin returned the plaintext unchanged; it does not encrypt")]
    PlaintextUnchanged,
    /// An annotation's key is not a fully qualified domain name.
    #[error(
        "encrypt: annotation key {key:?} is not a fully qualified domain name, which an API server requires"
    )]
    AnnotationKey {
        /// The key, cut if it is long.
        key: String,
    },
    /// The annotations are too long.
    #[error("encrypt: annotations have {bytes} bytes; an API server accepts at most {MAX_ANNOTATION_BYTES}")]
    Annotations {
        /// Keys and values together.
        bytes: usize,
    },
    /// The `key_id` of Encrypt differs from that of Status, also when Status is called again.
    #[error(
        "encrypt: key_id {encrypt:?} differs from {status:?} of status; an API server would not use this plugin"
    )]
    KeyIdMismatch {
        /// The `key_id` of Status.
        status: String,
        /// The `key_id` of Encrypt.
        encrypt: String,
    },
    /// Decrypt of a fresh ciphertext succeeded and returned other bytes.
    #[error("decrypt: the KMS plugin returned other bytes than were just encrypted")]
    RoundTripMismatch,
    /// Decrypt of the key check succeeded and returned other bytes.
    #[error(
        "key-check: the KMS plugin decrypted it to other bytes, so it does not reach the KEK of this key"
    )]
    KeyCheckMismatch,
    /// The operating system returned no random bytes.
    #[error("no random bytes for the probe: {reason}")]
    Random {
        /// The operating system's error.
        reason: String,
    },
}

impl KmsError {
    /// The phase of the failure.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Unreachable { .. } => Phase::Start,
            Self::Timeout { phase, .. } | Self::Rpc { phase, .. } | Self::KeyId { phase, .. } => *phase,
            Self::Unhealthy { .. } | Self::Version { .. } | Self::VersionChanged { .. } => Phase::Status,
            Self::Ciphertext { .. }
            | Self::PlaintextUnchanged
            | Self::AnnotationKey { .. }
            | Self::Annotations { .. }
            | Self::KeyIdMismatch { .. }
            | Self::Random { .. } => Phase::Encrypt,
            Self::RoundTripMismatch => Phase::Decrypt,
            Self::KeyCheckMismatch => Phase::KeyCheck,
        }
    }

    /// The gRPC code that the plugin returned, or that an API server reports for a missed deadline. None if
    /// the call itself succeeded or never started.
    pub fn grpc_code(&self) -> Option<u32> {
        let code = match self {
            Self::Rpc { code, .. } => *code,
            Self::Timeout { .. } => Code::DeadlineExceeded,
            _ => return None,
        };
        u32::try_from(code as i32).ok()
    }

    /// The bounded label for metrics, Events and condition reasons.
    pub fn category(&self) -> &'static str {
        match self {
            Self::KeyCheckMismatch => "KEKMismatch",
            Self::Rpc { phase: Phase::KeyCheck, code, .. } if is_about_the_key(*code) => "KEKMismatch",
            Self::Unreachable { .. } => "PluginUnreachable",
            Self::Timeout { .. } => "PluginTimeout",
            Self::Rpc { .. } => "PluginError",
            Self::Unhealthy { .. } => "PluginUnhealthy",
            Self::Version { .. }
            | Self::VersionChanged { .. }
            | Self::KeyId { .. }
            | Self::Ciphertext { .. }
            | Self::PlaintextUnchanged
            | Self::AnnotationKey { .. }
            | Self::Annotations { .. }
            | Self::KeyIdMismatch { .. }
            | Self::RoundTripMismatch => "PluginBroken",
            Self::Random { .. } => "Internal",
        }
    }
}

/// Whether a refusal to decrypt the key check is about its key. If the backend is unavailable, overloaded or
/// denies access, the key is unknown. Every other refusal means that this key cannot decrypt the key check.
fn is_about_the_key(code: Code) -> bool {
    !matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Cancelled
            | Code::PermissionDenied
            | Code::Unauthenticated
    )
}
