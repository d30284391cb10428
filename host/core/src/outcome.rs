//! The outcome of one reconcile pass: actions in order, conditions, and an explanation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{
    Condition, EncryptionMigrationSpec, EncryptionNodeSpec, ForgetStatus, KeyStatus, MigrationSummary,
    PauseStatus, PluginSummary, PreflightPurpose, RevisionStatus,
};
use crate::formats::key_secret::KeySecret;
use crate::formats::revision::{PluginRecord, RevisionContent};
use crate::ids::{GroupResource, KeyId, PluginDigest, RemoteKeyId, Revision};

/// The fact whose age is the time that the migration of a resource has made no progress.
pub fn migration_idle_fact(resource: &GroupResource) -> String {
    format!("migration-idle/{resource}")
}

/// One write, with its precondition: create-only if there is no resourceVersion, otherwise exactly that version. The
/// writer applies the actions in order and stops at the first that fails; the next reconcile pass decides again.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Raise the high-water marks in `ClusterEncryption.status`, before the object with that number is created
    /// (invariant: one-number-one-kek).
    RecordHighWater {
        /// The new `status.highestKeyID`.
        key_id: KeyId,
        /// The new `status.highestRevision`.
        revision: Revision,
    },
    /// Write the Secret `encryption-preflight`: create it, or replace the version that was read.
    RequirePreflight {
        /// The candidate to try.
        candidate: Box<Candidate>,
        /// Of the Secret as read; `None` if there is none.
        resource_version: Option<String>,
    },
    /// OpenShift: request a preflight, by writing the candidate's hash to the status of the operator's CR
    /// (openshift: preflight-before-a-key).
    RequireConfigHash {
        /// The candidate to try. Its digest is written beside the hash (decision 0003).
        candidate: Box<Candidate>,
        /// The hash of its configuration (openshift: config-hash).
        config_hash: String,
    },
    /// Delete the Secret `encryption-preflight`: there is no candidate to try any more.
    ClearPreflight {
        /// Of the Secret as read.
        resource_version: String,
    },
    /// Write one `EncryptionNode.spec`: target revision, preflight request, key checks.
    SetTarget {
        /// The node.
        node: String,
        /// The whole spec.
        spec: Box<EncryptionNodeSpec>,
        /// Of the object as read; `None` if it does not exist yet.
        resource_version: Option<String>,
        /// The change in words: `revision 3`, `preflight of key 2`.
        what: String,
    },
    /// Create a key secret (create-only).
    CreateKey {
        /// The complete key secret.
        key: Box<KeySecret>,
    },
    /// Update a key secret in place (decision 0001).
    UpdateKey {
        /// The complete key secret, with the resourceVersion that the write depends on.
        key: Box<KeySecret>,
        /// The fields of the configuration that changed.
        fields: Vec<String>,
    },
    /// Update the copies of referenced objects (decision 0002).
    SyncData {
        /// The complete key secret, with the resourceVersion that the write depends on.
        key: Box<KeySecret>,
        /// The objects that changed, as `secret/name`.
        objects: Vec<String>,
    },
    /// Create the Secret `encryption-config-{n}` (create-only): the next revision, or a lost one again.
    ApplyConfig {
        /// Number of the revision.
        revision: Revision,
        /// The complete content.
        content: Box<RevisionContent>,
    },
    /// OpenShift: write the complete Secret `encryption-config-{component}` (openshift: apply-desired-configuration).
    ApplyManagedConfig {
        /// The complete content.
        content: Box<RevisionContent>,
        /// Of the Secret as read; `None` if there is none.
        resource_version: Option<String>,
    },
    /// Annotate the key secret before a revision may have the key first (invariant: publication-first), and again
    /// before each revision that makes it a write key again. The same write removes its records of migration for
    /// the resources whose writer it becomes (decision 0056).
    RecordPublication {
        /// The complete key secret, with the resourceVersion that the write depends on.
        key: Box<KeySecret>,
        /// The revision.
        revision: Revision,
        /// The resources whose records of migration this write removes: they are re-encrypted under the key again.
        again: Vec<GroupResource>,
    },
    /// Rewrite the Secrets and ConfigMaps of Keyward's namespace, so that they are stored under the write key, before a
    /// forgotten key leaves. Their content does not change.
    ReencryptOwn {
        /// The resources to rewrite.
        resources: Vec<GroupResource>,
        /// The keys that are about to leave.
        leaving: Vec<KeyId>,
        /// Whether the following actions depend on it. They do not if an admin accepts the loss of these objects.
        required: bool,
    },
    /// Create the `EncryptionMigration` of a resource, or change it to another key.
    StartMigration {
        /// The resource to rewrite.
        resource: GroupResource,
        /// The whole spec.
        spec: Box<EncryptionMigrationSpec>,
        /// Of the object as read; `None` if there is none.
        resource_version: Option<String>,
    },
    /// Record a resource as migrated on the key secret.
    RecordMigrated {
        /// The resource.
        resource: GroupResource,
        /// The complete key secret, with the resourceVersion that the write depends on.
        key: Box<KeySecret>,
    },
    /// Remove the record that a resource is migrated, before it is written in plain text (decision 0011).
    ForgetMigrated {
        /// The resource.
        resource: GroupResource,
        /// The complete key secret, with the resourceVersion that the write depends on.
        key: Box<KeySecret>,
    },
    /// Record that everything was re-encrypted after a rotation in the KMS (decision 0006).
    RecordRotation {
        /// The complete key secret, with the resourceVersion that the write depends on.
        key: Box<KeySecret>,
        /// The remote key id that the plugin reports now.
        remote_key_id: RemoteKeyId,
    },
    /// Annotate a key that no revision ever had first as abandoned (decision 0005).
    AbandonKey {
        /// The complete key secret, with the resourceVersion that the write depends on.
        key: Box<KeySecret>,
        /// Why it is abandoned.
        reason: String,
    },
    /// Delete the key secret of a KMS provider that has left every configuration (decision 0007).
    RetireKey {
        /// Number of the key.
        key_id: KeyId,
        /// Of the Secret as read.
        resource_version: String,
    },
    /// Delete an unused key secret beyond the ten newest (openshift: keep-ten-unused-keys).
    DeleteKey {
        /// Number of the key.
        key_id: KeyId,
        /// Of the Secret as read.
        resource_version: String,
    },
    /// Delete a revision that is not kept (objects: kept-revisions).
    DeleteRevision {
        /// The revision.
        revision: Revision,
        /// Of the Secret as read.
        resource_version: String,
    },
}

/// The candidate of a preflight: the data of one key, as a revision would contain it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The key that the candidate is for.
    pub key_id: KeyId,
    /// Why it is tried.
    pub purpose: PreflightPurpose,
    /// The data of its plugin, with a salt.
    pub plugin: PluginRecord,
    /// Its digest.
    pub hash: PluginDigest,
}

impl Action {
    /// The `kind` in the output of `plan`; also the bounded label of metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RecordHighWater { .. } => "RecordHighWater",
            Self::RequirePreflight { .. } | Self::RequireConfigHash { .. } => "RequirePreflight",
            Self::ClearPreflight { .. } => "ClearPreflight",
            Self::SetTarget { .. } => "SetTarget",
            Self::CreateKey { .. } => "CreateKey",
            Self::UpdateKey { .. } => "UpdateKey",
            Self::SyncData { .. } => "SyncData",
            Self::ApplyConfig { .. } | Self::ApplyManagedConfig { .. } => "ApplyConfig",
            Self::RecordPublication { .. } => "RecordPublication",
            Self::ReencryptOwn { .. } => "ReencryptOwn",
            Self::StartMigration { .. } => "StartMigration",
            Self::RecordMigrated { .. } => "RecordMigrated",
            Self::ForgetMigrated { .. } => "ForgetMigrated",
            Self::RecordRotation { .. } => "RecordRotation",
            Self::AbandonKey { .. } => "AbandonKey",
            Self::RetireKey { .. } => "RetireKey",
            Self::DeleteKey { .. } => "DeleteKey",
            Self::DeleteRevision { .. } => "DeleteRevision",
        }
    }

    /// Whether the following actions are carried out even if this one fails.
    pub fn is_optional(&self) -> bool {
        matches!(self, Self::ReencryptOwn { required: false, .. })
    }

    /// The action in words, on one line and in the imperative. It contains no secret byte.
    pub fn sentence(&self) -> String {
        match self {
            Self::RecordHighWater { key_id, revision } => {
                format!("record key number {key_id} and revision {revision} as used")
            }
            Self::RequirePreflight { candidate, .. } | Self::RequireConfigHash { candidate, .. } => {
                format!("start a preflight of key {} ({})", candidate.key_id, candidate.purpose)
            }
            Self::ClearPreflight { .. } => "end the preflight".to_owned(),
            Self::SetTarget { node, what, .. } => format!("node {node}: {what}"),
            Self::CreateKey { key } => format!("create key {} ({})", key.id, key.mode),
            Self::UpdateKey { key, fields } => {
                format!("update key {} in place: {}", key.id, fields.join(", "))
            }
            Self::SyncData { key, objects } => format!("copy {} to key {}", objects.join(", "), key.id),
            Self::ApplyConfig { revision, content } => {
                format!("create revision {revision}: {}", lists(content))
            }
            Self::ApplyManagedConfig { content, .. } => {
                format!("write the configuration: {}", lists(content))
            }
            Self::RecordPublication { key, revision, again } => {
                let again = match again.as_slice() {
                    [] => String::new(),
                    _ => format!("; re-encrypt {} under key {} again", names(again), key.id),
                };
                format!("make key {} a write key with revision {revision}{again}", key.id)
            }
            Self::ReencryptOwn { .. } => {
                "re-encrypt the Secrets and ConfigMaps of Keyward's namespace under the write key".to_owned()
            }
            Self::StartMigration { resource, spec, .. } if spec.key_id.0 == 0 => {
                format!("decrypt all {resource}")
            }
            Self::StartMigration { resource, spec, .. } => {
                format!("re-encrypt all {resource} under key {}", spec.key_id)
            }
            Self::RecordMigrated { resource, key } => {
                format!("record that all {resource} are stored under key {}", key.id)
            }
            Self::ForgetMigrated { resource, key } => format!(
                "remove the record that {resource} is migrated to key {}, before it is written in plain text",
                key.id
            ),
            Self::RecordRotation { key, .. } => {
                format!("record that everything is stored under the rotated KEK of key {}", key.id)
            }
            Self::AbandonKey { key, reason } => format!("abandon key {}: {reason}", key.id),
            Self::RetireKey { key_id, .. } => format!("retire key {key_id}"),
            Self::DeleteKey { key_id, .. } => format!("delete the unused key {key_id}"),
            Self::DeleteRevision { revision, .. } => format!("delete revision {revision}"),
        }
    }

    /// The action in the output of `plan --objects -o json`. It contains no secret byte.
    pub fn describe(&self) -> Value {
        let mut value = match self {
            Self::RecordHighWater { key_id, revision } => json!({"keyID": key_id, "revision": revision}),
            Self::RequirePreflight { candidate, .. } => json!({
                "hash": candidate.hash, "for": candidate.purpose.to_string(), "keyID": candidate.key_id,
            }),
            Self::RequireConfigHash { candidate, config_hash } => json!({
                "hash": config_hash, "for": candidate.purpose.to_string(), "keyID": candidate.key_id,
            }),
            Self::ClearPreflight { .. } => json!({}),
            Self::SetTarget { node, spec, what, .. } => json!({
                "node": node, "revision": spec.revision, "what": what,
            }),
            Self::CreateKey { key } => json!({
                "keyID": key.id, "mode": key.mode, "reason": key.internal_reason,
            }),
            Self::UpdateKey { key, fields } => json!({"keyID": key.id, "fields": fields}),
            Self::SyncData { key, objects } => json!({"keyID": key.id, "objects": objects}),
            Self::ApplyConfig { revision, content } => json!({
                "revision": revision, "config": content.config.lists(), "configHash": content.hash(),
            }),
            Self::ApplyManagedConfig { content, .. } => json!({"config": content.config.lists()}),
            Self::RecordPublication { key, revision, again } if again.is_empty() => {
                json!({"keyID": key.id, "revision": revision})
            }
            Self::RecordPublication { key, revision, again } => {
                let again: Vec<String> = again.iter().map(ToString::to_string).collect();
                json!({"keyID": key.id, "revision": revision, "reencryptedAgain": again})
            }
            Self::ReencryptOwn { resources, leaving, .. } => json!({
                "resources": resources.iter().map(ToString::to_string).collect::<Vec<_>>(), "leaving": leaving,
            }),
            Self::StartMigration { resource, spec, .. } => json!({
                "resource": resource.to_string(), "keyID": spec.key_id, "remoteKeyID": spec.remote_key_id,
            }),
            Self::RecordMigrated { resource, key } | Self::ForgetMigrated { resource, key } => json!({
                "resource": resource.to_string(), "keyID": key.id,
            }),
            Self::RecordRotation { key, remote_key_id } => {
                json!({"keyID": key.id, "remoteKeyID": remote_key_id})
            }
            Self::AbandonKey { key, reason } => json!({"keyID": key.id, "reason": reason}),
            Self::RetireKey { key_id, .. } | Self::DeleteKey { key_id, .. } => json!({"keyID": key_id}),
            Self::DeleteRevision { revision, .. } => json!({"revision": revision}),
        };
        let mut described = json!({"kind": self.kind()});
        if let (Some(into), Some(from)) = (described.as_object_mut(), value.as_object_mut()) {
            into.append(from);
        }
        described
    }
}

/// `configmaps kms:2,kms:1,identity; secrets …`.
fn names(resources: &[GroupResource]) -> String {
    resources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn lists(content: &RevisionContent) -> String {
    let lists = content.config.lists();
    let each = lists.iter().map(|(resource, list)| format!("{resource} {}", list.join(",")));
    each.collect::<Vec<_>>().join("; ")
}

/// The reason why the next step waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Bounded label, for example `APIServerRevisionNotConverged`.
    pub reason: String,
    /// What it waits for, and where. The condition `Progressing` shows since when.
    pub message: String,
}

/// When a wait ends if nothing else delays it: this long after a fact got its current value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Until {
    /// One of [`Outcome::facts`].
    pub fact: String,
    /// How long the fact must keep its value.
    pub after: Duration,
}

/// An observation to report in an Event, once when it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// CamelCase, bounded.
    pub reason: String,
    /// The subject. Two notices with the same reason and subject are the same notice, even if their messages differ:
    /// the message of a plugin may contain a request id or a port that changes with each answer.
    pub subject: String,
    /// A message for people. It contains no secret byte.
    pub message: String,
    /// Whether the Event has type Warning; otherwise Normal.
    pub warning: bool,
}

impl Notice {
    /// A notice whose message does not change while it holds.
    pub fn new(warning: bool, reason: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason: reason.to_owned(), subject: message.clone(), message, warning }
    }

    /// The same notice for a message that may change.
    #[must_use]
    pub fn about(self, subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), ..self }
    }
}

/// The whole decision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The component (openshift: components).
    pub operand: String,
    /// Whether every API server was observed to have loaded the same revision.
    pub converged: bool,
    /// Why the next step waits.
    pub waiting: Option<Waiting>,
    /// When that wait ends, if it is known.
    pub until: Option<Until>,
    /// The writes, in order. Empty while Keyward is paused.
    pub actions: Vec<Action>,
    /// The writes that `actions` would contain if Keyward were not paused.
    pub withheld: Vec<Action>,
    /// The conditions of this reconcile pass. A type that is not here keeps its previous condition
    /// (openshift: encrypted-condition).
    pub conditions: Vec<Condition>,
    /// Explanations for people, in order.
    pub explanation: Vec<String>,
    /// Events to emit when they are new.
    pub notices: Vec<Notice>,
    /// Facts whose age matters: the operator measures how long each has had its value (objects: time).
    pub facts: BTreeMap<String, String>,
    /// Facts that are not recorded in `status.since[]`: they change all the time, and mean nothing while they do
    /// (decision 0065).
    pub unrecorded: BTreeSet<String>,
    /// The rest of the status.
    pub view: StatusView,
    /// When to reconcile again even if nothing changes.
    pub requeue_after: Option<Duration>,
}

/// Prefix of the facts about reports of agents. Their ages begin at zero when the cluster could not be read: an agent
/// is not silent because the operator could not read its report (objects: time).
pub const REPORT_FACTS: &str = "report/";

/// Prefix of the facts about keys that fail while a request to forget them waits. Their age begins again when Keyward's
/// own objects could not be re-encrypted: if the KMS of the write key also fails, only a success after that shows that
/// it is available again.
pub const FORGET_FACTS: &str = "forget/";
/// Prefix of the facts that hold only while every pass finds the cluster converged
/// (invariant: verification-needs-convergence).
pub const VERIFYING_FACTS: &str = "verifying/";

/// An API server that is known only by its identity Lease has left when the Lease has not been renewed for this time
/// (objects: api-servers). API servers renew it every ten seconds, and one of them deletes it one to two hours after
/// the last renewal (kubernetes: identity-leases).
pub const LEASE_STOPPED: Duration = Duration::from_mins(5);

/// The fact that an identity Lease was renewed. Like a report, its age begins at zero when the cluster could not be
/// read.
pub fn lease_fact(lease: &str) -> String {
    format!("{REPORT_FACTS}lease/{lease}")
}

/// When the content of one data key of a referenced object first expires, or the credential of a node agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expires {
    /// `secret`, `configmap` or `node`.
    pub kind: String,
    /// Name of the object or node.
    pub name: String,
    /// The data key; `None` if an annotation of the object gives the time, and for a node.
    pub key: Option<String>,
    /// The time.
    pub at: jiff::Timestamp,
    /// Seconds from now; negative if it has expired.
    pub seconds_left: i64,
}

/// The parts of `ClusterEncryption.status` that each reconcile pass computes again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusView {
    /// `status.convergedRevision`.
    pub converged_revision: Revision,
    /// `status.revisions`.
    pub revisions: Vec<RevisionStatus>,
    /// `status.keys`.
    pub keys: Vec<KeyStatus>,
    /// `status.encryptedResources`; `None` keeps the stored value, because the current one is unknown.
    pub encrypted: Option<Vec<String>>,
    /// `status.migrations`.
    pub migrations: Vec<MigrationSummary>,
    /// `status.forget`.
    pub forget: Vec<ForgetStatus>,
    /// `status.paused`.
    pub paused: Option<PauseStatus>,
    /// `status.reencrypt.token`; `None` keeps the stored value.
    pub reencrypted: Option<String>,
    /// `status.plugins`.
    pub plugins: Vec<PluginSummary>,
    /// When referenced objects expire; not in the status.
    pub expiries: Vec<Expires>,
}
