//! Health gates (decision 0013), and the condition `KMSPluginsDegraded`: what the agents' probes report about
//! the plugins that the configuration in force needs.

use std::collections::BTreeSet;

use super::diagnosis::{self, Finding};
use super::outage::{self, Answers, Troubles};
use super::reports::{self, Health, health, plugins};
use super::{Deployment, Turn, pods};
use crate::api::{ConditionStatus, NodePlugin};
use crate::formats::revision::RevisionContent;
use crate::ids::KeyId;
use crate::names;
use crate::provider::{EvaluationRequest, Origin};
use crate::snapshot::{ServerView, Snapshot};

const CONDITION: &str = "KMSPluginsDegraded";

/// Why these keys' plugins are not all Healthy at every API server; `None` if they are. `content` is what is
/// deployed: if the plugin that it has for a key runs, only that one counts, and no candidate for the same
/// key. `what` is the step that waits.
pub(super) fn gate(
    snapshot: &Snapshot,
    content: &RevisionContent,
    keys: &BTreeSet<KeyId>,
    what: &str,
) -> Option<String> {
    let mut unhealthy = Vec::new();
    for server in snapshot.servers.values() {
        for key in keys {
            let of_key = || plugins(server).iter().filter(|plugin| plugin.key_id == *key);
            let deployed = content.digest(*key);
            let mut counts: Vec<&NodePlugin> =
                of_key().filter(|plugin| Some(&plugin.digest) == deployed).collect();
            if counts.is_empty() {
                counts.extend(of_key());
            }
            match counts.first() {
                None => unhealthy.push(format!(
                    "the health of the plugin of key {key} on node {} is unknown",
                    server.name
                )),
                Some(_)
                    if counts.iter().any(|plugin| health(snapshot, server, plugin) == Health::Healthy) => {}
                Some(plugin) => unhealthy.push(sentence(snapshot, server, plugin)),
            }
        }
    }
    (!unhealthy.is_empty()).then(|| format!("{what} waits: {}", unhealthy.join("; ")))
}

/// The condition: every plugin of the configuration in force, read plugins too.
pub(super) fn decide(snapshot: &Snapshot, deployment: &Deployment<'_>, turn: &mut Turn) {
    reports::observe(snapshot, turn);
    orphans(snapshot, turn);
    let keys = match deployment {
        Deployment::Converged { content, .. } | Deployment::Rolling { content, .. } => {
            Some(content.kms_keys())
        }
        Deployment::Nothing => return turn.condition(CONDITION, ConditionStatus::False, "AsExpected", ""),
        // It is not known what is in force. A sealed KMS may be the reason, so unhealthy plugins are reported
        // all the same.
        Deployment::Blocked => None,
    };
    let writers = keys.as_ref().map(|_| writers(deployment));
    let mut troubles = Troubles::default();
    for server in snapshot.servers.values() {
        let in_use = |plugin: &&NodePlugin| match &keys {
            Some(keys) => keys.contains(&plugin.key_id) && serves(snapshot, server, plugin),
            None => may_serve(server, plugin),
        };
        for plugin in plugins(server).iter().filter(in_use) {
            let health = health(snapshot, server, plugin);
            if health != Health::Healthy {
                let answers = Answers::of(health, plugin.health.failure.as_ref());
                troubles.add(server, plugin.key_id, (health, answers), finding(snapshot, server, plugin));
            }
        }
    }
    if keys.is_none() && troubles.is_empty() {
        // The condition stays as it is: that no problem is seen does not show that every needed plugin is
        // healthy.
        return;
    }
    // A plugin that no node has reported yet is neither unhealthy nor known to be healthy.
    if let Some(why) = keys.filter(|_| troubles.is_empty()).and_then(|keys| pods::unobserved(snapshot, &keys))
    {
        return turn.condition(CONDITION, ConditionStatus::Unknown, "NotYetObserved", &why);
    }
    if troubles.is_empty() {
        return turn.condition(CONDITION, ConditionStatus::False, "AsExpected", "");
    }
    let message = troubles.condition(writers.as_ref());
    turn.explain(message.clone());
    let event = troubles.event(writers.as_ref());
    turn.notice_about(troubles.reason(), troubles.subject(), event);
    turn.condition(CONDITION, ConditionStatus::True, troubles.reason(), &message);
}

/// The resources that each KMS key writes.
fn writers(deployment: &Deployment<'_>) -> outage::Writers {
    let content = match deployment {
        Deployment::Converged { content, .. } | Deployment::Rolling { content, .. } => content,
        Deployment::Nothing | Deployment::Blocked => return outage::Writers::new(),
    };
    let mut writers = outage::Writers::new();
    for key_id in content.kms_keys() {
        let notation = format!("kms:{key_id}");
        let lists = content.config.lists().into_iter();
        let written = lists.filter(|(_, providers)| providers.first() == Some(&notation));
        writers.insert(key_id, written.map(|(resource, _)| resource).collect());
    }
    writers
}

/// Whether an API server depends on this instance. The rollout reports an instance that starts for the first
/// time. An instance that was ready and has ended is still needed by the loaded configuration. On OpenShift
/// health reporters run beside API servers, so every report counts.
fn serves(snapshot: &Snapshot, server: &ServerView, plugin: &NodePlugin) -> bool {
    plugin.ready
        || snapshot.openshift().is_some()
        || !is_served(server, plugin.key_id) && {
            let loaded = server.status().and_then(|status| status.loaded_hash.as_ref());
            let contents = snapshot.revisions.values().filter_map(|stored| stored.content.as_ref().ok());
            let mut with_it = contents.filter(|content| content.plugins.contains_key(&plugin.key_id));
            with_it.any(|content| loaded == Some(&content.hash()))
        }
}

/// Whether an API server may depend on this instance, if it is not known what is in force: it is the key's
/// only one, and not a candidate.
fn may_serve(server: &ServerView, plugin: &NodePlugin) -> bool {
    let asked = server.agent.as_ref().and_then(|agent| agent.spec.preflight.as_ref());
    let tried = asked.is_some_and(|request| request.hash == plugin.digest);
    plugin.ready || !tried && !is_served(server, plugin.key_id)
}

/// Whether some instance of this key is ready here.
fn is_served(server: &ServerView, key_id: KeyId) -> bool {
    plugins(server).iter().any(|plugin| plugin.key_id == key_id && plugin.ready)
}

/// Explains the state of one plugin on one node.
pub(super) fn finding(snapshot: &Snapshot, server: &ServerView, plugin: &NodePlugin) -> Finding {
    if health(snapshot, server, plugin) == Health::Unknown {
        let is_gone = is_gone(snapshot, server);
        let gone = if is_gone { "; its Node is gone" } else { "" };
        let what = format!(
            "its last report is older than {} s{gone}; its last status was {}",
            reports::patience(server).as_secs(),
            plugin.health.status.name(),
        );
        return Finding {
            cause: what.clone(),
            what,
            remedy: if is_gone {
                leave(server)
            } else {
                format!("Check whether the node agent runs on {}", server.name)
            },
        };
    }
    let Some(failure) = &plugin.health.failure else {
        let what = plugin.health.detail.clone().unwrap_or_default();
        return Finding { cause: "its report is in status.plugins".to_owned(), what, remedy: String::new() };
    };
    let kms = snapshot.key(plugin.key_id).and_then(|key| key.kms.as_ref());
    let request = kms.map(|kms| EvaluationRequest::new(Origin::Stored, &kms.plugin.kms));
    diagnosis::explain(snapshot, request, failure)
}

fn sentence(snapshot: &Snapshot, server: &ServerView, plugin: &NodePlugin) -> String {
    let (name, finding) = (health(snapshot, server, plugin).name(), finding(snapshot, server, plugin));
    format!("the plugin of key {} on node {} is {name}: {finding}", plugin.key_id, server.name)
}

/// Whether its Node was deleted. A Node that lacks the label of control-plane nodes exists, and an unreadable
/// object is not absent (invariant: unknown-is-not-absent).
fn is_gone(snapshot: &Snapshot, server: &ServerView) -> bool {
    !server.is_node && !server.lacks_label && snapshot.unreadable.is_empty()
}

fn leave(server: &ServerView) -> String {
    format!(
        "It counts until it is deleted; if its API server is gone for good, run kubectl delete encryptionnode {}",
        server.name
    )
}

/// Names orphaned plugin instances, and nodes that an admin has to correct. A node without a Node object
/// still counts, since its API server may serve; it leaves when an admin deletes its EncryptionNode
/// (objects: api-servers).
fn orphans(snapshot: &Snapshot, turn: &mut Turn) {
    for server in snapshot.servers.values() {
        for plugin in plugins(server).iter().filter(|plugin| reports::orphan(snapshot, server, plugin)) {
            turn.explain(format!(
                "the plugin of key {} on node {} is orphaned (no revision and no candidate needs it); its agent stops it",
                plugin.key_id, server.name
            ));
        }
        if is_gone(snapshot, server) && server.agent.is_some() && snapshot.openshift().is_none() {
            let message = format!("the Node of EncryptionNode {} is gone. {}", server.name, leave(server));
            turn.explain(message.clone());
            turn.notice(true, "NodeGone", message);
        }
        if server.lacks_label && server.agent.is_some() && snapshot.openshift().is_none() {
            let (name, label) = (&server.name, names::CONTROL_PLANE);
            let message = format!(
                "Node {name} lacks the label {label}, but an agent reports for it; set it: kubectl label node {name} {label}="
            );
            turn.explain(message.clone());
            turn.notice(true, "NodeNotLabelled", message);
        }
    }
}
