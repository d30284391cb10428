//! Formats of stored objects, byte for byte: encoders and decoders (docs/reference/openshift.md,
//! docs/reference/objects.md).
//!
//! Decoders accept any input, because objects are untrusted. Their errors name the object and the data key.

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

/// Values copied from referenced objects.
pub type ReferencedData = BTreeMap<KeyRef, SecretBytes>;

/// Why a stored object cannot be decoded, or a new one cannot be encoded. The texts are those of
/// openshift: key-secret-errors, unless a variant says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The name does not end with a number.
    #[error("secret {0} has an invalid name")]
    InvalidName(String),
    /// An annotation cannot be parsed.
    #[error("secret {secret} has invalid {annotation} annotation: {why}")]
    InvalidAnnotation {
        /// `namespace/name`.
        secret: String,
        /// The annotation.
        annotation: &'static str,
        /// The cause.
        why: String,
    },
    /// A data key cannot be decoded.
    #[error("secret {secret} has invalid {key} data: {why}")]
    InvalidData {
        /// `namespace/name`.
        secret: String,
        /// The data key.
        key: String,
        /// The cause, without the data.
        why: String,
    },
    /// An envelope is missing.
    #[error("{key} can not be empty, when mode is KMS")]
    EmptyKms {
        /// The data key.
        key: &'static str,
    },
    /// A copied value has a malformed data key, or is empty (openshift: referenced-data-keys).
    #[error("secret {secret} has malformed {kind} data key \"{key}\": {why}")]
    MalformedReferenceKey {
        /// `namespace/name`.
        secret: String,
        /// `secret` or `configmap`.
        kind: ReferenceKind,
        /// The data key.
        key: String,
        /// The cause.
        why: String,
    },
    /// The mode is unknown.
    #[error("secret {secret} has invalid mode: {mode}")]
    InvalidMode {
        /// `namespace/name`.
        secret: String,
        /// The mode as stored.
        mode: String,
    },
    /// The key bytes are missing.
    #[error("secret {secret} of mode \"{mode}\" must have non-empty key")]
    EmptyKey {
        /// `namespace/name`.
        secret: String,
        /// The mode.
        mode: crate::ids::Mode,
    },
    /// The configuration cannot be decoded, or is not understood as a whole
    /// (openshift: configuration-is-understood-as-a-whole).
    #[error("failed to decode EncryptionConfiguration: {0}")]
    Config(String),
    /// The envelope is invalid (openshift: kms-configuration-envelope).
    #[error("invalid KMS encryption config")]
    Envelope,
    /// A data key has an invalid keyID (openshift: configuration-data-keys).
    #[error("{0}")]
    InvalidKeyId(#[from] crate::ids::InvalidId),
    /// One keyID names different keys or plugins in two resources or key secrets
    /// (openshift: one-key-id-says-one-thing).
    #[error("{what} mismatch for keyID {id}: {parts} from different resources must be identical")]
    Mismatch {
        /// `KMS plugin config`, `KMS secret data`, `KMS configmap data`, or `key`.
        what: &'static str,
        /// Number of the key.
        id: crate::ids::KeyId,
        /// The different parts, in the plural.
        parts: &'static str,
    },
    /// The name of a KMS provider has no keyID (openshift: key-id-of-a-kms-provider).
    #[error("invalid plugin name \"{0}\": expected format keyID_resourceName")]
    PluginName(String),
    /// A Secret of Keyward lacks a part that it must have.
    #[error("secret {secret} lacks {what}")]
    Lacks {
        /// `namespace/name`.
        secret: String,
        /// The missing part.
        what: String,
    },
}

/// Refuses references that cannot be decoded again, because `{name}_{dataKey}` is split at the first `_`
/// (openshift: referenced-data-keys).
pub(crate) fn check_reference(reference: &KeyRef, value: &SecretBytes) -> Result<(), &'static str> {
    match reference {
        KeyRef { name, .. } if name.is_empty() => Err("the name is empty"),
        KeyRef { name, .. } if name.contains('_') => Err("the name contains an underscore"),
        KeyRef { key, .. } if key.is_empty() => Err("the key is empty"),
        _ if value.is_empty() => Err("the value is empty"),
        _ => Ok(()),
    }
}

/// `{name}_{dataKey}` with a prefix, for a reference that passes [`check_reference`] (openshift: referenced-data-keys).
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
