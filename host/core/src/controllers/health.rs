//! Health gates (DESIGN.md, Decisions 13) and `KMSPluginsDegraded`: what the agents' probes say of the plugins that a
//! configuration in force needs.

use std::collections::BTreeSet;

use super::diagnosis::{self, Told};
use super::reports::{self, Health, health, plugins};
use super::{Deployment, Turn};
use crate::api::{ConditionStatus, NodePlugin};
use crate::ids::KeyId;
use crate::provider::{EvaluationRequest, Origin};
use crate::snapshot::{ServerView, Snapshot};

const CONDITION: &str = "KMSPluginsDegraded";

/// Why these keys' plugins are not all Healthy at every API server; `None` where they are. `what` is what has to wait.
pub(super) fn gate(snapshot: &Snapshot, keys: &BTreeSet<KeyId>, what: &str) -> Option<String> {
    let mut unwell = Vec::new();
    for server in snapshot.servers.values() {
        for key in keys {
            let mut of_key = plugins(server).iter().filter(|plugin| plugin.key_id == *key);
            let is_well = |plugin: &NodePlugin| health(snapshot, server, plugin) == Health::Healthy;
            match of_key.clone().next() {
                None => unwell
                    .push(format!("nothing is known of the plugin of key {key} on node {}", server.name)),
                Some(_) if of_key.any(is_well) => {}
                Some(plugin) => unwell.push(sentence(snapshot, server, plugin)),
            }
        }
    }
    (!unwell.is_empty()).then(|| format!("{what} waits: {}", unwell.join("; ")))
}

/// The condition: every plugin of the configuration in force, read plugins too.
pub(super) fn decide(snapshot: &Snapshot, deployment: &Deployment<'_>, turn: &mut Turn) {
    reports::observe(snapshot, turn);
    orphans(snapshot, turn);
    let content = match deployment {
        Deployment::Converged { content, .. } | Deployment::Rolling { content, .. } => *content,
        Deployment::Nothing => return turn.condition(CONDITION, ConditionStatus::False, "AsExpected", ""),
        // What was said stands: nothing is known that would change it.
        Deployment::Blocked => return,
    };
    let keys = content.kms_keys();
    let (mut unwell, mut silent) = (Vec::new(), Vec::new());
    for server in snapshot.servers.values() {
        let in_use = plugins(server).iter().filter(|plugin| keys.contains(&plugin.key_id));
        for plugin in in_use.filter(|plugin| serves(snapshot, server, plugin)) {
            match health(snapshot, server, plugin) {
                Health::Healthy => {}
                Health::Unhealthy | Health::Error => unwell.push(sentence(snapshot, server, plugin)),
                Health::Unknown => silent.push(sentence(snapshot, server, plugin)),
            }
        }
    }
    // What is known to be wrong comes first.
    let reason = if unwell.is_empty() { "PluginHealthUnknown" } else { "PluginUnhealthy" };
    unwell.append(&mut silent);
    turn.degraded(CONDITION, (!unwell.is_empty()).then(|| (reason, unwell.join("; "))));
}

/// Whether an API server depends on this instance. One that comes up for the first time is the rollout's to tell; one
/// that was ready, and has ended, is needed by what is loaded all the same. OpenShift's reporters run beside API servers.
fn serves(snapshot: &Snapshot, server: &ServerView, plugin: &NodePlugin) -> bool {
    let of_key = |other: &&NodePlugin| other.key_id == plugin.key_id;
    plugin.ready
        || snapshot.openshift().is_some()
        || !plugins(server).iter().filter(of_key).any(|other| other.ready) && {
            let loaded = server.status().and_then(|status| status.loaded_hash.as_ref());
            let contents = snapshot.revisions.values().filter_map(|stored| stored.content.as_ref().ok());
            let mut with_it = contents.filter(|content| content.plugins.contains_key(&plugin.key_id));
            with_it.any(|content| loaded == Some(&content.hash()))
        }
}

/// One plugin on one node in words.
pub(super) fn told(snapshot: &Snapshot, server: &ServerView, plugin: &NodePlugin) -> Told {
    if health(snapshot, server, plugin) == Health::Unknown {
        let gone = if server.is_node { "" } else { "; its Node is gone" };
        return Told {
            what: format!(
                "nothing was heard of it for more than {} s{gone}; it was {} last",
                reports::patience(server).as_secs(),
                plugin.health.status.name(),
            ),
            remedy: if server.is_node {
                format!("See whether the node agent runs on {}", server.name)
            } else {
                leave(server)
            },
        };
    }
    let Some(failure) = &plugin.health.failure else {
        return Told { what: plugin.health.detail.clone().unwrap_or_default(), remedy: String::new() };
    };
    let kms = snapshot.key(plugin.key_id).and_then(|key| key.kms.as_ref());
    let request = kms.map(|kms| EvaluationRequest::new(Origin::Stored, &kms.plugin.kms));
    diagnosis::told(snapshot, request, failure)
}

fn sentence(snapshot: &Snapshot, server: &ServerView, plugin: &NodePlugin) -> String {
    let (name, told) = (health(snapshot, server, plugin).name(), told(snapshot, server, plugin));
    format!("the plugin of key {} on node {} is {name}: {told}", plugin.key_id, server.name)
}

fn leave(server: &ServerView) -> String {
    format!(
        "It counts until it has left: where its API server is gone for good, kubectl delete encryptionnode {}",
        server.name
    )
}

/// Names what nothing needs any more. A node that may still serve counts, whatever became of its Node (S2): what it
/// leaves by is its admin's word.
fn orphans(snapshot: &Snapshot, turn: &mut Turn) {
    for server in snapshot.servers.values() {
        for plugin in plugins(server).iter().filter(|plugin| reports::orphan(snapshot, server, plugin)) {
            turn.explain(format!(
                "no revision and no candidate needs the plugin of key {} on node {}: its agent stops it",
                plugin.key_id, server.name
            ));
        }
        if !server.is_node && server.agent.is_some() && snapshot.openshift().is_none() {
            let message = format!("the Node of EncryptionNode {} is gone. {}", server.name, leave(server));
            turn.explain(message.clone());
            turn.notice(true, "NodeGone", message);
        }
    }
}
