//! One file for each controller, with one pure function over the snapshot. [`reconcile`] calls them in order.
//!
//! A controller that fails sets its own Degraded condition and stops only its own actions. This folder
//! contains the rules of decisions, and never I/O or a clock.

mod abandon;
mod condition;
pub mod confirm;
pub mod content;
mod decommission;
mod diagnosis;
mod evidence;
mod expiry;
mod forget;
mod health;
mod in_place;
mod key;
mod lost;
mod managed;
mod migration;
mod outage;
mod pause;
mod pods;
mod preflight;
mod preflight_status;
mod prune;
mod record;
mod reports;
mod rollout;
mod rotation;
mod state;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::api::{Condition, ConditionStatus, EncryptionNodeStatus};
use crate::formats::encryption_config::zero_hash;
use crate::formats::revision::RevisionContent;
use crate::ids::{ConfigHash, GroupResource, KeyId, Mode, Revision};
use crate::machine::{self, Desired, Facts, Key, State};
use crate::outcome::{Action, Notice, Outcome, StatusView, Until, Waiting};
use crate::snapshot::Snapshot;

pub use forget::kept as forget_kept;
#[cfg(test)]
pub(crate) use key::LOGIN_PATIENCE;
pub use migration::by_another_message;
pub use record::violations;
pub use rollout::{Assessment, Deployment, assess};

/// The whole decision about one operand.
pub fn reconcile(snapshot: &Snapshot) -> Outcome {
    let requests = forget::assess(snapshot);
    if requests.in_force == snapshot.wanted.forget {
        return decided(snapshot, requests);
    }
    // A key that works again stays, and the whole pass must decide with it.
    let mut snapshot = snapshot.clone();
    snapshot.wanted.forget.clone_from(&requests.in_force);
    decided(&snapshot, requests)
}

fn decided(snapshot: &Snapshot, requests: forget::Requests) -> Outcome {
    let assessment = rollout::assess(snapshot);
    let deployed = Deployed::of(snapshot, &assessment.deployment);
    let mut turn = Turn::new(snapshot, assessment.deployment.is_converged());
    turn.waiting.clone_from(&assessment.waiting);
    turn.notices.extend(assessment.notices.iter().cloned());

    let next = key::decide(snapshot, &assessment.deployment, &deployed, &mut turn);
    let request = preflight::decide(snapshot, next, &mut turn);
    let settled = state::decide(snapshot, &assessment.deployment, &deployed, &mut turn);
    migration::decide(snapshot, &assessment.deployment, &deployed, settled, &mut turn);
    rotation::decide(snapshot, &assessment.deployment, &deployed, settled, &mut turn);
    prune::decide(snapshot, &assessment.deployment, &deployed, settled, &mut turn);
    lost::decide(&assessment, &mut turn);
    lost::report(snapshot, &deployed, &mut turn);
    rollout::decide(snapshot, &assessment, request, &mut turn);
    health::decide(snapshot, &assessment.deployment, &mut turn);
    let expiries = expiry::decide(snapshot, &mut turn);
    pods::report(snapshot, &mut turn);
    let forget = forget::report(snapshot, requests, &mut turn);
    if !matches!(assessment.deployment, Deployment::Blocked) {
        decommission::decide(snapshot, &mut turn);
    }
    confirm::decide(snapshot, &mut turn);
    turn.append_waits_behind();
    let paused = pause::decide(snapshot, &mut turn);
    condition::decide(snapshot, &assessment.deployment, &deployed, &mut turn);
    let view = view::view(snapshot, &assessment.deployment, &deployed);
    turn.finish(StatusView { forget, paused, expiries, ..view })
}

/// What is deployed, and what should be deployed next.
pub(crate) struct Deployed<'a> {
    /// Decoded; `None` if no configuration is deployed.
    pub(crate) state: Option<State>,
    /// The revision that `state` is decoded from.
    pub(crate) content: Option<&'a RevisionContent>,
    /// The next configuration, computed from `state`.
    pub(crate) desired: Desired,
    /// What `desired` is computed from, besides configuration and keys.
    pub(crate) facts: Facts,
    /// Whether a key or an entry waits to leave until every object is verified.
    pub(crate) waits_for_verification: bool,
    /// Usable keys, newest first.
    pub(crate) backed: Vec<Key>,
    /// A revision with a higher number must replace the newest one, and earlier records of migration do not
    /// count. A newer revision is lost and cannot be recreated, so a node that has left may have written with
    /// it. Or an API server had loaded another configuration while the newest revision was in force.
    pub(crate) must_be_superseded: bool,
}

impl<'a> Deployed<'a> {
    fn of(snapshot: &Snapshot, deployment: &Deployment<'a>) -> Self {
        let content = match deployment {
            Deployment::Converged { content, .. } | Deployment::Rolling { content, .. } => Some(*content),
            Deployment::Nothing | Deployment::Blocked => None,
        };
        // A configuration that is not understood blocks, so `Rolling` and `Converged` never have one.
        let mut state = content.and_then(|content| machine::decode(content, snapshot.usable()).ok());
        // An entry for a resource of another component has no effect, since this API server does not store
        // it. It leaves without decryption (openshift: resources-of-a-configuration).
        if let Some(state) = state.as_mut().filter(|_| snapshot.openshift().is_some()) {
            state.retain(&snapshot.wanted.resources);
        }
        let backed: Vec<Key> = snapshot.usable().map(Key::of).collect();
        let facts = evidence::facts(snapshot, deployment, state.as_ref());
        let desired = machine::desired(state.as_ref(), &backed, &snapshot.wanted.resources, &facts);
        let waits_for_verification = !facts.verified && {
            let verified = Facts { verified: true, ..facts.clone() };
            let leaves =
                machine::desired(state.as_ref(), &backed, &snapshot.wanted.resources, &verified) != desired;
            leaves || content.is_some_and(|content| forget::awaits_verification(snapshot, content))
        };
        let must_be_superseded = match deployment {
            // If a node may have the missing revision, or it can be recreated, the deployment is `Blocked`.
            Deployment::Converged { .. } | Deployment::Rolling { .. } => {
                let newest = snapshot.newest_revision();
                let gone = snapshot.recorded_revisions.iter().any(|recorded| recorded.n > newest);
                snapshot.openshift().is_none() && (gone || drifted(snapshot, state.as_ref(), newest))
            }
            Deployment::Nothing | Deployment::Blocked => false,
        };
        Self { state, content, desired, facts, waits_for_verification, backed, must_be_superseded }
    }

    /// The key that a resource is written with; `None` if it has none, or if the writer is not known.
    pub(crate) fn writer(&self, resource: &GroupResource) -> Option<KeyId> {
        if self.must_be_superseded { None } else { self.state.as_ref()?.resources.get(resource)?.write }
    }

    /// The key under which everything is stored, or will be.
    pub(crate) fn newest(&self) -> Option<&Key> {
        self.backed.first()
    }

    /// KMS keys of the deployed configuration.
    pub(crate) fn kms_keys(&self) -> impl Iterator<Item = &Key> {
        self.state.iter().flat_map(|state| state.keys.values()).filter(|key| key.mode == Mode::Kms)
    }

    /// Every resource that may have something stored under a key: the requested ones, and those that left the
    /// list and are still deployed.
    pub(crate) fn covered<'b>(&'b self, snapshot: &'b Snapshot) -> impl Iterator<Item = &'b GroupResource> {
        let left = self.desired.state.resources.keys();
        let wanted = &snapshot.wanted.resources;
        wanted.iter().chain(left.filter(|resource| !wanted.contains(resource)))
    }
}

/// Whether an API server may have written with another configuration than the newest revision since the
/// writers were published, because it loaded an older configuration or its configuration file was edited.
/// While the edited file is still loaded or installed, the answer is no: a new revision does not end the edit,
/// since it would be edited in turn.
fn drifted(snapshot: &Snapshot, state: Option<&State>, newest: Revision) -> bool {
    let hash = snapshot.content(newest).map(RevisionContent::hash);
    let writers = state.iter().flat_map(|state| state.resources.values().filter_map(|keys| keys.write));
    let published: Vec<Revision> = writers.filter_map(|id| snapshot.key(id)?.write_published).collect();
    snapshot.servers.values().any(|server| {
        let Some(status) = server.status() else { return false };
        if published.iter().any(|revision| *revision <= snapshot.last_converged)
            && has_older_configuration(snapshot, status)
        {
            return true;
        }
        let mut seen = [&status.loaded_hash, &status.installed_hash].into_iter();
        match status.drifted {
            None => false,
            // The agent may also report an earlier configuration of Keyward as an edit. The node gets the
            // newest revision first.
            Some(last) if last >= newest => hash.is_some() && seen.all(|seen| *seen == hash),
            Some(last) => {
                let is_ours = |seen: &Option<ConfigHash>| {
                    seen.as_ref().is_some_and(|seen| !rollout::is_foreign(snapshot, seen))
                };
                seen.all(is_ours) && published.iter().any(|revision| *revision <= last)
            }
        }
    })
}

/// Whether an API server has loaded an older configuration than one that every API server had before: its
/// machine was restored from a backup, or it joined without `prepare`. It may have written with that
/// configuration, also in plain text.
fn has_older_configuration(snapshot: &Snapshot, status: &EncryptionNodeStatus) -> bool {
    let Some(loaded) = &status.loaded_hash else { return false };
    let recorded = snapshot.recorded_revisions.iter();
    let recorded = recorded.filter(|recorded| recorded.config_hash == *loaded).map(|recorded| recorded.n);
    let kept = snapshot.revisions.iter().filter_map(|(n, stored)| {
        let content = stored.content.as_ref().ok()?;
        (content.hash() == *loaded).then_some(*n)
    });
    let zero = (loaded == zero_hash()).then_some(Revision(0));
    // Several revisions may have the same bytes.
    recorded.chain(kept).chain(zero).max().is_some_and(|newest| newest < snapshot.last_converged)
}

/// The results of one reconcile pass, which the controllers add to.
pub(crate) struct Turn {
    actions: Vec<Action>,
    /// See [`pause`].
    withheld: Vec<Action>,
    conditions: Vec<Condition>,
    explanation: Vec<String>,
    notices: Vec<Notice>,
    facts: BTreeMap<String, String>,
    unrecorded: BTreeSet<String>,
    waiting: Option<Waiting>,
    /// See [`Self::wait_behind`].
    behind: Vec<Waiting>,
    /// See [`Self::wait_until`].
    until: Option<Until>,
    /// See [`Self::unfinished`].
    unfinished: Option<Waiting>,
    requeue_after: Option<Duration>,
    operand: String,
    converged: bool,
    /// A key was abandoned in this pass. The snapshot of the other controllers still has it, so they wait for
    /// the next pass.
    abandons: bool,
}

impl Turn {
    fn new(snapshot: &Snapshot, converged: bool) -> Self {
        Self {
            actions: Vec::new(),
            withheld: Vec::new(),
            conditions: Vec::new(),
            explanation: Vec::new(),
            notices: Vec::new(),
            facts: BTreeMap::new(),
            unrecorded: BTreeSet::new(),
            waiting: None,
            behind: Vec::new(),
            until: None,
            unfinished: None,
            requeue_after: None,
            operand: snapshot.component.clone(),
            converged,
            abandons: false,
        }
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.abandons |= matches!(action, Action::AbandonKey { .. });
        self.actions.push(action);
    }

    pub(crate) fn explain(&mut self, why: impl Into<String>) {
        self.explanation.push(why.into());
    }

    pub(crate) fn notice(&mut self, warning: bool, reason: &str, message: impl Into<String>) {
        self.notices.push(Notice::new(warning, reason, message));
    }

    /// A notice whose message may change while its subject stays the same.
    pub(crate) fn notice_about(&mut self, reason: &str, subject: String, message: impl Into<String>) {
        self.notices.push(Notice::new(true, reason, message).about(subject));
    }

    /// Only the first wait of a pass is reported.
    pub(crate) fn wait(&mut self, reason: &str, message: impl Into<String>) {
        if self.waiting.is_none() {
            self.waiting = Some(Waiting { reason: reason.to_owned(), message: message.into() });
        }
    }

    /// A wait that ends when the fact has had its value for `after`, if nothing else delays it.
    pub(crate) fn wait_until(
        &mut self,
        reason: &str,
        message: impl Into<String>,
        fact: impl Into<String>,
        after: Duration,
    ) {
        if self.waiting.is_none() {
            self.until = Some(Until { fact: fact.into(), after });
        }
        self.wait(reason, message);
    }

    /// Something that blocks no step and is not complete yet. `Ready` reports it if there is nothing to wait
    /// for.
    pub(crate) fn unfinished(&mut self, reason: &str, message: impl Into<String>) {
        if self.unfinished.is_none() {
            self.unfinished = Some(Waiting { reason: reason.to_owned(), message: message.into() });
        }
    }

    /// Something that can begin only after the other waits. It is reported after them.
    pub(crate) fn wait_behind(&mut self, reason: &str, message: String) {
        let waiting = Waiting { reason: reason.to_owned(), message };
        // Several resources may report the same.
        if !self.behind.contains(&waiting) {
            self.behind.push(waiting);
        }
    }

    fn append_waits_behind(&mut self) {
        for last in std::mem::take(&mut self.behind) {
            match &mut self.waiting {
                Some(waiting) => waiting.message = format!("{}; {}", waiting.message, last.message),
                None => self.waiting = Some(last),
            }
        }
    }

    /// Something that every other step waits for. It is reported first.
    pub(crate) fn wait_above_all(&mut self, reason: &str, message: String) {
        let message = match &self.waiting {
            Some(other) => format!("{message}; {}", other.message),
            None => message,
        };
        self.waiting = Some(Waiting { reason: reason.to_owned(), message });
        self.until = None;
    }

    /// How long the fact has had this value. Records the value, so that its age is kept.
    pub(crate) fn since(&mut self, snapshot: &Snapshot, fact: impl Into<String>, value: String) -> Duration {
        let fact = fact.into();
        let age = snapshot.age(&fact, &value);
        self.record(fact, value);
        age
    }

    /// Records the value, so that its age is kept.
    pub(crate) fn record(&mut self, fact: String, value: String) {
        self.facts.insert(fact, value);
    }

    pub(crate) fn again_after(&mut self, delay: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(delay, |known| known.min(delay)));
    }

    pub(crate) fn condition(&mut self, type_: &str, status: ConditionStatus, reason: &str, message: &str) {
        self.conditions.push(Condition::new(type_, status, reason, message));
    }

    /// A controller's own Degraded condition (openshift: controller-conditions).
    pub(crate) fn degraded(&mut self, type_: &str, trouble: Option<(&str, String)>) {
        match trouble {
            Some((reason, message)) => {
                self.explain(message.clone());
                self.notice(true, reason, message.clone());
                self.condition(type_, ConditionStatus::True, reason, &message);
            }
            None => self.condition(type_, ConditionStatus::False, "AsExpected", ""),
        }
    }

    /// A controller's own Degraded condition for a problem whose message may change while it lasts.
    pub(crate) fn degraded_by(&mut self, type_: &str, reason: &str, subject: String, message: &str) {
        self.explain(message);
        self.notice_about(reason, subject, message);
        self.condition(type_, ConditionStatus::True, reason, message);
    }

    /// Another problem of a controller whose condition is already set.
    pub(crate) fn degraded_too(&mut self, type_: &str, reason: &str, message: &str) {
        self.explain(message);
        self.notice(true, reason, message);
        match self.conditions.iter_mut().find(|condition| condition.type_ == type_) {
            Some(known) if known.status == ConditionStatus::True => {
                known.message = format!("{}; {message}", known.message);
            }
            Some(known) => *known = Condition::new(type_, ConditionStatus::True, reason, message),
            None => self.condition(type_, ConditionStatus::True, reason, message),
        }
    }

    fn finish(self, view: StatusView) -> Outcome {
        Outcome {
            operand: self.operand,
            converged: self.converged,
            waiting: self.waiting,
            until: self.until,
            actions: self.actions,
            withheld: self.withheld,
            conditions: self.conditions,
            explanation: self.explanation,
            notices: self.notices,
            facts: self.facts,
            unrecorded: self.unrecorded,
            view,
            requeue_after: self.requeue_after,
        }
    }
}
