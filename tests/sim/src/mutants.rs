//! Decisions that are wrong on purpose: each must be found, or the checks are worth nothing.

use keyward_core::node::{self, Decision, Observed};
use keyward_core::outcome::Outcome;
use keyward_core::snapshot::Snapshot;

use crate::world::World;

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// What.
    PromoteEarly,
}

impl Mutant {
    pub(crate) fn before(self, _world: &World, _snapshot: &mut Snapshot) {}
    pub(crate) fn after(self, _world: &World, _snapshot: &Snapshot, _outcome: &mut Outcome) {}
    pub(crate) fn agent(self, observed: &Observed) -> Decision {
        node::next(observed)
    }
}
