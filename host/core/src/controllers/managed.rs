//! OpenShift's desired configuration: CONTRACT 3.2. One Secret, replaced as a whole; its rollout is OpenShift's.

use super::state::{is_same, promoted, record_publication, why};
use super::{Deployed, Turn};
use crate::formats::revision::RevisionContent;
use crate::machine::State;
use crate::outcome::Action;
use crate::platform::openshift::OpenShift;
use crate::snapshot::Snapshot;

/// Writes what should be deployed next where it is not written yet. Answers whether it is what is deployed.
pub(super) fn decide(
    snapshot: &Snapshot,
    openshift: &OpenShift,
    deployed: &Deployed<'_>,
    next: &State,
    content: RevisionContent,
    turn: &mut Turn,
) -> bool {
    let settled = deployed.content.is_some_and(|old| is_same(old, &content));
    let managed = openshift.managed.as_ref();
    let written = managed.and_then(|managed| managed.content.as_ref().ok()?.as_ref());
    if written.is_some_and(|old| is_same(old, &content)) {
        if !settled {
            turn.wait(
                "APIServerRevisionNotConverged",
                format!(
                    "{} is written; no API server pod runs it yet",
                    crate::names::managed_config(&snapshot.component)
                ),
            );
        }
        return settled;
    }
    turn.explain(format!(
        "desired configuration: {}",
        if settled { "as deployed, written again".to_owned() } else { why(deployed, next) }
    ));
    // Publication is recorded before a revision may have the key first (Decisions 5): any after those that there are.
    if !settled {
        for id in promoted(next) {
            record_publication(snapshot, id, snapshot.highest_revision.next(), false, turn);
        }
    }
    turn.act(Action::ApplyManagedConfig {
        content: Box::new(content),
        resource_version: managed.map(|managed| managed.resource_version.clone()),
    });
    settled
}
