//! Builds the [`Snapshot`](crate::snapshot::Snapshot) from objects, without I/O. The operator and `plan --objects` use
//! the same functions (invariant: plan-is-decision).

pub mod dump;
mod keys;
pub mod kubernetes;
mod named;
mod needed;
pub mod numbers;
pub mod openshift;
pub mod refused;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Secret};

use serde_json::{Value, json};

use crate::SecretBytes;
use crate::api::{ClusterEncryption, EncryptionMigration, EncryptionNode, EncryptionSpec, Since};
use crate::ids::{GroupResource, Mode};
use crate::node::SOCKETS;
use crate::provider::{
    Diagnosis, Evaluation, EvaluationRequest, Failure, Plugin, ProviderError, ReferenceKind,
};

/// The mistake of a `kms` object without `type: KMS`, or the reverse (openshift: encryption-type).
pub const KMS_REQUIRED: &str = "kms config is required when encryption type is KMS, and forbidden otherwise";

/// The mistake of a spec without a type. A missing type is not a request to decrypt.
pub const TYPE_REQUIRED: &str = "spec.encryption.type: Required value: without it Keyward changes nothing; to decrypt everything, set it to \"identity\"";

/// The requested `kms` object. `type: KMS` without one means an external plugin at the default endpoint
/// (decision 0079). If no provider module of that type is loaded, the mistake is [`KMS_REQUIRED`] ([`lacks_kms`]).
pub fn kms_of(encryption: &EncryptionSpec) -> Option<Value> {
    let is_kms = encryption.type_.as_deref().and_then(Mode::parse) == Some(Mode::Kms);
    encryption.kms.clone().or_else(|| is_kms.then(|| json!({"type": "External", "external": {}})))
}

/// Whether the spec has no `kms` object, and the provider module for the default one is not loaded.
pub fn lacks_kms<T>(encryption: &EncryptionSpec, evaluation: &Result<T, ProviderError>) -> bool {
    encryption.kms.is_none() && matches!(evaluation, Err(ProviderError::NotLoaded { .. }))
}

/// The warning about an external plugin whose socket is not mounted: `prepare` mounts only the folder of Keyward's own
/// sockets. `None` if the plugin listens in that folder, or if Keyward runs the plugin.
pub fn unmounted_socket(evaluation: &Evaluation) -> Option<String> {
    let Plugin::External(endpoint) = &evaluation.rendered else { return None };
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    let (folder, _) = path.rsplit_once('/')?;
    if folder == SOCKETS || folder.starts_with(&format!("{SOCKETS}/")) {
        return None;
    }
    let folder = if folder.is_empty() { "/" } else { folder };
    Some(format!(
        "the plugin listens at {path}, outside {SOCKETS}; make it listen in {SOCKETS}, or mount the host's folder {folder} at {folder} into the static Pods kube-apiserver and keyward-node-agent on every control-plane node"
    ))
}

/// The objects that one decision depends on, as read. Objects that could not be read are in `unreadable`: nothing is
/// decided from their absence (invariant: unknown-is-not-absent).
#[derive(Clone, Default)]
pub struct Objects {
    /// `ClusterEncryption/cluster`.
    pub cluster_encryption: Option<ClusterEncryption>,
    /// The Secrets of Keyward in [`names::NAMESPACE`](crate::names::NAMESPACE): key secrets, revisions, the candidate.
    pub secrets: Vec<Secret>,
    /// All EncryptionNodes.
    pub encryption_nodes: Vec<EncryptionNode>,
    /// All EncryptionMigrations.
    pub migrations: Vec<EncryptionMigration>,
    /// Nodes with the label `node-role.kubernetes.io/control-plane`, and Nodes with an EncryptionNode. Only metadata is
    /// needed.
    pub nodes: Vec<Node>,
    /// Leases in `kube-system` with the label `apiserver.kubernetes.io/identity=kube-apiserver`.
    pub leases: Vec<Lease>,
    /// Whether each resource that the spec adds ([`kubernetes::added`]) can be encrypted.
    pub serving: BTreeMap<GroupResource, Serving>,
    /// Reads that failed.
    pub unreadable: Vec<Unreadable>,
}

/// Only counts, because a Secret prints its data.
impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects")
            .field("secrets", &self.secrets.len())
            .field("encryption_nodes", &self.encryption_nodes.len())
            .field("migrations", &self.migrations.len())
            .field("nodes", &self.nodes.len())
            .field("leases", &self.leases.len())
            .field("unreadable", &self.unreadable)
            .finish_non_exhaustive()
    }
}

/// The verbs that the operator needs on every resource that it re-encrypts.
pub const VERBS: [&str; 3] = ["get", "list", "patch"];

/// How the API server serves a resource to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serving {
    /// It stores the resource itself, with all of [`MIGRATION_VERBS`](crate::names::MIGRATION_VERBS).
    Itself,
    /// It stores the resource itself, but the operator is not allowed to use these of the [`VERBS`].
    Forbidden(Vec<&'static str>),
    /// Another server stores it, through this APIService. kube-apiserver does not encrypt it
    /// (kubernetes: aggregated-resources-are-stored-elsewhere).
    Aggregated(String),
    /// It does not serve the resource, or not with all of these verbs.
    Not,
    /// Not known, for this reason.
    Unknown(String),
}

/// A read that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The objects, for example `secrets in keyward-system`.
    pub what: String,
    /// The API server's message.
    pub why: String,
}

/// The reference to an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Secret or ConfigMap.
    pub kind: ReferenceKind,
    /// Name of the object, in the platform's namespace for referenced objects.
    pub name: String,
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// A referenced object as read: `Ok(None)` if it does not exist, `Err` if it cannot be read.
pub type ReferencedObject = Result<Option<BTreeMap<String, SecretBytes>>, String>;

/// When the content of a referenced object expires. Of a Secret it contains only the subject of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The source of the time.
    pub source: ExpirySource,
    /// The time, or why it cannot be read.
    pub at: Result<jiff::Timestamp, String>,
}

/// The source of an expiry time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpirySource {
    /// A certificate.
    Certificate {
        /// The data key with the certificate. It may contain others.
        key: String,
        /// Subject of the certificate.
        subject: String,
    },
    /// The annotation of the object, [`ANNOTATION_EXPIRES`](crate::names::ANNOTATION_EXPIRES).
    Annotation,
}

impl ExpirySource {
    /// The data key that expires; `None` for the whole object.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Certificate { key, .. } => Some(key),
            Self::Annotation => None,
        }
    }
}

/// A failure of a plugin, and the configuration with which it ran.
pub type DiagnosisRequest = (EvaluationRequest, Failure);

/// The question whether a resource can still be listed at this resourceVersion.
pub type HistoryRequest = (GroupResource, String);

/// Results that were computed or read outside core, by request.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Evaluations by provider modules.
    pub evaluations: BTreeMap<EvaluationRequest, Result<Evaluation, ProviderError>>,
    /// Referenced objects, read live.
    pub objects: BTreeMap<ObjectRef, ReferencedObject>,
    /// Diagnoses by provider modules.
    pub diagnoses: BTreeMap<DiagnosisRequest, Result<Option<Diagnosis>, ProviderError>>,
    /// When the content of the objects expires, as far as known.
    pub expiries: BTreeMap<ObjectRef, Vec<Expiry>>,
    /// Whether etcd's history at a resourceVersion is compacted, or why this is not known.
    pub history: BTreeMap<HistoryRequest, Result<bool, String>>,
}

/// Results that are missing before a snapshot can be built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// Configurations to evaluate.
    pub evaluations: BTreeSet<EvaluationRequest>,
    /// Objects to read.
    pub objects: BTreeSet<ObjectRef>,
    /// Failures to diagnose.
    pub diagnoses: BTreeSet<DiagnosisRequest>,
    /// Resources, each with a resourceVersion: a decision depends on whether it can still be read.
    pub history: BTreeSet<HistoryRequest>,
}

impl Needed {
    /// Whether no result is missing.
    pub fn is_empty(&self) -> bool {
        self.evaluations.is_empty()
            && self.objects.is_empty()
            && self.diagnoses.is_empty()
            && self.history.is_empty()
    }
}

/// Inputs that core cannot create itself.
#[derive(Clone, Debug)]
pub struct Given {
    /// The wall clock, for times in annotations.
    pub now: jiff::Timestamp,
    /// How long each fact of the last [`Outcome::facts`](crate::outcome::Outcome::facts) has had its value.
    pub ages: BTreeMap<String, Age>,
    /// Bytes for a key and a salt that this decision may create.
    pub fresh: FreshBytes,
}

/// How long a fact has had its value, by the operator's monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Age {
    /// The value.
    pub value: String,
    /// How long the fact has had this value.
    pub elapsed: Duration,
}

/// The ages of facts in a dump: from `since[]` to `now`. A fact whose time cannot be parsed has age zero.
pub fn ages(since: &[Since], now: jiff::Timestamp) -> BTreeMap<String, Age> {
    let elapsed = |at: &str| {
        let at = at.parse::<jiff::Timestamp>().ok()?;
        Duration::try_from(now.duration_since(at)).ok()
    };
    since
        .iter()
        .map(|entry| {
            let elapsed = elapsed(&entry.at).unwrap_or_default();
            (entry.fact.clone(), Age { value: entry.value.clone(), elapsed })
        })
        .collect()
}

/// Random bytes, new for each decision.
#[derive(Clone, Debug, Default)]
pub struct FreshBytes {
    /// 32 bytes for a local key.
    pub key: SecretBytes,
    /// 32 bytes for a digest's salt.
    pub salt: SecretBytes,
}
