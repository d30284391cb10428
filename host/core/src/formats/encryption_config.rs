//! `apiserver.config.k8s.io/v1` EncryptionConfiguration: JSON and a newline, in Go's field order
//! (openshift: encryption-configuration-encoding).
//!
//! Only [`EncryptionConfiguration::decode`] decodes it: serde's own decoder would ignore unknown fields.

mod read;
mod valid;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{FormatError, document};
use crate::SecretBytes;
use crate::ids::{ConfigHash, GroupResource};

/// Base64 as Go decodes it: trailing bits are allowed.
const GO: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// The configuration that `prepare` installs before Keyward creates the first revision (objects: revision-zero).
pub const REVISION_ZERO: &str = "{\"kind\":\"EncryptionConfiguration\",\"apiVersion\":\"apiserver.config.k8s.io/v1\",\"resources\":[{\"resources\":[\"secrets\"],\"providers\":[{\"identity\":{}}]}]}\n";

/// The hash of [`REVISION_ZERO`].
pub fn zero_hash() -> &'static ConfigHash {
    static HASH: LazyLock<ConfigHash> = LazyLock::new(|| ConfigHash::of(REVISION_ZERO.as_bytes()));
    &HASH
}

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionConfiguration {
    /// `EncryptionConfiguration`.
    pub kind: String,
    /// `apiserver.config.k8s.io/v1`.
    pub api_version: String,
    /// One entry per resource.
    pub resources: Vec<ResourceConfiguration>,
}

/// One entry: resources, and their providers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResourceConfiguration {
    /// `resource` or `resource.group`; null in envelopes.
    pub resources: Option<Vec<String>>,
    /// The providers; the first one writes.
    pub providers: Vec<ProviderConfiguration>,
}

/// One provider: exactly one field is set.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub struct ProviderConfiguration {
    /// AES-GCM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aesgcm: Option<KeysConfiguration>,
    /// AES-CBC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aescbc: Option<KeysConfiguration>,
    /// Secretbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secretbox: Option<KeysConfiguration>,
    /// Plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// A KMS plugin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms: Option<KmsConfiguration>,
}

/// The value contains key material: `Debug` shows only the kind.
impl std::fmt::Debug for ProviderConfiguration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.notations().join("+"))
    }
}

impl ProviderConfiguration {
    /// The short notation: `identity`, `aescbc:ID`, `aesgcm:ID`, `secretbox:ID`, `kms:ID`; one for each key
    /// (openshift: provider-list-notation).
    pub fn notations(&self) -> Vec<String> {
        let of = |kind: &str, keys: &KeysConfiguration| {
            keys.keys.iter().map(|key| format!("{kind}:{}", key.name)).collect()
        };
        match self {
            Self { aesgcm: Some(keys), .. } => of("aesgcm", keys),
            Self { aescbc: Some(keys), .. } => of("aescbc", keys),
            Self { secretbox: Some(keys), .. } => of("secretbox", keys),
            Self { kms: Some(kms), .. } => {
                let id = kms.name.split_once('_').map_or(kms.name.as_str(), |(id, _)| id);
                vec![format!("kms:{id}")]
            }
            Self { identity: Some(_), .. } => vec!["identity".to_owned()],
            _ => Vec::new(),
        }
    }
}

/// The empty object of `identity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Identity {}

/// Local keys. Keyward writes one key per provider.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct KeysConfiguration {
    /// The keys; the first one writes.
    pub keys: Vec<NamedKey>,
}

/// One local key.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct NamedKey {
    /// The keyID, which is in the prefix of each value in etcd.
    pub name: String,
    /// The key in base64.
    pub secret: String,
}

impl NamedKey {
    /// The key itself, decoded as in Go: line breaks are ignored. `None` if it is not base64.
    pub fn material(&self) -> Option<SecretBytes> {
        let text: Zeroizing<Vec<u8>> =
            Zeroizing::new(self.secret.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect());
        GO.decode(text.as_slice()).ok().map(SecretBytes::new)
    }
}

/// One KMS provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KmsConfiguration {
    /// `v2`; the API server's default is `v1`.
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// `{keyID}_{resource}`.
    pub name: String,
    /// Forbidden for v2; kept if another program wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cachesize: Option<i32>,
    /// `unix://…`.
    pub endpoint: String,
    /// A Go duration; the API server's default is 3 s.
    pub timeout: String,
}

impl EncryptionConfiguration {
    /// A configuration of these entries.
    pub fn new(resources: Vec<ResourceConfiguration>) -> Self {
        Self {
            kind: "EncryptionConfiguration".to_owned(),
            api_version: "apiserver.config.k8s.io/v1".to_owned(),
            resources,
        }
    }

    /// The file: JSON and a newline.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Decodes JSON or YAML as the API server does. Anything that the API server or Keyward does not understand is an
    /// error that names the field.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        read::configuration(document::parse(bytes).map_err(FormatError::Config)?)
    }

    /// Why an API server with automatic reload refuses this configuration: the first mistake, without key material.
    /// `None` if its validation passes. Plugins that do not answer are not checked here.
    pub fn refusal(&self) -> Option<String> {
        valid::refused(self)
    }

    /// All providers of a resource. The API server appends the lists of all entries that name the resource
    /// (kubernetes: providers-of-a-resource). A resource without an entry has no provider and is stored in plain text.
    /// Wildcards are not considered.
    pub fn providers_of(&self, resource: &GroupResource) -> Vec<&ProviderConfiguration> {
        let names = |entry: &&ResourceConfiguration| {
            entry.resources.iter().flatten().any(|name| GroupResource::parse(name) == *resource)
        };
        self.resources.iter().filter(names).flat_map(|entry| &entry.providers).collect()
    }

    /// The hash that the API server reports when it has loaded this configuration.
    pub fn hash(&self) -> ConfigHash {
        ConfigHash::of(&self.encode())
    }

    /// The keys of each resource in the short notation; the first one writes (openshift: provider-list-notation).
    pub fn lists(&self) -> BTreeMap<String, Vec<String>> {
        let mut lists: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for entry in &self.resources {
            for name in entry.resources.iter().flatten() {
                let keys = entry.providers.iter().flat_map(ProviderConfiguration::notations);
                lists.entry(name.clone()).or_default().extend(keys);
            }
        }
        lists
    }
}
