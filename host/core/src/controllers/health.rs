//! Health gates (DESIGN.md, Decisions 13) and `KMSPluginsDegraded`: what the agents' probes say of the plugins that a
//! configuration in force needs.

use std::collections::BTreeSet;

use super::{Deployment, Turn};
use crate::api::{ConditionStatus, HealthStatus, NodePlugin};
use crate::ids::KeyId;
use crate::snapshot::Snapshot;

const CONDITION: &str = "KMSPluginsDegraded";

/// Why these keys' plugins are not all Healthy at every API server; `None` where they are. `what` is what has to wait.
pub(super) fn gate(snapshot: &Snapshot, keys: &BTreeSet<KeyId>, what: &str) -> Option<String> {
    let mut unwell = Vec::new();
    for server in snapshot.servers.values() {
        for key in keys {
            let of_key = |plugin: &&NodePlugin| plugin.key_id == *key;
            let plugins = server.status().map(|status| status.plugins.as_slice()).unwrap_or_default();
            match plugins.iter().find(of_key) {
                None => unwell
                    .push(format!("nothing is known of the plugin of key {key} on node {}", server.name)),
                Some(_) if plugins.iter().filter(of_key).any(is_well) => {}
                Some(plugin) => unwell.push(told(&server.name, plugin)),
            }
        }
    }
    (!unwell.is_empty()).then(|| format!("{what} waits: {}", unwell.join("; ")))
}

/// The condition: every plugin of the configuration in force, read plugins too.
pub(super) fn decide(snapshot: &Snapshot, deployment: &Deployment<'_>, turn: &mut Turn) {
    let content = match deployment {
        Deployment::Converged { content, .. } | Deployment::Rolling { content, .. } => *content,
        Deployment::Nothing => return turn.condition(CONDITION, ConditionStatus::False, "AsExpected", ""),
        // What was said stands: nothing is known that would change it.
        Deployment::Blocked => return,
    };
    let keys = content.kms_keys();
    // A plugin that comes up for the first time is the rollout's to tell.
    let unwell: Vec<String> = snapshot
        .servers
        .values()
        .flat_map(|server| {
            let plugins = server.status().map(|status| status.plugins.as_slice()).unwrap_or_default();
            let serving = plugins.iter().filter(|plugin| keys.contains(&plugin.key_id) && plugin.ready);
            serving.filter(|plugin| !is_well(plugin)).map(|plugin| told(&server.name, plugin))
        })
        .collect();
    turn.degraded(CONDITION, (!unwell.is_empty()).then(|| ("PluginUnhealthy", unwell.join("; "))));
}

fn is_well(plugin: &NodePlugin) -> bool {
    plugin.health.status == HealthStatus::Healthy
}

fn told(node: &str, plugin: &NodePlugin) -> String {
    let status = match plugin.health.status {
        HealthStatus::Healthy => "Healthy",
        HealthStatus::Unhealthy => "Unhealthy",
        HealthStatus::Error => "Error",
    };
    let detail = plugin.health.detail.as_deref().unwrap_or("no detail");
    format!("the plugin of key {} on node {node} is {status}: {detail}", plugin.key_id)
}
