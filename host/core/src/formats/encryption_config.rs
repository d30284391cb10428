//! `apiserver.config.k8s.io/v1` EncryptionConfiguration (CONTRACT 1.4): as JSON and a newline, in Go's field order.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::FormatError;
use crate::ids::ConfigHash;

/// OBJECTS.md, "Beginnings and ends": what `prepare` installs before Keyward makes its first revision.
pub const REVISION_ZERO: &str = "{\"kind\":\"EncryptionConfiguration\",\"apiVersion\":\"apiserver.config.k8s.io/v1\",\"resources\":[{\"resources\":[\"secrets\"],\"providers\":[{\"identity\":{}}]}]}\n";

/// The hash of [`REVISION_ZERO`].
pub fn zero_hash() -> &'static ConfigHash {
    static HASH: LazyLock<ConfigHash> = LazyLock::new(|| ConfigHash::of(REVISION_ZERO.as_bytes()));
    &HASH
}

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceConfiguration {
    /// `resource` or `resource.group`; null in envelopes.
    pub resources: Option<Vec<String>>,
    /// Writer first.
    pub providers: Vec<ProviderConfiguration>,
}

/// Exactly one field is set.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderConfiguration {
    /// AES-GCM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aesgcm: Option<KeysConfiguration>,
    /// AES-CBC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aescbc: Option<KeysConfiguration>,
    /// Secretbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secretbox: Option<KeysConfiguration>,
    /// Plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// A KMS plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms: Option<KmsConfiguration>,
}

/// Key material stands in here: `Debug` names the kind alone.
impl std::fmt::Debug for ProviderConfiguration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.notation())
    }
}

impl ProviderConfiguration {
    /// CONTRACT.md's notation: `identity`, `aescbc:ID`, `aesgcm:ID`, `secretbox:ID`, `kms:ID`.
    pub fn notation(&self) -> String {
        let keys = |kind: &str, keys: &KeysConfiguration| {
            let names: Vec<&str> = keys.keys.iter().map(|key| key.name.as_str()).collect();
            format!("{kind}:{}", names.join("+"))
        };
        match self {
            Self { aesgcm: Some(k), .. } => keys("aesgcm", k),
            Self { aescbc: Some(k), .. } => keys("aescbc", k),
            Self { secretbox: Some(k), .. } => keys("secretbox", k),
            Self { kms: Some(kms), .. } => {
                format!("kms:{}", kms.name.split_once('_').map_or(kms.name.as_str(), |(id, _)| id))
            }
            Self { identity: Some(_), .. } => "identity".to_owned(),
            _ => "none".to_owned(),
        }
    }
}

/// The empty object of `identity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {}

/// Local keys; Keyward writes one a provider.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysConfiguration {
    /// The keys, the writer first.
    pub keys: Vec<NamedKey>,
}

/// One local key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedKey {
    /// The keyID: it prefixes every value in etcd.
    pub name: String,
    /// Base64.
    pub secret: String,
}

/// One KMS provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KmsConfiguration {
    /// `v2`; upstream's default is `v1`.
    #[serde(rename = "apiVersion", default = "kms_v1")]
    pub api_version: String,
    /// `{keyID}_{resource}`.
    pub name: String,
    /// Forbidden for v2; kept for what others wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cachesize: Option<i64>,
    /// `unix://…`.
    pub endpoint: String,
    /// A Go duration; upstream's default is 3 s.
    #[serde(default = "three_seconds")]
    pub timeout: String,
}

fn kms_v1() -> String {
    "v1".to_owned()
}

fn three_seconds() -> String {
    "3s".to_owned()
}

/// As the API server reads it: YAML is turned into JSON first.
fn yaml(text: &str) -> Option<EncryptionConfiguration> {
    let value: serde_json::Value = serde_saphyr::from_str(text).ok()?;
    serde_json::from_value(value).ok()
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

    /// JSON or YAML.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let text = std::str::from_utf8(bytes).map_err(|_| FormatError::Config("not UTF-8".to_owned()))?;
        let config: Self = match serde_json::from_str(text) {
            Ok(config) => config,
            // The parser's own words may quote what it read, key material included.
            Err(_) => yaml(text).ok_or_else(|| {
                FormatError::Config("neither JSON nor YAML of an EncryptionConfiguration".to_owned())
            })?,
        };
        if config.kind != "EncryptionConfiguration" || config.api_version != "apiserver.config.k8s.io/v1" {
            // Not even these are quoted: where the file is damaged, anything may stand there.
            return Err(FormatError::Config(
                "it is not of kind EncryptionConfiguration and apiVersion apiserver.config.k8s.io/v1"
                    .to_owned(),
            ));
        }
        Ok(config)
    }

    /// The hash that the API server shows once it has loaded these bytes.
    pub fn hash(&self) -> ConfigHash {
        ConfigHash::of(&self.encode())
    }

    /// Each resource's providers in CONTRACT.md's notation.
    pub fn lists(&self) -> std::collections::BTreeMap<String, Vec<String>> {
        self.resources
            .iter()
            .flat_map(|entry| {
                let providers: Vec<String> =
                    entry.providers.iter().map(ProviderConfiguration::notation).collect();
                entry.resources.iter().flatten().map(move |name| (name.clone(), providers.clone()))
            })
            .collect()
    }
}
