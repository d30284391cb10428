//! An EncryptionConfiguration as an API server understands it: which provider reads what, and which one
//! writes.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use keyward_core::formats::encryption_config::{ProviderConfiguration, REVISION_ZERO};
use keyward_core::formats::revision::RevisionContent;
use keyward_core::ids::{ConfigHash, GroupResource, KeyId, Mode, PluginDigest};
use keyward_core::names;
use keyward_core::node::FileSeen;

use super::etcd::Sealed;
use crate::hash::of_bytes;

/// Every resource that the model knows, by name; the first two are encrypted by default.
pub const RESOURCES: [&str; 3] = ["configmaps", "secrets", "widgets.example.com"];
/// Secrets are what Keyward's own objects are stored as.
pub const SECRETS: usize = 1;
/// base64 of the null key.
const NULL: &str = "AAAAAAAAAAAAAAAAAAAAAA==";

/// [`RESOURCES`], parsed.
pub fn resources() -> &'static [GroupResource] {
    static PARSED: OnceLock<Vec<GroupResource>> = OnceLock::new();
    PARSED.get_or_init(|| RESOURCES.iter().map(|name| GroupResource::parse(name)).collect())
}

/// The place of a resource in [`RESOURCES`].
pub fn index_of(resource: &GroupResource) -> Option<usize> {
    resources().iter().position(|known| known == resource)
}

/// One provider of one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provider {
    /// Plain text.
    Identity,
    /// A local key, by its exact name and bytes.
    Local(KeyId, Mode, u64),
    /// The null key that carries the number of an identity key.
    Marker(KeyId),
    /// A plugin at a key's link, under the exact name that this key and resource have.
    Kms(KeyId),
    /// Anything else: reads nothing that Keyward ever wrote.
    Foreign,
}

impl Provider {
    fn of(provider: &ProviderConfiguration, resource: &GroupResource) -> Self {
        let local = |mode, keys: &keyward_core::formats::encryption_config::KeysConfiguration| {
            let [key] = keys.keys.as_slice() else { return Self::Foreign };
            match key.name.parse() {
                Ok(id) if key.secret == NULL => Self::Marker(id),
                Ok(id) => Self::Local(id, mode, of_bytes(key.secret.as_bytes())),
                Err(_) => Self::Foreign,
            }
        };
        match provider {
            ProviderConfiguration { identity: Some(_), .. } => Self::Identity,
            ProviderConfiguration { aescbc: Some(keys), .. } => local(Mode::Aescbc, keys),
            ProviderConfiguration { aesgcm: Some(keys), .. } => local(Mode::Aesgcm, keys),
            ProviderConfiguration { secretbox: Some(keys), .. } => local(Mode::Secretbox, keys),
            ProviderConfiguration { kms: Some(kms), .. } => {
                let id = kms.name.split_once('_').and_then(|(id, _)| id.parse::<KeyId>().ok());
                match id.filter(|id| names::kms_provider(*id, resource) == kms.name) {
                    Some(id) => Self::Kms(id),
                    None => Self::Foreign,
                }
            }
            _ => Self::Foreign,
        }
    }

    /// Its key.
    pub fn key(self) -> Option<KeyId> {
        match self {
            Self::Local(id, ..) | Self::Marker(id) | Self::Kms(id) => Some(id),
            Self::Identity | Self::Foreign => None,
        }
    }

    /// Whether something stored in this way is under this provider. For KMS, the KEK of the plugin is checked
    /// elsewhere.
    pub fn names(self, sealed: Sealed) -> bool {
        match (self, sealed) {
            (Self::Identity, Sealed::Plain) => true,
            (Self::Local(id, mode, bytes), Sealed::Local { key, mode: m, material }) => {
                (id, mode, bytes) == (key, m, material)
            }
            (Self::Kms(id), Sealed::Kms { key, .. }) => id == key,
            _ => false,
        }
    }
}

/// One configuration with everything that is derived from it, computed once.
#[derive(Debug)]
pub struct Config {
    /// Of its bytes.
    pub hash: ConfigHash,
    /// Its content; `None` for revision 0.
    pub content: Option<Arc<RevisionContent>>,
    /// The file.
    pub file: FileSeen,
    /// By resource; `None` where it has no entry.
    pub lists: [Option<Vec<Provider>>; RESOURCES.len()],
    /// Its KMS keys.
    pub kms: BTreeSet<KeyId>,
    /// All of its keys.
    pub keys: BTreeSet<KeyId>,
    /// Each plugin's digest.
    pub digests: Vec<(KeyId, PluginDigest)>,
}

impl Config {
    /// The configuration that `prepare` installs.
    pub fn zero() -> Self {
        Self {
            hash: ConfigHash::of(REVISION_ZERO.as_bytes()),
            content: None,
            file: FileSeen::of(REVISION_ZERO.as_bytes()),
            lists: [None, Some(vec![Provider::Identity]), None],
            kms: BTreeSet::new(),
            keys: BTreeSet::new(),
            digests: Vec::new(),
        }
    }

    /// Of a revision.
    pub fn of(content: &RevisionContent) -> Self {
        let lists = std::array::from_fn(|index| {
            let resource = &resources()[index];
            let name = RESOURCES[index];
            let mut entries = content.config.resources.iter();
            let entry = entries.find(|entry| entry.resources.iter().flatten().any(|r| r == name))?;
            Some(entry.providers.iter().map(|provider| Provider::of(provider, resource)).collect())
        });
        Self {
            hash: content.hash(),
            file: FileSeen::of(content.bytes.expose()),
            lists,
            kms: content.kms_keys(),
            keys: content.key_ids(),
            digests: content.digests().into_iter().collect(),
            content: Some(Arc::new(content.clone())),
        }
    }

    /// The providers of this resource, the writer first. Without an entry: plain text.
    pub fn providers(&self, resource: usize) -> &[Provider] {
        self.lists[resource].as_deref().unwrap_or(&[Provider::Identity])
    }

    /// The provider that writes this resource.
    pub fn writer(&self, resource: usize) -> Provider {
        self.providers(resource).first().copied().unwrap_or(Provider::Identity)
    }

    /// The number of the key that writes this resource, if there is one (openshift: providers-to-keys).
    pub fn write_key(&self, resource: usize) -> Option<KeyId> {
        let providers = self.providers(resource);
        match providers.first()? {
            // The first identity key (openshift: providers-to-keys).
            Provider::Identity => providers.iter().find_map(|provider| match provider {
                Provider::Marker(id) => Some(*id),
                _ => None,
            }),
            first => first.key(),
        }
    }
}
