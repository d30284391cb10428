//! What the agent observes on its node. Plain data that the agent, or the simulator, fills in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::instance::{Generation, Instance, SOCKETS};
use super::policy::Policy;
use super::recovered::Recovered;
use crate::api::{Adopted, EncryptionNodeSpec, HealthStatus, KeyCheck, PreflightAnswer};
use crate::formats::encryption_config::EncryptionConfiguration;
use crate::formats::revision::{PluginRecord, RevisionContent};
use crate::ids::{ConfigHash, KeyId, PluginDigest, RemoteKeyId, Revision};
use crate::provider::Failure;

/// Everything that one decision is made from. What could not be read is marked so
/// (invariant: unknown-is-not-absent).
#[derive(Clone, Debug)]
pub struct Observed {
    /// Deadlines.
    pub policy: Policy,
    /// The node's `EncryptionNode`; `None` if there is none, or it cannot be read.
    pub spec: Option<SeenSpec>,
    /// Why the target is not known: there is no such object, or it or its revision cannot be read.
    pub absence: Option<Absence>,
    /// The revision that `spec.revision` names; `None` for revision 0 and without a spec.
    pub target: Option<Result<Arc<RevisionContent>, Unusable>>,
    /// The plugins of the Secret `encryption-preflight`; `None` while nothing is requested.
    pub candidate: Option<Result<Arc<BTreeMap<KeyId, PluginRecord>>, Unusable>>,
    /// What the local API server's metrics show, or why they could not be read.
    pub server: Result<Reading, Unread>,
    /// The state of the node's disk.
    pub disk: Disk,
    /// The probe results of each plugin.
    pub probes: BTreeMap<Instance, Probed>,
    /// How long the configuration file has had its present content, as far as this agent has observed.
    pub file_age: Duration,
    /// For how long the last decisions have called these instances unneeded.
    pub unneeded: BTreeMap<Instance, Duration>,
    /// The step at which the last reconcile pass stopped.
    pub failed_step: Option<StepFailure>,
    /// When the agent's client certificate for the API expires; `None` if it uses none.
    pub credential_expires: Option<Timestamp>,
}

/// The node's `EncryptionNode` as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenSpec {
    /// `metadata.generation`.
    pub generation: i64,
    /// The spec, which the operator writes.
    pub spec: EncryptionNodeSpec,
    /// The revision that the node's last report shows as in force; 0 without a report.
    pub reported: Revision,
}

/// Why a node's target is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// Another API server has no `EncryptionNode` of this node: it reported that while the node's own did not
    /// answer.
    Elsewhere,
    /// For this long there was no object, as perhaps only the node's own API server reports, or none with a
    /// readable revision.
    Unsure(Duration),
    /// For this long the object could not be read.
    Unread(Duration),
}

/// Why an object cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It may exist.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// It does not exist, or does not contain what it should.
    #[error("{0}")]
    Invalid(String),
}

/// Why the API server's metrics are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The reason, for people.
    pub why: String,
    /// It answered, if only with an error: then it runs, with an unknown configuration.
    pub answers: bool,
}

/// What the API server's metrics show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The name of its identity Lease, if that could be determined.
    pub id: Option<String>,
    /// The hash of the configuration that it has loaded; `None` if it has no such metric, because it runs
    /// without `--encryption-provider-config`.
    pub loaded: Option<ConfigHash>,
    /// Reloads that failed since the file got its present content.
    pub failed_reloads: u64,
    /// The remote key ids that its providers use, for each key whose providers were all seen to use the same
    /// one.
    pub adopted: Vec<Adopted>,
}

/// The state of the node's disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// The configuration file; `None` if there is none.
    pub file: Option<FileSeen>,
    /// Stored revisions.
    pub revisions: BTreeMap<Revision, Arc<RevisionContent>>,
    /// Stored configurations of any author: those that the agent once replaced.
    pub configurations: BTreeMap<ConfigHash, FileSeen>,
    /// Every instance of which something is on disk.
    pub instances: BTreeMap<Instance, OnDisk>,
    /// The generations that the keys' links lead to.
    pub links: BTreeMap<KeyId, Generation>,
    /// The generations that they should lead to, as recorded: a reboot empties the folder of the sockets.
    pub serving: BTreeMap<KeyId, Generation>,
    /// The last key check of each key that a spec contained.
    pub key_checks: BTreeMap<KeyId, KeyCheck>,
    /// The last preflight that succeeded.
    pub preflight: Option<PreflightAnswer>,
    /// High-water mark of keyIDs (invariant: one-number-one-kek).
    pub highest_key_id: KeyId,
    /// The last configuration that was rolled back because the API server did not load it.
    pub refusal: Option<Refusal>,
    /// What the API server was last seen to have loaded.
    pub loaded: Option<ConfigHash>,
    /// The replacement credentials that an admin gave, by key and number.
    pub recovered: Vec<Recovered>,
    /// The revision that should have been in force when something else was loaded; until a later one is in
    /// force.
    pub drift: Option<Revision>,
    /// Edited files of which a copy is kept.
    pub aside: BTreeSet<ConfigHash>,
    /// The file by which an admin pauses the agent; `None` if there is none.
    pub paused: Option<PauseFile>,
}

/// The file by which an admin pauses the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PauseFile {
    /// Its content, or why that cannot be read: a file with any content pauses.
    pub reason: String,
    /// When it was last written.
    pub since: Option<Timestamp>,
}

/// One configuration's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSeen {
    /// The hash of its bytes.
    pub hash: ConfigHash,
    /// The keys whose links it names as endpoints; `None` if it cannot be decoded.
    pub keys: Option<BTreeSet<KeyId>>,
    /// The decoded configuration; `None` if it cannot be decoded.
    pub config: Option<Arc<EncryptionConfiguration>>,
}

impl FileSeen {
    /// The file with these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let config = EncryptionConfiguration::decode(bytes).ok().map(Arc::new);
        let keys = config.as_deref().map(linked_keys);
        Self { hash: ConfigHash::of(bytes), keys, config }
    }
}

/// The keys whose links a configuration names as endpoints. The names of its providers do not matter.
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

/// The state of one instance on disk. Each fact may hold without the others.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnDisk {
    /// The full digest, if it was recorded.
    pub digest: Option<PluginDigest>,
    /// Its files are complete, and as the agent wrote them.
    pub files: bool,
    /// The folder of its socket exists.
    pub folder: bool,
    /// Its static pod's manifest exists.
    pub pod: bool,
    /// The manifest is not as the agent wrote it.
    pub edited: bool,
    /// How often its manifest or its files were written again because somebody else had changed them.
    pub repairs: u32,
    /// The pod is a trial's: the kubelet starts it once.
    pub trial: bool,
    /// How often a trial's pod was written for it; 0 once it has a pod that is kept running.
    pub tries: u32,
    /// A process accepts connections on its socket.
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
    /// The time since it was rolled back.
    pub elapsed: Duration,
}

/// The step at which a reconcile pass stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepFailure {
    /// The step.
    pub step: String,
    /// Why it failed; contains no secret byte.
    pub message: String,
}

/// What a plugin is asked by a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The socket.
    pub socket: Socket,
    /// The key check that it must decrypt, beside Status and a round trip.
    pub key_check: Option<KeyCheck>,
    /// Whether the round trip also makes a key check.
    pub make_key_check: bool,
    /// The number of a trial's start; 0 if it is not a trial. Results of one process say nothing about the
    /// next.
    pub run: u32,
}

/// The socket at which a plugin is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// The one in its generation's folder.
    Generation,
    /// The key's link, which the API server uses.
    Link,
    /// The endpoint of an external plugin.
    External(String),
}

/// The probe results of one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The question that `pass` and `failing` answer.
    pub question: Question,
    /// The time since that question was first asked.
    pub age: Duration,
    /// The last time that the whole question passed.
    pub pass: Option<Pass>,
    /// The last probe of any depth, and for any question.
    pub last: Option<LastProbe>,
    /// Present while the last probe failed.
    pub failing: Option<Failing>,
    /// How the previous start failed, if a trial was started again.
    pub earlier: Option<Failure>,
    /// Failed probes for this question, at any start, that were definite ([`Policy::is_definite`]).
    pub attempts: u32,
}

/// Status, a round trip and the key check all passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// How long ago.
    pub age: Duration,
    /// The plugin's remote key id.
    pub remote_key_id: RemoteKeyId,
    /// Encrypt and Decrypt together.
    pub latency: Duration,
    /// From the first question to this instance until its first pass.
    pub started_in: Duration,
    /// The key check that `make_key_check` asked for. It is made once for a question, however often that is
    /// asked again.
    pub key_check: Option<KeyCheck>,
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastProbe {
    /// RFC 3339.
    pub at: String,
    /// The result.
    pub status: HealthStatus,
    /// The last remote key id of the plugin.
    pub remote_key_id: Option<RemoteKeyId>,
    /// The failure, cleaned of secrets.
    pub failure: Option<Failure>,
    /// Whether a process answered on the socket, also with an error.
    pub answered: bool,
}

/// Probes that fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// The last failure, cleaned of secrets.
    pub failure: Failure,
    /// The failure shows that the plugin reaches another KEK.
    pub mismatch: bool,
    /// How long probes have failed, counted from when the plugin last began, or ceased, to answer.
    pub since: Duration,
    /// Failed probes in a row.
    pub times: u32,
}
