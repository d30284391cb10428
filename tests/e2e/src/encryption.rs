//! The ways of encrypting that a spec can request, and how stored values show them.

use std::fmt;

use keyward_core::ids::Mode;
use serde_json::{Value, json};

use crate::install::{IMAGE, Keyward, vault_spec};

/// One way of encrypting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Without a KMS.
    Local(Mode),
    /// With this Transit key.
    Transit(&'static str),
}

impl Encryption {
    /// Plain text.
    pub const NONE: Self = Self::Local(Mode::Identity);

    /// The `spec.encryption` that requests it.
    pub fn spec(self, keyward: &Keyward) -> Value {
        match self {
            Self::Local(mode) => json!({"type": mode.as_str()}),
            Self::Transit(key) => vault_spec(keyward, key, &IMAGE(1)),
        }
    }

    /// The prefix of every stored value of the resource when all are under this key
    /// (kubernetes: etcd-value-format).
    pub fn prefix(self, key: u64, resource: &str) -> String {
        match self {
            Self::Local(Mode::Identity) => "plain".to_owned(),
            Self::Local(mode) => format!("k8s:enc:{}:v1:{key}:", mode.as_str()),
            Self::Transit(_) => format!("k8s:enc:kms:v2:{key}_{resource}:"),
        }
    }

    /// The reason of the condition `Encrypted` when the change is complete.
    pub fn completed(self) -> &'static str {
        if self == Self::NONE { "DecryptionCompleted" } else { "EncryptionCompleted" }
    }
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(mode) => f.write_str(mode.as_str()),
            Self::Transit(key) => write!(f, "KMS({key})"),
        }
    }
}
