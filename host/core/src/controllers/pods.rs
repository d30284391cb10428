//! OpenShift's convergence (CONTRACT 2.1, 2.2): what the pods run is what is deployed. Between two revisions nothing is
//! decided: OpenShift's own controllers roll out.

use super::Turn;
use super::rollout::{Assessment, Deployment};
use crate::api::ConditionStatus;
use crate::outcome::{Notice, Waiting};
use crate::platform::openshift::{OpenShift, PodsVerdict};
use crate::snapshot::Snapshot;

/// The controllers that ask the deployer first: its errors are theirs.
const ASKING: [&str; 4] = [
    "EncryptionKeyControllerDegraded",
    "EncryptionStateControllerDegraded",
    "EncryptionMigrationControllerDegraded",
    "EncryptionPruneControllerDegraded",
];

/// What the controllers tell beside that.
const OTHERS: [&str; 3] = [
    "EncryptionMigrationControllerProgressing",
    "EncryptionKMSPreflightControllerDegraded",
    "EncryptionKMSPreflightControllerProgressing",
];

/// Looks at the pods' verdict.
pub(super) fn assess<'a>(snapshot: &'a Snapshot, openshift: &'a OpenShift) -> Assessment<'a> {
    let blocked = |reason: &str, message: String, warning: bool| {
        let notice = Notice { reason: reason.to_owned(), message: message.clone(), warning };
        let waiting = Waiting { reason: reason.to_owned(), message };
        let notices = warning.then_some(notice).into_iter().collect();
        Assessment::of_pods(Deployment::Blocked, Some(waiting), notices)
    };
    if let Some(unreadable) = snapshot.unreadable.first() {
        let message = format!(
            "{} cannot be read ({}); nothing is decided until it can",
            unreadable.what, unreadable.why
        );
        return blocked("Unreadable", message, true);
    }
    if let Some(error) = error(snapshot, openshift) {
        return blocked("RevisionUnreadable", error, true);
    }
    match &openshift.pods {
        PodsVerdict::Converged { revision } => {
            let deployment = match snapshot.content(*revision) {
                Some(content) => Deployment::Converged { revision: *revision, content },
                // CONTRACT 2.2: converged with no configuration.
                None => Deployment::Nothing,
            };
            Assessment::of_pods(deployment, None, Vec::new())
        }
        PodsVerdict::Progressing { why } | PodsVerdict::Failed { why } => {
            blocked("APIServerRevisionNotConverged", why.clone(), false)
        }
        PodsVerdict::NotManaged { state } => {
            let message = format!("the operator's managementState is {state}: nothing is done");
            blocked("NotManaged", message, false)
        }
    }
}

/// What library-go's state machine answers with an error.
fn error(snapshot: &Snapshot, openshift: &OpenShift) -> Option<String> {
    match &openshift.pods {
        PodsVerdict::Failed { why } => Some(why.clone()),
        PodsVerdict::Converged { revision } => {
            let error = snapshot.revisions.get(revision)?.content.as_ref().err()?;
            let name = crate::names::revision_secret(*revision);
            Some(format!("invalid encryption config {}/{name}: {error}", snapshot.component))
        }
        PodsVerdict::Progressing { .. } | PodsVerdict::NotManaged { .. } => None,
    }
}

/// CONTRACT 3: an error of the deployer's is one of each controller that asks it; one that is not to run says nothing.
pub(super) fn tell(snapshot: &Snapshot, turn: &mut Turn) {
    let Some(openshift) = snapshot.openshift().filter(|_| snapshot.unreadable.is_empty()) else { return };
    if matches!(openshift.pods, PodsVerdict::NotManaged { .. }) {
        for type_ in ASKING.into_iter().chain(OTHERS) {
            turn.condition(type_, ConditionStatus::False, "", "");
        }
    }
    if let Some(error) = error(snapshot, openshift) {
        turn.explain(error.clone());
        for type_ in ASKING {
            turn.condition(type_, ConditionStatus::True, "Error", &error);
        }
    }
}
