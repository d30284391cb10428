//! `EncryptionMigration/encryption-migration-{group|core}-{resource}`: one resource's rewriting under one key.

use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{KeyId, RemoteKeyId, Revision};

/// One resource to be rewritten. Spec: the operator's decision.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "encryption.keyward.dev",
    version = "v1alpha1",
    kind = "EncryptionMigration",
    status = "EncryptionMigrationStatus",
    category = "keyward",
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
    /// Whose API server.
    pub operand: String,
    /// `resource` or `resource.group`.
    pub resource: String,
    /// The write key; 0 where a resource that left the list is decrypted (DESIGN.md, Decisions 11).
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// The key secret's UID: a migration is identified by the key, not by a number that might come back. Empty for key 0.
    #[serde(rename = "keySecretUID", default, skip_serializing_if = "String::is_empty")]
    pub key_secret_uid: String,
    /// The revision that last made the key a write key (its secret's `write-published`); for key 0 the one that was
    /// loaded everywhere. What was rewritten before a key became the writer once more proves nothing: others wrote
    /// meanwhile. 0 where nobody records it (OpenShift).
    #[serde(default, skip_serializing_if = "is_none")]
    pub since: Revision,
    /// The remote key id that a remote rotation moved to.
    #[serde(rename = "remoteKeyID", default, skip_serializing_if = "Option::is_none")]
    pub remote_key_id: Option<RemoteKeyId>,
    /// Raised to have a failed migration tried again: a new generation of the same wish.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// What earlier attempts of the same request have shown. Absent: every object is rewritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<EarlierAttempts>,
}

/// What earlier attempts of a migration have shown, so that the next one rewrites only what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EarlierAttempts {
    /// Their `status.startVersion`: an object at a newer resourceVersion is under the write key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_version: Option<String>,
    /// The `status.endVersion` of an attempt that succeeded. This attempt verifies it before older keys leave the
    /// configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_version: Option<String>,
    /// The objects that are left. Empty: every object that is not newer than `startVersion`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<String>,
    /// How many attempts in a row have failed: the pause before the next one grows with it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
}

impl EncryptionMigrationSpec {
    /// Whether both wish for the same, whichever attempt it is.
    pub fn is_same_wish(&self, other: &Self) -> bool {
        let wish = |spec: &Self| Self { attempt: 0, continues: None, ..spec.clone() };
        wish(self) == wish(other)
    }

    /// Whether this attempt verifies one that succeeded.
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

/// Where a migration stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum MigrationPhase {
    /// Not begun.
    #[default]
    Pending,
    /// Under way.
    Running,
    /// Every object is under the write key, or gone: each was seen to be.
    Succeeded,
    /// Ended with failures; tried again later.
    Failed,
}

/// Status: the migration engine's report. Survives a restart: the cursor resumes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionMigrationStatus {
    /// The generation of the spec that this speaks of; anything else is about an earlier key.
    #[serde(default)]
    pub observed_generation: i64,
    /// Where it stands.
    #[serde(default)]
    pub phase: MigrationPhase,
    /// Objects dealt with.
    #[serde(default)]
    pub done: u64,
    /// Objects in all, as far as known.
    #[serde(default)]
    pub total: u64,
    /// Objects a second.
    #[serde(default)]
    pub rate: u64,
    /// Where to go on: `namespace/name` of the last object dealt with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// A resourceVersion of the collection from when every API server wrote under the write key and no write under an
    /// older key was in flight any more: an object at a newer resourceVersion is under the write key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_version: Option<String>,
    /// Every object was looked at: what is left is in `failures`, where that holds all that failed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub listed: bool,
    /// How many objects could not be rewritten.
    #[serde(default, skip_serializing_if = "is_none_failed")]
    pub failed: u64,
    /// Objects that could not be rewritten; the first hundred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<MigrationFailure>,
    /// Why no object can be rewritten at all: a missing permission, or a resource that is not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What the migration waits for, and since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<MigrationWait>,
    /// RFC 3339; when it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// A resourceVersion of the collection from after the end: once etcd has compacted it, nothing that was stored
    /// before can be read any more (DESIGN.md, Decisions 7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_version: Option<String>,
}

/// What a migration waits for before it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationWait {
    /// RFC 3339.
    pub since: String,
    /// In the API server's words.
    pub message: String,
}

/// One object that could not be rewritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationFailure {
    /// `namespace/name`, or a name.
    pub object: String,
    /// What the API server said.
    pub message: String,
}
