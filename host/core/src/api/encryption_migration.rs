//! `EncryptionMigration/encryption-migration-{group|core}-{resource}`: the migration of one resource to one key.

use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{KeyId, RemoteKeyId, Revision};

/// The resource and the key of the migration. The operator writes the spec.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "encryption.keyward.dev",
    version = "v1alpha1",
    kind = "EncryptionMigration",
    status = "EncryptionMigrationStatus",
    category = "keyward",
    doc = "Rewrites all objects of one resource under one key.",
    printcolumn = r#"{"name":"Resource","type":"string","jsonPath":".spec.resource"}"#,
    printcolumn = r#"{"name":"Key","type":"integer","jsonPath":".spec.keyID"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Done","type":"integer","jsonPath":".status.done"}"#,
    printcolumn = r#"{"name":"Total","type":"integer","jsonPath":".status.total"}"#,
    printcolumn = r#"{"name":"Failed","type":"integer","jsonPath":".status.failed"}"#,
    crates(kube_core = "kube_core", k8s_openapi = "k8s_openapi")
)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionMigrationSpec {
    /// Name of the API server component that stores the resource.
    pub operand: String,
    /// The resource, as `resource` or `resource.group`.
    pub resource: String,
    /// The write key; 0 if the resource is decrypted because it left the list.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// UID of the key secret. It identifies the key, because a number alone could repeat. Empty for key 0.
    #[serde(rename = "keySecretUID", default, skip_serializing_if = "String::is_empty")]
    pub key_secret_uid: String,
    /// The revision that last made the key a write key. For key 0: the revision that every API server had loaded.
    /// Objects that were rewritten before it do not count, because another key may have written since. 0 if no revision
    /// is recorded (OpenShift).
    #[serde(default, skip_serializing_if = "is_none")]
    pub since: Revision,
    /// The remote key id after a rotation in the KMS.
    #[serde(rename = "remoteKeyID", default, skip_serializing_if = "Option::is_none")]
    pub remote_key_id: Option<RemoteKeyId>,
    /// Number of the attempt. The operator raises it to retry a failed migration.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// Results of earlier attempts that this attempt continues. If absent, every object is rewritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<EarlierAttempts>,
}

/// Results of earlier attempts of a migration: the next attempt rewrites only the remaining objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EarlierAttempts {
    /// `status.startVersion` of the earlier attempts. An object with a newer resourceVersion is stored under the write
    /// key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_version: Option<String>,
    /// `status.endVersion` of an attempt that succeeded. If set, this attempt verifies the result of that attempt
    /// before older keys leave the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_version: Option<String>,
    /// The objects that are not rewritten yet. If empty: every object that is not newer than `startVersion`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<String>,
    /// Number of failed attempts in a row. The pause before the next attempt grows with it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
}

impl EncryptionMigrationSpec {
    /// Whether both are attempts of the same migration.
    pub fn is_same_migration(&self, other: &Self) -> bool {
        let migration = |spec: &Self| Self { attempt: 0, continues: None, ..spec.clone() };
        migration(self) == migration(other)
    }

    /// Whether this attempt verifies an attempt that succeeded.
    pub fn verifies(&self) -> bool {
        self.continues.as_ref().is_some_and(|earlier| earlier.end_version.is_some())
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_none(revision: &Revision) -> bool {
    revision.0 == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(attempt: &u32) -> bool {
    *attempt == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_false(value: &bool) -> bool {
    !*value
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_none_failed(failed: &u64) -> bool {
    *failed == 0
}

/// Phase of a migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum MigrationPhase {
    /// Not started.
    #[default]
    Pending,
    /// In progress.
    Running,
    /// Every object was observed to be stored under the write key, or to be deleted.
    Succeeded,
    /// Ended with failures; the operator retries it later.
    Failed,
}

/// The migration engine writes the status. After a restart it resumes at the cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionMigrationStatus {
    /// The generation of the spec that this status is about. If it is older, the status is about an earlier request.
    #[serde(default)]
    pub observed_generation: i64,
    /// `Pending`, `Running`, `Succeeded` or `Failed`.
    #[serde(default)]
    pub phase: MigrationPhase,
    /// Number of objects processed.
    #[serde(default)]
    pub done: u64,
    /// Number of objects in total, as far as known.
    #[serde(default)]
    pub total: u64,
    /// Objects per second.
    #[serde(default)]
    pub rate: u64,
    /// The last processed object, as `namespace/name`. The migration resumes after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// A resourceVersion of the collection from when every API server wrote under the write key and no write under an
    /// older key was in flight. An object with a newer resourceVersion is stored under the write key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_version: Option<String>,
    /// True if every object was processed. `failures` then lists the remaining objects, unless more than a hundred
    /// failed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub listed: bool,
    /// Number of objects that could not be rewritten.
    #[serde(default, skip_serializing_if = "is_none_failed")]
    pub failed: u64,
    /// The first hundred objects that could not be rewritten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<MigrationFailure>,
    /// Why no object can be rewritten at all: a missing permission, or a resource that is not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The reason why the migration waits, and since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<MigrationWait>,
    /// When the migration ended; RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// A resourceVersion of the collection from after the end of the migration. When etcd has compacted it, values from
    /// before the migration cannot be read any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_version: Option<String>,
}

/// The reason why a migration waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationWait {
    /// When it began to wait; RFC 3339.
    pub since: String,
    /// The API server's message.
    pub message: String,
}

/// One object that could not be rewritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationFailure {
    /// The object, as `namespace/name` or `name`.
    pub object: String,
    /// The API server's message.
    pub message: String,
}
