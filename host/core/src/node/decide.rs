//! [`next`]: the next steps, the probes, the report, and the reasons.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::instance::Instance;
use super::observe::{Observed, Question};
use super::view::{Candidate, Needed, Problem, View};
use super::{drift, install, late, paused, preflight, probes, report, stop, trial};
use crate::api::{EncryptionNodeStatus, KeyCheck, PreflightAnswer};
use crate::ids::{ConfigHash, KeyId, Revision};

/// One step. Each step can be repeated, and after each of them [`next`] can continue from the state of the
/// node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Raise the high-water mark of keyIDs on disk (invariant: one-number-one-kek).
    RecordHighWater(KeyId),
    /// Store these key checks on disk, and no others.
    KeepKeyChecks(BTreeMap<KeyId, KeyCheck>),
    /// Store the success of this preflight on disk before it is reported: a key check is made only once.
    KeepPreflight(Box<PreflightAnswer>),
    /// Store the target on disk.
    KeepRevision(Revision),
    /// Create the folder of an instance's socket.
    MakeFolder(Instance),
    /// Write an instance's files.
    WriteFiles(Instance),
    /// Write an instance's static pod, or write it again.
    WritePod {
        /// The instance.
        instance: Instance,
        /// The pod is a trial's: it is started once, and the start is counted. Otherwise it is kept running.
        trial: bool,
    },
    /// Record that the instance serves its key, then rename the key's link over to it.
    SwitchLink {
        /// The key of the link.
        key_id: KeyId,
        /// The instance that the link leads to afterwards.
        instance: Instance,
    },
    /// Store a copy of the present configuration file, then replace it.
    InstallConfiguration {
        /// The revision.
        revision: Revision,
        /// The hash of its configuration.
        hash: ConfigHash,
    },
    /// Record the refusal, then put the stored configuration of this hash into the file.
    PutBack {
        /// The hash that the API server still shows, or was last seen to have loaded.
        hash: ConfigHash,
        /// The configuration that it did not load; `None` where the file was lost.
        refused: Option<Refused>,
    },
    /// Record what the API server has loaded: while it does not answer, that is what can be put back.
    RecordLoaded(ConfigHash),
    /// Store a copy of the configuration file, which was edited and has this hash.
    PutAside(ConfigHash),
    /// Record that something else was loaded while this revision should have been in force.
    RecordDrift(Revision),
    /// Remove the record of the drift: a later revision is in force.
    ForgetDrift,
    /// Remove the record of the refusal: its configuration was loaded after all.
    ForgetRefusal,
    /// Remove a key's link and its record: no configuration names its socket any more.
    RemoveLink(KeyId),
    /// Remove an instance's static pod: it stops.
    RemovePod(Instance),
    /// Remove an instance's files and its socket's folder.
    RemoveFiles(Instance),
    /// Remove a stored revision.
    ForgetRevision(Revision),
    /// Remove a stored configuration.
    ForgetConfiguration(ConfigHash),
    /// Remove the record of a replacement credential: it failed, or newer data are installed.
    ForgetRecovered {
        /// The key.
        key_id: KeyId,
        /// The number of the replacement.
        number: u32,
    },
}

/// A configuration that the API server did not load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its revision.
    pub revision: Revision,
    /// Its hash.
    pub hash: ConfigHash,
    /// How often it has been tried.
    pub attempts: u32,
}

impl Step {
    /// Bounded label for logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RecordHighWater(_) => "RecordHighWater",
            Self::KeepKeyChecks(_) => "KeepKeyChecks",
            Self::KeepPreflight(_) => "KeepPreflight",
            Self::KeepRevision(_) => "KeepRevision",
            Self::MakeFolder(_) => "MakeFolder",
            Self::WriteFiles(_) => "WriteFiles",
            Self::WritePod { .. } => "WritePod",
            Self::SwitchLink { .. } => "SwitchLink",
            Self::InstallConfiguration { .. } => "InstallConfiguration",
            Self::PutBack { .. } => "PutBack",
            Self::RecordLoaded(_) => "RecordLoaded",
            Self::ForgetRefusal => "ForgetRefusal",
            Self::PutAside(_) => "PutAside",
            Self::RecordDrift(_) => "RecordDrift",
            Self::ForgetDrift => "ForgetDrift",
            Self::RemoveLink(_) => "RemoveLink",
            Self::RemovePod(_) => "RemovePod",
            Self::RemoveFiles(_) => "RemoveFiles",
            Self::ForgetRevision(_) => "ForgetRevision",
            Self::ForgetConfiguration(_) => "ForgetConfiguration",
            Self::ForgetRecovered { .. } => "ForgetRecovered",
        }
    }

    /// Whether it changes the file that the API server reads, so that the server's metrics must be read
    /// again.
    pub fn touches_configuration(&self) -> bool {
        matches!(self, Self::InstallConfiguration { .. } | Self::PutBack { .. })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::KeepKeyChecks(_) | Self::KeepPreflight(_) | Self::ForgetRefusal | Self::ForgetDrift => {
                Ok(())
            }
            Self::RecordHighWater(key_id)
            | Self::RemoveLink(key_id)
            | Self::ForgetRecovered { key_id, .. } => write!(f, " key {key_id}"),
            Self::MakeFolder(instance)
            | Self::WriteFiles(instance)
            | Self::WritePod { instance, .. }
            | Self::SwitchLink { instance, .. }
            | Self::RemovePod(instance)
            | Self::RemoveFiles(instance) => write!(f, " {instance}"),
            Self::KeepRevision(revision)
            | Self::InstallConfiguration { revision, .. }
            | Self::RecordDrift(revision)
            | Self::ForgetRevision(revision) => write!(f, " revision {revision}"),
            Self::PutBack { hash, .. }
            | Self::PutAside(hash)
            | Self::RecordLoaded(hash)
            | Self::ForgetConfiguration(hash) => write!(f, " {hash}"),
        }
    }
}

/// The probe of one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Each probe asks for Status; the first one, one after a failure and one from time to time ask the whole
    /// question.
    pub question: Question,
    /// Ask the whole question now: a step waits for the answer.
    pub urgent: bool,
}

/// The agent's next steps, and what it reports.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// In order. The agent stops at the first that fails, and observes again.
    pub steps: Vec<Step>,
    /// Every plugin to be probed; no other one is.
    pub asks: BTreeMap<Instance, Ask>,
    /// The instances that the steps start: they are probed too, once the steps are done.
    pub starts: BTreeMap<Instance, Ask>,
    /// Instances that nothing needs. Some of them stop only after they have been unneeded for some time.
    pub unneeded: BTreeSet<Instance>,
    /// `EncryptionNode.status`; `None` while too little was observed for a true report.
    pub report: Option<EncryptionNodeStatus>,
    /// The reasons, in order, for people.
    pub why: Vec<String>,
    /// Whether something is under way, so that the agent observes again soon.
    pub busy: bool,
}

/// A decision being made.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) steps: Vec<Step>,
    pub(super) urgent: BTreeSet<Instance>,
    pub(super) unneeded: BTreeSet<Instance>,
    pub(super) why: Vec<String>,
    pub(super) problem: Option<Problem>,
    pub(super) busy: bool,
}

impl Draft {
    pub(super) fn step(&mut self, step: Step, why: impl Into<String>) {
        self.steps.push(step);
        self.busy = true;
        self.why.push(why.into());
    }

    pub(super) fn wait(&mut self, why: impl Into<String>) {
        self.busy = true;
        self.why.push(why.into());
    }

    /// Only the first problem is reported: those found later may follow from it.
    pub(super) fn problem(&mut self, problem: Problem) {
        self.why.push(format!("{}: {}", problem.reason, problem.message));
        self.problem.get_or_insert(problem);
    }
}

/// The agent's next steps. Pure: the same observation gives the same decision.
pub fn next(observed: &Observed) -> Decision {
    let view = View::new(observed);
    let mut draft = Draft::default();
    // `RecordDrift` comes before `RecordLoaded`.
    drift::record(&view, &mut draft);
    record(&view, &mut draft);
    restore(&view, &mut draft);
    let server = match &observed.server {
        Ok(reading) if reading.loaded.is_none() => Some(Problem::new(
            "NodeNotPrepared",
            "the API server reports no loaded EncryptionConfiguration: it runs without --encryption-provider-config",
        )),
        Ok(_) => None,
        Err(unread) => {
            let message = format!("the API server's metrics cannot be read: {}", unread.why);
            Some(Problem::new("APIServerUnreadable", message))
        }
    };
    if let Some(problem) = server {
        draft.problem(problem);
    }
    if let Some(problem) = &view.target_problem {
        draft.problem(problem.clone());
    }
    if !view.unprepared() {
        start(&view, &mut draft);
        install::switch_links(&view, &mut draft);
        install::configuration(&view, &mut draft);
    }
    let answer = preflight::answer(&view, &mut draft);
    stop::plugins(&view, &mut draft);
    stop::kept(&view, &mut draft);
    stop::recovered(&view, &mut draft);
    let pause = paused::withhold(&view, &mut draft);
    let asks = probes::asks(&view, &draft.urgent);
    let starts = probes::starts(&view, &draft.steps);
    let report = report::report(&view, &asks, answer, draft.problem.as_ref(), pause);
    Decision {
        steps: draft.steps,
        asks,
        starts,
        unneeded: draft.unneeded,
        report,
        why: draft.why,
        busy: draft.busy,
    }
}

/// Records on disk what later steps rely on.
fn record(view: &View<'_>, draft: &mut Draft) {
    let disk = &view.o.disk;
    let key_checks = view.o.spec.iter().flat_map(|seen| &seen.spec.key_checks);
    // A candidate's number is not used up yet: only a key that a configuration names can have written
    // (objects: numbers).
    let named = view.target.iter().flat_map(|target| target.content.key_ids());
    let highest = named.chain(key_checks.clone().map(|key_check| key_check.key_id)).max().unwrap_or_default();
    if highest > disk.highest_key_id {
        draft.step(
            Step::RecordHighWater(highest),
            format!("key {highest} is the highest key number seen on this node"),
        );
    }
    if let Some(loaded) = view.loaded.filter(|loaded| disk.loaded.as_ref() != Some(loaded)) {
        draft.step(Step::RecordLoaded(loaded.clone()), format!("the API server has loaded {loaded}"));
    }
    let Some(seen) = &view.o.spec else { return };
    // The spec has no key check of a key whose secret was deleted. While the key is in use, the last one
    // still counts.
    let in_use = |key_id: &KeyId| match &view.target {
        Some(target) => {
            target.plugins.contains_key(key_id) || !view.is_complete(&target.hash, &target.plugins)
        }
        None => true,
    };
    let kept = disk.key_checks.iter().filter(|(key_id, _)| in_use(key_id));
    let in_spec = seen.spec.key_checks.iter().map(|entry| (&entry.key_id, &entry.key_check));
    let wanted: BTreeMap<KeyId, KeyCheck> =
        kept.chain(in_spec).map(|(key_id, key_check)| (*key_id, key_check.clone())).collect();
    if wanted != disk.key_checks {
        draft.step(Step::KeepKeyChecks(wanted), "the key checks changed");
    }
}

/// Restores what somebody edited and what is missing: after a reboot the folder of the sockets is empty.
/// Needs neither operator nor API. Only a link may have to wait, or is not restored (`late.rs`).
fn restore(view: &View<'_>, draft: &mut Draft) {
    let disk = &view.o.disk;
    let needed = view.needed();
    for (instance, found) in &disk.instances {
        if found.pod && !found.folder {
            let why = format!("{instance} has a pod but no folder for its socket");
            draft.step(Step::MakeFolder(instance.clone()), why);
        }
        let record = view.o.record(instance);
        if found.pod && !found.files && record.is_some() {
            let why = format!("the files of {instance} are missing or differ from its data");
            draft.step(Step::WriteFiles(instance.clone()), why);
        }
        // An instance that nothing needs is removed anyway, edited or not.
        let is_used = || needed.contains_key(instance) || view.may_serve(instance);
        if found.pod && found.edited && is_used() {
            if record.is_some() {
                let why = format!("the manifest of {instance} was edited; it is restored");
                draft.step(Step::WritePod { instance: instance.clone(), trial: found.trial }, why);
            } else {
                let message = format!(
                    "the manifest of {instance} was edited and cannot be restored: its source data is no longer on this node"
                );
                draft.problem(Problem::new("PluginEdited", message));
            }
        }
    }
    for (key_id, generation) in &disk.serving {
        if !disk.links.contains_key(key_id) {
            if let Some(why) = late::blocked(view, *key_id) {
                draft.wait(why);
                continue;
            }
            let instance = Instance { key_id: *key_id, generation: generation.clone() };
            let why = format!("the socket link of key {key_id}, which {instance} serves, is missing");
            draft.step(Step::SwitchLink { key_id: *key_id, instance }, why);
        }
    }
}

/// Writes the files and pods of everything that target, configuration file and candidate need.
fn start(view: &View<'_>, draft: &mut Draft) {
    if let Some(target) = &view.target {
        if view.o.disk.revisions.get(&target.revision).is_none_or(|kept| **kept != *target.content) {
            let why = format!("revision {} is the target", target.revision);
            draft.step(Step::KeepRevision(target.revision), why);
        }
        let unfit = |(key_id, needed): (&KeyId, &Needed<'_>)| Some((*key_id, needed.unfit()?.to_string()));
        if let Some((key_id, why)) = target.plugins.iter().find_map(unfit) {
            draft.problem(Problem::new("PluginRefused", format!("key {key_id}: {why}")));
        }
    }
    if let Candidate::Waiting(why) = &view.candidate {
        draft.wait(why.clone());
    }
    for (instance, needed) in view.needed() {
        if needed.external.is_some() || needed.unfit().is_some() {
            continue;
        }
        let found = view.on_disk(&instance);
        // `restore` handles a pod whose files or folder are missing.
        if found.pod {
            trial::go_on(view, &instance, draft);
            continue;
        }
        let trial = trial::is_trial(view, &instance);
        let who = match view.file_plugins.get(&instance.key_id) {
            Some(needed) if needed.instance == instance => "the configuration file",
            _ if trial => "the candidate",
            _ => "the target revision",
        };
        if !found.files {
            draft.step(Step::WriteFiles(instance.clone()), format!("{who} needs {instance}"));
        }
        if !found.folder {
            draft.step(Step::MakeFolder(instance.clone()), format!("{who} needs {instance}"));
        }
        if found.listening && !view.may_serve(&instance) {
            // Otherwise the process that is about to end could answer the probes.
            draft.wait(format!("an earlier process of {instance} has not stopped yet"));
            continue;
        }
        let why = format!("{who} needs {instance}");
        draft.step(Step::WritePod { instance, trial }, why);
    }
}
