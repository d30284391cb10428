//! What stands in stored objects, byte for byte: encoders and decoders of CONTRACT.md section 1 and OBJECTS.md.
//!
//! Decoders take anything (objects are untrusted input) and answer with an error that names the object and the key.

pub mod config_hash;
pub mod consistency;
pub mod digest;
mod document;
pub mod encryption_config;
pub mod envelope;
pub mod key_secret;
pub mod provider_lists;
pub mod revision;

use std::collections::BTreeMap;

use crate::SecretBytes;
use crate::provider::{KeyRef, ReferenceKind};

/// Values copied out of the objects that a configuration refers to.
pub type ReferencedData = BTreeMap<KeyRef, SecretBytes>;

/// Why a stored object cannot be read, or a new one not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// CONTRACT 1.2, decode failures.
    #[error("secret {0} has an invalid name")]
    InvalidName(String),
    /// CONTRACT 1.2, decode failures.
    #[error("secret {secret} has invalid {annotation} annotation: {why}")]
    InvalidAnnotation {
        /// `namespace/name`.
        secret: String,
        /// Which annotation.
        annotation: &'static str,
        /// What is wrong.
        why: String,
    },
    /// CONTRACT 1.2, decode failures.
    #[error("secret {secret} has invalid {key} data: {why}")]
    InvalidData {
        /// `namespace/name`.
        secret: String,
        /// Which data key.
        key: String,
        /// What is wrong; never the data.
        why: String,
    },
    /// CONTRACT 1.2.
    #[error("{key} can not be empty, when mode is KMS")]
    EmptyKms {
        /// Which data key.
        key: &'static str,
    },
    /// CONTRACT 1.2.
    #[error("secret {secret} has malformed {kind} data key \"{key}\": {why}")]
    MalformedReferenceKey {
        /// `namespace/name`.
        secret: String,
        /// `secret` or `configmap`.
        kind: ReferenceKind,
        /// The data key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// CONTRACT 1.2.
    #[error("secret {secret} has invalid mode: {mode}")]
    InvalidMode {
        /// `namespace/name`.
        secret: String,
        /// As it stands there.
        mode: String,
    },
    /// CONTRACT 1.2.
    #[error("secret {secret} of mode \"{mode}\" must have non-empty key")]
    EmptyKey {
        /// `namespace/name`.
        secret: String,
        /// Its mode.
        mode: crate::ids::Mode,
    },
    /// CONTRACT 1.4.
    #[error("failed to decode EncryptionConfiguration: {0}")]
    Config(String),
    /// CONTRACT 1.6.
    #[error("invalid KMS encryption config")]
    Envelope,
    /// CONTRACT 1.3.
    #[error("{0}")]
    InvalidKeyId(#[from] crate::ids::InvalidId),
    /// CONTRACT 1.5: one keyID names one key and one plugin, whichever resource or secret it is read from.
    #[error("{what} mismatch for keyID {id}: {parts} from different resources must be identical")]
    Mismatch {
        /// `KMS plugin config`, `KMS secret data`, `KMS configmap data`, or `key`.
        what: &'static str,
        /// Which key.
        id: crate::ids::KeyId,
        /// What differs, in the plural.
        parts: &'static str,
    },
    /// CONTRACT 1.4.
    #[error("invalid plugin name \"{0}\": expected format keyID_resourceName")]
    PluginName(String),
    /// Objects of this system that lack what it needs.
    #[error("secret {secret} lacks {what}")]
    Lacks {
        /// `namespace/name`.
        secret: String,
        /// What is missing.
        what: String,
    },
}

/// CONTRACT 1.2: what cannot be read again, since `{name}_{dataKey}` is split at the first `_`.
pub(crate) fn check_reference(reference: &KeyRef, value: &SecretBytes) -> Result<(), &'static str> {
    match reference {
        KeyRef { name, .. } if name.is_empty() => Err("the name is empty"),
        KeyRef { name, .. } if name.contains('_') => Err("the name contains an underscore"),
        KeyRef { key, .. } if key.is_empty() => Err("the key is empty"),
        _ if value.is_empty() => Err("the value is empty"),
        _ => Ok(()),
    }
}

/// CONTRACT 1.2: `{name}_{dataKey}`, of a reference that passes [`check_reference`].
pub(crate) fn reference_key(prefix: &str, reference: &KeyRef) -> String {
    format!("{prefix}{}_{}", reference.name, reference.key)
}

/// The inverse of [`reference_key`], without the prefix.
pub(crate) fn parse_reference(kind: ReferenceKind, rest: &str) -> Result<KeyRef, &'static str> {
    match rest.split_once('_') {
        None => Err("expected {name}_{key}"),
        Some(("", _)) => Err("the name is empty"),
        Some((_, "")) => Err("the key is empty"),
        Some((name, key)) => Ok(KeyRef { kind, name: name.to_owned(), key: key.to_owned() }),
    }
}
