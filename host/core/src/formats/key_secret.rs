//! Key secrets, one per key: OpenShift's labels, annotations and data keys (openshift: key-secret-annotations,
//! openshift: key-secret-data), and those that Keyward adds (objects: key-secret).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::encryption_config::KmsConfiguration;
use super::revision::{PluginRecord, decode_accepted};
use super::{FormatError, check_reference, envelope, parse_reference, reference_key};
use crate::SecretBytes;
use crate::api::KeyCheck;
use crate::ids::{GroupResource, KeyId, Mode, RemoteKeyId, Revision};
use crate::names;
use crate::provider::{ModuleDigest, ReferenceKind};

/// The bytes of a key without key material: 16 zeros (openshift: key-material).
pub const NULL_KEY: [u8; 16] = [0; 16];

/// A decoded key secret: one local key, or the KMS configuration of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySecret {
    /// Number of the key.
    pub id: KeyId,
    /// The mode of encryption.
    pub mode: Mode,
    /// The key material: 32 bytes for local modes, otherwise [`NULL_KEY`].
    pub material: SecretBytes,
    /// Set only for [`Mode::Kms`]. Shared, because each decision copies it to states and actions.
    pub kms: Option<Arc<KmsKey>>,
    /// Why the operator created the key.
    pub internal_reason: String,
    /// Why the admin requested the key.
    pub external_reason: String,
    /// Resources that are completely stored under the key.
    pub migrated: Vec<GroupResource>,
    /// When the last of these resources was recorded.
    pub migrated_at: Option<jiff::Timestamp>,
    /// The last revision that makes, or may make, the key a write key (invariant: publication-first).
    pub write_published: Option<Revision>,
    /// When the key was abandoned (decision 0005).
    pub abandoned: Option<String>,
    /// The remote key id after the last rotation for which everything was re-encrypted (decision 0006).
    pub remote_key_id: Option<RemoteKeyId>,
    /// The UID as stored; empty before the Secret is created.
    pub uid: String,
    /// The resourceVersion as read: an update depends on it.
    pub resource_version: String,
    /// When the Secret was created.
    pub created: Option<jiff::Timestamp>,
    /// Whether the Secret is terminating. It is still used (openshift: terminating-key-secrets-are-used).
    pub terminating: bool,
}

/// The data of a KMS key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsKey {
    /// The provider in the configuration; its name is only the keyID.
    pub provider: KmsConfiguration,
    /// The data of its plugin.
    pub plugin: PluginRecord,
    /// The key check.
    pub key_check: Option<KeyCheck>,
}

/// Go writes the capitals, because its type has no JSON tags. Any case can be decoded ([`any_case`]).
#[derive(Serialize, Deserialize)]
struct MigratedResources {
    /// Go writes null for an empty list.
    #[serde(default)]
    resources: Option<Vec<MigratedResource>>,
}

#[derive(Serialize, Deserialize)]
struct MigratedResource {
    #[serde(rename = "Group", alias = "group", default)]
    group: String,
    #[serde(rename = "Resource", alias = "resource")]
    resource: String,
}

/// The same value with all field names in lower case: Go's decoder ignores case.
fn any_case(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, v)| (name.to_lowercase(), any_case(v))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(any_case).collect()),
        other => other,
    }
}

impl KeySecret {
    /// A key that is not stored yet.
    pub fn new(id: KeyId, mode: Mode, material: SecretBytes, kms: Option<KmsKey>, reason: String) -> Self {
        Self {
            id,
            mode,
            material,
            kms: kms.map(Arc::new),
            internal_reason: reason,
            external_reason: String::new(),
            migrated: Vec::new(),
            migrated_at: None,
            write_published: None,
            abandoned: None,
            remote_key_id: None,
            uid: String::new(),
            resource_version: String::new(),
            created: None,
            terminating: false,
        }
    }

    /// Whether the key is abandoned. A key whose publication is recorded must complete, even if it has the annotation
    /// `abandoned` (invariant: publication-first).
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.is_some() && self.write_published.is_none()
    }

    /// Whether each of these resources is completely stored under this key.
    pub fn is_migrated<'a>(&self, resources: impl IntoIterator<Item = &'a GroupResource>) -> bool {
        resources.into_iter().all(|resource| self.migrated.contains(resource))
    }

    /// The object to write. Of the metadata that a server sets it has only `resourceVersion` and `uid`: with these the
    /// write depends on the object that was read. An error if [`decode`](Self::decode) would refuse the object.
    pub fn encode(&self, namespace: &str, component: &str) -> Result<Secret, FormatError> {
        let mut annotations = BTreeMap::from([
            (names::ANNOTATION_DESCRIPTION.to_owned(), names::DESCRIPTION.to_owned()),
            (names::ANNOTATION_MODE.to_owned(), self.mode.to_string()),
            (names::ANNOTATION_INTERNAL_REASON.to_owned(), self.internal_reason.clone()),
            (names::ANNOTATION_EXTERNAL_REASON.to_owned(), self.external_reason.clone()),
        ]);
        let mut annotate = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                annotations.insert(key.to_owned(), value);
            }
        };
        annotate(names::ANNOTATION_MIGRATED_TIMESTAMP, self.migrated_at.map(|at| rfc3339(&at)));
        annotate(
            names::ANNOTATION_MIGRATED_RESOURCES,
            (!self.migrated.is_empty()).then(|| {
                let resources = self
                    .migrated
                    .iter()
                    .map(|r| MigratedResource { group: r.group.clone(), resource: r.resource.clone() })
                    .collect();
                serde_json::to_string(&MigratedResources { resources: Some(resources) }).unwrap_or_default()
            }),
        );
        annotate(
            names::ANNOTATION_WRITE_PUBLISHED,
            self.write_published.map(|revision| revision.to_string()),
        );
        annotate(names::ANNOTATION_ABANDONED, self.abandoned.clone());
        annotate(names::ANNOTATION_KMS_KEY_ID, self.remote_key_id.as_ref().map(|id| id.0.clone()));
        annotate(
            names::ANNOTATION_PROVIDER_DIGEST,
            self.kms
                .as_ref()
                .and_then(|kms| kms.plugin.accepted.as_ref()?.module_digest.clone())
                .map(|digest| digest.0),
        );
        Ok(Secret {
            metadata: ObjectMeta {
                name: Some(names::key_secret(component, self.id)),
                namespace: Some(namespace.to_owned()),
                labels: Some([(names::LABEL_COMPONENT.to_owned(), component.to_owned())].into()),
                annotations: Some(annotations),
                finalizers: Some(vec![names::FINALIZER.to_owned()]),
                resource_version: (!self.resource_version.is_empty()).then(|| self.resource_version.clone()),
                uid: (!self.uid.is_empty()).then(|| self.uid.clone()),
                ..Default::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(self.encode_data(&format!("{namespace}/{}", names::key_secret(component, self.id)))?),
            ..Default::default()
        })
    }

    fn encode_data(&self, full: &str) -> Result<BTreeMap<String, ByteString>, FormatError> {
        if self.material.is_empty() && self.mode != Mode::Identity {
            return Err(FormatError::EmptyKey { secret: full.to_owned(), mode: self.mode });
        }
        let mut data = BTreeMap::new();
        let mut put = |key: String, value: Vec<u8>| data.insert(key, ByteString(value));
        put(names::DATA_KEY.to_owned(), self.material.expose().to_vec());
        let Some(kms) = &self.kms else {
            return if self.mode == Mode::Kms {
                Err(FormatError::EmptyKms { key: names::DATA_KMS_ENCRYPTION_CONFIG })
            } else {
                Ok(data)
            };
        };
        put(names::DATA_KMS_ENCRYPTION_CONFIG.to_owned(), envelope::encode_kms(&kms.provider));
        put(names::DATA_KMS_PLUGIN_CONFIG.to_owned(), envelope::encode_plugin(&kms.plugin.kms));
        for (reference, value) in &kms.plugin.referenced {
            let prefix = match reference.kind {
                ReferenceKind::Secret => names::DATA_KMS_PLUGIN_SECRET,
                ReferenceKind::ConfigMap => names::DATA_KMS_PLUGIN_CONFIGMAP,
            };
            check_reference(reference, value).map_err(|why| FormatError::MalformedReferenceKey {
                secret: full.to_owned(),
                kind: reference.kind,
                key: reference_key(prefix, reference),
                why: why.to_owned(),
            })?;
            put(reference_key(prefix, reference), value.expose().to_vec());
        }
        if let Some(accepted) = &kms.plugin.accepted {
            put(names::DATA_PLUGIN.to_owned(), serde_json::to_vec(accepted).unwrap_or_default());
        }
        if let Some(salt) = &kms.plugin.salt {
            put(names::DATA_SALT.to_owned(), salt.expose().to_vec());
        }
        if let Some(key_check) = &kms.key_check {
            put(names::DATA_KEY_CHECK.to_owned(), serde_json::to_vec(key_check).unwrap_or_default());
        }
        Ok(data)
    }

    /// Decodes an object that [`encode`](Self::encode) or OpenShift's controllers wrote.
    pub fn decode(secret: &Secret) -> Result<Self, FormatError> {
        let name = secret.metadata.name.as_deref().unwrap_or_default();
        let full = format!("{}/{name}", secret.metadata.namespace.as_deref().unwrap_or_default());
        let id = KeyId::from_name(name).ok_or_else(|| FormatError::InvalidName(full.clone()))?;
        let empty = BTreeMap::new();
        let annotations = secret.metadata.annotations.as_ref().unwrap_or(&empty);
        let text = |key: &str| annotations.get(key).cloned().unwrap_or_default();
        let invalid = |annotation: &'static str, why: String| FormatError::InvalidAnnotation {
            secret: full.clone(),
            annotation,
            why,
        };

        let mode = text(names::ANNOTATION_MODE);
        let mode = Mode::parse(&mode)
            .ok_or_else(|| FormatError::InvalidMode { secret: full.clone(), mode: mode.clone() })?;
        let migrated_at = match annotations.get(names::ANNOTATION_MIGRATED_TIMESTAMP) {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|_| invalid(names::ANNOTATION_MIGRATED_TIMESTAMP, "not RFC 3339".to_owned()))?,
            ),
        };
        let migrated = match annotations.get(names::ANNOTATION_MIGRATED_RESOURCES) {
            None => Vec::new(),
            Some(text) => serde_json::from_str::<serde_json::Value>(text)
                .and_then(|value| serde_json::from_value::<MigratedResources>(any_case(value)))
                .map_err(|error| invalid(names::ANNOTATION_MIGRATED_RESOURCES, error.to_string()))?
                .resources
                .into_iter()
                .flatten()
                .map(|r| GroupResource { group: r.group, resource: r.resource })
                .collect(),
        };
        let write_published = match annotations.get(names::ANNOTATION_WRITE_PUBLISHED) {
            None => None,
            Some(text) => Some(Revision(crate::ids::parse_decimal(text).ok_or_else(|| {
                invalid(names::ANNOTATION_WRITE_PUBLISHED, "not a revision number".to_owned())
            })?)),
        };

        let no_data = BTreeMap::new();
        let data = secret.data.as_ref().unwrap_or(&no_data);
        let material = SecretBytes::new(data.get(names::DATA_KEY).map(|v| v.0.clone()).unwrap_or_default());
        if material.is_empty() && mode != Mode::Identity {
            return Err(FormatError::EmptyKey { secret: full, mode });
        }
        let kms = if mode == Mode::Kms {
            Some(Arc::new(decode_kms(&full, data, &text(names::ANNOTATION_PROVIDER_DIGEST))?))
        } else {
            None
        };
        Ok(Self {
            id,
            mode,
            material: if mode == Mode::Identity { SecretBytes::new(NULL_KEY.to_vec()) } else { material },
            kms,
            internal_reason: text(names::ANNOTATION_INTERNAL_REASON),
            external_reason: text(names::ANNOTATION_EXTERNAL_REASON),
            migrated,
            migrated_at,
            write_published,
            abandoned: annotations.get(names::ANNOTATION_ABANDONED).cloned(),
            remote_key_id: annotations.get(names::ANNOTATION_KMS_KEY_ID).cloned().map(RemoteKeyId),
            uid: secret.metadata.uid.clone().unwrap_or_default(),
            resource_version: secret.metadata.resource_version.clone().unwrap_or_default(),
            created: secret.metadata.creation_timestamp.as_ref().map(|time| time.0),
            terminating: secret.metadata.deletion_timestamp.is_some(),
        })
    }
}

fn decode_kms(full: &str, data: &BTreeMap<String, ByteString>, module: &str) -> Result<KmsKey, FormatError> {
    let invalid = |key: &str, why: String| FormatError::InvalidData {
        secret: full.to_owned(),
        key: key.to_owned(),
        why,
    };
    let required = |key: &'static str| {
        data.get(key)
            .map(|value| value.0.as_slice())
            .filter(|v| !v.is_empty())
            .ok_or(FormatError::EmptyKms { key })
    };
    let provider = envelope::decode_kms(required(names::DATA_KMS_ENCRYPTION_CONFIG)?)
        .map_err(|error| invalid(names::DATA_KMS_ENCRYPTION_CONFIG, error.to_string()))?;
    let kms = envelope::decode_plugin(required(names::DATA_KMS_PLUGIN_CONFIG)?)
        .map_err(|error| invalid(names::DATA_KMS_PLUGIN_CONFIG, error.to_string()))?;
    let mut plugin = PluginRecord { kms, referenced: BTreeMap::new(), accepted: None, salt: None };
    for (key, value) in data {
        for (kind, prefix) in [
            (ReferenceKind::Secret, names::DATA_KMS_PLUGIN_SECRET),
            (ReferenceKind::ConfigMap, names::DATA_KMS_PLUGIN_CONFIGMAP),
        ] {
            let Some(rest) = key.strip_prefix(prefix) else { continue };
            let malformed = |why: &str| FormatError::MalformedReferenceKey {
                secret: full.to_owned(),
                kind,
                key: key.clone(),
                why: why.to_owned(),
            };
            let reference = parse_reference(kind, rest).map_err(malformed)?;
            if value.0.is_empty() {
                return Err(malformed("the value is empty"));
            }
            plugin.referenced.insert(reference, SecretBytes::new(value.0.clone()));
        }
    }
    if let Some(value) = data.get(names::DATA_PLUGIN) {
        let mut accepted = decode_accepted(full, names::DATA_PLUGIN, &SecretBytes::new(value.0.clone()))?;
        if accepted.module_digest.is_none() && !module.is_empty() {
            accepted.module_digest = Some(ModuleDigest(module.to_owned()));
        }
        plugin.accepted = Some(accepted);
    }
    plugin.salt = data.get(names::DATA_SALT).map(|value| SecretBytes::new(value.0.clone()));
    let key_check = match data.get(names::DATA_KEY_CHECK) {
        None => None,
        Some(value) => Some(
            serde_json::from_slice(&value.0)
                .map_err(|_| invalid(names::DATA_KEY_CHECK, "not a key check".to_owned()))?,
        ),
    };
    Ok(KmsKey { provider, plugin, key_check })
}

/// RFC 3339 as Go writes it: whole seconds, `Z`.
pub fn rfc3339(at: &jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(at.as_second()).map_or_else(|_| at.to_string(), |whole| whole.to_string())
}
