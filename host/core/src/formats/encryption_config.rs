//! `apiserver.config.k8s.io/v1` EncryptionConfiguration (CONTRACT 1.4): as JSON and a newline, in Go's field order.
//!
//! It is read by [`EncryptionConfiguration::decode`] alone: serde's own decoder would ignore what it does not know.

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

/// Go's decoder is this lenient.
const GO: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// OBJECTS.md, "Beginnings and ends": what `prepare` installs before Keyward makes its first revision.
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
    /// One entry a resource.
    pub resources: Vec<ResourceConfiguration>,
}

/// One entry: which resources, and the providers, the writer first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResourceConfiguration {
    /// `resource` or `resource.group`; null in envelopes.
    pub resources: Option<Vec<String>>,
    /// Writer first.
    pub providers: Vec<ProviderConfiguration>,
}

/// Exactly one field is set.
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

/// Key material stands in here: `Debug` names the kind alone.
impl std::fmt::Debug for ProviderConfiguration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.notations().join("+"))
    }
}

impl ProviderConfiguration {
    /// CONTRACT.md's notation: `identity`, `aescbc:ID`, `aesgcm:ID`, `secretbox:ID`, `kms:ID`; one a key.
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

/// Local keys; Keyward writes one a provider.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct KeysConfiguration {
    /// The keys, the writer first.
    pub keys: Vec<NamedKey>,
}

/// One local key.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct NamedKey {
    /// The keyID: it prefixes every value in etcd.
    pub name: String,
    /// Base64.
    pub secret: String,
}

impl NamedKey {
    /// The key itself, by Go's decoder: line breaks within are ignored. `None` where it is not base64.
    pub fn material(&self) -> Option<SecretBytes> {
        let text: Zeroizing<Vec<u8>> =
            Zeroizing::new(self.secret.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect());
        GO.decode(text.as_slice()).ok().map(SecretBytes::new)
    }
}

/// One KMS provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KmsConfiguration {
    /// `v2`; upstream's default is `v1`.
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// `{keyID}_{resource}`.
    pub name: String,
    /// Forbidden for v2; kept for what others wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cachesize: Option<i32>,
    /// `unix://…`.
    pub endpoint: String,
    /// A Go duration; upstream's default is 3 s.
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

    /// JSON and a newline.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// JSON or YAML, as the API server reads it: what it does not understand, or this does not, is an error that names the
    /// field.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        read::configuration(document::parse(bytes).map_err(FormatError::Config)?)
    }

    /// The first thing that an API server with automatic reload refuses, and why; no key material. `None` where its
    /// validation passes: plugins that do not answer are another matter.
    pub fn refusal(&self) -> Option<String> {
        valid::refused(self)
    }

    /// All providers of a resource. The API server appends the lists of entries that name it more than once; a resource that
    /// no entry names has none, and is stored in plain text. Wildcards are not looked at.
    pub fn providers_of(&self, resource: &GroupResource) -> Vec<&ProviderConfiguration> {
        let names = |entry: &&ResourceConfiguration| {
            entry.resources.iter().flatten().any(|name| GroupResource::parse(name) == *resource)
        };
        self.resources.iter().filter(names).flat_map(|entry| &entry.providers).collect()
    }

    /// The hash that the API server shows once it has loaded these bytes.
    pub fn hash(&self) -> ConfigHash {
        ConfigHash::of(&self.encode())
    }

    /// Each resource's keys in CONTRACT.md's notation, the writer first.
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
