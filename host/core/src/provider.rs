//! The answers of provider modules, as data.
//!
//! These are the records of `wit/v0/provider.wit` as types of the host, and the [`Evaluator`] trait that the engine
//! implements. Core never calls it: the operator and the CLI request each evaluation once and put the result into the
//! snapshot (decision 0016).

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

/// `sha256:` and the hex digest of a component's bytes: it identifies the provider module that answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModuleDigest(pub String);

/// The effect of a change on stored data, in ascending order of cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Nothing changes.
    None,
    /// Keyward pauses: only the status is written. This effect and [`Self::Resume`] come from the rest of the spec.
    Pause,
    /// A pause ends, and the withheld writes follow.
    Resume,
    /// The plugin is replaced or restarted; stored data does not change.
    InPlace,
    /// Another version of the same KEK: the key changes in place, then everything is re-encrypted.
    ReEncrypt,
    /// Another KEK: a new key secret, then everything is re-encrypted under it.
    NewKey,
    /// Stored data is decrypted. This effect comes from the rest of the spec: no field of a KMS configuration has it.
    Decrypt,
    /// A key is forgotten, and the data that is stored under it becomes unreadable. This effect comes from the rest of
    /// the spec.
    Forget,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::InPlace => "in-place",
            Self::ReEncrypt => "re-encrypt",
            Self::NewKey => "new-key",
            Self::Decrypt => "decrypt",
            Self::Forget => "forget",
        })
    }
}

/// The effect of a change of one field, with a reason for the admin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldRule {
    /// Path below the KMS configuration: `tls.serverName`, `labels.*`, `hosts[]`.
    pub field: String,
    /// The effect of changing it.
    pub effect: Effect,
    /// The reason, for the admin.
    pub reason: String,
}

/// A provider module's description of itself. The host knows nothing else about the KMS product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The value of `kms.type`, for example `Vault`.
    pub provider_type: String,
    /// The field beside `type` that contains the configuration, for example `vault`.
    pub config_field: String,
    /// Path of the plugin's image in the *normalized* configuration; absent if Keyward runs no plugin.
    pub image_field: Option<String>,
    /// Kubernetes structural schema of the configuration.
    pub config_schema: Value,
    /// One rule for each leaf of the schema.
    pub rules: Vec<FieldRule>,
    /// Facts; an open set: `remote-key-id`, `status`, `credentials`, `docs`.
    pub facts: BTreeMap<String, String>,
    /// The provider module that returned this description.
    pub module: ModuleDigest,
}

/// Kind of a referenced object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReferenceKind {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

impl fmt::Display for ReferenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret => "secret",
            Self::ConfigMap => "configmap",
        })
    }
}

/// One data key of a referenced object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyRef {
    /// Secret or ConfigMap.
    pub kind: ReferenceKind,
    /// Name of the object, in the platform's namespace for referenced objects.
    pub name: String,
    /// The data key.
    pub key: String,
}

/// How the host passes a referenced value to the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exposure {
    /// As a mounted file.
    File,
    /// In the environment or a rendered file. Refused if the value would be readable in a Pod.
    SecretValue,
    /// Allowed in arguments.
    PublicValue,
}

/// An object outside the configuration that the configuration needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The referenced data key.
    pub source: KeyRef,
    /// How its value is passed to the plugin.
    pub exposure: Exposure,
    /// Whether the plugin cannot start without it.
    pub required: bool,
    /// The field of the configuration that references it.
    pub field: String,
}

/// One mistake in a configuration, or one warning about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Path below the KMS configuration; empty for the whole.
    pub field: String,
    /// The mistake, for the admin.
    pub message: String,
}

/// The identity of a KEK. Two configurations use the same KEK if and only if their `key` parts are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Kek {
    /// If these differ, the KEK differs.
    pub key: BTreeMap<String, String>,
    /// If only these differ, it is another version of the same KEK.
    pub version: BTreeMap<String, String>,
}

/// A part of a text in a rendered plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Literal text.
    Text(String),
    /// A value that the host fills in per node and plugin instance: `socket-uri`, `socket-path`, `key-id`, `node-name`,
    /// `port:NAME`.
    Host(String),
    /// The path at which a referenced value is mounted.
    Path(KeyRef),
    /// A referenced value; in arguments only with [`Exposure::PublicValue`].
    Value(KeyRef),
    /// The path of a rendered file.
    Rendered(String),
}

/// One environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// Name of the variable.
    pub name: String,
    /// Value of the variable.
    pub value: Vec<Part>,
}

/// One file that the host renders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderedFile {
    /// Name of the file, without a path.
    pub name: String,
    /// Content of the file.
    pub content: Vec<Part>,
}

/// An HTTP probe on a port of the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpProbe {
    /// The name of a port in [`Container::ports`].
    pub port: String,
    /// The path, beginning with a slash.
    pub path: String,
}

/// Everything that a plugin may request. The host decides about image, privileges, mounts and limits (decision 0025).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// The entry point; empty for the one of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Arguments, each made of parts.
    #[serde(default)]
    pub args: Vec<Vec<Part>>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Files that the host renders.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<RenderedFile>,
    /// Names of the ports that the host assigns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// A probe of the plugin itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HttpProbe>,
    /// CPU request in millicores.
    pub cpu_request_millis: u32,
    /// Memory request in MiB.
    pub memory_request_mib: u32,
    /// Settings; an open set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// Who runs the plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plugin {
    /// The host runs this container.
    Managed(Container),
    /// Somebody else runs it; it listens at this endpoint (`unix:///…`).
    External(String),
}

/// The source of a configuration: the spec or a key secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Origin {
    /// The spec: used as it is.
    Desired,
    /// A key secret. An earlier module version may have accepted it, so the module's `upgrade` runs first.
    Stored,
}

/// A request to evaluate a complete `kms` object (`type` and the configuration beside it). Each decision looks up many
/// evaluations, so the lookup compares the objects ([`EvaluationKey`]) and does not serialize them.
#[derive(Clone, Debug)]
pub struct EvaluationRequest {
    /// The source of the object.
    pub origin: Origin,
    /// Compact JSON of the `kms` object: equal requests are equal keys.
    pub kms: Arc<str>,
    /// The object whose JSON is `kms`.
    object: Arc<Value>,
}

impl EvaluationRequest {
    /// The request for this `kms` object.
    pub fn new(origin: Origin, kms: &Value) -> Self {
        Self { origin, kms: kms.to_string().into(), object: Arc::new(kms.clone()) }
    }
}

/// The key of an evaluation. Two are equal if and only if the JSON of their objects is equal, including the order of
/// fields.
pub trait EvaluationKey {
    /// The origin and the `kms` object.
    fn parts(&self) -> (Origin, &Value);
}

impl EvaluationKey for EvaluationRequest {
    fn parts(&self) -> (Origin, &Value) {
        (self.origin, &self.object)
    }
}

impl EvaluationKey for (Origin, &Value) {
    fn parts(&self) -> (Origin, &Value) {
        *self
    }
}

impl<'a> Borrow<dyn EvaluationKey + 'a> for EvaluationRequest {
    fn borrow(&self) -> &(dyn EvaluationKey + 'a) {
        self
    }
}

impl Ord for dyn EvaluationKey + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        let ((origin, kms), (other_origin, other_kms)) = (self.parts(), other.parts());
        origin.cmp(&other_origin).then_with(|| order(kms, other_kms))
    }
}

impl PartialOrd for dyn EvaluationKey + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn EvaluationKey + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for dyn EvaluationKey + '_ {}

impl Ord for EvaluationRequest {
    fn cmp(&self, other: &Self) -> Ordering {
        (self as &dyn EvaluationKey).cmp(other)
    }
}

impl PartialOrd for EvaluationRequest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for EvaluationRequest {
    fn eq(&self, other: &Self) -> bool {
        self.origin == other.origin && self.kms == other.kms
    }
}

impl Eq for EvaluationRequest {}

impl Hash for EvaluationRequest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.origin, &self.kms).hash(state);
    }
}

/// A total order of JSON values. Values are equal if and only if their JSON is equal.
fn order(one: &Value, other: &Value) -> Ordering {
    let kind = |value: &Value| match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    };
    match (one, other) {
        (Value::Bool(one), Value::Bool(other)) => one.cmp(other),
        (Value::Number(one), Value::Number(other)) => {
            // The JSON of 1 and 1.0 differs, and so does that of 0.0 and -0.0.
            let number = |n: &Number| (n.as_u64(), n.as_i64(), n.as_f64().map(f64::to_bits));
            number(one).cmp(&number(other))
        }
        (Value::String(one), Value::String(other)) => one.cmp(other),
        (Value::Array(one), Value::Array(other)) => {
            let pairs = one.iter().zip(other);
            let first = pairs.map(|(one, other)| order(one, other)).find(|order| order.is_ne());
            first.unwrap_or_else(|| one.len().cmp(&other.len()))
        }
        (Value::Object(one), Value::Object(other)) => {
            let pairs = one.iter().zip(other);
            let first = pairs
                .map(|((name, value), (other_name, other_value))| {
                    name.cmp(other_name).then_with(|| order(value, other_value))
                })
                .find(|order| order.is_ne());
            first.unwrap_or_else(|| one.len().cmp(&other.len()))
        }
        _ => kind(one).cmp(&kind(other)),
    }
}

/// The result of a provider module for one configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluation {
    /// The value of `kms.type`.
    pub provider_type: String,
    /// The normal form of the configuration (the value of the config field).
    pub normalized: Value,
    /// Warnings about an accepted configuration; paths are below the configuration, as in rules.
    pub warnings: Vec<Violation>,
    /// Identity of the KEK.
    pub kek: Kek,
    /// The referenced objects.
    pub references: Vec<Reference>,
    /// The rendering: how the plugin is started.
    pub rendered: Plugin,
    /// The image, from the descriptor's `image-field`; absent for an external plugin.
    pub image: Option<String>,
    /// Permissions that the plugin needs in the KMS, for the admin.
    pub requirements: Vec<String>,
    /// Facts of the descriptor.
    pub facts: BTreeMap<String, String>,
    /// Paths of the fields of the configuration, in the order of the descriptor's rules, which is the order in their
    /// type.
    #[serde(default)]
    pub field_order: Vec<String>,
    /// The provider module that returned this.
    pub module: ModuleDigest,
}

/// Why there is no evaluation. The key stays as deployed, and a condition reports the error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum ProviderError {
    /// No provider module of this type is loaded.
    #[error(
        "unsupported KMS provider type {provider_type:?}; loaded providers: {}{}{}",
        or_none(loaded),
        rejected(refused),
        crate::spelling::hint(provider_type, loaded.iter().map(String::as_str))
    )]
    NotLoaded {
        /// The requested type.
        provider_type: String,
        /// The types that are loaded.
        loaded: Vec<String>,
        /// Provider modules that were found but not loaded, each with its file and the reason; bounded in number and
        /// length.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        refused: Vec<String>,
    },
    /// The provider module is loaded, but it is refused or fails repeatedly.
    #[error("provider module {provider_type} is not usable: {message}")]
    Degraded {
        /// Its type, or its file if the type is not known.
        provider_type: String,
        /// Why.
        message: String,
    },
    /// The configuration is invalid.
    #[error("the KMS configuration is invalid: {}", join_violations(violations))]
    Invalid {
        /// All violations, with paths below `spec.encryption.kms` such as `vault.vaultAddress`.
        violations: Vec<Violation>,
    },
    /// The call failed. `category` is one of `fuel`, `deadline`, `memory`, `trap`, `input`, `output` and `contract`, or
    /// `instantiate` or `runtime` if the host could not make the call.
    #[error("provider module {provider_type} failed in {function} ({category}): {message}")]
    Failed {
        /// The provider type.
        provider_type: String,
        /// The ABI function.
        function: String,
        /// A bounded label for metrics and condition reasons.
        category: String,
        /// What failed.
        message: String,
    },
}

fn or_none(loaded: &[String]) -> String {
    if loaded.is_empty() { "none".to_owned() } else { loaded.join(", ") }
}

fn rejected(refused: &[String]) -> String {
    match refused {
        [] => String::new(),
        refused => format!("; rejected modules: ({})", refused.join("), (")),
    }
}

fn join_violations(violations: &[Violation]) -> String {
    let each: Vec<String> = violations
        .iter()
        .map(|v| if v.field.is_empty() { v.message.clone() } else { format!("{}: {}", v.field, v.message) })
        .collect();
    each.join("; ")
}

/// A failure of a plugin that the host observed, for a diagnosis by the provider module. It contains no secrets: they
/// are removed before.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The phase that failed: `image`, `start`, `status`, `encrypt`, `decrypt`, `key-check`, `login`; more may be
    /// added.
    pub phase: String,
    /// The gRPC status code, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_code: Option<u32>,
    /// The exit code of the process, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The error message.
    pub message: String,
    /// The last log lines of the plugin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
}

impl Failure {
    /// Whether the plugin had answered Status before this failed. Then its login was good, and kube-apiserver,
    /// which relies on Status alone, treats it as a working plugin.
    pub fn is_after_status(&self) -> bool {
        ["encrypt", "decrypt", "key-check"].contains(&self.phase.as_str())
    }
}

/// The cause of a failure, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// A bounded label.
    pub cause: String,
    /// A summary in one line.
    pub summary: String,
    /// What to do.
    pub remedy: String,
    /// Whether a retry may succeed without a change by the admin.
    pub retryable: bool,
}

/// Evaluates configurations with provider modules. The engine implements it; only the CLI depends on both sides.
pub trait Evaluator: Send + Sync {
    /// The loaded provider modules, by type.
    fn descriptors(&self) -> Vec<Descriptor>;
    /// One error for each provider module file or type that cannot be used.
    fn degraded(&self) -> Vec<ProviderError>;
    /// Evaluates one configuration: checks the `kms` union, (upgrades and) normalizes, then calls the provider module
    /// for KEK identity, references, rendering and requirements. Deterministic; may block for milliseconds.
    fn evaluate(&self, request: &EvaluationRequest) -> Result<Evaluation, ProviderError>;
    /// The diagnosis of a failure of this configuration's plugin; `None` if the provider module does not know the
    /// failure.
    fn diagnose(
        &self,
        request: &EvaluationRequest,
        failure: &Failure,
    ) -> Result<Option<Diagnosis>, ProviderError>;
}

#[cfg(test)]
#[allow(clippy::cmp_owned)] // compares the text
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop::sample::select(vec![
            json!(null),
            json!(true),
            json!(0),
            json!(1),
            json!(-1),
            json!(0.0),
            json!(-0.0),
            json!(1.0),
            json!("1"),
            json!("a"),
        ]);
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                prop::collection::vec(("[ab]", inner), 0..3)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn requests_are_equal_if_and_only_if_their_json_is(one in value(), other in value(), third in value()) {
            let [a, b, c] = [&one, &other, &third].map(|value| EvaluationRequest::new(Origin::Stored, value));
            prop_assert_eq!(a.cmp(&b).is_eq(), one.to_string() == other.to_string());
            prop_assert_eq!(a == b, a.cmp(&b).is_eq());
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            prop_assert!(!(a <= b && b <= c) || a <= c);
            let map = BTreeMap::from([(a, 1), (b.clone(), 2), (c, 3)]);
            prop_assert_eq!(map.get(&(Origin::Stored, &other) as &dyn EvaluationKey), map.get(&b));
            prop_assert_eq!(map.get(&(Origin::Desired, &other) as &dyn EvaluationKey), None);
        }
    }
}
