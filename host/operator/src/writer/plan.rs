//! From an action to a write: which object, which verb, which precondition. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use keyward_core::api::{EncryptionMigration, EncryptionMigrationSpec, EncryptionNode, EncryptionNodeSpec};
use keyward_core::formats::key_secret::KeySecret;
use keyward_core::formats::revision::{encode_plugins, generated_secret};
use keyward_core::ids::{GroupResource, KeyId, Revision};
use keyward_core::names;
use keyward_core::outcome::{Action, Candidate};
use keyward_core::platform::Objects;

use crate::error::ActionError;

/// One write. A create fails if the object exists; a replace fails if the object no longer has the version that was
/// read. No `Debug`: Secrets would show their data.
pub(super) enum Write {
    HighWater {
        key_id: KeyId,
        revision: Revision,
    },
    CreateSecret(Box<Secret>),
    ReplaceSecret(Box<Secret>),
    /// `finalizers`: those that are left without Keyward's own; `None` if Keyward's own is not set.
    DeleteSecret {
        name: String,
        resource_version: String,
        finalizers: Option<Vec<String>>,
    },
    CreateNode(Box<EncryptionNode>),
    ReplaceNode(Box<EncryptionNode>),
    /// No-op patches of all objects of these resources in Keyward's namespace.
    Reencrypt(Vec<GroupResource>),
    CreateMigration(Box<EncryptionMigration>),
    ReplaceMigration(Box<EncryptionMigration>),
}

/// The write of an action. `objects` are those that the decision was made from.
pub(super) fn write(action: &Action, objects: &Objects) -> Result<Write, ActionError> {
    Ok(match action {
        Action::RecordHighWater { key_id, revision } => {
            Write::HighWater { key_id: *key_id, revision: *revision }
        }
        Action::RequirePreflight { candidate, resource_version } => {
            let secret = Box::new(preflight(candidate, resource_version.clone()));
            match resource_version {
                None => Write::CreateSecret(secret),
                Some(_) => Write::ReplaceSecret(secret),
            }
        }
        Action::ClearPreflight { resource_version } => {
            delete(names::PREFLIGHT_SECRET.to_owned(), resource_version, objects)
        }
        Action::SetTarget { node, spec, resource_version, .. } => {
            target(node, spec, resource_version.as_deref(), objects)?
        }
        Action::CreateKey { key } => Write::CreateSecret(Box::new(key_secret(key, objects)?)),
        Action::UpdateKey { key, .. }
        | Action::SyncData { key, .. }
        | Action::RecordPublication { key, .. }
        | Action::AbandonKey { key, .. }
        | Action::ForgetMigrated { key, .. }
        | Action::RecordRotation { key, .. }
        | Action::RecordMigrated { key, .. } => Write::ReplaceSecret(Box::new(key_secret(key, objects)?)),
        Action::ApplyConfig { revision, content } => Write::CreateSecret(Box::new(content.secret(*revision))),
        Action::ReencryptOwn { resources, .. } => Write::Reencrypt(resources.clone()),
        Action::StartMigration { resource, spec, resource_version } => {
            migration(resource, (**spec).clone(), resource_version.as_deref(), objects)?
        }
        Action::RetireKey { key_id, resource_version } | Action::DeleteKey { key_id, resource_version } => {
            delete(names::key_secret(names::KUBE_APISERVER, *key_id), resource_version, objects)
        }
        Action::RequireConfigHash { .. } | Action::ApplyManagedConfig { .. } => {
            return Err(ActionError::Platform(action.kind()));
        }
        Action::DeleteRevision { revision, resource_version } => {
            delete(names::revision_secret(*revision), resource_version, objects)
        }
    })
}

fn preflight(candidate: &Candidate, resource_version: Option<String>) -> Secret {
    let plugins = BTreeMap::from([(candidate.key_id, candidate.plugin.clone())]);
    let mut secret = generated_secret(names::PREFLIGHT_SECRET.to_owned(), &encode_plugins(&plugins));
    secret.metadata.resource_version = resource_version;
    secret
}

/// The key secret as core decided it, with the metadata of other writers.
fn key_secret(key: &KeySecret, objects: &Objects) -> Result<Secret, ActionError> {
    let mut secret = key.encode(names::NAMESPACE, names::KUBE_APISERVER)?;
    let name = secret.metadata.name.clone().unwrap_or_default();
    if let Some(read) = find(objects, &name) {
        keep_foreign(&mut secret.metadata, &read.metadata);
    }
    Ok(secret)
}

fn keep_foreign(ours: &mut ObjectMeta, read: &ObjectMeta) {
    const OURS: [&str; 3] = [
        "encryption.apiserver.operator.openshift.io/",
        "encryption.keyward.dev/",
        names::ANNOTATION_DESCRIPTION,
    ];
    let foreign = |map: &Option<BTreeMap<String, String>>| {
        let entries = map.clone().unwrap_or_default();
        entries.into_iter().filter(|(key, _)| !OURS.iter().any(|prefix| key.starts_with(prefix)))
    };
    ours.annotations.get_or_insert_default().extend(foreign(&read.annotations));
    ours.labels.get_or_insert_default().extend(foreign(&read.labels));
    ours.owner_references.clone_from(&read.owner_references);
    // A finalizer of Keyward that a user removed is set again by the next write.
    let finalizers = ours.finalizers.get_or_insert_default();
    for finalizer in read.finalizers.iter().flatten() {
        if !finalizers.contains(finalizer) {
            finalizers.push(finalizer.clone());
        }
    }
}

fn target(
    node: &str,
    spec: &EncryptionNodeSpec,
    resource_version: Option<&str>,
    objects: &Objects,
) -> Result<Write, ActionError> {
    let Some(version) = resource_version else {
        return Ok(Write::CreateNode(Box::new(EncryptionNode::new(node, spec.clone()))));
    };
    let read = objects
        .encryption_nodes
        .iter()
        .find(|read| read.metadata.name.as_deref() == Some(node))
        .ok_or_else(|| ActionError::Unknown(format!("EncryptionNode {node}")))?;
    let mut metadata = read.metadata.clone();
    metadata.resource_version = Some(version.to_owned());
    // The agent owns the status: a write of the object itself does not change it.
    Ok(Write::ReplaceNode(Box::new(EncryptionNode { metadata, spec: spec.clone(), status: None })))
}

fn migration(
    resource: &GroupResource,
    spec: EncryptionMigrationSpec,
    resource_version: Option<&str>,
    objects: &Objects,
) -> Result<Write, ActionError> {
    let name = names::migration(resource);
    let Some(version) = resource_version else {
        return Ok(Write::CreateMigration(Box::new(EncryptionMigration::new(&name, spec))));
    };
    let read = objects
        .migrations
        .iter()
        .find(|read| read.metadata.name.as_deref() == Some(&name))
        .ok_or_else(|| ActionError::Unknown(format!("EncryptionMigration {name}")))?;
    let mut metadata = read.metadata.clone();
    metadata.resource_version = Some(version.to_owned());
    Ok(Write::ReplaceMigration(Box::new(EncryptionMigration { metadata, spec, status: None })))
}

fn delete(name: String, resource_version: &str, objects: &Objects) -> Write {
    let finalizers = find(objects, &name).and_then(|secret| secret.metadata.finalizers.clone());
    let finalizers = finalizers
        .filter(|all| all.iter().any(|f| f == names::FINALIZER))
        .map(|all| all.into_iter().filter(|finalizer| finalizer != names::FINALIZER).collect::<Vec<_>>());
    Write::DeleteSecret { name, resource_version: resource_version.to_owned(), finalizers }
}

fn find<'a>(objects: &'a Objects, name: &str) -> Option<&'a Secret> {
    objects.secrets.iter().find(|secret| secret.metadata.name.as_deref() == Some(name))
}

#[cfg(test)]
mod tests {
    use keyward_core::SecretBytes;
    use keyward_core::formats::encryption_config::EncryptionConfiguration;
    use keyward_core::formats::revision::RevisionContent;
    use keyward_core::ids::Mode;

    use super::*;

    fn key(resource_version: &str) -> KeySecret {
        KeySecret {
            resource_version: resource_version.to_owned(),
            uid: "u".to_owned(),
            ..KeySecret::new(KeyId(2), Mode::Identity, SecretBytes::new(vec![0; 16]), None, String::new())
        }
    }

    fn stored(name: &str, metadata: ObjectMeta) -> Secret {
        Secret { metadata: ObjectMeta { name: Some(name.to_owned()), ..metadata }, ..Default::default() }
    }

    #[test]
    fn update_of_a_key_depends_on_the_version_that_was_read_and_keeps_foreign_metadata() {
        let read = stored(
            "encryption-key-kube-apiserver-2",
            ObjectMeta {
                labels: Some([("team".into(), "a".into())].into()),
                annotations: Some(
                    [
                        ("note".into(), "b".into()),
                        (names::ANNOTATION_INTERNAL_REASON.into(), "stale".into()),
                        (names::ANNOTATION_ABANDONED.into(), "stale".into()),
                    ]
                    .into(),
                ),
                finalizers: Some(vec!["other".into()]),
                ..Default::default()
            },
        );
        let objects = Objects { secrets: vec![read], ..Default::default() };
        let action =
            Action::RecordPublication { key: Box::new(key("7")), revision: Revision(3), again: Vec::new() };
        let Ok(Write::ReplaceSecret(secret)) = write(&action, &objects) else { panic!("not replaced") };
        let metadata = secret.metadata;
        assert_eq!(metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(metadata.labels.as_ref().unwrap()["team"], "a");
        let annotations = metadata.annotations.unwrap();
        assert_eq!(annotations["note"], "b");
        assert_eq!(annotations[names::ANNOTATION_INTERNAL_REASON], "");
        assert!(
            !annotations.contains_key(names::ANNOTATION_ABANDONED),
            "core decides Keyward's own annotations"
        );
        assert_eq!(metadata.finalizers.unwrap(), [names::FINALIZER, "other"]);
    }

    #[test]
    fn new_key_is_create_only() {
        let action = Action::CreateKey { key: Box::new(key("")) };
        let Ok(Write::CreateSecret(secret)) = write(&action, &Objects::default()) else { panic!() };
        assert_eq!(secret.metadata.resource_version, None);
    }

    #[test]
    fn revision_is_immutable_and_protected() {
        let content = RevisionContent::new(EncryptionConfiguration::new(vec![]), BTreeMap::new());
        let action = Action::ApplyConfig { revision: Revision(4), content: Box::new(content) };
        let Ok(Write::CreateSecret(secret)) = write(&action, &Objects::default()) else { panic!() };
        assert_eq!(secret.metadata.name.as_deref(), Some("encryption-config-4"));
        assert_eq!(secret.immutable, Some(true));
        assert_eq!(secret.metadata.finalizers.as_deref(), Some(&[names::FINALIZER.to_owned()][..]));
        assert_eq!(secret.metadata.annotations.unwrap()[names::ANNOTATION_DESCRIPTION], names::DESCRIPTION);
    }

    #[test]
    fn deletion_removes_keywards_finalizer_and_no_other() {
        let finalizers = Some(vec![names::FINALIZER.to_owned(), "other".to_owned()]);
        let read = stored("encryption-config-1", ObjectMeta { finalizers, ..Default::default() });
        let objects = Objects { secrets: vec![read], ..Default::default() };
        let action = Action::DeleteRevision { revision: Revision(1), resource_version: "9".into() };
        let Ok(Write::DeleteSecret { resource_version, finalizers, .. }) = write(&action, &objects) else {
            panic!()
        };
        assert_eq!(resource_version, "9");
        assert_eq!(finalizers.unwrap(), ["other"]);
    }

    #[test]
    fn target_keeps_the_nodes_metadata_and_never_has_a_status() {
        let mut read = EncryptionNode::new("cp1", EncryptionNodeSpec::default());
        read.metadata.labels = Some([("zone".into(), "a".into())].into());
        read.status = Some(keyward_core::api::EncryptionNodeStatus::default());
        let objects = Objects { encryption_nodes: vec![read], ..Default::default() };
        let spec = EncryptionNodeSpec { revision: Revision(2), ..Default::default() };
        let action = Action::SetTarget {
            node: "cp1".into(),
            spec: Box::new(spec.clone()),
            resource_version: Some("5".into()),
            what: String::new(),
        };
        let Ok(Write::ReplaceNode(node)) = write(&action, &objects) else { panic!() };
        assert_eq!(node.spec, spec);
        assert_eq!(node.metadata.resource_version.as_deref(), Some("5"));
        assert!(node.metadata.labels.is_some() && node.status.is_none());
        assert!(matches!(write(&action, &Objects::default()), Err(ActionError::Unknown(_))));
    }
}
