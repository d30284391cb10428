//! The input of one decision: decoded once, by [`platform`](crate::platform), and never changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::api::{
    EncryptionMigrationSpec, EncryptionMigrationStatus, EncryptionNodeSpec, EncryptionNodeStatus,
    ForgetPhase, ForgetRequest, ForgetStatus, KeyCheck, KeyStatus, Pause, PluginSettings, PreflightAnswer,
    RevisionStatus,
};
use crate::formats::FormatError;
use crate::formats::key_secret::KeySecret;
use crate::formats::provider_lists;
use crate::formats::revision::{PluginRecord, RevisionContent};
use crate::ids::{GroupResource, KeyId, Mode, PluginDigest, Revision};
use crate::platform::numbers;
use crate::platform::openshift::OpenShift;
use crate::platform::{Age, DiagnosisRequest, Expiry, FreshBytes, ObjectRef, ReferencedObject, Unreadable};
use crate::provider::{Diagnosis, Evaluation, EvaluationKey, EvaluationRequest, Origin, ProviderError};

/// The request of the admin.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// `Err` contains an unknown mode as it was written.
    pub mode: Result<Mode, String>,
    /// The `kms` object as written.
    pub kms: Option<Value>,
    /// The resources to encrypt, sorted.
    pub resources: Vec<GroupResource>,
    /// `spec.decrypt`: resources that may be decrypted if they are not in `resources`, sorted.
    pub decrypt: Vec<GroupResource>,
    /// The part of `resources` that left the list in the spec, and stays encrypted until its decryption is confirmed.
    pub unconfirmed: Vec<GroupResource>,
    /// `spec.plugins`.
    pub settings: PluginSettings,
    /// How long the API server waits for a plugin: a Go duration.
    pub kms_timeout: String,
    /// How long a write may be in flight.
    pub request_timeout: Duration,
    /// `spec.reencrypt`, or OpenShift's external reason; empty for none.
    pub external_reason: String,
    /// `spec.paused`: only the status is written.
    pub paused: Option<Pause>,
    /// `spec.forget` as written.
    pub requests: Vec<ForgetRequest>,
    /// The keys of `requests` that are accepted ([`Snapshot::accepted`]).
    pub forget: BTreeSet<KeyId>,
    /// The part of `spec.resources` that must not be encrypted, sorted. It is not in `resources`, and each one is a
    /// mistake, unless it is encrypted already ([`crate::platform::kubernetes::accept_deployed`]).
    pub refused: Vec<GroupResource>,
    /// Mistakes in the spec outside the KMS configuration, each with its field.
    pub mistakes: Vec<String>,
    /// Warnings about the spec, each with its field. They block nothing.
    pub notices: Vec<String>,
}

/// A revision as stored.
#[derive(Clone, Debug)]
pub struct StoredRevision {
    /// The decoded content.
    pub content: Result<RevisionContent, FormatError>,
    /// As read.
    pub resource_version: String,
}

impl StoredRevision {
    /// The content, if each list in it is understood as a whole. Otherwise nothing may be decided from it.
    pub fn understood(&self) -> Result<&RevisionContent, FormatError> {
        let content = self.content.as_ref().map_err(Clone::clone)?;
        provider_lists::lists(&content.config).map(|_| content)
    }
}

/// The candidate in the Secret `encryption-preflight`.
#[derive(Clone, Debug)]
pub struct StoredCandidate {
    /// The key that the candidate is for.
    pub key_id: KeyId,
    /// The data of its plugin.
    pub plugin: PluginRecord,
    /// Its digest.
    pub hash: PluginDigest,
}

impl StoredCandidate {
    /// The request to evaluate the configuration that the candidate runs with. A candidate for changed credentials runs
    /// with the stored configuration of its key.
    pub fn request(&self, desired: Option<&Value>) -> EvaluationRequest {
        let kms = &self.plugin.kms;
        EvaluationRequest::new(if desired == Some(kms) { Origin::Desired } else { Origin::Stored }, kms)
    }
}

/// A migration as stored.
#[derive(Clone, Debug)]
pub struct StoredMigration {
    /// The spec.
    pub spec: EncryptionMigrationSpec,
    /// The status, which the migration engine writes.
    pub status: EncryptionMigrationStatus,
    /// Whether the status is about this spec.
    pub current: bool,
    /// As read.
    pub resource_version: String,
}

/// The node of one API server: from control-plane Nodes, EncryptionNodes and identity Leases (objects: api-servers).
#[derive(Clone, Debug, Default)]
pub struct ServerView {
    /// Name of the node.
    pub name: String,
    /// There is a control-plane Node with this name.
    pub is_node: bool,
    /// There is a Node with this name, and it lacks the label of control-plane nodes.
    pub lacks_label: bool,
    /// There is an identity Lease of an API server on a host with this name. If nothing else is known of the node, only
    /// a Lease that is renewed counts.
    pub has_lease: bool,
    /// Its `EncryptionNode`.
    pub agent: Option<AgentView>,
}

/// One `EncryptionNode`.
#[derive(Clone, Debug, Default)]
pub struct AgentView {
    /// The spec, which the operator writes.
    pub spec: EncryptionNodeSpec,
    /// The status; `None` before its agent has reported.
    pub status: Option<EncryptionNodeStatus>,
    /// As read.
    pub resource_version: String,
}

impl ServerView {
    /// The status that its agent reported.
    pub fn status(&self) -> Option<&EncryptionNodeStatus> {
        self.agent.as_ref()?.status.as_ref()
    }

    /// The answer of its agent about this candidate.
    pub fn answer(&self, hash: &PluginDigest) -> Option<&PreflightAnswer> {
        self.status()?.preflight.as_ref().filter(|answer| answer.hash == *hash)
    }
}

/// The whole input of [`reconcile`](crate::reconcile).
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The component (openshift: components).
    pub component: String,
    /// The namespace of key secrets and revisions.
    pub namespace: String,
    /// The namespace of referenced objects.
    pub referenced_namespace: String,
    /// The generation of the spec.
    pub generation: i64,
    /// The request of the admin.
    pub wanted: Wanted,
    /// Decodable key secrets, newest first.
    pub keys: Vec<KeySecret>,
    /// Key secrets that cannot be decoded, by name.
    pub undecodable: BTreeMap<String, FormatError>,
    /// The revisions that exist.
    pub revisions: BTreeMap<Revision, StoredRevision>,
    /// The highest keyID that counts as used ([`numbers`]).
    pub highest_key: KeyId,
    /// The highest keyID that an object names.
    pub named_key: KeyId,
    /// KeyIDs above `highest_key`, from marks that are ignored. No key gets one of them.
    pub excess_keys: BTreeSet<KeyId>,
    /// `status.highestKeyID` as stored.
    pub recorded_key: KeyId,
    /// The highest revision that counts as used ([`numbers`]).
    pub highest_revision: Revision,
    /// Revisions above `highest_revision`, from marks that are ignored. No revision gets one of them.
    pub excess_revisions: BTreeSet<Revision>,
    /// The ignored marks.
    pub excess: Vec<numbers::Excess>,
    /// `status.highestRevision` as stored.
    pub recorded_revision: Revision,
    /// The number of the candidate, if it was recorded as used and no object has it: it is free for this candidate, and
    /// for no other.
    pub retry_key: Option<KeyId>,
    /// `status.revisions` as stored.
    pub recorded_revisions: Vec<RevisionStatus>,
    /// `status.keys` as stored.
    pub recorded_keys: Vec<KeyStatus>,
    /// `status.forget` as stored.
    pub recorded_forget: Vec<ForgetStatus>,
    /// `status.convergedRevision` as stored.
    pub last_converged: Revision,
    /// Every API server, by node name.
    pub servers: BTreeMap<String, ServerView>,
    /// The candidate. One that cannot be decoded is replaced.
    pub candidate: Option<Result<StoredCandidate, FormatError>>,
    /// The resourceVersion of its Secret.
    pub candidate_version: Option<String>,
    /// The migrations, by resource.
    pub migrations: BTreeMap<GroupResource, StoredMigration>,
    /// Resources of which etcd has compacted the values from before the end of the stored migration.
    pub compacted: BTreeSet<GroupResource>,
    /// Resources of which that is not known, and why. An object that cannot be decoded is also found in this way.
    pub history_trouble: BTreeMap<GroupResource, String>,
    /// Identity Leases of hosts of which nothing else is known: when each was last renewed, by the clock of its API
    /// server.
    pub leases: BTreeMap<String, String>,
    /// The evaluations, by request.
    pub evaluations: BTreeMap<EvaluationRequest, Result<Evaluation, ProviderError>>,
    /// The referenced objects.
    pub objects: BTreeMap<ObjectRef, ReferencedObject>,
    /// When the content of the referenced objects expires, as far as known.
    pub expiries: BTreeMap<ObjectRef, Vec<Expiry>>,
    /// The diagnoses, by failure.
    pub diagnoses: BTreeMap<DiagnosisRequest, Result<Option<Diagnosis>, ProviderError>>,
    /// Reads that failed.
    pub unreadable: Vec<Unreadable>,
    /// The wall clock.
    pub now: jiff::Timestamp,
    /// The ages of facts.
    pub ages: BTreeMap<String, Age>,
    /// Random bytes for a new key.
    pub fresh: FreshBytes,
    /// The platform.
    pub platform: Platform,
}

/// The platforms, with the data that only one of them has.
#[derive(Clone, Debug)]
pub enum Platform {
    /// Keyward's own revisions, which agents install.
    Kubernetes,
    /// A desired configuration, which OpenShift's operators roll out.
    OpenShift(Box<OpenShift>),
}

impl Snapshot {
    /// The evaluation of a `kms` object. An error if the platform did not request it, which is a bug of Keyward.
    pub fn evaluation(&self, origin: Origin, kms: &Value) -> Result<&Evaluation, ProviderError> {
        match self.evaluations.get(&(origin, kms) as &dyn EvaluationKey) {
            Some(Ok(evaluation)) => Ok(evaluation),
            Some(Err(error)) => Err(error.clone()),
            None => Err(ProviderError::Degraded {
                provider_type: kms.get("type").and_then(Value::as_str).unwrap_or_default().to_owned(),
                message: "its configuration was not evaluated".to_owned(),
            }),
        }
    }

    /// How long this fact has had this value; zero if it was not observed with this value yet.
    pub fn age(&self, fact: &str, value: &str) -> Duration {
        self.ages.get(fact).filter(|age| age.value == value).map_or(Duration::ZERO, |age| age.elapsed)
    }

    /// The data that only OpenShift has.
    pub fn openshift(&self) -> Option<&OpenShift> {
        match &self.platform {
            Platform::Kubernetes => None,
            Platform::OpenShift(openshift) => Some(openshift),
        }
    }

    /// The key secret with this number.
    pub fn key(&self, id: KeyId) -> Option<&KeySecret> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// The phase of a request in the status; `None` if the status has none, or is about an earlier request for the same
    /// key.
    pub fn phase(&self, request: &ForgetRequest) -> Option<ForgetPhase> {
        let recorded = self.recorded_forget.iter().find(|recorded| recorded.key_id == request.key_id)?;
        (recorded.requested_at == request.requested_at).then_some(recorded.phase)
    }

    /// Keys whose requests are accepted by the status. A request that the status does not record as accepted is not in
    /// force.
    pub fn accepted(&self) -> BTreeSet<KeyId> {
        let requests = self.wanted.requests.iter();
        let accepted = requests.filter(|request| {
            matches!(self.phase(request), Some(ForgetPhase::Accepted | ForgetPhase::CarriedOut))
        });
        accepted.map(|request| request.key_id).collect()
    }

    /// The key secrets that count, newest first: an abandoned or forgotten key is neither the latest key nor backed
    /// (objects: abandoned, objects: forgotten).
    pub fn usable(&self) -> impl Iterator<Item = &KeySecret> + Clone {
        let counts = |key: &&KeySecret| !key.is_abandoned() && !self.is_forgotten(key);
        self.keys.iter().filter(counts)
    }

    /// Whether a key counts as forgotten. The identity keys from before a forgotten key leave with it: the admin
    /// accepted the loss of stored data, not of encryption, and otherwise the newest of them would become the write key
    /// (invariant: no-unrequested-plain-text). They read nothing that `identity` does not read. A number above the
    /// highest key has no effect.
    pub fn is_forgotten(&self, key: &KeySecret) -> bool {
        let forget = &self.wanted.forget;
        let before = |forgotten: &KeyId| key.id < *forgotten && *forgotten <= self.highest_key;
        forget.contains(&key.id) || key.mode == Mode::Identity && forget.iter().any(before)
    }

    /// The number of the next key; `None` if no number is left.
    pub fn next_key(&self) -> Option<KeyId> {
        next_free(self.highest_key, KeyId::next, &self.excess_keys)
    }

    /// The first number above this one that no revision had; `None` if no number is left.
    pub fn next_revision(&self, after: Revision) -> Option<Revision> {
        next_free(after, Revision::next, &self.excess_revisions)
    }

    /// The key check of a key, if it has one. If the key secret is gone, it is taken from the EncryptionNodes, which
    /// keep it: a node that joins needs it to run the plugin of the key.
    pub fn key_check(&self, id: KeyId) -> Option<&KeyCheck> {
        let own = self.key(id).and_then(|key| key.kms.as_ref()?.key_check.as_ref());
        own.or_else(|| {
            let specs = self.servers.values().filter_map(|server| Some(&server.agent.as_ref()?.spec));
            let mut entries = specs.flat_map(|spec| &spec.key_checks);
            entries.find(|entry| entry.key_id == id).map(|entry| &entry.key_check)
        })
    }

    /// The newest revision that exists; 0 if there is none.
    pub fn newest_revision(&self) -> Revision {
        self.revisions.keys().next_back().copied().unwrap_or_default()
    }

    /// The content of a revision, if it exists and can be read.
    pub fn content(&self, revision: Revision) -> Option<&RevisionContent> {
        self.revisions.get(&revision)?.content.as_ref().ok()
    }
}

/// The first number above `highest` that no ignored mark has; `None` after the last.
pub(crate) fn next_free<N: Copy + Ord>(
    highest: N,
    next: impl Fn(N) -> Option<N>,
    excess: &BTreeSet<N>,
) -> Option<N> {
    let mut free = next(highest)?;
    while excess.contains(&free) {
        free = next(free)?;
    }
    Some(free)
}
