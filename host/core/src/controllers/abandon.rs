//! When may a key be superseded that is still on its way? Only while no revision ever had it first: then nothing is
//! stored under it (DESIGN.md, Decisions 5).
//!
//! Publication and abandonment write the same object, each depending on the version that was read: of two controllers
//! that decide differently, one loses.

use super::{Deployed, Turn};
use crate::formats::key_secret::{KeySecret, rfc3339};
use crate::outcome::Action;
use crate::snapshot::Snapshot;

/// The newest key, where it can still be superseded.
pub(super) fn candidate<'a>(snapshot: &'a Snapshot, deployed: &Deployed<'_>) -> Option<&'a KeySecret> {
    let newest = snapshot.usable().next()?;
    let writes = deployed
        .state
        .as_ref()
        .is_some_and(|state| state.resources.values().any(|keys| keys.write == Some(newest.id)));
    (newest.write_published.is_none() && !writes && newest.migrated.is_empty()).then_some(newest)
}

/// Annotates it. Its number is not used again.
pub(super) fn abandon(snapshot: &Snapshot, key: &KeySecret, reason: &str, turn: &mut Turn) {
    turn.explain(format!("key {} was never a write key and is superseded: {reason}", key.id));
    let key = Box::new(KeySecret { abandoned: Some(rfc3339(&snapshot.now)), ..key.clone() });
    turn.act(Action::AbandonKey { key, reason: reason.to_owned() });
}
