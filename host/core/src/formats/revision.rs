//! A revision: the EncryptionConfiguration and everything its plugins need, in one Secret (CONTRACT 1.3, OBJECTS.md).
//! The preflight candidate is the same without a configuration.

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

/// Data of a Secret, with the values wrapped.
pub type SecretData = BTreeMap<String, SecretBytes>;

/// The rendering that passed preflight: what runs changes only by a new revision (DESIGN.md, "Provider ABI").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedPlugin {
    /// The image; absent for an external plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The provider's template.
    pub template: Plugin,
    /// `spec.plugins` as it stood.
    #[serde(default)]
    pub settings: PluginSettings,
    /// The module that rendered it. Beside the rest: never compared, and not in the digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_digest: Option<ModuleDigest>,
}

/// An [`AcceptedPlugin`] without its module: what is compared, and what the digest is of. The same JSON, field by field.
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

/// All that one key's plugin needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginRecord {
    /// The `kms` object as the admin wrote it.
    pub kms: Value,
    /// Copies of what it refers to.
    pub referenced: ReferencedData,
    /// The accepted rendering; absent in what OpenShift's controllers wrote.
    pub accepted: Option<AcceptedPlugin>,
    /// Keys the digest; absent in what OpenShift's controllers wrote.
    pub salt: Option<SecretBytes>,
}

impl PluginRecord {
    /// The entries of this key as a revision carries them, without the salt.
    pub fn entries(&self, id: KeyId) -> SecretData {
        self.encode_with(id, self.accepted.as_ref())
    }

    /// The salt's entry.
    pub fn salt_entry(&self, id: KeyId) -> Option<(String, SecretBytes)> {
        self.salt.clone().map(|salt| (format!("{SALT}{id}"), salt))
    }

    /// OBJECTS.md, "Digest". `None` where there is no salt. A revision's are computed once
    /// ([`RevisionContent::digest`]).
    pub fn digest(&self, id: KeyId) -> Option<PluginDigest> {
        let salt = self.salt.as_ref()?;
        let compared = self.accepted.as_ref().map(AcceptedPlugin::compared);
        Some(digest::digest(salt, &self.encode_with(id, compared.as_ref())))
    }

    /// Whether the same bytes would run: everything but salt and module digest.
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

/// One numbered, immutable snapshot. Cloning it copies nothing, and its hashes are computed once: every decision about
/// every server asks for them. Reads like its [parts](RevisionParts); whoever changes one has them computed anew.
#[derive(Clone)]
pub struct RevisionContent(Arc<Computed>);

/// What a revision is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionParts {
    /// The configuration.
    pub config: EncryptionConfiguration,
    /// Its bytes as they stand in the Secret and on the nodes' disks: the hash is theirs.
    pub bytes: SecretBytes,
    /// The plugins' data, by key.
    pub plugins: BTreeMap<KeyId, PluginRecord>,
}

/// The parts, and what follows from them.
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

    /// The hash that the API server shows once it has loaded this.
    pub fn hash(&self) -> ConfigHash {
        self.0.hash.get_or_init(|| ConfigHash::of(self.bytes.expose())).clone()
    }

    /// The digest of each key's plugin.
    pub fn digests(&self) -> BTreeMap<KeyId, PluginDigest> {
        self.computed_digests().clone()
    }

    /// The digest of one key's plugin: [`PluginRecord::digest`], computed once.
    pub fn digest(&self, id: KeyId) -> Option<&PluginDigest> {
        self.computed_digests().get(&id)
    }

    fn computed_digests(&self) -> &BTreeMap<KeyId, PluginDigest> {
        self.0.digests.get_or_init(|| {
            self.plugins.iter().filter_map(|(id, plugin)| Some((*id, plugin.digest(*id)?))).collect()
        })
    }

    /// The keys that stand in the configuration as KMS providers.
    pub fn kms_keys(&self) -> BTreeSet<KeyId> {
        self.config
            .resources
            .iter()
            .flat_map(|entry| &entry.providers)
            .filter_map(|provider| provider.kms.as_ref()?.name.split_once('_')?.0.parse().ok())
            .collect()
    }

    /// Every key that stands in the configuration, by the numbers in its names.
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

    /// The resources that it has entries for.
    pub fn resources(&self) -> BTreeSet<GroupResource> {
        let names = self.config.resources.iter().flat_map(|entry| entry.resources.iter().flatten());
        names.map(|name| GroupResource::parse(name)).collect()
    }

    /// The resources that it writes in another way than in plain text.
    pub fn encrypted(&self) -> BTreeSet<GroupResource> {
        let is_encrypted = |entry: &&ResourceConfiguration| {
            entry.providers.first().is_some_and(|writer| writer.identity.is_none())
        };
        let names = self.config.resources.iter().filter(is_encrypted).flat_map(|entry| &entry.resources);
        names.flatten().map(|name| GroupResource::parse(name)).collect()
    }

    /// The data of its Secret.
    pub fn encode(&self) -> SecretData {
        let mut data = encode_plugins(&self.plugins);
        data.insert(CONFIG_KEY.to_owned(), self.bytes.clone());
        data
    }

    /// Its Secret on plain Kubernetes as it is created (CONTRACT 1.3 and OBJECTS.md): immutable, and protected from a plain
    /// delete by the finalizer.
    pub fn secret(&self, revision: Revision) -> Secret {
        let mut secret = generated_secret(names::revision_secret(revision), &self.encode());
        secret.metadata.finalizers = Some(vec![names::FINALIZER.to_owned()]);
        secret.immutable = Some(true);
        secret
    }

    /// The revision in a Secret's data. `Ok(None)` where there is no configuration (CONTRACT 1.3: no error). One that is not
    /// understood as a whole is an error: another that is made from it would lack a key, or its writer.
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

/// The data of plugins, salts included: a revision's, or a candidate's.
pub fn encode_plugins(plugins: &BTreeMap<KeyId, PluginRecord>) -> SecretData {
    plugins
        .iter()
        .flat_map(|(id, plugin)| plugin.entries(*id).into_iter().chain(plugin.salt_entry(*id)))
        .collect()
}

/// The inverse of [`encode_plugins`]. Keys of no known kind are left alone.
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
            // 7 and 07 are one number.
            if plugins.insert(id, record).is_some() {
                return Err(FormatError::InvalidData {
                    secret: secret.to_owned(),
                    key: key.clone(),
                    why: format!("key {id} is there twice"),
                });
            }
        }
    }
    for (key, value) in data {
        let Some((kind, rest)) = split_kind(key) else { continue };
        // CONTRACT 1.3: the keyID is what follows the last dash; no dash, or a leading one, is another kind of key.
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
