//! All that one decision is made from: decoded once, by [`platform`](crate::platform), and never changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::api::{
    KeyCheck, EncryptionMigrationSpec, EncryptionMigrationStatus, EncryptionNodeSpec, EncryptionNodeStatus,
    ForgetPhase, ForgetRequest, ForgetStatus, KeyStatus, Pause, PluginSettings, PreflightAnswer,
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
use crate::provider::{Asked, Diagnosis, Evaluation, EvaluationRequest, Origin, ProviderError};

/// What the admin wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// `Err` holds an unknown mode as it was written.
    pub mode: Result<Mode, String>,
    /// The `kms` object as written.
    pub kms: Option<Value>,
    /// What is to be encrypted, sorted.
    pub resources: Vec<GroupResource>,
    /// `spec.decrypt`: what may be decrypted where it is not in `resources`, sorted.
    pub decrypt: Vec<GroupResource>,
    /// Those of `resources` that left the spec's list, and are encrypted until their decryption is confirmed.
    pub unconfirmed: Vec<GroupResource>,
    /// `spec.plugins`.
    pub settings: PluginSettings,
    /// How long the API server waits for a plugin: a Go duration.
    pub kms_timeout: String,
    /// How long a write may be under way.
    pub request_timeout: Duration,
    /// `spec.reencrypt`, or OpenShift's external reason; empty for none.
    pub external_reason: String,
    /// `spec.paused`: nothing is written but the status.
    pub paused: Option<Pause>,
    /// `spec.forget` as it is written.
    pub requests: Vec<ForgetRequest>,
    /// Those keys of `requests` whose loss is accepted in force ([`Snapshot::accepted`]).
    pub forget: BTreeSet<KeyId>,
    /// Those of `spec.resources` that must not be encrypted, sorted. They are not in `resources`, and each is a mistake,
    /// unless it is encrypted already ([`crate::platform::kubernetes::accept_deployed`]).
    pub refused: Vec<GroupResource>,
    /// Mistakes in the spec that are none of the provider's business, each with its field.
    pub mistakes: Vec<String>,
    /// What the admin should know about the spec, each with its field. It keeps nothing from being done.
    pub notices: Vec<String>,
}

/// A revision as stored.
#[derive(Clone, Debug)]
pub struct StoredRevision {
    /// Decoded.
    pub content: Result<RevisionContent, FormatError>,
    /// As read.
    pub resource_version: String,
}

impl StoredRevision {
    /// The content, where every list in it is understood as a whole: else nothing may be decided from it.
    pub fn understood(&self) -> Result<&RevisionContent, FormatError> {
        let content = self.content.as_ref().map_err(Clone::clone)?;
        provider_lists::lists(&content.config).map(|_| content)
    }
}

/// The candidate as stored in `encryption-preflight`.
#[derive(Clone, Debug)]
pub struct StoredCandidate {
    /// The key that it is for.
    pub key_id: KeyId,
    /// What its plugin needs.
    pub plugin: PluginRecord,
    /// Its digest.
    pub hash: PluginDigest,
}

impl StoredCandidate {
    /// How its provider is asked about it: by what it runs with, which a key that follows its credentials has of its own.
    pub fn request(&self, desired: Option<&Value>) -> EvaluationRequest {
        let kms = &self.plugin.kms;
        EvaluationRequest::new(if desired == Some(kms) { Origin::Desired } else { Origin::Stored }, kms)
    }
}

/// A migration as stored.
#[derive(Clone, Debug)]
pub struct StoredMigration {
    /// The wish.
    pub spec: EncryptionMigrationSpec,
    /// The engine's report.
    pub status: EncryptionMigrationStatus,
    /// Whether the report is about this wish.
    pub current: bool,
    /// As read.
    pub resource_version: String,
}

/// One API server's node (S2): the union of control-plane Nodes, node states and identity Leases.
#[derive(Clone, Debug, Default)]
pub struct ServerView {
    /// The node's name.
    pub name: String,
    /// There is a control-plane Node of this name.
    pub is_node: bool,
    /// There is a Node of this name, and it does not have the label of control-plane nodes.
    pub lacks_label: bool,
    /// There is an identity Lease of an API server on a host of this name; where nothing else is known of the node, one that
    /// is renewed.
    pub has_lease: bool,
    /// Its `EncryptionNode`.
    pub agent: Option<AgentView>,
}

/// One `EncryptionNode`.
#[derive(Clone, Debug, Default)]
pub struct AgentView {
    /// What it was told.
    pub spec: EncryptionNodeSpec,
    /// What it says; `None` before its agent said anything.
    pub status: Option<EncryptionNodeStatus>,
    /// As read.
    pub resource_version: String,
}

impl ServerView {
    /// What its agent says.
    pub fn status(&self) -> Option<&EncryptionNodeStatus> {
        self.agent.as_ref()?.status.as_ref()
    }

    /// Its agent's answer about this candidate.
    pub fn answer(&self, hash: &PluginDigest) -> Option<&PreflightAnswer> {
        self.status()?.preflight.as_ref().filter(|answer| answer.hash == *hash)
    }
}

/// The whole input of [`reconcile`](crate::reconcile).
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// CONTRACT 1.1.
    pub component: String,
    /// Where key secrets and revisions live.
    pub namespace: String,
    /// Where referenced objects live.
    pub referenced_namespace: String,
    /// The spec's generation.
    pub generation: i64,
    /// What the admin wants.
    pub wanted: Wanted,
    /// Decodable key secrets, newest first.
    pub keys: Vec<KeySecret>,
    /// The others, by name.
    pub undecodable: BTreeMap<String, FormatError>,
    /// Revisions that exist.
    pub revisions: BTreeMap<Revision, StoredRevision>,
    /// The highest keyID that was ever used, from every trace of it ([`numbers`]).
    pub highest_key: KeyId,
    /// The highest keyID that an object names.
    pub named_key: KeyId,
    /// KeyIDs above the highest that a mark names which is not believed: they are not used all the same.
    pub unbelieved_keys: BTreeSet<KeyId>,
    /// `status.highestKeyID` as stored.
    pub recorded_key: KeyId,
    /// The highest revision that was ever used, from every trace of it ([`numbers`]).
    pub highest_revision: Revision,
    /// Revisions above it that a mark names which is not believed.
    pub unbelieved_revisions: BTreeSet<Revision>,
    /// The marks that are not believed.
    pub excess: Vec<numbers::Excess>,
    /// `status.highestRevision` as stored.
    pub recorded_revision: Revision,
    /// The number of the candidate, where it was recorded as used and no object has it: it is free for this very
    /// candidate, and for no other.
    pub retry_key: Option<KeyId>,
    /// `status.revisions` as stored.
    pub told_revisions: Vec<RevisionStatus>,
    /// `status.keys` as stored.
    pub told_keys: Vec<KeyStatus>,
    /// `status.forget` as stored.
    pub told_forget: Vec<ForgetStatus>,
    /// `status.convergedRevision` as stored.
    pub last_converged: Revision,
    /// Every API server, by name.
    pub servers: BTreeMap<String, ServerView>,
    /// The Secret `encryption-preflight`: undecodable ones are replaced.
    pub candidate: Option<Result<StoredCandidate, FormatError>>,
    /// Its resourceVersion.
    pub candidate_version: Option<String>,
    /// By resource.
    pub migrations: BTreeMap<GroupResource, StoredMigration>,
    /// Resources of which nothing from before the end of the stored migration can be read from etcd any more.
    pub compacted: BTreeSet<GroupResource>,
    /// Resources of which that cannot be seen, and why. An object that cannot be decoded is found so, too.
    pub history_trouble: BTreeMap<GroupResource, String>,
    /// Identity Leases of hosts of which nothing else is known: when each was last renewed, by its API server's clock.
    pub leases: BTreeMap<String, String>,
    /// By request.
    pub evaluations: BTreeMap<EvaluationRequest, Result<Evaluation, ProviderError>>,
    /// By object.
    pub objects: BTreeMap<ObjectRef, ReferencedObject>,
    /// What of them expires when, as far as known.
    pub expiries: BTreeMap<ObjectRef, Vec<Expiry>>,
    /// By failure.
    pub diagnoses: BTreeMap<DiagnosisRequest, Result<Option<Diagnosis>, ProviderError>>,
    /// What could not be read.
    pub unreadable: Vec<Unreadable>,
    /// Wall clock.
    pub now: jiff::Timestamp,
    /// How long facts have had their values.
    pub ages: BTreeMap<String, Age>,
    /// Random bytes.
    pub fresh: FreshBytes,
    /// What is stored where, and by whom it is rolled out.
    pub platform: Platform,
}

/// The platforms, with what only one of them has.
#[derive(Clone, Debug)]
pub enum Platform {
    /// Revisions of our own, which agents install.
    Kubernetes,
    /// A desired configuration, which OpenShift's controllers roll out.
    OpenShift(Box<OpenShift>),
}

impl Snapshot {
    /// The evaluation of a `kms` object; an error where the platform did not ask for it, which is a bug of ours.
    pub fn evaluation(&self, origin: Origin, kms: &Value) -> Result<&Evaluation, ProviderError> {
        match self.evaluations.get(&(origin, kms) as &dyn Asked) {
            Some(Ok(evaluation)) => Ok(evaluation),
            Some(Err(error)) => Err(error.clone()),
            None => Err(ProviderError::Degraded {
                provider_type: kms.get("type").and_then(Value::as_str).unwrap_or_default().to_owned(),
                message: "its configuration was not evaluated".to_owned(),
            }),
        }
    }

    /// For how long this fact has had this value; zero where it was not seen with it yet.
    pub fn age(&self, fact: &str, value: &str) -> Duration {
        self.ages.get(fact).filter(|age| age.value == value).map_or(Duration::ZERO, |age| age.elapsed)
    }

    /// What only OpenShift has.
    pub fn openshift(&self) -> Option<&OpenShift> {
        match &self.platform {
            Platform::Kubernetes => None,
            Platform::OpenShift(openshift) => Some(openshift),
        }
    }

    /// The key secret of this number.
    pub fn key(&self, id: KeyId) -> Option<&KeySecret> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// What the status says of a request; `None` where it says nothing, or speaks of an earlier request for the same key.
    pub fn phase(&self, request: &ForgetRequest) -> Option<ForgetPhase> {
        let told = self.told_forget.iter().find(|told| told.key_id == request.key_id)?;
        (told.requested_at == request.requested_at).then_some(told.phase)
    }

    /// Keys whose requests were accepted, by the status: what is not recorded there is not in force.
    pub fn accepted(&self) -> BTreeSet<KeyId> {
        let requests = self.wanted.requests.iter();
        let accepted = requests.filter(|request| {
            matches!(self.phase(request), Some(ForgetPhase::Accepted | ForgetPhase::CarriedOut))
        });
        accepted.map(|request| request.key_id).collect()
    }

    /// The key secrets that count, newest first: an abandoned key, and one that the admin gave up, is neither latest nor
    /// backed (OBJECTS.md, "Beginnings and ends"; DESIGN.md, Decisions 15).
    pub fn usable(&self) -> impl Iterator<Item = &KeySecret> + Clone {
        let counts = |key: &&KeySecret| !key.is_abandoned() && !self.is_given_up(key);
        self.keys.iter().filter(counts)
    }

    /// With a key leave the identity keys from before it: what is stored was given up, not encryption, and the one that is
    /// newest without it would become the writer (S9). They read nothing that `identity` does not. A number that was never
    /// made takes nobody along.
    pub fn is_given_up(&self, key: &KeySecret) -> bool {
        let forget = &self.wanted.forget;
        let before = |given_up: &KeyId| key.id < *given_up && *given_up <= self.highest_key;
        forget.contains(&key.id) || key.mode == Mode::Identity && forget.iter().any(before)
    }

    /// The number of the next key; `None` where none is left.
    pub fn next_key(&self) -> Option<KeyId> {
        next_free(self.highest_key, KeyId::next, &self.unbelieved_keys)
    }

    /// The first number above this one that no revision had; `None` where none is left.
    pub fn next_revision(&self, after: Revision) -> Option<Revision> {
        next_free(after, Revision::next, &self.unbelieved_revisions)
    }

    /// The key check of a key, where it has one. That of a key whose secret is gone is still told to the nodes: one that
    /// joins needs it to run the key's plugin.
    pub fn key_check(&self, id: KeyId) -> Option<&KeyCheck> {
        let own = self.key(id).and_then(|key| key.kms.as_ref()?.key_check.as_ref());
        own.or_else(|| {
            let specs = self.servers.values().filter_map(|server| Some(&server.agent.as_ref()?.spec));
            let mut told = specs.flat_map(|spec| &spec.key_checks);
            told.find(|told| told.key_id == id).map(|told| &told.key_check)
        })
    }

    /// The newest revision that is there; 0 where there is none.
    pub fn newest_revision(&self) -> Revision {
        self.revisions.keys().next_back().copied().unwrap_or_default()
    }

    /// A revision's content, where it exists and can be read.
    pub fn content(&self, revision: Revision) -> Option<&RevisionContent> {
        self.revisions.get(&revision)?.content.as_ref().ok()
    }
}

/// The first number above `highest` that is not among these; `None` after the last.
pub(crate) fn next_free<N: Copy + Ord>(
    highest: N,
    next: impl Fn(N) -> Option<N>,
    unbelieved: &BTreeSet<N>,
) -> Option<N> {
    let mut free = next(highest)?;
    while unbelieved.contains(&free) {
        free = next(free)?;
    }
    Some(free)
}
