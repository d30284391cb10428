//! `EncryptionNode/{node}`: where operator and node agent meet. Spec by the operator, status by that node's agent.

use std::collections::{BTreeMap, BTreeSet};

use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{ConfigHash, KeyId, PluginDigest, RemoteKeyId, Revision};
use crate::provider::Failure;

/// One control-plane node.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "encryption.keyward.dev",
    version = "v1alpha1",
    kind = "EncryptionNode",
    status = "EncryptionNodeStatus",
    category = "keyward",
    printcolumn = r#"{"name":"Target","type":"integer","jsonPath":".spec.revision"}"#,
    printcolumn = r#"{"name":"Loaded","type":"integer","jsonPath":".status.revision"}"#,
    printcolumn = r#"{"name":"Error","type":"string","jsonPath":".status.error"}"#,
    crates(kube_core = "kube_core", k8s_openapi = "k8s_openapi")
)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionNodeSpec {
    /// The revision to install; 0 for none yet.
    #[serde(default)]
    pub revision: Revision,
    /// The hash of its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_hash: Option<ConfigHash>,
    /// A candidate to try, next to what runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<PreflightRequest>,
    /// The key checks of the keys in use; each plugin must be able to decrypt its key's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_checks: Vec<KeyCheckEntry>,
}

/// Why a candidate is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PreflightPurpose {
    /// A new key is to be made.
    NewKey,
    /// The active key's configuration is to change in place.
    InPlace,
    /// A referenced object changed: its copies in key secrets are to follow.
    Sync,
}

impl std::fmt::Display for PreflightPurpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NewKey => "new-key",
            Self::InPlace => "in-place",
            Self::Sync => "sync",
        })
    }
}

/// A request to try the candidate in the Secret `encryption-preflight`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreflightRequest {
    /// The key that the candidate is for.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// The candidate's digest: links request and answer.
    pub hash: PluginDigest,
    /// Why.
    pub purpose: PreflightPurpose,
    /// What the candidate must decrypt; absent on the first node of a new key, which makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_check: Option<KeyCheck>,
}

/// A ciphertext that only the right KEK decrypts. The plaintext is random, and nowhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyCheck {
    /// Base64.
    pub ciphertext: String,
    /// The remote key id under which it was made.
    #[serde(rename = "remoteKeyID")]
    pub remote_key_id: RemoteKeyId,
    /// The plugin's annotations, values in base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Hex.
    pub plaintext_sha256: String,
}

/// A key check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyCheckEntry {
    /// The key.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// Its key check.
    pub key_check: KeyCheck,
}

/// What the agent sees. No secret byte: digests are keyed, messages cleaned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionNodeStatus {
    /// The generation of the spec that this answers.
    #[serde(default)]
    pub observed_generation: i64,
    /// The name of the local API server's identity Lease, as its metrics' `apiserver_id_hash` shows.
    #[serde(rename = "apiServerID", default, skip_serializing_if = "Option::is_none")]
    pub api_server_id: Option<String>,
    /// The hash that the local API server says it has loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded_hash: Option<ConfigHash>,
    /// The hash of the configuration file on the node's disk: what the local API server loads next, or starts with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_hash: Option<ConfigHash>,
    /// The revision that is installed completely: configuration loaded, every plugin of it ready.
    #[serde(default)]
    pub revision: Revision,
    /// High-water mark on the node's disk.
    #[serde(rename = "highestKeyID", default)]
    pub highest_key_id: KeyId,
    /// The plugins that run here, read ones and candidates too.
    #[serde(default)]
    pub plugins: Vec<NodePlugin>,
    /// What every provider of a key uses at this API server, by the server's own word (DESIGN.md, Decisions 6); a key
    /// of which that cannot be said is not here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adopted: Vec<Adopted>,
    /// How often `plugins` is renewed, whatever comes of the probes: who renews nothing for four times as long is not
    /// heard of any more. Absent from agents that do not say: 30 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_interval_seconds: Option<u32>,
    /// Keys whose plugin's data is on this node's disk, in kept revisions or in files.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub held: BTreeSet<KeyId>,
    /// The revision that was to be in force when the local API server had loaded a configuration that is none: what was
    /// written meanwhile may be under any of the revision's keys. Told until a later revision is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drifted: Option<Revision>,
    /// Plugins that run here and do not decrypt their key check: they reach another KEK than the one that it was made
    /// with, by their digests.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kek_mismatch: BTreeSet<PluginDigest>,
    /// Keys whose plugin runs with data that an admin replaced on this node by hand (`node-agent recover`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recovered: Vec<RecoveredPlugin>,
    /// Present while the file `/etc/kubernetes/keyward/paused` exists on the node: the agent changes no configuration file, link
    /// or plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<NodePause>,
    /// When the client certificate by which this agent speaks to the API ends; RFC 3339. Absent where it uses none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_expires: Option<String>,
    /// The answer to `spec.preflight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<PreflightAnswer>,
    /// What keeps the agent from the target, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<NodeError>,
}

/// An agent that an admin has paused on its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePause {
    /// The content of the file.
    pub reason: String,
    /// When the file was last written, by the node's clock; RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The agent's next steps, in order: it does them when the file is deleted.
    #[serde(default)]
    pub withheld: Vec<String>,
}

/// A plugin whose data are not those of the node's revision: an admin replaced a credential here (DESIGN.md, Decisions 12).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveredPlugin {
    /// Whose.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// The digest of what runs.
    pub digest: PluginDigest,
    /// The objects of which values were replaced, as `secret/name`: they are to be updated, so that all nodes follow.
    #[serde(default)]
    pub sources: Vec<String>,
}

/// Which KEK (version) an API server writes with for all of a key's providers: it saw that id last, and a health check
/// of it was good afterwards, so that its data key is wrapped by that one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Adopted {
    /// Whose providers.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// The id.
    #[serde(rename = "remoteKeyID")]
    pub remote_key_id: RemoteKeyId,
}

/// Why a node is stuck.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeError {
    /// The revision that it failed at.
    pub revision: Revision,
    /// Bounded label, for example `PluginNotReady`, `ConfigurationRefused`, `NodeNotPrepared`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Set when the last good configuration was put back.
    #[serde(default)]
    pub put_back: bool,
}

/// One plugin instance that serves a key's socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePlugin {
    /// Whose.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// The digest of spec and files of the *running* instance.
    pub digest: PluginDigest,
    /// Whether it passed Status, a round trip and the key check, and serves the key's socket.
    pub ready: bool,
    /// The last probe.
    pub health: PluginHealth,
    /// How often its manifest or its files were written anew on this node because somebody had edited them by hand.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repairs: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// The last probe of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginHealth {
    /// `Healthy`, `Unhealthy` or `Error`.
    pub status: HealthStatus,
    /// What the plugin last called its KEK; `unknown` before it said anything.
    #[serde(rename = "remoteKeyID")]
    pub remote_key_id: RemoteKeyId,
    /// RFC 3339.
    pub last_checked_time: String,
    /// Absent when healthy; at most 1,024 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The same as the provider's diagnosis wants it; absent when healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// Spelled as in CONTRACT 3.10.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum HealthStatus {
    /// All probes passed.
    Healthy,
    /// The plugin answers, and says that it is not well.
    Unhealthy,
    /// A probe failed.
    Error,
}

impl HealthStatus {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
            Self::Error => "Error",
        }
    }
}

/// How a preflight ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum PreflightResult {
    /// The candidate is being started or tried.
    Running,
    /// Status, round trip and key check passed.
    Succeeded,
    /// It failed; the agent tries again with back-off.
    Failed,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreflightAnswer {
    /// The request's.
    pub hash: PluginDigest,
    /// How it went.
    pub result: PreflightResult,
    /// What the candidate calls its KEK.
    #[serde(rename = "remoteKeyID", default, skip_serializing_if = "Option::is_none")]
    pub remote_key_id: Option<RemoteKeyId>,
    /// Encrypt and Decrypt together, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_millis: Option<u64>,
    /// From the candidate's start to its first good answer, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_in_millis: Option<u64>,
    /// The key check that was made, or the one that was decrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_check: Option<KeyCheck>,
    /// What went wrong; while it runs, what it has logged though nobody can talk to it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// How often it was tried.
    #[serde(default)]
    pub attempts: u32,
}
