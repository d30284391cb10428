//! What a provider module says, as data.
//!
//! These are the records of `wit/v0/provider.wit` in the host's own words, plus the [`Evaluator`] trait that the
//! engine implements. Core never calls it: the operator and the CLI have each evaluation made once and put the
//! result into the snapshot (DESIGN.md, "How data flows").

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

/// `sha256:` and the hex digest of a component's bytes: says which module gave an answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModuleDigest(pub String);

/// What a change does to what is stored, in ascending order of cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Nothing changes.
    None,
    /// Keyward pauses: nothing is written but the status. It comes from the rest of the spec, as [`Self::Resume`] does.
    Pause,
    /// A pause ends, and the writes that it withheld follow.
    Resume,
    /// The plugin is replaced or restarted; nothing stored is touched.
    InPlace,
    /// The same KEK in another version: in place, then everything is re-encrypted.
    ReEncrypt,
    /// Another KEK: a new key secret, then everything is re-encrypted under it.
    NewKey,
    /// What is stored is decrypted. It comes from the rest of the spec: no provider's field does that.
    Decrypt,
    /// A key is given up, and what is stored under it becomes unreadable. It comes from the rest of the spec.
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

/// What a change of one field does, with the reason that an admin reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldRule {
    /// Path below the provider's configuration: `tls.serverName`, `labels.*`, `hosts[]`.
    pub field: String,
    /// The effect of changing it.
    pub effect: Effect,
    /// Why, in the admin's words.
    pub reason: String,
}

/// A provider as it describes itself; the host knows nothing else of the product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The value of `kms.type`, for example `Vault`.
    pub provider_type: String,
    /// The field beside `type` that holds the configuration, for example `vault`.
    pub config_field: String,
    /// Path of the plugin's image in the *normalized* configuration; absent where no plugin is run.
    pub image_field: Option<String>,
    /// Kubernetes structural schema of the configuration.
    pub config_schema: Value,
    /// One rule for every leaf of the schema.
    pub rules: Vec<FieldRule>,
    /// Open set of facts: `remote-key-id`, `status`, `credentials`, `docs`.
    pub facts: BTreeMap<String, String>,
    /// The module that said so.
    pub module: ModuleDigest,
}

/// What kind of object is referred to.
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
    /// Its name, in the platform's namespace for referenced objects.
    pub name: String,
    /// The data key.
    pub key: String,
}

/// How the host hands a referenced value to the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exposure {
    /// As a mounted file.
    File,
    /// In the environment or a rendered file; refused where that would stand readable in a Pod.
    SecretValue,
    /// May stand in arguments.
    PublicValue,
}

/// Something outside the configuration that it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// What is referred to.
    pub source: KeyRef,
    /// How it reaches the plugin.
    pub exposure: Exposure,
    /// Whether the plugin cannot start without it.
    pub required: bool,
    /// The configuration's field that refers to it.
    pub field: String,
}

/// One thing that is wrong with a configuration, or a warning about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Path below the provider's configuration; empty for the whole.
    pub field: String,
    /// What is wrong, in the admin's words.
    pub message: String,
}

/// The identity of a KEK. Two configurations name the same KEK if and only if their `key` parts are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Kek {
    /// Where these differ, the KEK differs.
    pub key: BTreeMap<String, String>,
    /// Where only these differ, it is another version of the same KEK.
    pub version: BTreeMap<String, String>,
}

/// What text in a rendered plugin is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Literal text.
    Text(String),
    /// Filled in by the host per node and generation: `socket-uri`, `socket-path`, `key-id`, `node-name`, `port:NAME`.
    Host(String),
    /// The path at which a referenced value is mounted.
    Path(KeyRef),
    /// A referenced value itself; in arguments only for [`Exposure::PublicValue`].
    Value(KeyRef),
    /// The path of a rendered file.
    Rendered(String),
}

/// One environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Vec<Part>,
}

/// One file that the host renders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderedFile {
    /// Its name, without a path.
    pub name: String,
    /// Its content.
    pub content: Vec<Part>,
}

/// An HTTP probe on one of the container's ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpProbe {
    /// The name of a port in [`Container::ports`].
    pub port: String,
    /// The path, beginning with a slash.
    pub path: String,
}

/// All that a plugin may ask for. Image, privileges, mounts and limits are the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// The entry point; empty for the image's own.
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
    /// Names of the ports that the host allots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// A probe of the plugin's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HttpProbe>,
    /// CPU request in millicores.
    pub cpu_request_millis: u32,
    /// Memory request in MiB.
    pub memory_request_mib: u32,
    /// Open set of settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// How the plugin comes to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plugin {
    /// The host runs this container.
    Managed(Container),
    /// Somebody else runs it, at this endpoint (`unix:///…`).
    External(String),
}

/// Whether a configuration comes from the spec or out of a key secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Origin {
    /// As the admin wants it now: taken as it is.
    Desired,
    /// As some earlier version accepted it: run through the module's `upgrade` first.
    Stored,
}

/// One evaluation that the snapshot wants: the whole `kms` object (`type` and the configuration beside it). Every
/// decision looks many of them up, so that they are found by the object itself ([`Asked`]), without its JSON.
#[derive(Clone, Debug)]
pub struct EvaluationRequest {
    /// Where it comes from.
    pub origin: Origin,
    /// Compact JSON of the `kms` object, so that equal requests are equal keys.
    pub kms: Arc<str>,
    /// What `kms` is the JSON of.
    object: Arc<Value>,
}

impl EvaluationRequest {
    /// The request for this `kms` object.
    pub fn new(origin: Origin, kms: &Value) -> Self {
        Self { origin, kms: kms.to_string().into(), object: Arc::new(kms.clone()) }
    }
}

/// What an evaluation is found by: two are equal if and only if the JSON of their objects is, the order of fields
/// included.
pub trait Asked {
    /// Origin and `kms` object.
    fn asked(&self) -> (Origin, &Value);
}

impl Asked for EvaluationRequest {
    fn asked(&self) -> (Origin, &Value) {
        (self.origin, &self.object)
    }
}

impl Asked for (Origin, &Value) {
    fn asked(&self) -> (Origin, &Value) {
        *self
    }
}

impl<'a> Borrow<dyn Asked + 'a> for EvaluationRequest {
    fn borrow(&self) -> &(dyn Asked + 'a) {
        self
    }
}

impl Ord for dyn Asked + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        let ((origin, kms), (other_origin, other_kms)) = (self.asked(), other.asked());
        origin.cmp(&other_origin).then_with(|| order(kms, other_kms))
    }
}

impl PartialOrd for dyn Asked + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Asked + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for dyn Asked + '_ {}

impl Ord for EvaluationRequest {
    fn cmp(&self, other: &Self) -> Ordering {
        (self as &dyn Asked).cmp(other)
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

/// Some total order of JSON values in which those are equal that are written alike.
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
            // 1 and 1.0 are written differently, 0.0 and -0.0 too.
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

/// All that a module says of one configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluation {
    /// The value of `kms.type`.
    pub provider_type: String,
    /// The canonical form of the configuration (the value of the config field).
    pub normalized: Value,
    /// What the admin should know though it is accepted; paths as rules have them, below the configuration.
    pub warnings: Vec<Violation>,
    /// Which KEK it names.
    pub kek: Kek,
    /// What it refers to.
    pub references: Vec<Reference>,
    /// How its plugin is started.
    pub rendered: Plugin,
    /// The image, from the descriptor's `image-field`; absent for an external plugin.
    pub image: Option<String>,
    /// What the KMS must permit, in the admin's words.
    pub requirements: Vec<String>,
    /// Facts of the descriptor.
    pub facts: BTreeMap<String, String>,
    /// Paths of the configuration's fields in the order of the descriptor's rules: as their type declares them.
    #[serde(default)]
    pub field_order: Vec<String>,
    /// Which module said so.
    pub module: ModuleDigest,
}

/// Why there is no evaluation. A fact like any other: the key is carried on as deployed, its condition degrades.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum ProviderError {
    /// No module of this type is loaded.
    #[error(
        "unsupported KMS provider type {provider_type:?}; loaded providers: {}{}{}",
        or_none(loaded),
        told_refused(refused),
        crate::spelling::hint(provider_type, loaded.iter().map(String::as_str))
    )]
    NotLoaded {
        /// The type that was asked for.
        provider_type: String,
        /// The types that are loaded.
        loaded: Vec<String>,
        /// Modules that were found and are not loaded, each with its file and the reason; bounded in number and length.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        refused: Vec<String>,
    },
    /// The module is loaded, but is refused or keeps failing.
    #[error("provider {provider_type} is not usable: {message}")]
    Degraded {
        /// Its type, or its file where not even that is known.
        provider_type: String,
        /// Why.
        message: String,
    },
    /// The configuration is not valid: all violations, with field paths below `spec.encryption.kms`.
    #[error("the KMS configuration is invalid: {}", join_violations(violations))]
    Invalid {
        /// Each with a path such as `vault.vaultAddress`.
        violations: Vec<Violation>,
    },
    /// The call did not end well; `category` is bounded (`fuel`, `deadline`, `memory`, `trap`, `input`, `output`,
    /// `contract`, and `instantiate` or `runtime` where the host could not even call).
    #[error("provider {provider_type} failed in {function} ({category}): {message}")]
    Failed {
        /// The provider's type.
        provider_type: String,
        /// The ABI function.
        function: String,
        /// Bounded label for metrics and condition reasons.
        category: String,
        /// What happened.
        message: String,
    },
}

fn or_none(loaded: &[String]) -> String {
    if loaded.is_empty() { "none".to_owned() } else { loaded.join(", ") }
}

fn told_refused(refused: &[String]) -> String {
    match refused {
        [] => String::new(),
        refused => format!("; refused: ({})", refused.join("), (")),
    }
}

fn join_violations(violations: &[Violation]) -> String {
    let each: Vec<String> = violations
        .iter()
        .map(|v| if v.field.is_empty() { v.message.clone() } else { format!("{}: {}", v.field, v.message) })
        .collect();
    each.join("; ")
}

/// What the host saw go wrong with a plugin, for the provider's diagnosis. Cleaned of secrets before it gets here.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Open set: `image`, `start`, `status`, `encrypt`, `decrypt`, `canary`, `login`.
    pub phase: String,
    /// The gRPC status code, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_code: Option<u32>,
    /// The process's exit code, where it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The message as seen.
    pub message: String,
    /// The plugin's last log lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
}

impl Failure {
    /// Whether the plugin had answered Status when this failed, so that its login was good, and kube-apiserver, which goes by
    /// Status alone, takes it for a working one.
    pub fn is_after_status(&self) -> bool {
        ["encrypt", "decrypt", "canary"].contains(&self.phase.as_str())
    }
}

/// What a failure means and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Bounded label.
    pub cause: String,
    /// One line.
    pub summary: String,
    /// What to do.
    pub remedy: String,
    /// Whether trying again may help without anybody doing anything.
    pub retryable: bool,
}

/// Evaluates configurations with provider modules. Implemented by the engine; only the CLI knows both sides.
pub trait Evaluator: Send + Sync {
    /// The providers in force, by type.
    fn descriptors(&self) -> Vec<Descriptor>;
    /// Why a module file or type is not in force, one error each.
    fn degraded(&self) -> Vec<ProviderError>;
    /// Everything a module says of one configuration: checks the `kms` union, (upgrades and) normalizes, then
    /// asks for identity, references, rendering and requirements. Deterministic; may block for milliseconds.
    fn evaluate(&self, request: &EvaluationRequest) -> Result<Evaluation, ProviderError>;
    /// What a failure of this configuration's plugin means; `None` where the provider does not know it.
    fn diagnose(
        &self,
        request: &EvaluationRequest,
        failure: &Failure,
    ) -> Result<Option<Diagnosis>, ProviderError>;
}

#[cfg(test)]
#[allow(clippy::cmp_owned)] // the text is what is compared
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
        fn requests_are_equal_exactly_where_their_json_is(one in value(), other in value(), third in value()) {
            let [a, b, c] = [&one, &other, &third].map(|value| EvaluationRequest::new(Origin::Stored, value));
            prop_assert_eq!(a.cmp(&b).is_eq(), one.to_string() == other.to_string());
            prop_assert_eq!(a == b, a.cmp(&b).is_eq());
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            prop_assert!(!(a <= b && b <= c) || a <= c);
            let map = BTreeMap::from([(a, 1), (b.clone(), 2), (c, 3)]);
            prop_assert_eq!(map.get(&(Origin::Stored, &other) as &dyn Asked), map.get(&b));
            prop_assert_eq!(map.get(&(Origin::Desired, &other) as &dyn Asked), None);
        }
    }
}
