//! `EncryptionNode/{node}`: the operator writes the spec, the agent of the node writes the status.

use std::collections::{BTreeMap, BTreeSet};

use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{ConfigHash, KeyId, PluginDigest, RemoteKeyId, Revision};
use crate::provider::Failure;

/// The target of the node. The operator writes the spec.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "encryption.keyward.dev",
    version = "v1alpha1",
    kind = "EncryptionNode",
    status = "EncryptionNodeStatus",
    category = "keyward",
    doc = "State of encryption on one control-plane node.",
    printcolumn = r#"{"name":"Target","type":"integer","jsonPath":".spec.revision"}"#,
    printcolumn = r#"{"name":"Loaded","type":"integer","jsonPath":".status.revision"}"#,
    printcolumn = r#"{"name":"Error","type":"string","jsonPath":".status.error"}"#,
    crates(kube_core = "kube_core", k8s_openapi = "k8s_openapi")
)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionNodeSpec {
    /// The revision to install; 0 if there is none yet.
    #[serde(default)]
    pub revision: Revision,
    /// The hash of the configuration of that revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_hash: Option<ConfigHash>,
    /// A candidate that the node tries beside the plugins in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<PreflightRequest>,
    /// The key checks of the keys in use. Each plugin must decrypt the key check of its key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_checks: Vec<KeyCheckEntry>,
}

/// Why a candidate is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PreflightPurpose {
    /// For a new key.
    NewKey,
    /// For a change of the configuration of the active key in place.
    InPlace,
    /// For new copies of a referenced object in the key secrets, because the object changed.
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
    /// Number of the key that the candidate is for.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// The digest of the candidate. The answer repeats it.
    pub hash: PluginDigest,
    /// Why the candidate is tried.
    pub purpose: PreflightPurpose,
    /// The key check that the candidate must decrypt. If absent, the node creates it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_check: Option<KeyCheck>,
}

/// A ciphertext that only the right KEK decrypts. The plaintext is random and stored nowhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyCheck {
    /// The ciphertext, in base64.
    pub ciphertext: String,
    /// The remote key id under which it was encrypted.
    #[serde(rename = "remoteKeyID")]
    pub remote_key_id: RemoteKeyId,
    /// The annotations that the plugin returned; values in base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// SHA-256 of the plaintext, in hex.
    pub plaintext_sha256: String,
}

/// The key check of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyCheckEntry {
    /// Number of the key.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// The key check.
    pub key_check: KeyCheck,
}

/// The observed state. Only the agent writes it; it contains no secret byte: digests are keyed, and secrets are removed
/// from messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionNodeStatus {
    /// The generation of the spec that this status is about.
    #[serde(default)]
    pub observed_generation: i64,
    /// Name of the identity Lease of the local API server, from the label `apiserver_id_hash` of its metrics.
    #[serde(rename = "apiServerID", default, skip_serializing_if = "Option::is_none")]
    pub api_server_id: Option<String>,
    /// The hash of the configuration that the local API server reports as loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded_hash: Option<ConfigHash>,
    /// The hash of the configuration file on the disk of the node, which the local API server loads next or when it
    /// starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_hash: Option<ConfigHash>,
    /// The revision that is completely installed: its configuration is loaded, and each of its plugins is ready.
    #[serde(default)]
    pub revision: Revision,
    /// The highest key number that this node has ever seen.
    #[serde(rename = "highestKeyID", default)]
    pub highest_key_id: KeyId,
    /// The plugins that run on this node, including those of read keys and candidates.
    #[serde(default)]
    pub plugins: Vec<NodePlugin>,
    /// The remote key ids with which the local API server writes, for each key of which it is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adopted: Vec<Adopted>,
    /// How often the agent renews `plugins`. A report that is not renewed for four times as long is too old. Default:
    /// 30 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_interval_seconds: Option<u32>,
    /// Numbers of the keys whose plugin data is on the disk of this node.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub held: BTreeSet<KeyId>,
    /// The revision that should have been in force when another configuration was in the file or loaded by the local
    /// API server. Objects that were written meanwhile may be stored under any key of this revision. Reported until a
    /// later revision is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drifted: Option<Revision>,
    /// Digests of the running plugins that do not decrypt the key check of their key: they reach another KEK.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kek_mismatch: BTreeSet<PluginDigest>,
    /// Keys whose plugin runs with a credential that an admin replaced on this node (`node-agent recover`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recovered: Vec<RecoveredPlugin>,
    /// Present while the file `/etc/kubernetes/keyward/paused` exists on the node. The agent then changes no
    /// configuration file, link or plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<NodePause>,
    /// When the client certificate of the agent expires; RFC 3339. Absent if the agent uses none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_expires: Option<String>,
    /// The result of `spec.preflight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<PreflightAnswer>,
    /// What prevents the agent from reaching its target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<NodeError>,
}

/// A pause of the agent, by an admin on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePause {
    /// Why the agent is paused: the content of the file.
    pub reason: String,
    /// When the file was last written, by the node's clock; RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The next steps of the agent, in order. It does them when the file is deleted.
    #[serde(default)]
    pub withheld: Vec<String>,
}

/// A plugin whose data differs from the revision of the node, because an admin replaced a credential on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveredPlugin {
    /// Number of the key.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// The digest of the running instance.
    pub digest: PluginDigest,
    /// The objects whose values were replaced, as `secret/name`. Update them, so that all nodes use the new values.
    #[serde(default)]
    pub sources: Vec<String>,
}

/// The remote key id with which the API server writes for all providers of a key: it saw this id last, and a later
/// health check of it succeeded. So its data key is wrapped by that KEK version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Adopted {
    /// Number of the key.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// The remote key id.
    #[serde(rename = "remoteKeyID")]
    pub remote_key_id: RemoteKeyId,
}

/// What prevents the agent from reaching its target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeError {
    /// The revision that could not be installed.
    pub revision: Revision,
    /// A short label, for example `PluginNotReady`, `ConfigurationRefused`, `NodeNotPrepared`.
    pub reason: String,
    /// A message for people.
    pub message: String,
    /// True if the last good configuration was restored.
    #[serde(default)]
    pub put_back: bool,
}

/// One plugin instance, or an external plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePlugin {
    /// Number of the key.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// The digest of the specification and files of the running instance.
    pub digest: PluginDigest,
    /// True if it passed Status, a round trip and the key check, and serves the socket of the key.
    pub ready: bool,
    /// The result of the last probe.
    pub health: PluginHealth,
    /// How often the agent restored its manifest or files after somebody had edited them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repairs: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// The result of the last probe of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginHealth {
    /// `Healthy`, `Unhealthy` or `Error`.
    pub status: HealthStatus,
    /// The remote key id that the plugin last reported; `unknown` if it has reported none.
    #[serde(rename = "remoteKeyID")]
    pub remote_key_id: RemoteKeyId,
    /// When the plugin was last probed; RFC 3339.
    pub last_checked_time: String,
    /// What failed; absent when healthy. At most 1,024 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The failure as the provider module gets it for a diagnosis; absent when healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// Health of a plugin, in the spelling of OpenShift's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum HealthStatus {
    /// All probes passed.
    Healthy,
    /// The plugin answers and reports that it is unhealthy.
    Unhealthy,
    /// A probe failed.
    Error,
}

impl HealthStatus {
    /// The spelling in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
            Self::Error => "Error",
        }
    }
}

/// Result of a preflight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum PreflightResult {
    /// The candidate is starting, or is being probed.
    Running,
    /// Status, the round trip and the key check passed.
    Succeeded,
    /// A probe failed; the agent retries with backoff.
    Failed,
}

/// The result of one preflight request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreflightAnswer {
    /// `hash` of the request.
    pub hash: PluginDigest,
    /// `Running`, `Succeeded` or `Failed`.
    pub result: PreflightResult,
    /// The remote key id that the candidate reports.
    #[serde(rename = "remoteKeyID", default, skip_serializing_if = "Option::is_none")]
    pub remote_key_id: Option<RemoteKeyId>,
    /// Duration of Encrypt and Decrypt together, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_millis: Option<u64>,
    /// Time from the start of the candidate to its first good answer, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_in_millis: Option<u64>,
    /// The key check that was created or decrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_check: Option<KeyCheck>,
    /// What failed. While the candidate starts: what it has logged so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Number of attempts.
    #[serde(default)]
    pub attempts: u32,
}
