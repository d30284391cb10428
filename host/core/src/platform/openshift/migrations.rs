//! Reads `StorageVersionMigration`s as Keyward's migrations (openshift: storage-version-migrations,
//! openshift: migration-states).

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::{Component, Objects};
use crate::api::{EncryptionMigrationSpec, EncryptionMigrationStatus, MigrationFailure, MigrationPhase};
use crate::formats::key_secret::KeySecret;
use crate::ids::{GroupResource, KeyId, RemoteKeyId, Revision};
use crate::names;
use crate::outcome::migration_idle_fact;
use crate::platform::Age;
use crate::snapshot::StoredMigration;

type Ages = Vec<(String, Age)>;

/// The migrations by resource, and the ages of failed and of running ones. On this platform the objects contain these
/// times.
pub(super) fn of(
    objects: &Objects,
    component: &Component,
    keys: &[KeySecret],
    now: Timestamp,
) -> (BTreeMap<GroupResource, StoredMigration>, Ages) {
    let (mut found, mut ages) = (BTreeMap::new(), Vec::new());
    for resource in component.resources.iter().map(|name| GroupResource::parse(name)) {
        let name = names::migration(&resource);
        let of_name = |object: &&Value| text(object, "/metadata/name") == name;
        let Some(object) = objects.migrations.iter().find(of_name) else { continue };
        let annotation = |key: &str| {
            let annotations = object.pointer("/metadata/annotations");
            annotations.and_then(|all| all.get(key)).and_then(Value::as_str)
        };
        // A migration that names no key was not created for a key of encryption.
        let key_id: KeyId =
            annotation(names::ANNOTATION_WRITE_KEY).and_then(|id| id.parse().ok()).unwrap_or_default();
        let uid = annotation(names::ANNOTATION_KEY_SECRET_UID).map(ToOwned::to_owned);
        let key = keys.iter().find(|key| key.id == key_id);
        let uid = uid.or_else(|| key.filter(|key| is_later(object, key)).map(|key| key.uid.clone()));
        let (status, ended) = status(object);
        if status.phase == MigrationPhase::Failed {
            let elapsed =
                ended.and_then(|at| Duration::try_from(now.duration_since(at)).ok()).unwrap_or_default();
            let value = format!("{}/0", uid.clone().unwrap_or_default());
            ages.push((format!("migration-failed/{resource}"), Age { value, elapsed }));
        }
        let spec = EncryptionMigrationSpec {
            operand: component.name.to_owned(),
            resource: resource.to_string(),
            key_id,
            key_secret_uid: uid.unwrap_or_default(),
            since: Revision::default(),
            remote_key_id: annotation(names::ANNOTATION_KMS_KEY_ID).map(|id| RemoteKeyId(id.to_owned())),
            attempt: 0,
            continues: None,
        };
        if status.phase == MigrationPhase::Running {
            let elapsed = running_since(object)
                .and_then(|since| Duration::try_from(now.duration_since(since)).ok())
                .unwrap_or_default();
            let value = format!("{}/0/0", spec.key_secret_uid);
            ages.push((migration_idle_fact(&resource), Age { value, elapsed }));
        }
        let resource_version = text(object, "/metadata/resourceVersion").to_owned();
        found.insert(resource, StoredMigration { spec, status, current: true, resource_version });
    }
    (found, ages)
}

/// The keys that the migrations of the resources of this component name, no matter who created them.
pub(super) fn write_keys(objects: &Objects, component: &Component) -> impl Iterator<Item = KeyId> {
    let ours = component.resources.iter().map(|name| names::migration(&GroupResource::parse(name)));
    let ours: Vec<String> = ours.collect();
    let of_ours = move |object: &&Value| ours.iter().any(|name| text(object, "/metadata/name") == name);
    objects.migrations.iter().filter(of_ours).filter_map(|object| {
        let annotations = object.pointer("/metadata/annotations")?;
        annotations.get(names::ANNOTATION_WRITE_KEY)?.as_str()?.parse().ok()
    })
}

/// Whether a migration is for this key secret. OpenShift's controllers identify a migration only by the number of the
/// key, which repeats after key secrets are lost. A migration that is older than the key secret is about an earlier key
/// (openshift: migration-is-for-one-key-secret).
fn is_later(object: &Value, key: &KeySecret) -> bool {
    match (time(text(object, "/metadata/creationTimestamp")), key.created) {
        (Some(made), Some(key)) => made >= key,
        _ => true,
    }
}

/// Since when a migration has its state: the time of its latest condition, otherwise the creation of the object.
/// Without a migrator it has no condition.
fn running_since(object: &Value) -> Option<Timestamp> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let latest = conditions.into_iter().flatten().filter_map(|condition| {
        let at = ["/lastUpdateTime", "/lastTransitionTime"].map(|pointer| time(text(condition, pointer)));
        at.into_iter().flatten().max()
    });
    latest.max().or_else(|| time(text(object, "/metadata/creationTimestamp")))
}

fn status(object: &Value) -> (EncryptionMigrationStatus, Option<Timestamp>) {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let holds = |type_: &str| {
        conditions
            .into_iter()
            .flatten()
            .find(|condition| text(condition, "/type") == type_ && text(condition, "/status") == "True")
    };
    let (phase, condition) = match (holds("Succeeded"), holds("Failed")) {
        (Some(condition), _) => (MigrationPhase::Succeeded, Some(condition)),
        (None, Some(condition)) => (MigrationPhase::Failed, Some(condition)),
        (None, None) => (MigrationPhase::Running, None),
    };
    let ended = condition.map(|condition| text(condition, "/lastUpdateTime").to_owned());
    let failure = condition.filter(|_| phase == MigrationPhase::Failed).map(|condition| MigrationFailure {
        object: text(object, "/metadata/name").to_owned(),
        message: text(condition, "/message").to_owned(),
    });
    let status = EncryptionMigrationStatus {
        phase,
        failures: failure.into_iter().collect(),
        finished_at: ended.clone(),
        ..EncryptionMigrationStatus::default()
    };
    (status, ended.as_deref().and_then(time))
}

fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}
