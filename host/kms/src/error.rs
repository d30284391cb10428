//! The one error type: what went wrong between us and a plugin, and in which phase.

use std::{fmt, path::PathBuf, time::Duration};

use tonic::Code;

use crate::rules::{MAX_ANNOTATION_BYTES, MAX_CIPHERTEXT_BYTES, MAX_KEY_ID_BYTES};

/// What was being done. The names are those of provider.wit's `failure.phase`, which is how a provider module gets to
/// see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Reaching the plugin's socket.
    Start,
    /// Asking for health and remote key id.
    Status,
    /// Wrapping bytes.
    Encrypt,
    /// Unwrapping bytes that this very plugin has just wrapped.
    Decrypt,
    /// Unwrapping a key check made earlier, maybe by another instance.
    KeyCheck,
}

impl Phase {
    /// The name on the wire of provider.wit.
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
/// Texts that came from a plugin are cleaned: one line, limited length, no byte of what was sent or wrapped. A plugin
/// may also quote its own credentials, which nobody here knows: they are to be taken out of the message before it is
/// cut any shorter, and before it is shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KmsError {
    /// There is no socket, or nobody accepts on it: the plugin does not run, has not come up yet, or listens elsewhere.
    #[error("no KMS plugin answers at {}: {reason}", socket.display())]
    Unreachable {
        /// The unix socket.
        socket: PathBuf,
        /// The operating system's words.
        reason: String,
    },
    /// Somebody accepts, but no answer came within the call's deadline.
    #[error("{phase}: no answer from the KMS plugin within {after:?}")]
    Timeout {
        /// The call that hung.
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
        /// The plugin's words.
        message: String,
    },
    /// Status has another `healthz` than `ok`.
    #[error("status: the KMS plugin is unhealthy: {healthz}")]
    Unhealthy {
        /// The plugin's words, never empty.
        healthz: String,
    },
    /// Status names a version of the API that no API server accepts.
    #[error("status: version {version:?} is none of v2, v2beta1: an API server would refuse this plugin")]
    Version {
        /// The version given.
        version: String,
    },
    /// Status named another version before: an API server takes that for a failure until it is restarted.
    #[error("status: version changed from {before:?} to {now:?} while the plugin was running")]
    VersionChanged {
        /// The first answer.
        before: String,
        /// The present one.
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
    /// Encrypt returned what it was given.
    #[error("encrypt: the KMS plugin returned the plaintext unchanged; it does not encrypt")]
    PlaintextUnchanged,
    /// An annotation's key is no fully qualified domain name.
    #[error("encrypt: annotation key {key:?} is not a fully qualified domain name, as an API server demands")]
    AnnotationKey {
        /// The key, cut when it is long.
        key: String,
    },
    /// Annotations are too long.
    #[error("encrypt: annotations have {bytes} bytes; an API server accepts at most {MAX_ANNOTATION_BYTES}")]
    Annotations {
        /// Keys and values together.
        bytes: usize,
    },
    /// Encrypt used another KEK than Status names, and Status still names it when asked again.
    #[error(
        "encrypt: key_id {encrypt:?} differs from {status:?} of status; an API server would not use this plugin"
    )]
    KeyIdMismatch {
        /// What Status says.
        status: String,
        /// What Encrypt said.
        encrypt: String,
    },
    /// Decrypt of fresh ciphertext succeeded with other bytes.
    #[error("decrypt: the KMS plugin returned other bytes than were encrypted a moment ago")]
    RoundTripMismatch,
    /// Decrypt of the key check succeeded with other bytes.
    #[error(
        "key-check: the KMS plugin decrypted it to other bytes; it does not reach the KEK that the key check was made under"
    )]
    KeyCheckMismatch,
    /// The operating system gave no random bytes.
    #[error("no random bytes for the probe: {reason}")]
    Random {
        /// Its words.
        reason: String,
    },
}

impl KmsError {
    /// What was being done when it failed.
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

    /// The gRPC code of a plugin that answered with an error, or that an API server would have made of a missed
    /// deadline. None where the call itself went well, or never began.
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
            Self::Rpc { phase: Phase::KeyCheck, code, .. } if speaks_of_the_key(*code) => "KEKMismatch",
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

/// Whether a refusal to decrypt the key check is about its key. A backend that is away, overloaded or denies access says
/// nothing about which key it would have used; every other refusal means that this key cannot read the key check.
fn speaks_of_the_key(code: Code) -> bool {
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
