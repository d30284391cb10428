//! Which revisions are kept (OBJECTS.md, "Beginnings and ends"): the converged one, the target, those that a node
//! names, one before.

use std::collections::BTreeSet;

use super::{Deployment, Turn};
use crate::ids::Revision;
use crate::outcome::Action;
use crate::snapshot::Snapshot;

/// Deletes the other revisions, only when everything stands still.
pub(super) fn decide(snapshot: &Snapshot, deployment: &Deployment<'_>, turn: &mut Turn) {
    let Deployment::Converged { revision, .. } = deployment else { return };
    if snapshot.openshift().is_some() {
        return; // OpenShift prunes its revisions itself.
    }
    let mut kept: BTreeSet<Revision> = snapshot
        .servers
        .values()
        .flat_map(|server| {
            [
                server.agent.as_ref().map(|agent| agent.spec.revision),
                server.status().map(|status| status.revision),
            ]
        })
        .flatten()
        .chain([*revision])
        .collect();
    kept.extend(snapshot.revisions.keys().rev().find(|other| *other < revision).copied());
    for (other, stored) in &snapshot.revisions {
        if !kept.contains(other) && other < revision {
            turn.act(Action::DeleteRevision {
                revision: *other,
                resource_version: stored.resource_version.clone(),
            });
        }
    }
}
