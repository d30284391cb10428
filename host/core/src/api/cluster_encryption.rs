//! `ClusterEncryption/cluster`: what the admin wants, and what is.

use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Condition, validation};
use crate::ids::{ConfigHash, KeyId, Mode, RemoteKeyId, Revision};

/// Encryption at rest of what this cluster's API servers store.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "encryption.keyward.dev",
    version = "v1alpha1",
    kind = "ClusterEncryption",
    status = "ClusterEncryptionStatus",
    shortname = "ce",
    category = "keyward",
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
    /// What encrypts. Required: a spec without it asks for nothing, and changes nothing.
    #[serde(default)]
    pub encryption: EncryptionSpec,
    /// What is encrypted, as `resource` or `resource.group`. Secrets and ConfigMaps where it is absent. A resource that
    /// leaves the list stays encrypted until `decrypt` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>")]
    pub resources: Option<Vec<String>>,
    /// Resources whose decryption is confirmed: one that is not in `resources` is decrypted only if it is here. A
    /// resource that was never encrypted may be here too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decrypt: Vec<String>,
    /// Settings of the KMS plugins that are no provider's business; all in place.
    #[serde(default, skip_serializing_if = "PluginSettings::is_default")]
    pub plugins: PluginSettings,
    /// What Keyward has to know of the API servers.
    #[serde(default, skip_serializing_if = "ApiServerSettings::is_default")]
    pub api_server: ApiServerSettings,
    /// A token: a new one asks for everything to be re-encrypted once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reencrypt: Option<String>,
    /// The operator and the migration engine stop after the current write (`keyward pause`). Only the status is updated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Pause>,
    /// Requests to forget keys, with what is stored under them (`keyward forget-key`). A request is carried out only while
    /// its key fails.
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
    /// How many objects were not proven to be stored under another key at the time of the request; absent where they were
    /// not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<u64>,
    /// Accepts that Keyward's own Secrets become unreadable too. Without it, the request waits until they are stored under
    /// another key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept_keyward_loss: bool,
}

/// Who stopped Keyward, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// Why; for everybody who finds the cluster like this.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Who paused it.
    #[schemars(length(min = 1, max = 256))]
    pub by: String,
}

/// The shape of OpenShift's `APIServer.spec.encryption`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = validation::encryption)]
pub struct EncryptionSpec {
    /// `KMS`, `aescbc`, `aesgcm` or `secretbox`. `identity` asks for everything to be decrypted.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "validation::mode")]
    pub type_: Option<String>,
    /// The provider's `type` and, beside it, its configuration. Kept as written: which fields there are is the
    /// provider module's word, so a provider that is loaded later needs no new CRD. Absent where the type is KMS: a
    /// plugin that somebody else runs, `type: External` with nothing said, where such a module is loaded.
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

/// Settings of every plugin that Keyward runs. A change of any is in place.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginSettings {
    /// How long the API server waits for the plugin: a Go duration, `10s` where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "validation::duration")]
    pub timeout: Option<String>,
    /// Proxy of the plugin's connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxySettings>,
    /// Names that the plugin resolves without DNS (cluster DNS is not there when the API server starts).
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

/// Proxy variables of the plugin's environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.http) && self.http.contains('@')) && !(has(self.https) && self.https.contains('@'))",
    "message": "user info is refused: a plugin's environment can be read in its mirror Pod",
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

/// One line of the plugin's hosts file.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostAlias {
    /// The address.
    pub ip: String,
    /// Its names.
    pub hostnames: Vec<String>,
}

/// Requests and limits as Kubernetes quantities.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = validation::plugin_resources)]
pub struct PluginResources {
    /// For example `cpu: 10m`, `memory: 64Mi`.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub requests: std::collections::BTreeMap<String, String>,
    /// Four times the requests where it is absent.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub limits: std::collections::BTreeMap<String, String>,
}

/// What Keyward has to know of the API servers and cannot read from them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiServerSettings {
    /// Must match `--request-timeout`: a Go duration, `60s` where it is absent. A write that is under way when the
    /// write key changes may still carry the old key for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "validation::duration")]
    pub request_timeout: Option<String>,
}

impl ApiServerSettings {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What is. Written by the operator alone; holds no secret byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterEncryptionStatus {
    /// The generation that the conditions speak of.
    #[serde(default)]
    pub observed_generation: i64,
    /// OpenShift's types and reasons, plus `Progressing` and `Ready`. `Ready` is True where everything is as this generation
    /// of the spec asks, on every API server, and that was seen; wait for it with `kubectl wait --for=condition=Ready`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// High-water mark: written before a key secret is made, so that a number is never reused (S5).
    #[serde(rename = "highestKeyID", default)]
    pub highest_key_id: KeyId,
    /// The same for revisions.
    #[serde(default)]
    pub highest_revision: Revision,
    /// The last revision that every API server was seen to have loaded.
    #[serde(default)]
    pub converged_revision: Revision,
    /// The kept revisions.
    #[serde(default)]
    pub revisions: Vec<RevisionStatus>,
    /// The keys in use, newest first.
    #[serde(default)]
    pub keys: Vec<KeyStatus>,
    /// Resources of which something may be stored under a key, or that have a KMS provider in the configuration of an API
    /// server. While there is one, the object must not be deleted.
    #[serde(default)]
    #[schemars(transform = validation::status_names)]
    pub encrypted_resources: Vec<String>,
    /// Progress of the migrations under the write key.
    #[serde(default)]
    pub migrations: Vec<MigrationSummary>,
    /// Health of the plugins as the nodes report it.
    #[serde(default)]
    pub plugins: Vec<PluginSummary>,
    /// The state of each entry of `spec.forget`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["keyID"]))]
    pub forget: Vec<ForgetStatus>,
    /// Present while `spec.paused` is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<PauseStatus>,
    /// The last token of `spec.reencrypt` that was carried out.
    #[serde(default)]
    pub reencrypt: ReencryptStatus,
    /// When facts that something waits on were first seen, so that a dump replays (OBJECTS.md, "Time").
    #[serde(default)]
    pub since: Vec<Since>,
}

/// One kept revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    /// Its number.
    pub n: Revision,
    /// The hash of its configuration as the API servers' metric shows it.
    pub config_hash: ConfigHash,
    /// Each resource's providers in CONTRACT.md's notation, the writer first.
    pub lists: std::collections::BTreeMap<String, Vec<String>>,
}

/// One key as an admin sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyStatus {
    /// Its number.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// How it encrypts.
    pub mode: Mode,
    /// `write`, `read`, `pending` (in no revision yet), `unused`, `abandoned` or `retired` (its secret is gone).
    pub role: String,
    /// The provider's type, for KMS keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Which KEK it names, for KMS keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kek: Option<std::collections::BTreeMap<String, String>>,
    /// The remote key id of its key check.
    #[serde(rename = "remoteKeyID", default, skip_serializing_if = "Option::is_none")]
    pub remote_key_id: Option<RemoteKeyId>,
    /// Why it was made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Resources all of whose objects were rewritten under it.
    #[serde(default)]
    pub migrated: Vec<String>,
}

/// One resource's migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationSummary {
    /// What is migrated.
    pub resource: String,
    /// Under which key.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// `Pending`, `Running`, `Succeeded` or `Failed`.
    pub phase: String,
    /// Objects dealt with.
    pub done: u64,
    /// Objects in all, as far as known.
    pub total: u64,
}

/// One plugin on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginSummary {
    /// Where.
    pub node: String,
    /// Which key's.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// `Healthy`, `Unhealthy`, `Error`, or `Unknown` where nothing was heard of it for too long.
    pub status: String,
    /// What it last called its KEK; `unknown` before it said anything.
    #[serde(rename = "remoteKeyID", default, skip_serializing_if = "Option::is_none")]
    pub remote_key_id: Option<RemoteKeyId>,
    /// RFC 3339; when `status` became this one, by the operator's clock. Absent in core's output: the writer fills it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

/// The state of one entry of `spec.forget`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForgetStatus {
    /// Number of the key.
    #[serde(rename = "keyID")]
    pub key_id: KeyId,
    /// `requestedAt` of the request.
    pub requested_at: String,
    /// Phase of the request.
    pub phase: ForgetPhase,
    /// Why, and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Phase of a request to forget a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ForgetPhase {
    /// Not decided yet.
    Pending,
    /// The key fails: it is about to leave the configuration.
    Accepted,
    /// The newest configuration is without the key.
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
    /// When the operator first saw the pause, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// What the operator and the migration engine do next when `spec.paused` is removed.
    #[serde(default)]
    pub withheld: Vec<String>,
}

/// What became of `spec.reencrypt`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReencryptStatus {
    /// The token that was carried out last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// When a fact took its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Since {
    /// What it is about.
    pub fact: String,
    /// Its value.
    pub value: String,
    /// RFC 3339; when the operator first saw that value.
    pub at: String,
}
