//! Objects → [`Snapshot`](crate::snapshot::Snapshot), pure; the operator and `plan --objects` use the same functions.

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

/// CONTRACT 4.
pub const KMS_REQUIRED: &str = "kms config is required when encryption type is KMS, and forbidden otherwise";

/// A missing type is no request to decrypt.
pub const TYPE_REQUIRED: &str = "spec.encryption.type: Required value: nothing is changed without it; set it to \"identity\" to have everything decrypted";

/// The `kms` object that is asked for. `type: KMS` without one means a plugin that somebody else runs, at the endpoint
/// that such a plugin has when nothing is said (DESIGN.md, "Platforms"). Where no module knows that type, there is none,
/// and [`KMS_REQUIRED`] is the mistake.
pub fn kms_of(encryption: &EncryptionSpec) -> Option<Value> {
    let is_kms = encryption.type_.as_deref().and_then(Mode::parse) == Some(Mode::Kms);
    encryption.kms.clone().or_else(|| is_kms.then(|| json!({"type": "External", "external": {}})))
}

/// Whether this is the answer to a `kms` object that nobody wrote, and no module is loaded for what it means.
pub fn lacks_kms<T>(encryption: &EncryptionSpec, evaluation: &Result<T, ProviderError>) -> bool {
    encryption.kms.is_none() && matches!(evaluation, Err(ProviderError::NotLoaded { .. }))
}

/// What must be mounted for a plugin that somebody else runs: `prepare` mounts the folder of Keyward's own sockets alone.
/// `None` where it listens there, or where Keyward runs it.
pub fn unmounted_socket(evaluation: &Evaluation) -> Option<String> {
    let Plugin::External(endpoint) = &evaluation.rendered else { return None };
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    let (folder, _) = path.rsplit_once('/')?;
    if folder == SOCKETS || folder.starts_with(&format!("{SOCKETS}/")) {
        return None;
    }
    let folder = if folder.is_empty() { "/" } else { folder };
    Some(format!(
        "the plugin listens at {path}, outside {SOCKETS}: on every control-plane node mount {folder} of the host at {folder} into the static pods kube-apiserver and keyward-node-agent, or have the plugin listen in {SOCKETS}"
    ))
}

/// All that one decision looks at, as read. What could not be read is named: nothing is decided from its absence (S7).
#[derive(Clone, Default)]
pub struct Objects {
    /// `ClusterEncryption/cluster`.
    pub cluster_encryption: Option<ClusterEncryption>,
    /// Every Secret of [`names::NAMESPACE`](crate::names::NAMESPACE) that is ours: key secrets, revisions, candidate.
    pub secrets: Vec<Secret>,
    /// All.
    pub encryption_nodes: Vec<EncryptionNode>,
    /// All.
    pub migrations: Vec<EncryptionMigration>,
    /// Those with the label `node-role.kubernetes.io/control-plane`, and those with an EncryptionNode; metadata suffices.
    pub nodes: Vec<Node>,
    /// Those of `kube-system` labelled `apiserver.kubernetes.io/identity=kube-apiserver`.
    pub leases: Vec<Lease>,
    /// Whether each resource that the spec adds ([`kubernetes::added`]) can be encrypted.
    pub serving: BTreeMap<GroupResource, Serving>,
    /// What could not be read.
    pub unreadable: Vec<Unreadable>,
}

/// Counts alone: Secrets print their data.
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

/// What the operator must be allowed to do with every resource that it re-encrypts.
pub const VERBS: [&str; 3] = ["get", "list", "patch"];

/// How the API server serves a resource to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serving {
    /// Itself, with all of [`MIGRATION_VERBS`](crate::names::MIGRATION_VERBS).
    Itself,
    /// Itself, but the operator lacks the right to these of [`VERBS`].
    Forbidden(Vec<&'static str>),
    /// By another server, through this APIService: what that one stores, kube-apiserver does not encrypt.
    Aggregated(String),
    /// Not at all, or without one of those verbs.
    Not,
    /// That could not be read.
    Unknown(String),
}

/// A read that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// For example `secrets in keyward-system`.
    pub what: String,
    /// What the API server said.
    pub why: String,
}

/// One referenced object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Secret or ConfigMap.
    pub kind: ReferenceKind,
    /// Its name, in the platform's namespace for referenced objects.
    pub name: String,
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// A referenced object as read: `Ok(None)` where it does not exist, `Err` where it cannot be read.
pub type ReferencedObject = Result<Option<BTreeMap<String, SecretBytes>>, String>;

/// When something in a referenced object expires. No byte of a Secret but a certificate's subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// What says so.
    pub source: ExpirySource,
    /// When, or why that cannot be read.
    pub at: Result<jiff::Timestamp, String>,
}

/// What says when something expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpirySource {
    /// A certificate itself.
    Certificate {
        /// The data key that it stands in, maybe beside others.
        key: String,
        /// Its subject.
        subject: String,
    },
    /// The object's annotation [`ANNOTATION_EXPIRES`](crate::names::ANNOTATION_EXPIRES).
    Annotation,
}

impl ExpirySource {
    /// The data key that it speaks of; `None` for the whole object.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Certificate { key, .. } => Some(key),
            Self::Annotation => None,
        }
    }
}

/// A plugin's failure, and the configuration that it ran with.
pub type DiagnosisRequest = (EvaluationRequest, Failure);

/// Whether a resource can still be listed as it was at this resourceVersion.
pub type HistoryRequest = (GroupResource, String);

/// What was computed or fetched outside core, by what was asked.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// By provider modules.
    pub evaluations: BTreeMap<EvaluationRequest, Result<Evaluation, ProviderError>>,
    /// Read live.
    pub objects: BTreeMap<ObjectRef, ReferencedObject>,
    /// By provider modules.
    pub diagnoses: BTreeMap<DiagnosisRequest, Result<Option<Diagnosis>, ProviderError>>,
    /// What of the objects expires when, as far as known.
    pub expiries: BTreeMap<ObjectRef, Vec<Expiry>>,
    /// Whether etcd's history at a resourceVersion is compacted, or why that cannot be said.
    pub history: BTreeMap<HistoryRequest, Result<bool, String>>,
}

/// What is still wanted before a snapshot can be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// Configurations to evaluate.
    pub evaluations: BTreeSet<EvaluationRequest>,
    /// Objects to read.
    pub objects: BTreeSet<ObjectRef>,
    /// Failures to diagnose.
    pub diagnoses: BTreeSet<DiagnosisRequest>,
    /// Resources, each with the resourceVersion of which it matters whether it can still be read.
    pub history: BTreeSet<HistoryRequest>,
}

impl Needed {
    /// Nothing is wanted any more.
    pub fn is_empty(&self) -> bool {
        self.evaluations.is_empty()
            && self.objects.is_empty()
            && self.diagnoses.is_empty()
            && self.history.is_empty()
    }
}

/// What core cannot make for itself.
#[derive(Clone, Debug)]
pub struct Given {
    /// Wall clock; written into annotations, compared with annotations.
    pub now: jiff::Timestamp,
    /// How long each fact of the last [`Outcome::facts`](crate::outcome::Outcome::facts) has had its value.
    pub ages: BTreeMap<String, Age>,
    /// Bytes for a key and a salt that may be made by this decision.
    pub fresh: FreshBytes,
}

/// How long a fact has had its value, by the operator's monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Age {
    /// The value.
    pub value: String,
    /// For how long.
    pub elapsed: Duration,
}

/// The ages that a dump tells: from `since[]` to `now`. One whose time does not parse was just seen.
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
