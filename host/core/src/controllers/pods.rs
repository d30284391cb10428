//! OpenShift's convergence (CONTRACT 2.1, 2.2): what the pods run is what is deployed. Between two revisions nothing is
//! decided: OpenShift's own controllers roll out.

use std::collections::BTreeSet;

use super::reports::plugins;
use super::rollout::{Assessment, Deployment, subject};
use super::state::is_same;
use super::{Deployed, Turn};
use crate::api::ConditionStatus;
use crate::formats::FormatError;
use crate::ids::{KeyId, Mode, Revision};
use crate::machine;
use crate::names;
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
        let notice = Notice::new(warning, reason, message.clone()).about(subject(snapshot, &message));
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
                None => match is_gone(snapshot, openshift, *revision) {
                    Some(message) => return blocked("RevisionLost", message, true),
                    // CONTRACT 2.2: converged with no configuration.
                    None => Deployment::Nothing,
                },
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

/// The configuration that the pods run is not there, and something shows that there was one: a desired configuration that is
/// another than what would begin the encryption of a cluster that has none, or the newest key under which a resource was
/// recorded as migrated. What would be made in its place writes plain text until every pod has it. Restoring the Secret ends
/// this, and so do pods that run a revision which has its own.
fn is_gone(snapshot: &Snapshot, openshift: &OpenShift, revision: Revision) -> Option<String> {
    let managed = openshift.managed.as_ref().and_then(|managed| managed.content.as_ref().ok()?.as_ref());
    let shown_by = if let Some(managed) = managed {
        let begun = Deployed::of(snapshot, &Deployment::Nothing).desired.state;
        if is_same(managed, &machine::encode(&begun, None)) {
            return None;
        }
        format!("Secret {}/{} has one", snapshot.namespace, names::managed_config(&snapshot.component))
    } else {
        let migrated = snapshot.keys.iter().filter(|key| !key.migrated.is_empty());
        let newest = migrated.max_by_key(|key| key.id).filter(|key| key.mode != Mode::Identity)?;
        format!("resources are recorded as migrated to key {}", newest.id)
    };
    Some(format!(
        "the API server pods run revision {revision}, and Secret {}/{} has no configuration or is gone, while {shown_by}. Nothing is decided: restore the Secret, for example from a backup of etcd, or let the pods roll out a revision that has a configuration",
        snapshot.component,
        names::revision_secret(revision),
    ))
}

/// What library-go's state machine answers with an error, and a desired configuration that is not understood: what is
/// written in its place might lack what it has.
fn error(snapshot: &Snapshot, openshift: &OpenShift) -> Option<String> {
    let invalid = |namespace: &str, name: String, error: &FormatError| {
        format!("invalid encryption config {namespace}/{name}: {error}")
    };
    match &openshift.pods {
        PodsVerdict::Failed { why } => Some(why.clone()),
        PodsVerdict::Converged { revision } => {
            let stored = snapshot.revisions.get(revision).and_then(|stored| stored.understood().err());
            let desired = || openshift.managed.as_ref()?.content.as_ref().err();
            match stored {
                Some(error) => Some(invalid(&snapshot.component, names::revision_secret(*revision), &error)),
                None => desired().map(|error| {
                    let what =
                        invalid(&snapshot.namespace, names::managed_config(&snapshot.component), error);
                    format!("{what}; correct it, or delete it: it is written again from what the pods run")
                }),
            }
        }
        PodsVerdict::Progressing { .. } | PodsVerdict::NotManaged { .. } => None,
    }
}

/// Where a plugin that is deployed was not observed yet: no report of it is there.
pub(super) fn unobserved(snapshot: &Snapshot, keys: &BTreeSet<KeyId>) -> Option<String> {
    snapshot.openshift()?;
    let missing: Vec<String> = snapshot
        .servers
        .values()
        .flat_map(|server| {
            let reported = move |key: &KeyId| plugins(server).iter().any(|plugin| plugin.key_id == *key);
            let missing = keys.iter().filter(move |key| !reported(key));
            missing.map(move |key| format!("key {key} on node {}", server.name))
        })
        .collect();
    (!missing.is_empty()).then(|| format!("no health report yet: {}", missing.join(", ")))
}

/// Names the reports of nodes that have left. They count for nothing: they hold nothing up, and they show no plugin to be
/// healthy.
fn orphans(openshift: &OpenShift, turn: &mut Turn) {
    for (node, keys) in &openshift.orphans {
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        let message = format!(
            "node {node} hosts no pod of this API server: its health reports (key {}) are left over and count for nothing",
            keys.join(", ")
        );
        turn.explain(message.clone());
        turn.notice(false, "OrphanedHealthReport", message);
    }
}

/// CONTRACT 3: an error of the deployer's is one of each controller that asks it; one that is not to run says nothing.
pub(super) fn tell(snapshot: &Snapshot, turn: &mut Turn) {
    let Some(openshift) = snapshot.openshift().filter(|_| snapshot.unreadable.is_empty()) else { return };
    orphans(openshift, turn);
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
