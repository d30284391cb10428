//! OpenShift's desired configuration (openshift: apply-desired-configuration): one Secret that is replaced as
//! a whole. OpenShift rolls it out.

use std::collections::BTreeSet;

use super::state::{is_same, promoted, record_publication, why};
use super::{Deployed, Turn};
use crate::formats::revision::RevisionContent;
use crate::machine::State;
use crate::outcome::Action;
use crate::platform::openshift::OpenShift;
use crate::snapshot::Snapshot;

/// The deployed configuration is the right one. Writes the desired configuration again if it differs from
/// that, or is gone.
pub(super) fn restore(openshift: &OpenShift, content: RevisionContent, turn: &mut Turn) {
    if !is_written(openshift, &content) {
        turn.explain("desired configuration: the deployed one, written again");
        write(openshift, content, turn);
    }
}

/// Writes the next configuration, if it is not written yet.
pub(super) fn publish(
    snapshot: &Snapshot,
    openshift: &OpenShift,
    deployed: &Deployed<'_>,
    next: &State,
    content: RevisionContent,
    turn: &mut Turn,
) {
    if is_written(openshift, &content) {
        return turn.wait(
            "APIServerRevisionNotConverged",
            format!(
                "{} is written; no API server pod runs it yet",
                crate::names::managed_config(&snapshot.component)
            ),
        );
    }
    let leave = deployed.content.map(RevisionContent::resources).unwrap_or_default();
    let leave: Vec<String> = leave.difference(&content.resources()).map(ToString::to_string).collect();
    turn.explain(if leave.is_empty() {
        format!("desired configuration: {}", why(deployed, next))
    } else {
        format!("desired configuration: without the resources of another API server ({})", leave.join(", "))
    });
    // Publication is recorded before a revision may have the key as its writer
    // (invariant: publication-first). The revision can have any number above the present ones.
    if let Some(revision) = snapshot.next_revision(snapshot.highest_revision) {
        for id in promoted(next) {
            record_publication(snapshot, id, revision, &BTreeSet::new(), turn);
        }
    }
    write(openshift, content, turn);
}

fn is_written(openshift: &OpenShift, content: &RevisionContent) -> bool {
    let managed = openshift.managed.as_ref();
    let written = managed.and_then(|managed| managed.content.as_ref().ok()?.as_ref());
    written.is_some_and(|old| is_same(old, content))
}

fn write(openshift: &OpenShift, content: RevisionContent, turn: &mut Turn) {
    turn.act(Action::ApplyManagedConfig {
        content: Box::new(content),
        resource_version: openshift.managed.as_ref().map(|managed| managed.resource_version.clone()),
    });
}
