//! `ClusterEncryption/cluster`: the admin's spec, and the observed state.

use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Condition, validation};
use crate::ids::{ConfigHash, KeyId, Mode, RemoteKeyId, Revision};

/// The desired encryption. The admin writes it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "encryption.keyward.dev",
    version = "v1alpha1",
    kind = "ClusterEncryption",
    status = "ClusterEncryptionStatus",
    shortname = "ce",
    category = "keyward",
    doc = "Encryption at rest of the resources that the API servers of this cluster store.",
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".spec.encryption.type"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Encrypted","type":"string","jsonPath":".status.conditions[?(@.type==\"Encrypted\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Encrypted\")].reason"}"#,
    printcolumn = r#"{"name":"Key","type":"integer","jsonPath":".status.highestKeyID"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    crates(kube_core = "kube_core", k8s_openapi = "k8s_openapi")
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = validation::spec)]
pub struct ClusterEncryptionSpec {
    /// The mode of encryption. Required: without it Keyward changes nothing.
    #[serde(default)]
    pub encryption: EncryptionSpec,
    /// The resources to encrypt, as `resource` or `resource.group`. Default: Secrets and ConfigMaps. A resource that is
    /// removed from the list stays encrypted until `decrypt` lists it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>")]
    pub resources: Option<Vec<String>>,
    /// Resources whose decryption is confirmed. A resource that is not in `resources` is decrypted only if it is listed
    /// here. Resources that were never encrypted are allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decrypt: Vec<String>,
    /// Settings of all KMS plugins, independent of the provider type. Changes are applied in place.
    #[serde(default, skip_serializing_if = "PluginSettings::is_default")]
    pub plugins: PluginSettings,
    /// Settings of the API servers that Keyward must know.
    #[serde(default, skip_serializing_if = "ApiServerSettings::is_default")]
    pub api_server: ApiServerSettings,
    /// A token. A new value requests that everything is re-encrypted once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reencrypt: Option<String>,
    /// If present, the operator and the migration engine stop after the current write and update only the status
    /// (`keyward pause`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Pause>,
    /// Requests to forget keys and the data that is stored under them (`keyward forget-key`). A request is carried out
    /// only while its key fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["keyID"]))]
    pub forget: Vec<ForgetRequest>,
}

/// A request to forget a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForgetRequest {
    /// Number of the key.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// Identifies the request. Use an RFC 3339 time; change it to request again.
    #[schemars(length(min = 1, max = 64))]
    pub requested_at: String,
    /// Number of objects that were not proven to be stored under another key when the request was created; absent if
    /// they were not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<u64>,
    /// Accepts that Keyward's own Secrets also become unreadable. Without it, the request waits until they are stored
    /// under another key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept_keyward_loss: bool,
}

/// A request to pause Keyward.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// Why; shown to everybody who finds the cluster paused.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Who paused it.
    #[schemars(length(min = 1, max = 256))]
    pub by: String,
}

/// The mode of encryption, in the form of `spec.encryption` of OpenShift's APIServer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = validation::encryption)]
pub struct EncryptionSpec {
    /// `KMS`, `aescbc`, `aesgcm` or `secretbox`. With `identity`, everything is decrypted.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "validation::mode")]
    pub type_: Option<String>,
    /// The provider `type` and, in a field of its own, its configuration. The API server keeps it as written, because
    /// the provider module defines the fields: a provider module that is loaded later needs no new CRD. If `type` of
    /// `spec.encryption` is KMS and this is absent, it means `type: External` with defaults (a plugin that Keyward does
    /// not run), if that provider module is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "preserved_object")]
    pub kms: Option<Value>,
}

fn preserved_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "required": ["type"],
        "properties": { "type": { "type": "string", "minLength": 1, "maxLength": 63 } },
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

/// Settings of every plugin that Keyward runs. Changes are applied in place.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginSettings {
    /// How long the API server waits for an answer of the plugin: a Go duration; default `10s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "validation::duration")]
    pub timeout: Option<String>,
    /// Proxy for the connections of the plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxySettings>,
    /// Host names that the plugin resolves without DNS. (Cluster DNS is not available when the API server starts.)
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_aliases: Vec<HostAlias>,
    /// Requests and limits of the plugin's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<PluginResources>,
}

impl PluginSettings {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Proxy variables in the environment of the plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.http) && self.http.contains('@')) && !(has(self.https) && self.https.contains('@'))",
    "message": "must not contain user info, because a plugin's environment can be read in its mirror Pod",
}]))]
pub struct ProxySettings {
    /// `HTTP_PROXY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// `HTTPS_PROXY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<String>,
    /// `NO_PROXY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_proxy: Option<String>,
}

/// One line of the plugin's `/etc/hosts`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostAlias {
    /// The IP address.
    pub ip: String,
    /// The host names of this address.
    pub hostnames: Vec<String>,
}

/// Requests and limits, as Kubernetes quantities.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = validation::plugin_resources)]
pub struct PluginResources {
    /// Requests, for example `cpu: 10m`, `memory: 64Mi`.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub requests: std::collections::BTreeMap<String, String>,
    /// Limits. Default: four times the requests.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub limits: std::collections::BTreeMap<String, String>,
}

/// Settings of the API servers that Keyward must know and cannot read from them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiServerSettings {
    /// Must be the same as the API servers' `--request-timeout`: a Go duration; default `60s`. When the write key
    /// changes, requests in flight may still write with the old key for this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "validation::duration")]
    pub request_timeout: Option<String>,
}

impl ApiServerSettings {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The observed state. Only the operator writes it; it contains no secret byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterEncryptionStatus {
    /// The generation of the spec that the conditions are about.
    #[serde(default)]
    pub observed_generation: i64,
    /// Conditions with OpenShift's types and reasons, and in addition `Progressing` and `Ready`. `Ready` is True if
    /// every API server is observed to have everything that this generation of the spec requests; wait for it with
    /// `kubectl wait --for=condition=Ready`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The highest key number ever used. It is raised before a key secret is created, so that no number is used twice.
    #[serde(rename = "highestKeyID", default)]
    pub highest_key_id: KeyId,
    /// The highest revision number ever used.
    #[serde(default)]
    pub highest_revision: Revision,
    /// The last revision that every API server was observed to have loaded.
    #[serde(default)]
    pub converged_revision: Revision,
    /// The revisions that exist, or that a node may have.
    #[serde(default)]
    pub revisions: Vec<RevisionStatus>,
    /// The keys, newest first; also the last retired KMS keys.
    #[serde(default)]
    pub keys: Vec<KeyStatus>,
    /// Resources that may have objects stored under a key, or that have a KMS provider in the configuration of an API
    /// server. While the list is not empty, the ClusterEncryption must not be deleted.
    #[serde(default)]
    #[schemars(transform = validation::status_names)]
    pub encrypted_resources: Vec<String>,
    /// Progress of the migrations under the write key.
    #[serde(default)]
    pub migrations: Vec<MigrationSummary>,
    /// Health of the plugins, as the nodes report it.
    #[serde(default)]
    pub plugins: Vec<PluginSummary>,
    /// The state of each request in `spec.forget`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["keyID"]))]
    pub forget: Vec<ForgetStatus>,
    /// Present while `spec.paused` is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<PauseStatus>,
    /// The state of `spec.reencrypt`.
    #[serde(default)]
    pub reencrypt: ReencryptStatus,
    /// When the facts that a decision waits for were first observed.
    #[serde(default)]
    pub since: Vec<Since>,
}

/// One revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    /// Number of the revision.
    pub n: Revision,
    /// The hash of its configuration, as the API servers' metric shows it.
    pub config_hash: ConfigHash,
    /// The providers of each resource, for example `kms:2`, `aescbc:1`, `identity`; the first one writes.
    pub lists: std::collections::BTreeMap<String, Vec<String>>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyStatus {
    /// Number of the key.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// The mode of encryption.
    pub mode: Mode,
    /// `write`, `read`, `pending` (in no revision yet), `unused`, `abandoned` or `retired` (its key secret is deleted).
    pub role: String,
    /// The provider type, for KMS keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The KEK that the key uses, for KMS keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kek: Option<std::collections::BTreeMap<String, String>>,
    /// The remote key id of its key check.
    #[serde(rename = "remoteKeyID", default, skip_serializing_if = "Option::is_none")]
    pub remote_key_id: Option<RemoteKeyId>,
    /// Why the key was created.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Resources that are completely stored under this key.
    #[serde(default)]
    pub migrated: Vec<String>,
}

/// The migration of one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationSummary {
    /// The resource, as `resource` or `resource.group`.
    pub resource: String,
    /// Number of the key under which the objects are stored; 0 for a decryption.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// `Pending`, `Running`, `Succeeded` or `Failed`.
    pub phase: String,
    /// Number of objects processed.
    pub done: u64,
    /// Number of objects in total, as far as known.
    pub total: u64,
}

/// One plugin on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginSummary {
    /// Name of the node.
    pub node: String,
    /// Number of the key.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// `Healthy`, `Unhealthy`, `Error`, or `Unknown` if the last report is too old.
    pub status: String,
    /// The remote key id that the plugin last reported; `unknown` if it has reported none.
    #[serde(rename = "remoteKeyID", default, skip_serializing_if = "Option::is_none")]
    pub remote_key_id: Option<RemoteKeyId>,
    /// When `status` last changed, by the operator's clock; RFC 3339.
    // Absent in the output of core: the writer sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The cause, if the plugin is not healthy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

/// The state of one request in `spec.forget`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForgetStatus {
    /// Number of the key.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// `requestedAt` of the request.
    pub requested_at: String,
    /// `Pending`, `Accepted`, `CarriedOut` or `Void`.
    pub phase: ForgetPhase,
    /// Why the request is in this phase, and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Phase of a request to forget a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ForgetPhase {
    /// Not decided yet.
    Pending,
    /// The key fails: the operator removes it from the configuration.
    Accepted,
    /// The newest configuration does not contain the key.
    CarriedOut,
    /// The key worked before the request was carried out. Change `requestedAt` to request again.
    Void,
}

/// A pause that is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PauseStatus {
    /// Who paused it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When the operator first observed the pause; RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The next writes of the operator and the migration engine, in order. They follow when `spec.paused` is removed.
    #[serde(default)]
    pub withheld: Vec<String>,
}

/// The state of `spec.reencrypt`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReencryptStatus {
    /// The last token of `spec.reencrypt` that was carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// When one fact got its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Since {
    /// Name of the fact.
    pub fact: String,
    /// Value of the fact.
    pub value: String,
    /// When the operator first observed this value; RFC 3339.
    pub at: String,
}
