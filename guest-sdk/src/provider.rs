//! The trait that an author implements.

use serde_json::Value;

use crate::bindings::keyward::provider::types::{
    Diagnosis, Failure, Kek, Plugin, Reference, Setting, Violation,
};
use crate::config::{self, ProviderConfig};
use crate::report::Findings;

/// A provider module: how one KMS product is configured, which KEK a configuration names, how the plugin is
/// started, and what its failures mean.
///
/// Every function is pure: the same input gives the same answer, on every host, for ever.
pub trait Provider {
    /// The configuration, `#[derive(ProviderConfig)]`.
    type Config: ProviderConfig;

    /// The value of `kms.type`, for example `Vault`.
    const TYPE: &'static str;

    /// The field beside `type` that holds the configuration, for example `vault`.
    const FIELD: &'static str;

    /// The field of the normal form that names the plugin's image; `None` for an external plugin.
    const IMAGE_FIELD: Option<&'static str>;

    /// Facts about the plugin for the host.
    fn facts() -> Facts;

    /// What the values of the data keys that [`references`](Self::references) names must contain. The host
    /// checks the values, which no module ever sees, before it starts a plugin with them.
    fn contents() -> &'static [(&'static str, Content)] {
        &[]
    }

    /// Converts a configuration into its normal form: configurations that mean the same have the same normal
    /// form. It is called only if the fields' own rules hold; it can still refuse, and warn.
    fn normalize(config: Self::Config, findings: &mut Findings<'_>) -> Self::Config {
        let _ = findings;
        config
    }

    /// Converts a configuration that any released version of this module has stored into one that `normalize`
    /// accepts. Applied to its own result, it changes nothing.
    fn upgrade(stored: Value) -> Result<Value, Vec<Violation>> {
        Ok(stored)
    }

    /// Returns the KEK that a normal form names. The default follows the fields' effects. Override it if
    /// several fields together make one name, and show with fixtures that rules and identity agree.
    fn identity(config: &Self::Config) -> Kek {
        config::identity(config)
    }

    /// The data keys of Secrets and ConfigMaps that the plugin needs.
    fn references(config: &Self::Config) -> Vec<Reference>;

    /// How the plugin is started. `options` is an open set: ignore names that you do not know.
    fn render(config: &Self::Config, options: &[Setting]) -> Result<Plugin, Vec<Violation>>;

    /// What a failure of the plugin means; `None` if the module does not know it.
    fn diagnose(config: &Self::Config, failure: &Failure) -> Option<Diagnosis> {
        let _ = (config, failure);
        None
    }

    /// The permissions that the KMS must grant, in words that an admin can act on.
    fn requirements(config: &Self::Config) -> Vec<String> {
        let _ = config;
        Vec::new()
    }
}

/// What the value of a data key must contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// One line of text without a line break at its end: an id, a token, a password.
    OneLine,
    /// At least one PEM certificate.
    Certificates,
}

impl Content {
    /// All contents, with the names of their facts in the ABI (provider-abi: facts).
    pub(crate) const FACTS: [(&'static str, Self); 2] =
        [("one-line-data", Self::OneLine), ("certificate-data", Self::Certificates)];
}

/// Whether the plugin's `key_id` shows a rotation of the KEK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteKeyId {
    /// It changes when the KEK is rotated.
    TracksRotation,
    /// It stays the same: a rotation is not visible.
    Static,
}

/// What a healthy Status of the plugin proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The plugin asks the KMS.
    ProbesBackend,
    /// Nothing: it is always healthy. Only Encrypt and Decrypt show the state of the KMS.
    Constant,
}

/// When changed credentials take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// The plugin reads them again by itself.
    Hot,
    /// Only when the plugin is started again.
    Restart,
}

/// Facts about a plugin that its configuration does not contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether its `key_id` shows a rotation of the KEK.
    pub remote_key_id: RemoteKeyId,
    /// What a healthy Status proves.
    pub status: Status,
    /// When changed credentials take effect.
    pub credentials: Credentials,
    /// Address of the product's documentation of the plugin.
    pub docs: &'static str,
}

impl Facts {
    /// The facts as settings of the ABI.
    pub(crate) fn settings(self) -> Vec<Setting> {
        let remote_key_id = match self.remote_key_id {
            RemoteKeyId::TracksRotation => "tracks-rotation",
            RemoteKeyId::Static => "static",
        };
        let status = match self.status {
            Status::ProbesBackend => "probes-backend",
            Status::Constant => "constant",
        };
        let credentials = match self.credentials {
            Credentials::Hot => "hot",
            Credentials::Restart => "restart",
        };
        [
            ("remote-key-id", remote_key_id),
            ("status", status),
            ("credentials", credentials),
            ("docs", self.docs),
        ]
        .map(|(name, value)| Setting { name: name.to_owned(), value: value.to_owned() })
        .into()
    }
}
