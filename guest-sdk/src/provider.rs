//! What an author writes: one trait.

use serde_json::Value;

use crate::bindings::keyward::provider::types::{
    Diagnosis, Failure, Kek, Plugin, Reference, Setting, Violation,
};
use crate::config::{self, ProviderConfig};
use crate::report::Findings;

/// A provider: how one KMS product is configured, told apart, run and diagnosed.
///
/// Every function is pure: the same input gives the same answer, on every host, for ever.
pub trait Provider {
    /// The configuration, `#[derive(ProviderConfig)]`.
    type Config: ProviderConfig;

    /// The value of `kms.type`, for example `Vault`.
    const TYPE: &'static str;

    /// The field beside `type` that holds the configuration, for example `vault`.
    const FIELD: &'static str;

    /// The field of the canonical configuration that names the plugin's image; `None` where somebody else
    /// runs the plugin.
    const IMAGE_FIELD: Option<&'static str>;

    /// What the host must know about the plugin.
    fn facts() -> Facts;

    /// What must be in the data keys that [`references`](Self::references) names: the host looks at the values, which
    /// no module ever sees, before a plugin is started with them.
    fn contents() -> &'static [(&'static str, Content)] {
        &[]
    }

    /// Puts an accepted configuration into its one canonical form, so that what means the same is the same.
    /// Called only when the fields' own rules hold; it may still refuse, and warn.
    fn normalize(config: Self::Config, findings: &mut Findings<'_>) -> Self::Config {
        let _ = findings;
        config
    }

    /// Turns what any released version of this module has ever stored into what `normalize` accepts. Doing it
    /// twice changes nothing.
    fn upgrade(stored: Value) -> Result<Value, Vec<Violation>> {
        Ok(stored)
    }

    /// Which KEK a canonical configuration names. The default follows the fields' effects; replace it where
    /// several fields together make one name, and let fixtures show that rules and identity agree.
    fn identity(config: &Self::Config) -> Kek {
        config::identity(config)
    }

    /// What the configuration needs from Secrets and ConfigMaps.
    fn references(config: &Self::Config) -> Vec<Reference>;

    /// How the plugin is started. `options` is an open set; ignore what is not known.
    fn render(config: &Self::Config, options: &[Setting]) -> Result<Plugin, Vec<Violation>>;

    /// What a failure of the plugin means; `None` where that is not known.
    fn diagnose(config: &Self::Config, failure: &Failure) -> Option<Diagnosis> {
        let _ = (config, failure);
        None
    }

    /// What the KMS must permit, in words that an admin can act on.
    fn requirements(config: &Self::Config) -> Vec<String> {
        let _ = config;
        Vec::new()
    }
}

/// What must be in a data key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// One line of text without a line break at its end: an id, a token, a password.
    OneLine,
    /// At least one PEM certificate.
    Certificates,
}

impl Content {
    /// All of them, by the facts that the host knows them by.
    pub(crate) const FACTS: [(&'static str, Self); 2] =
        [("one-line-data", Self::OneLine), ("certificate-data", Self::Certificates)];
}

/// What the plugin's `key_id` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteKeyId {
    /// It changes when the KEK is rotated.
    TracksRotation,
    /// It stays the same: a rotation is not seen.
    Static,
}

/// What the plugin's Status is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It asks the KMS.
    ProbesBackend,
    /// It is always fine; only Encrypt and Decrypt tell the truth.
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

/// What the host must know about a plugin beyond its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What its `key_id` says.
    pub remote_key_id: RemoteKeyId,
    /// What its Status is worth.
    pub status: Status,
    /// When changed credentials take effect.
    pub credentials: Credentials,
    /// Where the product documents it.
    pub docs: &'static str,
}

impl Facts {
    /// As the ABI has them.
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
