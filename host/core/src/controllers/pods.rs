//! Convergence on OpenShift (openshift: decide-only-when-converged, openshift: converged-pods): the
//! configuration that the Pods run is the deployed one. While OpenShift's own controllers roll out a
//! revision, nothing is decided.

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

/// The controllers that ask the deployer. Each of them reports its errors.
const ASKING: [&str; 4] = [
    "EncryptionKeyControllerDegraded",
    "EncryptionStateControllerDegraded",
    "EncryptionMigrationControllerDegraded",
    "EncryptionPruneControllerDegraded",
];

/// The other conditions of the controllers.
const OTHERS: [&str; 3] = [
    "EncryptionMigrationControllerProgressing",
    "EncryptionKMSPreflightControllerDegraded",
    "EncryptionKMSPreflightControllerProgressing",
];

/// The deployment, from the verdict on the Pods.
pub(super) fn assess<'a>(snapshot: &'a Snapshot, openshift: &'a OpenShift) -> Assessment<'a> {
    let blocked = |reason: &str, message: String, warning: bool| {
        let notice = Notice::new(warning, reason, message.clone()).about(subject(snapshot, &message));
        let waiting = Waiting { reason: reason.to_owned(), message };
        let notices = warning.then_some(notice).into_iter().collect();
        Assessment::of_pods(Deployment::Blocked, Some(waiting), notices)
    };
    if let Some(unreadable) = snapshot.unreadable.first() {
        let message = format!(
            "{} cannot be read ({}); nothing is decided until it can be read",
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
                    // Converged with no configuration (openshift: revision-without-configuration).
                    None => Deployment::Nothing,
                },
            };
            Assessment::of_pods(deployment, None, Vec::new())
        }
        PodsVerdict::Progressing { why } | PodsVerdict::Failed { why } => {
            blocked("APIServerRevisionNotConverged", why.clone(), false)
        }
        PodsVerdict::NotManaged { state } => {
            let message = format!("the operator's managementState is {state}; Keyward does nothing");
            blocked("NotManaged", message, false)
        }
    }
}

/// Why the configuration that the Pods run is lost (openshift: lost-deployed-configuration). Its Secret is
/// missing or contains none, and something shows that there was one: a desired configuration that is more
/// than the beginning of encryption, or resources whose newest record of migration names a key that encrypts.
/// A configuration built in its place writes plain text until every Pod has loaded it. The block ends when
/// the Secret is restored, or when the Pods run a revision that has a configuration.
fn is_gone(snapshot: &Snapshot, openshift: &OpenShift, revision: Revision) -> Option<String> {
    let managed = openshift.managed.as_ref().and_then(|managed| managed.content.as_ref().ok()?.as_ref());
    let shown_by = if let Some(managed) = managed {
        let begun = Deployed::of(snapshot, &Deployment::Nothing).desired.state;
        if is_same(managed, &machine::encode(&begun, None)) {
            return None;
        }
        format!("Secret {}/{} contains one", snapshot.namespace, names::managed_config(&snapshot.component))
    } else {
        let migrated = snapshot.keys.iter().filter(|key| !key.migrated.is_empty());
        let newest = migrated.max_by_key(|key| key.id).filter(|key| key.mode != Mode::Identity)?;
        format!("resources are recorded as migrated to key {}", newest.id)
    };
    Some(format!(
        "the API server pods run revision {revision}, but Secret {}/{} is gone or contains no configuration, although {shown_by}. Nothing is decided; restore the Secret, for example from a backup of etcd, or let the pods roll out a revision that has a configuration",
        snapshot.component,
        names::revision_secret(revision),
    ))
}

/// The errors of library-go's state machine, and a desired configuration that is not understood: its
/// replacement might lack what it contains.
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
                    format!(
                        "{what}; correct it, or delete it: the operator recreates it from what the pods run"
                    )
                }),
            }
        }
        PodsVerdict::Progressing { .. } | PodsVerdict::NotManaged { .. } => None,
    }
}

/// Which deployed plugins no node has reported yet.
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

/// Names the health reports of nodes that have left. They block nothing, and they show no plugin to be
/// healthy.
fn orphans(openshift: &OpenShift, turn: &mut Turn) {
    for (node, keys) in &openshift.orphans {
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        let message = format!(
            "node {node} runs no pod of this API server; its old health reports (key {}) are ignored",
            keys.join(", ")
        );
        turn.explain(message.clone());
        turn.notice(false, "OrphanedHealthReport", message);
    }
}

/// Each controller that asks the deployer reports its error. A controller that does not run has conditions
/// without a reason (openshift: decide-only-when-converged, openshift: controllers-run-when-managed).
pub(super) fn report(snapshot: &Snapshot, turn: &mut Turn) {
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
