//! What one reconcile decides: actions in order, conditions, and why.

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

/// The fact that tells for how long a resource's migration has made no progress.
pub fn migration_idle_fact(resource: &GroupResource) -> String {
    format!("migration-idle/{resource}")
}

/// One write, with its precondition: create-only where there is no resourceVersion, else exactly that version. The
/// writer applies them in order and stops at the first that fails; the next reconcile decides again.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Raise the high-water marks in `ClusterEncryption.status` (S5), before what they speak of is made.
    RecordHighWater {
        /// `status.highestKeyID` to be.
        key_id: KeyId,
        /// `status.highestRevision` to be.
        revision: Revision,
    },
    /// Write the Secret `encryption-preflight`: create it, or replace the version that was read.
    RequirePreflight {
        /// What is to be tried.
        candidate: Box<Candidate>,
        /// Of the Secret as read; `None` where there is none.
        resource_version: Option<String>,
    },
    /// OpenShift: ask for a preflight by writing the candidate's hash into the operator CR's status (CONTRACT 3.1, 7).
    RequireConfigHash {
        /// What is to be tried; its digest goes beside the hash (Decisions 3).
        candidate: Box<Candidate>,
        /// CONTRACT 1.7.
        config_hash: String,
    },
    /// Delete the Secret `encryption-preflight`: nothing is to be tried any more.
    ClearPreflight {
        /// Of the Secret as read.
        resource_version: String,
    },
    /// Write one `EncryptionNode.spec`: target revision, preflight request, canaries.
    SetTarget {
        /// Which node.
        node: String,
        /// The whole spec.
        spec: Box<EncryptionNodeSpec>,
        /// Of the object as read; `None` where it does not exist yet.
        resource_version: Option<String>,
        /// In words: `revision 3`, `preflight of key 2`.
        what: String,
    },
    /// Make a key secret (create-only).
    CreateKey {
        /// All of it.
        key: Box<KeySecret>,
    },
    /// In-place update of a key secret (Decisions 1).
    UpdateKey {
        /// All of it, with the resourceVersion that it depends on.
        key: Box<KeySecret>,
        /// Which fields of the configuration changed.
        fields: Vec<String>,
    },
    /// Copies of referenced objects follow (Decisions 2).
    SyncData {
        /// All of it, with the resourceVersion that it depends on.
        key: Box<KeySecret>,
        /// Which objects changed, as `secret/name`.
        objects: Vec<String>,
    },
    /// Make the Secret `encryption-config-{n}` (create-only): the next one, or a lost one anew.
    ApplyConfig {
        /// Its number.
        revision: Revision,
        /// All of it.
        content: Box<RevisionContent>,
    },
    /// OpenShift: write the Secret `encryption-config-{component}` as a whole (CONTRACT 3.2).
    ApplyManagedConfig {
        /// All of it.
        content: Box<RevisionContent>,
        /// Of the Secret as read; `None` where there is none.
        resource_version: Option<String>,
    },
    /// Annotate the key secret before a revision may have it first (Decisions 5), and again before each that makes it the
    /// writer of something once more.
    RecordPublication {
        /// All of it, with the resourceVersion that it depends on.
        key: Box<KeySecret>,
        /// That revision.
        revision: Revision,
    },
    /// Rewrite the Secrets and ConfigMaps of Keyward's namespace, so that they are stored under the write key, before a key
    /// leaves that was given up. Changes nothing of what they say.
    ReencryptOwn {
        /// Which resources of the namespace.
        resources: Vec<GroupResource>,
        /// The keys that are about to leave.
        leaving: Vec<KeyId>,
        /// Whether the actions after it depend on it. They do not where an admin accepts the loss of these objects.
        required: bool,
    },
    /// Make, or turn to another key, the `EncryptionMigration` of a resource.
    StartMigration {
        /// What is rewritten.
        resource: GroupResource,
        /// The whole spec.
        spec: Box<EncryptionMigrationSpec>,
        /// Of the object as read; `None` where there is none.
        resource_version: Option<String>,
    },
    /// Record a resource as migrated on the key secret.
    RecordMigrated {
        /// Which.
        resource: GroupResource,
        /// All of it, with the resourceVersion that it depends on.
        key: Box<KeySecret>,
    },
    /// Take back that a resource is recorded as migrated, before it is written in another way again (Decisions 11).
    ForgetMigrated {
        /// Which.
        resource: GroupResource,
        /// All of it, with the resourceVersion that it depends on.
        key: Box<KeySecret>,
    },
    /// Record that everything was re-encrypted after the KMS rotated its key (Decisions 6).
    RecordRotation {
        /// All of it, with the resourceVersion that it depends on.
        key: Box<KeySecret>,
        /// What the plugin calls its KEK now.
        remote_key_id: RemoteKeyId,
    },
    /// Annotate a key that no revision ever had first as superseded (Decisions 5).
    AbandonKey {
        /// All of it, with the resourceVersion that it depends on.
        key: Box<KeySecret>,
        /// Why it is superseded.
        reason: String,
    },
    /// Delete the key secret of a KMS provider that has left every configuration (Decisions 7).
    RetireKey {
        /// Its number.
        key_id: KeyId,
        /// Of the Secret as read.
        resource_version: String,
    },
    /// Delete an unused key secret beyond the ten newest (CONTRACT 3.4).
    DeleteKey {
        /// Its number.
        key_id: KeyId,
        /// Of the Secret as read.
        resource_version: String,
    },
    /// Delete a revision that nothing names any more.
    DeleteRevision {
        /// Which.
        revision: Revision,
        /// Of the Secret as read.
        resource_version: String,
    },
}

/// What a preflight tries: one key's entries as a revision would carry them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The key that it is for.
    pub key_id: KeyId,
    /// Why.
    pub purpose: PreflightPurpose,
    /// What its plugin needs; has a salt.
    pub plugin: PluginRecord,
    /// Its digest.
    pub hash: PluginDigest,
}

impl Action {
    /// CLI.md's `kind`; also the bounded label of metrics.
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

    /// Whether the actions after it are carried out where it fails.
    pub fn is_optional(&self) -> bool {
        matches!(self, Self::ReencryptOwn { required: false, .. })
    }

    /// What it does, for people, on one line and in the imperative. Never a secret byte.
    pub fn sentence(&self) -> String {
        match self {
            Self::RecordHighWater { key_id, revision } => {
                format!("record key number {key_id} and revision {revision} as used")
            }
            Self::RequirePreflight { candidate, .. } | Self::RequireConfigHash { candidate, .. } => {
                format!("have a node try the plugin of key {} ({})", candidate.key_id, candidate.purpose)
            }
            Self::ClearPreflight { .. } => "end the trial of a plugin".to_owned(),
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
            Self::RecordPublication { key, revision } => {
                format!("make key {} a write key with revision {revision}", key.id)
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
                "re-encrypt all {resource} under key {} again, since some may be stored in another way",
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

    /// CLI.md's form of `plan --objects -o json`. Never a secret byte.
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
            Self::RecordPublication { key, revision } => json!({"keyID": key.id, "revision": revision}),
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
fn lists(content: &RevisionContent) -> String {
    let lists = content.config.lists();
    let each = lists.iter().map(|(resource, list)| format!("{resource} {}", list.join(",")));
    each.collect::<Vec<_>>().join("; ")
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Bounded label, for example `APIServerRevisionNotConverged`.
    pub reason: String,
    /// For people: what, and where. Since when is told by the condition `Progressing`.
    pub message: String,
}

/// When a wait ends where nothing else delays it: so long after a fact took the value that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Until {
    /// One of [`Outcome::facts`].
    pub fact: String,
    /// How long the fact must keep its value.
    pub after: Duration,
}

/// Something worth an Event: said once when it begins to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// CamelCase, bounded.
    pub reason: String,
    /// What it is about. Two notices of one reason and subject are the same one, whatever their words: a plugin's words
    /// may have a request id or a port in them that is another in each answer.
    pub subject: String,
    /// For people; no secret byte.
    pub message: String,
    /// Warning or Normal.
    pub warning: bool,
}

impl Notice {
    /// A notice whose words do not change while it holds.
    pub fn new(warning: bool, reason: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason: reason.to_owned(), subject: message.clone(), message, warning }
    }

    /// The same, whatever its words become.
    #[must_use]
    pub fn about(self, subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), ..self }
    }
}

/// The whole decision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The operand's component, CONTRACT 1.1.
    pub operand: String,
    /// Every API server has loaded the same revision, observed.
    pub converged: bool,
    /// What the next step waits for.
    pub waiting: Option<Waiting>,
    /// When that wait ends, where it can be known.
    pub until: Option<Until>,
    /// In order. Empty while Keyward is paused.
    pub actions: Vec<Action>,
    /// What `actions` would be if Keyward were not paused.
    pub withheld: Vec<Action>,
    /// Those of this reconcile; a type that is not here keeps what it had (CONTRACT 3.5).
    pub conditions: Vec<Condition>,
    /// Why, in order, for people.
    pub explanation: Vec<String>,
    /// Events to emit when they are new.
    pub notices: Vec<Notice>,
    /// Facts whose age matters: the operator tells how long each has had its value (OBJECTS.md, "Time").
    pub facts: BTreeMap<String, String>,
    /// Those of them that are not to be told in `status.since[]`: they change all the time, and mean nothing while they do.
    pub unrecorded: BTreeSet<String>,
    /// The rest of the aggregate status.
    pub view: StatusView,
    /// When to look again though nothing changes.
    pub requeue_after: Option<Duration>,
}

/// Names of facts about what agents report begin with this. A time in which nothing could be looked at does not count as
/// one in which an agent said nothing.
pub const REPORT_FACTS: &str = "report/";

/// Names of facts about keys that fail while a request to forget them waits begin with this. They begin again once Keyward's
/// own objects could not be re-encrypted: where the write key's KMS fails too, a success after that says that it is back.
pub const FORGET_FACTS: &str = "forget/";
/// Facts that begin with this hold only as long as each pass sees the whole cluster converged; see `controllers/evidence.rs`.
pub const VERIFYING_FACTS: &str = "verifying/";

/// A server of which only its identity Lease tells has left when that was not renewed for so long (S2). API servers renew it
/// every ten seconds, and it is deleted an hour after.
pub const LEASE_STOPPED: Duration = Duration::from_mins(5);

/// The fact that an identity Lease was renewed. As with reports, a time in which nothing could be looked at does not count.
pub fn lease_fact(lease: &str) -> String {
    format!("{REPORT_FACTS}lease/{lease}")
}

/// When the first of what is in one data key of a referenced object expires, or the credential of a node's agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expires {
    /// Bounded: `secret`, `configmap`, `node`.
    pub kind: String,
    /// Whose.
    pub name: String,
    /// Which data key; `None` where the object itself says so, and for a node.
    pub key: Option<String>,
    /// When.
    pub at: jiff::Timestamp,
    /// Seconds from now; below zero once it has expired.
    pub seconds_left: i64,
}

/// Those parts of `ClusterEncryption.status` that are computed anew each time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusView {
    /// `status.convergedRevision`.
    pub converged_revision: Revision,
    /// `status.revisions`.
    pub revisions: Vec<RevisionStatus>,
    /// `status.keys`.
    pub keys: Vec<KeyStatus>,
    /// `status.encryptedResources`; `None` leaves what is there, where it cannot be known now.
    pub encrypted: Option<Vec<String>>,
    /// `status.migrations`.
    pub migrations: Vec<MigrationSummary>,
    /// `status.forget`.
    pub forget: Vec<ForgetStatus>,
    /// `status.paused`.
    pub paused: Option<PauseStatus>,
    /// `status.reencrypt.token`; `None` leaves what stands there.
    pub reencrypted: Option<String>,
    /// `status.plugins`.
    pub plugins: Vec<PluginSummary>,
    /// When what configurations refer to expires; no part of the status.
    pub expiries: Vec<Expires>,
}
