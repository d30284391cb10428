//! Configuration secrets: the desired configuration, and the revisions that pods run
//! (openshift: configuration-secrets).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Secret;

use super::{COMPONENTS, Component, ManagedConfig, Objects};
use crate::formats::FormatError;
use crate::formats::encryption_config::EncryptionConfiguration;
use crate::formats::revision::RevisionContent;
use crate::ids::{KeyId, Revision};
use crate::names;
use crate::platform::kubernetes::data;
use crate::platform::named;
use crate::snapshot::StoredRevision;

/// The Secrets `{component}/encryption-config-{revision}`. A Secret without a configuration is ignored
/// (openshift: no-configuration-is-none-deployed).
pub(super) fn revisions(objects: &Objects, component: &Component) -> BTreeMap<Revision, StoredRevision> {
    let named = in_namespace(objects, component.name).filter_map(|secret| {
        let name = secret.metadata.name.as_deref()?;
        let revision = names::parse_revision_secret(name)?;
        let content = decode(name, secret).transpose()?;
        let resource_version = secret.metadata.resource_version.clone().unwrap_or_default();
        Some((revision, StoredRevision { content, resource_version }))
    });
    named.collect()
}

/// The Secret `openshift-config-managed/encryption-config-{component}`.
pub(super) fn managed(objects: &Objects, component: &Component) -> Option<ManagedConfig> {
    let name = names::managed_config(component.name);
    let secret = in_namespace(objects, names::MANAGED_NAMESPACE)
        .find(|secret| secret.metadata.name.as_deref() == Some(name.as_str()))?;
    Some(ManagedConfig {
        content: decode(&name, secret),
        resource_version: secret.metadata.resource_version.clone().unwrap_or_default(),
    })
}

/// The keys that the configuration secrets of this component name if they are not understood.
pub(super) fn undecodable(objects: &Objects, component: &Component) -> BTreeSet<KeyId> {
    let managed = names::managed_config(component.name);
    let revisions = in_namespace(objects, component.name).filter(|secret| {
        secret.metadata.name.as_deref().is_some_and(|n| names::parse_revision_secret(n).is_some())
    });
    let desired = in_namespace(objects, names::MANAGED_NAMESPACE)
        .filter(|secret| secret.metadata.name.as_deref() == Some(managed.as_str()));
    let secrets = revisions.chain(desired);
    secrets.filter(|secret| decode("", secret).is_err()).flat_map(named::of_undecodable).collect()
}

fn decode(name: &str, secret: &Secret) -> Result<Option<RevisionContent>, FormatError> {
    let content = RevisionContent::decode(name, &data(secret))?;
    content.iter().try_for_each(|content| entries(&content.config))?;
    Ok(content)
}

/// Checks that each entry is for resources that a component of OpenShift encrypts. An entry for a resource of another
/// component is allowed and has no effect.
fn entries(config: &EncryptionConfiguration) -> Result<(), FormatError> {
    let known = |name: &str| COMPONENTS.iter().any(|component| component.encrypts(name));
    let are_known = |names: &[String]| !names.is_empty() && names.iter().all(|name| known(name));
    let mut entries = config.resources.iter().enumerate();
    let Some((index, entry)) = entries.find(|(_, entry)| !entry.resources.as_deref().is_some_and(are_known))
    else {
        return Ok(());
    };
    // In a damaged file, a name can be anything.
    let is_name = |name: &&String| name.bytes().all(|b| b.is_ascii_lowercase() || b"*./-".contains(&b));
    let names: Vec<&str> = entry.resources.iter().flatten().filter(is_name).map(String::as_str).collect();
    Err(FormatError::Config(format!(
        "resources[{index}].resources contains resources that no API server of OpenShift encrypts: [{}]",
        names.join(", ")
    )))
}

fn in_namespace<'o>(objects: &'o Objects, namespace: &'o str) -> impl Iterator<Item = &'o Secret> {
    objects.secrets.iter().filter(move |secret| secret.metadata.namespace.as_deref() == Some(namespace))
}
