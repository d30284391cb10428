//! The operator: it decides, then writes one action at a time, and may die or be slow between any two.

use std::collections::{BTreeMap, VecDeque};

use keyward_core::SecretBytes;
use keyward_core::outcome::{Action, Outcome, REPORT_FACTS, StatusView};
use keyward_core::platform::{Age, FreshBytes, Unreadable};

use super::World;
use super::config::{RESOURCES, resources};
use crate::invariants::{self, given_up};

/// One operator process.
#[derive(Clone, Debug, Default)]
pub struct Operator {
    /// Actions that it has decided and not yet written.
    pub pending: VecDeque<Action>,
    /// Which resources were requested when that was decided. A later change of the spec does not affect
    /// pending actions.
    pub asked: [bool; RESOURCES.len()],
    /// The status that it writes in the end.
    pub view: Option<StatusView>,
    /// The version of the ClusterEncryption that it has read or written last.
    pub cluster_version: u64,
    /// The age of facts, by its own clock.
    pub ages: BTreeMap<String, Age>,
}

impl World {
    /// One decision about the present state. Pending actions of the previous decision are discarded.
    pub(super) fn decide(&mut self, who: usize) {
        if self.running().next().is_none() {
            return;
        }
        let outcome = self.outcome(who);
        if self.unreadable && outcome.actions.iter().any(|action| !matches!(action, Action::SetTarget { .. }))
        {
            let what = format!("the operator decided while Secrets are unreadable: {}", kinds(&outcome));
            self.fails("unknown-is-not-absent", what);
        }
        if self.api.spec.paused.is_some() && !outcome.actions.is_empty() {
            let what = format!("the operator decided while it is paused: {}", kinds(&outcome));
            self.fails("pause-withholds-everything", what);
        }
        if let Some(what) = given_up::works_and_leaves(self, &outcome) {
            self.fails("forget-is-bound", what);
        }
        if outcome.converged && outcome.actions.is_empty() && outcome.waiting.is_none() {
            invariants::settled(self);
        }
        invariants::ready(self, &outcome);
        let up: Vec<String> = self.running().map(|n| format!("{REPORT_FACTS}{}/", super::NAMES[n])).collect();
        let wanted = &self.api.snapshot.wanted.resources;
        let mut asked = [false; RESOURCES.len()];
        asked.iter_mut().zip(resources()).for_each(|(asked, resource)| *asked = wanted.contains(resource));
        let operator = &mut self.operators[who];
        operator.asked = asked;
        // A running agent renews its reports. They have no time here, so they never become old.
        let renewed = |fact: &String| up.iter().any(|prefix| fact.starts_with(prefix));
        operator.ages = outcome
            .facts
            .into_iter()
            .filter(|(fact, _)| !renewed(fact))
            .map(|(fact, value)| {
                let before = operator.ages.get(&fact).filter(|age| age.value == value);
                let elapsed = before.map(|age| age.elapsed).unwrap_or_default();
                (fact, Age { value, elapsed })
            })
            .collect();
        operator.pending = outcome.actions.into();
        operator.view = Some(outcome.view);
        operator.cluster_version = self.api.cluster_version;
    }

    /// The decision that operator 0 would make now.
    pub fn decided(mut self) -> Outcome {
        self.outcome(0)
    }

    /// The decision that would be made now; it changes no relevant state.
    pub(crate) fn outcome(&mut self, who: usize) -> Outcome {
        let (made, mutant, unreadable) = (self.made, self.mutant, self.unreadable);
        self.made += 1;
        let now = self.now();
        let ages = self.operators[who].ages.clone();
        let api = std::sync::Arc::make_mut(&mut self.api);
        api.derive();
        let id = api.snapshot.next_key().unwrap_or_default().0;
        let snapshot = &mut api.snapshot;
        snapshot.now = now;
        snapshot.ages = ages;
        // A key's bytes follow from its number: if a number is used twice, the books show it.
        let key = SecretBytes::new(vec![u8::try_from(id % 250).unwrap_or(0) + 1; 32]);
        snapshot.fresh = FreshBytes { key, salt: SecretBytes::new(made.to_be_bytes().to_vec()) };
        if !unreadable && mutant.is_none() {
            return keyward_core::reconcile(&api.snapshot);
        }
        let mut seen = api.snapshot.clone();
        if unreadable {
            seen.unreadable
                .push(Unreadable { what: "secrets in keyward-system".into(), why: "timeout".into() });
            seen.keys.clear();
            seen.revisions.clear();
            (seen.candidate, seen.candidate_version) = (None, None);
        }
        let Some(mutant) = mutant else { return keyward_core::reconcile(&seen) };
        mutant.before(self, &mut seen);
        let mut outcome = keyward_core::reconcile(&seen);
        mutant.after(self, &seen, &mut outcome);
        outcome
    }

    /// Writes the next action. If it fails, the others are discarded.
    pub(super) fn act(&mut self, who: usize) -> bool {
        if self.running().next().is_none() {
            return false;
        }
        let Some(action) = self.operators[who].pending.pop_front() else { return false };
        let refused = self.refuses_keys > 0 && matches!(action, Action::CreateKey { .. });
        self.refuses_keys -= u8::from(refused);
        let operator = &mut self.operators[who];
        let api = std::sync::Arc::make_mut(&mut self.api);
        if refused || api.apply(&action, &mut operator.cluster_version).is_err() {
            operator.pending.clear();
            operator.view = None;
            return false;
        }
        let asked = self.operators[who].asked;
        invariants::action(self, &action, asked);
        if let Some(mutant) = self.mutant {
            mutant.acted(self, &action);
        }
        if self.operators[who].pending.is_empty() {
            self.publish_status(who);
        }
        true
    }

    fn publish_status(&mut self, who: usize) {
        let operator = &mut self.operators[who];
        if let Some(view) = operator.view.take() {
            std::sync::Arc::make_mut(&mut self.api).report(&view, operator.cluster_version);
            given_up::accepted(self);
        }
    }

    /// One whole reconcile pass, or this many actions of it, after which the process dies.
    pub(super) fn reconcile(&mut self, who: usize, actions: Option<usize>) {
        self.decide(who);
        let mut left = actions.unwrap_or(usize::MAX);
        while left > 0 && self.act(who) {
            left -= 1;
        }
        if actions.is_some() {
            self.operators[who] = Operator::default();
        } else if self.operators[who].pending.is_empty() {
            self.publish_status(who);
        }
    }
}

pub(crate) fn kinds(outcome: &Outcome) -> String {
    outcome.actions.iter().map(Action::kind).collect::<Vec<_>>().join(", ")
}
