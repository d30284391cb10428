//! What the agent sees on its node. Plain data: whoever looks (the agent, a simulator) fills it in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::instance::{Generation, Instance, SOCKETS};
use super::policy::Policy;
use super::recovered::Recovered;
use crate::api::{Adopted, Canary, EncryptionNodeSpec, HealthStatus, PreflightAnswer};
use crate::formats::encryption_config::EncryptionConfiguration;
use crate::formats::revision::{PluginRecord, RevisionContent};
use crate::ids::{ConfigHash, KeyId, PluginDigest, RemoteKeyId, Revision};
use crate::provider::Failure;

/// All that one decision is made from. What could not be read is named as such: nothing is decided from absence (S7).
#[derive(Clone, Debug)]
pub struct Observed {
    /// Deadlines.
    pub policy: Policy,
    /// The node's `EncryptionNode`; `None` where there is none, or it cannot be read.
    pub spec: Option<SeenSpec>,
    /// Why nothing is told of a revision in force: there is no such object, or it or its revision cannot be read.
    pub absence: Option<Absence>,
    /// The revision that `spec.revision` names; `None` for revision 0 and without a spec.
    pub target: Option<Result<Arc<RevisionContent>, Unusable>>,
    /// The plugins of the Secret `encryption-preflight`; `None` while nothing is requested.
    pub candidate: Option<Result<Arc<BTreeMap<KeyId, PluginRecord>>, Unusable>>,
    /// What the local API server says of itself, or why it says nothing.
    pub server: Result<Reading, Unread>,
    /// What is on disk.
    pub disk: Disk,
    /// What is known of each plugin that was asked about.
    pub probes: BTreeMap<Instance, Probed>,
    /// How long the configuration file has had its present content, as far as this agent saw it.
    pub file_age: Duration,
    /// For how long the last decisions have called these instances unneeded.
    pub unneeded: BTreeMap<Instance, Duration>,
    /// The step at which the last turn stopped.
    pub failed_step: Option<StepFailure>,
    /// When the certificate by which the agent speaks to the API ends; `None` where it uses none.
    pub credential_expires: Option<Timestamp>,
}

/// The node's `EncryptionNode` as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenSpec {
    /// `metadata.generation`.
    pub generation: i64,
    /// What the operator wants.
    pub spec: EncryptionNodeSpec,
    /// The revision that the node's last report says is in force here; 0 without a report.
    pub reported: Revision,
}

/// Why a node is told of no revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// Another API server knows no `EncryptionNode` of it: it said so while the node's own did not answer.
    Elsewhere,
    /// For so long there was none, which the node's own may have said, or none with a revision, or that cannot be read.
    Unsure(Duration),
    /// For so long the object could not be read.
    Unread(Duration),
}

/// Why an object is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It may well exist.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// It does not exist, or does not hold what it should.
    #[error("{0}")]
    Invalid(String),
}

/// Why the API server's metrics are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// For people.
    pub why: String,
    /// It answered, if only by a refusal: then it runs, with whatever configuration.
    pub answers: bool,
}

/// What the API server's metrics say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The name of its identity Lease, where that could be found out.
    pub id: Option<String>,
    /// The hash of the configuration it has loaded; `None` where it has no such metric, since it runs without
    /// `--encryption-provider-config`.
    pub loaded: Option<ConfigHash>,
    /// Reloads that failed since the file has its present content.
    pub failed_reloads: u64,
    /// What its providers use, for each key of which all of them were seen to use the same.
    pub adopted: Vec<Adopted>,
}

/// What is on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// The configuration file; `None` where there is none.
    pub file: Option<FileSeen>,
    /// Kept revisions.
    pub revisions: BTreeMap<Revision, Arc<RevisionContent>>,
    /// Kept configurations, whoever wrote them: those that the agent once replaced.
    pub configurations: BTreeMap<ConfigHash, FileSeen>,
    /// Every instance of which something is there.
    pub instances: BTreeMap<Instance, OnDisk>,
    /// Where the keys' links point.
    pub links: BTreeMap<KeyId, Generation>,
    /// Where they should point, as recorded: a reboot empties the folder of the sockets.
    pub serving: BTreeMap<KeyId, Generation>,
    /// Canaries, as last told by a spec.
    pub canaries: BTreeMap<KeyId, Canary>,
    /// The last preflight that succeeded.
    pub preflight: Option<PreflightAnswer>,
    /// High-water mark of keyIDs (S5).
    pub highest_key_id: KeyId,
    /// The configuration that was put away last because the API server did not load it.
    pub refusal: Option<Refusal>,
    /// What the API server was last seen to have loaded.
    pub loaded: Option<ConfigHash>,
    /// What was replaced by hand, by key and number.
    pub recovered: Vec<Recovered>,
    /// The revision that was to be in force when something else was loaded here; until a later one is in force.
    pub drift: Option<Revision>,
    /// Files that somebody edited by hand, of which a copy is kept.
    pub aside: BTreeSet<ConfigHash>,
    /// The file by which an admin pauses the agent; `None` where there is none.
    pub paused: Option<PauseFile>,
}

/// The file by which an admin pauses the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PauseFile {
    /// Its content, or why that cannot be read: what exists pauses, whatever it holds.
    pub reason: String,
    /// When it was last written.
    pub since: Option<Timestamp>,
}

/// One configuration's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSeen {
    /// The hash of its bytes.
    pub hash: ConfigHash,
    /// The keys whose links it names as endpoints; `None` where it cannot be decoded.
    pub keys: Option<BTreeSet<KeyId>>,
    /// What it says; `None` where it cannot be decoded.
    pub config: Option<Arc<EncryptionConfiguration>>,
}

impl FileSeen {
    /// What these bytes are.
    pub fn of(bytes: &[u8]) -> Self {
        let config = EncryptionConfiguration::decode(bytes).ok().map(Arc::new);
        let keys = config.as_deref().map(linked_keys);
        Self { hash: ConfigHash::of(bytes), keys, config }
    }
}

/// The keys whose links a configuration names as endpoints, whatever its providers are called.
pub(super) fn linked_keys(config: &EncryptionConfiguration) -> BTreeSet<KeyId> {
    let endpoints = config
        .resources
        .iter()
        .flat_map(|entry| &entry.providers)
        .filter_map(|provider| provider.kms.as_ref())
        .map(|kms| kms.endpoint.as_str());
    endpoints
        .filter_map(|endpoint| {
            let rest = endpoint.strip_prefix("unix://")?.strip_prefix(SOCKETS)?;
            rest.strip_prefix("/kms-")?.strip_suffix("/kms.sock")?.parse().ok()
        })
        .collect()
}

/// What there is of one instance: facts each of which may hold without the others.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnDisk {
    /// The whole digest, where it was recorded.
    pub digest: Option<PluginDigest>,
    /// Its files are complete, and as the agent wrote them.
    pub files: bool,
    /// The folder of its socket exists.
    pub folder: bool,
    /// Its static pod's manifest exists.
    pub pod: bool,
    /// The manifest is not as the agent wrote it.
    pub edited: bool,
    /// How often its manifest or its files were written anew because somebody else had changed them.
    pub repairs: u32,
    /// That pod is a trial's: whoever runs it starts it once.
    pub trial: bool,
    /// How often a trial's pod was written for it; 0 once it has a pod that is kept running.
    pub tries: u32,
    /// Somebody accepts on its socket.
    pub listening: bool,
}

/// A configuration that the API server did not load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The revision that it belongs to.
    pub revision: Revision,
    /// Its hash.
    pub hash: ConfigHash,
    /// How often it was tried.
    pub attempts: u32,
    /// Since it was put away.
    pub elapsed: Duration,
}

/// The step at which a turn stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepFailure {
    /// What was to be done.
    pub step: String,
    /// Why it could not; no secret byte.
    pub message: String,
}

/// What a plugin is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where.
    pub socket: Socket,
    /// What it must decrypt, beside Status and a round trip.
    pub canary: Option<Canary>,
    /// Whether a canary is to be made of the round trip.
    pub make_canary: bool,
    /// Which start of a trial answers; 0 where it is none. What is known of one process says nothing of the next.
    pub run: u32,
}

/// Where a plugin is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// In its generation's folder.
    Generation,
    /// By the key's link, as the API server does.
    Link,
    /// At an endpoint that somebody else serves.
    External(String),
}

/// What is known of one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The question that `pass` and `failing` answer.
    pub question: Question,
    /// Since that question was first put.
    pub age: Duration,
    /// The last time that all of it passed.
    pub pass: Option<Pass>,
    /// The last probe of any depth, and for any question.
    pub last: Option<LastProbe>,
    /// There while the last probe failed.
    pub failing: Option<Failing>,
    /// How the start before this one failed, where a trial was started again.
    pub earlier: Option<Failure>,
    /// Failed probes for this question, at any start, that were definite ([`Policy::is_definite`]).
    pub attempts: u32,
}

/// Status, a round trip and the canary, all good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// How long ago.
    pub age: Duration,
    /// What the plugin calls its KEK.
    pub remote_key_id: RemoteKeyId,
    /// Encrypt and Decrypt together.
    pub latency: Duration,
    /// From the first question to this instance until its first good answer.
    pub started_in: Duration,
    /// The canary that was asked for by `make_canary`; made once a question, however often that is asked again.
    pub canary: Option<Canary>,
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastProbe {
    /// RFC 3339.
    pub at: String,
    /// How it went.
    pub status: HealthStatus,
    /// What the plugin last called its KEK.
    pub remote_key_id: Option<RemoteKeyId>,
    /// What is wrong, cleaned of secrets.
    pub failure: Option<Failure>,
    /// Whether somebody answered on the socket, whatever the answer.
    pub answered: bool,
}

/// Probes that fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// The last failure, cleaned of secrets.
    pub failure: Failure,
    /// It says that the plugin reaches another KEK.
    pub mismatch: bool,
    /// How long probes have failed since it last began, or ceased, to answer.
    pub since: Duration,
    /// Failed probes in a row.
    pub times: u32,
}
