//! Encryption-config secrets (CONTRACT 1.3): the desired one, and the snapshots that pods run.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;

use super::{Component, ManagedConfig, Objects};
use crate::formats::revision::RevisionContent;
use crate::formats::{FormatError, consistency};
use crate::ids::Revision;
use crate::names;
use crate::platform::kubernetes::data;
use crate::snapshot::StoredRevision;

/// `{component}/encryption-config-{revision}`. One without a configuration in it is as if it were not there.
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

/// `openshift-config-managed/encryption-config-{component}`.
pub(super) fn managed(objects: &Objects, component: &Component) -> Option<ManagedConfig> {
    let name = names::managed_config(component.name);
    let secret = in_namespace(objects, names::MANAGED_NAMESPACE)
        .find(|secret| secret.metadata.name.as_deref() == Some(name.as_str()))?;
    Some(ManagedConfig {
        content: decode(&name, secret),
        resource_version: secret.metadata.resource_version.clone().unwrap_or_default(),
    })
}

fn decode(name: &str, secret: &Secret) -> Result<Option<RevisionContent>, FormatError> {
    let content = RevisionContent::decode(name, &data(secret))?;
    // library-go skips a provider whose name it does not know, and so drops it with the next configuration.
    content.iter().try_for_each(|content| consistency::plugin_names(&content.config))?;
    Ok(content)
}

fn in_namespace<'o>(objects: &'o Objects, namespace: &'o str) -> impl Iterator<Item = &'o Secret> {
    objects.secrets.iter().filter(move |secret| secret.metadata.namespace.as_deref() == Some(namespace))
}
