//! [`next`]: what to do now, what to ask which plugin, what to report, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::instance::Instance;
use super::observe::{Observed, Question};
use super::view::{Candidate, Needed, Problem, View};
use super::{drift, install, late, paused, preflight, probes, report, stop, trial};
use crate::api::{KeyCheck, EncryptionNodeStatus, PreflightAnswer};
use crate::ids::{ConfigHash, KeyId, Revision};

/// One thing to do. Each can be done again without harm, and each leaves the node in a state from which [`next`] goes
/// on, whichever was the last that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Raise the high-water mark of keyIDs on disk (S5).
    RecordHighWater(KeyId),
    /// Keep these key checks on disk, and no other.
    KeepKeyChecks(BTreeMap<KeyId, KeyCheck>),
    /// Keep this preflight's success on disk, before it is told: a key check is made once.
    KeepPreflight(Box<PreflightAnswer>),
    /// Keep the target on disk.
    KeepRevision(Revision),
    /// Make the folder of an instance's socket.
    MakeFolder(Instance),
    /// Write an instance's files.
    WriteFiles(Instance),
    /// Write an instance's static pod, or write it anew.
    WritePod {
        /// Whose.
        instance: Instance,
        /// It is to be started once, and counted; else it is kept running.
        trial: bool,
    },
    /// Record the instance as the one that serves its key, then rename the key's link over to it.
    SwitchLink {
        /// Whose link.
        key_id: KeyId,
        /// Where it points afterwards.
        instance: Instance,
    },
    /// Keep what the configuration file holds now, then replace it.
    InstallConfiguration {
        /// The revision.
        revision: Revision,
        /// The hash of its configuration.
        hash: ConfigHash,
    },
    /// Record the refusal, then put the kept configuration of this hash into the file.
    PutBack {
        /// The hash that the API server still shows, or was last seen to have loaded.
        hash: ConfigHash,
        /// What it did not load; `None` where the file was lost.
        refused: Option<Refused>,
    },
    /// Keep in mind what the API server has loaded: while it says nothing, that is what can be put back.
    RecordLoaded(ConfigHash),
    /// Keep a copy of the configuration file, which somebody edited by hand and which has this hash.
    PutAside(ConfigHash),
    /// Keep in mind that something else was loaded while this revision was to be in force.
    RecordDrift(Revision),
    /// A later revision is in force.
    ForgetDrift,
    /// Forget the refusal: its configuration was loaded after all.
    ForgetRefusal,
    /// Remove a key's link and record: no configuration names its socket any more.
    RemoveLink(KeyId),
    /// Remove an instance's static pod: it stops.
    RemovePod(Instance),
    /// Remove an instance's files and its socket's folder.
    RemoveFiles(Instance),
    /// Remove a kept revision.
    ForgetRevision(Revision),
    /// Remove a kept configuration.
    ForgetConfiguration(ConfigHash),
    /// Forget what was replaced by hand: it failed, or newer data are installed.
    ForgetRecovered {
        /// Whose.
        key_id: KeyId,
        /// Which replacement.
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

    /// Whether it changes what the API server reads, so that its metrics must be read anew.
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

/// What to ask a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Status always; the whole question at first, after a failure and now and then.
    pub question: Question,
    /// All of it now: a step waits for the answer.
    pub urgent: bool,
}

/// What to do now, and what is.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// In order. The agent stops at the first that fails and looks again.
    pub steps: Vec<Step>,
    /// Every plugin to be probed; others are left alone.
    pub asks: BTreeMap<Instance, Ask>,
    /// To be probed beside those once the steps are done: what they start.
    pub starts: BTreeMap<Instance, Ask>,
    /// Instances that nothing needs, some of which are to go once they have been so for long enough.
    pub unneeded: BTreeSet<Instance>,
    /// `EncryptionNode.status`; `None` while too little was seen to say anything true.
    pub report: Option<EncryptionNodeStatus>,
    /// Why, in order, for people.
    pub why: Vec<String>,
    /// Whether something is under way, so that looking again soon is worth it.
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

    /// The first problem is the one that is told: those found later may follow from it.
    pub(super) fn problem(&mut self, problem: Problem) {
        self.why.push(format!("{}: {}", problem.reason, problem.message));
        self.problem.get_or_insert(problem);
    }
}

/// The agent's next steps. Pure: the same sight gives the same decision.
pub fn next(observed: &Observed) -> Decision {
    let view = View::new(observed);
    let mut draft = Draft::default();
    // Before what is loaded is recorded anew.
    drift::record(&view, &mut draft);
    record(&view, &mut draft);
    restore(&view, &mut draft);
    let server = match &observed.server {
        Ok(reading) if reading.loaded.is_none() => Some(Problem::new(
            "NodeNotPrepared",
            "the API server shows no loaded EncryptionConfiguration: it runs without --encryption-provider-config",
        )),
        Ok(_) => None,
        Err(unread) => {
            Some(Problem::new("APIServerUnreadable", format!("the API server's metrics: {}", unread.why)))
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

/// What must be on disk before anything is built on it.
fn record(view: &View<'_>, draft: &mut Draft) {
    let disk = &view.o.disk;
    let key_checks = view.o.spec.iter().flat_map(|seen| &seen.spec.key_checks);
    // A candidate's number is nobody's yet: only what a configuration names has been written with (S5).
    let named = view.target.iter().flat_map(|target| target.content.key_ids());
    let highest = named.chain(key_checks.clone().map(|key_check| key_check.key_id)).max().unwrap_or_default();
    if highest > disk.highest_key_id {
        draft.step(Step::RecordHighWater(highest), format!("key {highest} is the highest seen here"));
    }
    if let Some(loaded) = view.loaded.filter(|loaded| disk.loaded.as_ref() != Some(loaded)) {
        draft.step(Step::RecordLoaded(loaded.clone()), format!("the API server has loaded {loaded}"));
    }
    let Some(seen) = &view.o.spec else { return };
    // A key whose secret was deleted has lost its key check in the spec; while it is in use, the last one still holds.
    let in_use = |key_id: &KeyId| match &view.target {
        Some(target) => {
            target.plugins.contains_key(key_id) || !view.is_complete(&target.hash, &target.plugins)
        }
        None => true,
    };
    let kept = disk.key_checks.iter().filter(|(key_id, _)| in_use(key_id));
    let told = seen.spec.key_checks.iter().map(|told| (&told.key_id, &told.key_check));
    let wanted: BTreeMap<KeyId, KeyCheck> =
        kept.chain(told).map(|(key_id, key_check)| (*key_id, key_check.clone())).collect();
    if wanted != disk.key_checks {
        draft.step(Step::KeepKeyChecks(wanted), "the key checks changed");
    }
}

/// What was there and is lost: after a reboot the folder of the sockets is empty; and what somebody edited. Needs neither
/// operator nor API; only where another API server says so it is not to come back (`late.rs`).
fn restore(view: &View<'_>, draft: &mut Draft) {
    let disk = &view.o.disk;
    let needed = view.needed();
    for (instance, found) in &disk.instances {
        if found.pod && !found.folder {
            let why = format!("{instance} has a pod and no folder for its socket");
            draft.step(Step::MakeFolder(instance.clone()), why);
        }
        let record = view.o.record(instance);
        if found.pod && !found.files && record.is_some() {
            let why = format!("{instance} has a pod, and lacks files or has others than it was given");
            draft.step(Step::WriteFiles(instance.clone()), why);
        }
        // What nothing needs goes anyway, whatever somebody made of it.
        let is_used = || needed.contains_key(instance) || view.may_serve(instance);
        if found.pod && found.edited && is_used() {
            if record.is_some() {
                let why = format!("the manifest of {instance} was edited by hand; it is written anew");
                draft.step(Step::WritePod { instance: instance.clone(), trial: found.trial }, why);
            } else {
                let message = format!(
                    "the manifest of {instance} was edited by hand, and what it was made from is not kept here any more"
                );
                draft.problem(Problem::new("PluginEdited", message));
            }
        }
    }
    for (key_id, generation) in &disk.serving {
        if !disk.links.contains_key(key_id) {
            if let Some(why) = late::held(view, *key_id) {
                draft.wait(why);
                continue;
            }
            let instance = Instance { key_id: *key_id, generation: generation.clone() };
            let why = format!("{instance} serves key {key_id}, and the key's link is gone");
            draft.step(Step::SwitchLink { key_id: *key_id, instance }, why);
        }
    }
}

/// Files and pods of everything that target and candidate need.
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
        // A pod whose files or folder are gone was dealt with above.
        if found.pod {
            trial::go_on(view, &instance, draft);
            continue;
        }
        let trial = trial::is_trial(view, &instance);
        let who = match view.standing.get(&instance.key_id) {
            Some(needed) if needed.instance == instance => "the configuration file",
            _ if trial => "the candidate",
            _ => "the target",
        };
        if !found.files {
            draft.step(Step::WriteFiles(instance.clone()), format!("{who} needs {instance}"));
        }
        if !found.folder {
            draft.step(Step::MakeFolder(instance.clone()), format!("{who} needs {instance}"));
        }
        if found.listening && !view.may_serve(&instance) {
            // Else what answers could be the process that is about to end.
            draft.wait(format!("an earlier process of {instance} has not stopped yet"));
            continue;
        }
        let why = format!("{who} needs {instance}");
        draft.step(Step::WritePod { instance, trial }, why);
    }
}
