//! A revision: the EncryptionConfiguration and all data that its plugins need, in one Secret
//! (openshift: configuration-secrets, objects: revision). The preflight candidate is the same without a configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::encryption_config::{EncryptionConfiguration, ResourceConfiguration};
use super::{FormatError, ReferencedData, digest, envelope, parse_reference, provider_lists, reference_key};
use crate::SecretBytes;
use crate::api::PluginSettings;
use crate::ids::{ConfigHash, GroupResource, KeyId, PluginDigest, Revision};
use crate::names::{self, CONFIG_KEY};
use crate::provider::{ModuleDigest, Plugin, ReferenceKind};

const PLUGIN_CONFIG: &str = "kms-plugin-config-";
const PLUGIN_SECRET: &str = "kms-plugin-secret-";
const PLUGIN_CONFIGMAP: &str = "kms-plugin-configmap-";
const ACCEPTED: &str = "keyward-plugin-";
const SALT: &str = "keyward-salt-";

/// The data of a Secret.
pub type SecretData = BTreeMap<String, SecretBytes>;

/// The accepted rendering. It is stored, so that only a new revision changes the plugins that run (decision 0024).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedPlugin {
    /// The image of the plugin; absent for an external plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The template from the provider module.
    pub template: Plugin,
    /// `spec.plugins` at that time.
    #[serde(default)]
    pub settings: PluginSettings,
    /// The provider module that rendered it. It is not compared and not in the digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_digest: Option<ModuleDigest>,
}

/// An [`AcceptedPlugin`] without its module, for comparison and for the digest. It has the same JSON, field by field.
#[derive(PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Compared<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    image: &'a Option<String>,
    template: &'a Plugin,
    settings: &'a PluginSettings,
}

impl AcceptedPlugin {
    fn compared(&self) -> Compared<'_> {
        let Self { image, template, settings, module_digest: _ } = self;
        Compared { image, template, settings }
    }
}

/// All data that the plugin of one key needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginRecord {
    /// The `kms` object as the admin wrote it.
    pub kms: Value,
    /// Copies of the referenced values.
    pub referenced: ReferencedData,
    /// The accepted rendering; absent if OpenShift's controllers wrote the object.
    pub accepted: Option<AcceptedPlugin>,
    /// The key of the digest; absent if OpenShift's controllers wrote the object.
    pub salt: Option<SecretBytes>,
}

impl PluginRecord {
    /// The data of this key as a revision contains it, without the salt.
    pub fn entries(&self, id: KeyId) -> SecretData {
        self.encode_with(id, self.accepted.as_ref())
    }

    /// The data key and value of the salt.
    pub fn salt_entry(&self, id: KeyId) -> Option<(String, SecretBytes)> {
        self.salt.clone().map(|salt| (format!("{SALT}{id}"), salt))
    }

    /// The digest (objects: digest); `None` if there is no salt. The digests of a revision are computed once
    /// ([`RevisionContent::digest`]).
    pub fn digest(&self, id: KeyId) -> Option<PluginDigest> {
        let salt = self.salt.as_ref()?;
        let compared = self.accepted.as_ref().map(AcceptedPlugin::compared);
        Some(digest::digest(salt, &self.encode_with(id, compared.as_ref())))
    }

    /// Whether both run the same plugin: everything is equal except salt and module digest.
    pub fn runs_the_same(&self, other: &Self) -> bool {
        self.kms == other.kms
            && self.referenced == other.referenced
            && self.accepted.as_ref().map(AcceptedPlugin::compared)
                == other.accepted.as_ref().map(AcceptedPlugin::compared)
    }

    fn encode_with(&self, id: KeyId, accepted: Option<&impl Serialize>) -> SecretData {
        let mut data = SecretData::new();
        data.insert(format!("{PLUGIN_CONFIG}{id}"), SecretBytes::new(envelope::encode_plugin(&self.kms)));
        for (reference, value) in &self.referenced {
            let prefix = match reference.kind {
                ReferenceKind::Secret => PLUGIN_SECRET,
                ReferenceKind::ConfigMap => PLUGIN_CONFIGMAP,
            };
            data.insert(format!("{}-{id}", reference_key(prefix, reference)), value.clone());
        }
        if let Some(accepted) = accepted {
            let json = serde_json::to_vec(accepted).unwrap_or_default();
            data.insert(format!("{ACCEPTED}{id}"), SecretBytes::new(json));
        }
        data
    }
}

/// The content of one immutable revision. A clone copies nothing, and the hashes are computed once, because each
/// decision about each server needs them. It dereferences to its [parts](RevisionParts); a mutable dereference discards
/// the hashes.
#[derive(Clone)]
pub struct RevisionContent(Arc<Computed>);

/// The parts of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionParts {
    /// The configuration.
    pub config: EncryptionConfiguration,
    /// The bytes of the configuration in the Secret and on the disks of the nodes. The hash is computed from them.
    pub bytes: SecretBytes,
    /// The data of the plugins, by key.
    pub plugins: BTreeMap<KeyId, PluginRecord>,
}

/// The parts, and the hashes that are computed from them.
#[derive(Clone)]
struct Computed {
    parts: RevisionParts,
    hash: OnceLock<ConfigHash>,
    digests: OnceLock<BTreeMap<KeyId, PluginDigest>>,
}

impl From<RevisionParts> for RevisionContent {
    fn from(parts: RevisionParts) -> Self {
        Self(Arc::new(Computed { parts, hash: OnceLock::new(), digests: OnceLock::new() }))
    }
}

impl Deref for RevisionContent {
    type Target = RevisionParts;

    fn deref(&self) -> &RevisionParts {
        &self.0.parts
    }
}

impl DerefMut for RevisionContent {
    fn deref_mut(&mut self) -> &mut RevisionParts {
        let computed = Arc::make_mut(&mut self.0);
        (computed.hash, computed.digests) = (OnceLock::new(), OnceLock::new());
        &mut computed.parts
    }
}

impl PartialEq for RevisionContent {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.parts == other.0.parts
    }
}

impl Eq for RevisionContent {}

impl std::fmt::Debug for RevisionContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.parts.fmt(f)
    }
}

impl RevisionContent {
    /// A revision of this configuration and these plugins.
    pub fn new(config: EncryptionConfiguration, plugins: BTreeMap<KeyId, PluginRecord>) -> Self {
        let bytes = SecretBytes::new(config.encode());
        RevisionParts { config, bytes, plugins }.into()
    }

    /// The hash that the API server reports when it has loaded this configuration.
    pub fn hash(&self) -> ConfigHash {
        self.0.hash.get_or_init(|| ConfigHash::of(self.bytes.expose())).clone()
    }

    /// The digest of the plugin of each key.
    pub fn digests(&self) -> BTreeMap<KeyId, PluginDigest> {
        self.computed_digests().clone()
    }

    /// The digest of the plugin of one key: [`PluginRecord::digest`], computed once.
    pub fn digest(&self, id: KeyId) -> Option<&PluginDigest> {
        self.computed_digests().get(&id)
    }

    fn computed_digests(&self) -> &BTreeMap<KeyId, PluginDigest> {
        self.0.digests.get_or_init(|| {
            self.plugins.iter().filter_map(|(id, plugin)| Some((*id, plugin.digest(*id)?))).collect()
        })
    }

    /// The keys that are KMS providers in the configuration.
    pub fn kms_keys(&self) -> BTreeSet<KeyId> {
        self.config
            .resources
            .iter()
            .flat_map(|entry| &entry.providers)
            .filter_map(|provider| provider.kms.as_ref()?.name.split_once('_')?.0.parse().ok())
            .collect()
    }

    /// All keys in the configuration, by the numbers in the names of providers and keys.
    pub fn key_ids(&self) -> BTreeSet<KeyId> {
        let local = self
            .config
            .resources
            .iter()
            .flat_map(|entry| &entry.providers)
            .flat_map(|provider| [&provider.aesgcm, &provider.aescbc, &provider.secretbox])
            .flatten()
            .flat_map(|keys| &keys.keys)
            .filter_map(|key| key.name.parse().ok());
        self.kms_keys().into_iter().chain(local).collect()
    }

    /// The resources that have entries in the configuration.
    pub fn resources(&self) -> BTreeSet<GroupResource> {
        let names = self.config.resources.iter().flat_map(|entry| entry.resources.iter().flatten());
        names.map(|name| GroupResource::parse(name)).collect()
    }

    /// The resources that are not written in plain text.
    pub fn encrypted(&self) -> BTreeSet<GroupResource> {
        let is_encrypted = |entry: &&ResourceConfiguration| {
            entry.providers.first().is_some_and(|writer| writer.identity.is_none())
        };
        let names = self.config.resources.iter().filter(is_encrypted).flat_map(|entry| &entry.resources);
        names.flatten().map(|name| GroupResource::parse(name)).collect()
    }

    /// The data of the Secret.
    pub fn encode(&self) -> SecretData {
        let mut data = encode_plugins(&self.plugins);
        data.insert(CONFIG_KEY.to_owned(), self.bytes.clone());
        data
    }

    /// The Secret to create on plain Kubernetes: immutable, and protected from a plain delete by the finalizer
    /// (objects: revision).
    pub fn secret(&self, revision: Revision) -> Secret {
        let mut secret = generated_secret(names::revision_secret(revision), &self.encode());
        secret.metadata.finalizers = Some(vec![names::FINALIZER.to_owned()]);
        secret.immutable = Some(true);
        secret
    }

    /// The revision in the data of a Secret. `Ok(None)` if it contains no configuration
    /// (openshift: no-configuration-is-none-deployed). A configuration that is not understood as a whole is an error:
    /// the next configuration, which is built from it, would lack a key or its write key.
    pub fn decode(secret: &str, data: &SecretData) -> Result<Option<Self>, FormatError> {
        let Some(bytes) = data.get(CONFIG_KEY) else { return Ok(None) };
        let config = EncryptionConfiguration::decode(bytes.expose())?;
        provider_lists::lists(&config)?;
        let plugins = decode_plugins(secret, data)?;
        Ok(Some(RevisionParts { config, bytes: bytes.clone(), plugins }.into()))
    }
}

/// A generated Secret in [`names::NAMESPACE`], with the fixed warning.
pub fn generated_secret(name: String, data: &SecretData) -> Secret {
    let bytes = |(key, value): (&String, &SecretBytes)| (key.clone(), ByteString(value.expose().to_vec()));
    Secret {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(names::NAMESPACE.to_owned()),
            annotations: Some(
                [(names::ANNOTATION_DESCRIPTION.to_owned(), names::DESCRIPTION.to_owned())].into(),
            ),
            ..Default::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(data.iter().map(bytes).collect()),
        ..Default::default()
    }
}

/// The data of plugins, including salts, of a revision or a candidate.
pub fn encode_plugins(plugins: &BTreeMap<KeyId, PluginRecord>) -> SecretData {
    plugins
        .iter()
        .flat_map(|(id, plugin)| plugin.entries(*id).into_iter().chain(plugin.salt_entry(*id)))
        .collect()
}

/// The inverse of [`encode_plugins`]. Data keys of an unknown kind are ignored.
pub fn decode_plugins(secret: &str, data: &SecretData) -> Result<BTreeMap<KeyId, PluginRecord>, FormatError> {
    let mut plugins = BTreeMap::new();
    for (key, value) in data {
        if let Some(id) = key.strip_prefix(PLUGIN_CONFIG).filter(|rest| !rest.is_empty()) {
            let kms = envelope::decode_plugin(value.expose()).map_err(|error| FormatError::InvalidData {
                secret: secret.to_owned(),
                key: key.clone(),
                why: error.to_string(),
            })?;
            let record = PluginRecord { kms, referenced: BTreeMap::new(), accepted: None, salt: None };
            let id: KeyId = id.parse()?;
            // 7 and 07 are the same number.
            if plugins.insert(id, record).is_some() {
                return Err(FormatError::InvalidData {
                    secret: secret.to_owned(),
                    key: key.clone(),
                    why: format!("key {id} is duplicated"),
                });
            }
        }
    }
    for (key, value) in data {
        let Some((kind, rest)) = split_kind(key) else { continue };
        // The keyID is the text after the last dash. A data key without a dash, or with nothing before it, is of
        // another kind (openshift: configuration-data-keys).
        let (name, id) = match kind {
            Kind::Accepted | Kind::Salt => ("", rest),
            Kind::Reference(_) => match rest.rsplit_once('-') {
                None | Some(("", _)) => continue,
                Some(parts) => parts,
            },
        };
        let id: KeyId = id.parse()?;
        let record: &mut PluginRecord = plugins.get_mut(&id).ok_or_else(|| FormatError::Lacks {
            secret: secret.to_owned(),
            what: format!("{PLUGIN_CONFIG}{id}, to which {key} belongs"),
        })?;
        match kind {
            Kind::Reference(kind) => {
                let reference =
                    parse_reference(kind, name).map_err(|why| FormatError::MalformedReferenceKey {
                        secret: secret.to_owned(),
                        kind,
                        key: key.clone(),
                        why: why.to_owned(),
                    })?;
                record.referenced.insert(reference, value.clone());
            }
            Kind::Accepted => record.accepted = Some(decode_accepted(secret, key, value)?),
            Kind::Salt => record.salt = Some(value.clone()),
        }
    }
    Ok(plugins)
}

pub(super) fn decode_accepted(
    secret: &str,
    key: &str,
    value: &SecretBytes,
) -> Result<AcceptedPlugin, FormatError> {
    serde_json::from_slice(value.expose()).map_err(|error| FormatError::InvalidData {
        secret: secret.to_owned(),
        key: key.to_owned(),
        why: format!("not an accepted plugin at line {} column {}", error.line(), error.column()),
    })
}

#[derive(Clone, Copy)]
enum Kind {
    Reference(ReferenceKind),
    Accepted,
    Salt,
}

fn split_kind(key: &str) -> Option<(Kind, &str)> {
    [
        (Kind::Reference(ReferenceKind::Secret), PLUGIN_SECRET),
        (Kind::Reference(ReferenceKind::ConfigMap), PLUGIN_CONFIGMAP),
        (Kind::Accepted, ACCEPTED),
        (Kind::Salt, SALT),
    ]
    .into_iter()
    .find_map(|(kind, prefix)| Some((kind, key.strip_prefix(prefix)?)))
}
