//! Prints each step as it happens, from the objects that Keyward writes.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use keyward_core::api::{
    ClusterEncryption, ConditionStatus, EncryptionMigration, EncryptionNode, MigrationPhase, NodePlugin,
};
use keyward_core::ids::KeyId;
use keyward_core::names;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::Transcript;

/// How often it reads the objects.
const PERIOD: Duration = Duration::from_millis(250);

/// Prints until it is dropped.
pub struct Narrator(JoinHandle<()>);

impl Drop for Narrator {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Narrator {
    /// Starts; printed times are relative to this moment.
    pub fn start(client: Client, transcript: Transcript) -> Self {
        let began = Instant::now();
        Self(tokio::spawn(async move {
            let mut printed: Vec<String> = Vec::new();
            let mut known = Known::default();
            let mut pace = tokio::time::interval(PERIOD);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                pace.tick().await;
                let Ok(now) = lines(&client, &mut known).await else { continue };
                for line in &now {
                    if !printed.contains(line) {
                        transcript.say(format_args!("  {:>6.1} s  {line}", began.elapsed().as_secs_f64()));
                    }
                }
                printed = now;
            }
        }))
    }
}

/// Plugins that have served, by node, key and digest: such a plugin that is not ready any more is stopping,
/// not starting.
#[derive(Default)]
struct Known(BTreeSet<(String, KeyId, String)>);

impl Known {
    /// The state of a plugin, from its own report and those of the node's other plugins.
    fn doing(&mut self, node: &str, plugin: &NodePlugin, all: &[NodePlugin]) -> &'static str {
        let this = (node.to_owned(), plugin.key_id, plugin.digest.0.clone());
        if plugin.ready {
            self.0.insert(this);
            return "serves";
        }
        let replaced = all.iter().any(|other| other.key_id == plugin.key_id && other.ready);
        match (self.0.contains(&this), replaced) {
            (false, _) => "is starting",
            (true, true) => "stops: another one serves its key",
            (true, false) => "does not serve any more",
        }
    }

    /// Plugins that a node no longer reports; each is returned once.
    fn gone(&mut self, node: &str, all: &[NodePlugin]) -> Vec<(KeyId, String)> {
        let reported = |key_id: &KeyId, digest: &str| {
            all.iter().any(|plugin| plugin.key_id == *key_id && plugin.digest.0 == digest)
        };
        let gone = self.0.extract_if(.., |(on, key_id, digest)| on == node && !reported(key_id, digest));
        gone.map(|(_, key_id, digest)| (key_id, digest)).collect()
    }
}

async fn lines(client: &Client, known: &mut Known) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let cluster = Api::<ClusterEncryption>::all(client.clone()).get(names::CLUSTER).await?;
    let status = cluster.status.unwrap_or_default();
    for revision in &status.revisions {
        let list = revision.lists.get("secrets").cloned().unwrap_or_default();
        lines.push(format!("revision {}: secrets = {}", revision.n, list.join(",")));
    }
    for key in &status.keys {
        lines.push(format!("key {} ({}) is {}: {}", key.key_id, key.mode, role(&key.role), key.reason));
    }
    for condition in &status.conditions {
        let waits = condition.type_ == "Progressing" && !condition.message.is_empty();
        let degraded = condition.type_.ends_with("Degraded");
        if (waits || degraded) && condition.status == ConditionStatus::True {
            lines.push(format!("{}: {}", condition.reason, condition.message));
        }
    }
    for node in Api::<EncryptionNode>::all(client.clone()).list(&ListParams::default()).await? {
        let name = node.name_any();
        let Some(status) = node.status else { continue };
        lines.push(format!("{name}: revision {} is loaded", status.revision));
        for plugin in &status.plugins {
            let doing = known.doing(&name, plugin, &status.plugins);
            lines.push(format!("{name}: {} {doing}", called(plugin.key_id, &plugin.digest.0)));
        }
        for (key_id, digest) in known.gone(&name, &status.plugins) {
            lines.push(format!("{name}: {} has stopped", called(key_id, &digest)));
        }
    }
    for migration in Api::<EncryptionMigration>::all(client.clone()).list(&ListParams::default()).await? {
        let Some(status) = migration.status.clone() else { continue };
        if migration.metadata.generation != Some(status.observed_generation) {
            continue;
        }
        let what = format!("re-encrypting {} under key {}", migration.spec.resource, migration.spec.key_id);
        match status.phase {
            MigrationPhase::Pending => {}
            MigrationPhase::Running if status.total == 0 => {}
            MigrationPhase::Running => {
                lines.push(format!("{what}: {} of {} ({}/s)", status.done, status.total, status.rate));
            }
            MigrationPhase::Succeeded => {
                lines.push(format!("{what}: done, {} of {}", status.done, status.total));
            }
            MigrationPhase::Failed => {
                lines.push(format!("{what}: failed, {} objects", status.failures.len()));
            }
        }
    }
    Ok(lines)
}

fn called(key_id: KeyId, digest: &str) -> String {
    format!("plugin of key {key_id} ({})", digest.chars().take(8).collect::<String>())
}

fn role(role: &str) -> &str {
    match role {
        "write" => "the write key",
        "read" => "a read key",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use keyward_core::api::{HealthStatus, PluginHealth};
    use keyward_core::ids::{PluginDigest, RemoteKeyId};

    use super::*;

    #[test]
    fn a_replaced_plugin_stops_and_a_candidate_starts() {
        let plugin = |digest: &str, ready| NodePlugin {
            key_id: KeyId(1),
            digest: PluginDigest(digest.to_owned()),
            ready,
            health: PluginHealth {
                status: HealthStatus::Healthy,
                remote_key_id: RemoteKeyId(String::new()),
                last_checked_time: String::new(),
                detail: None,
                failure: None,
            },
            repairs: 0,
        };
        let mut known = Known::default();
        let mut states = |plugins: &[NodePlugin]| -> Vec<&str> {
            plugins.iter().map(|plugin| known.doing("n", plugin, plugins)).collect()
        };
        assert_eq!(states(&[plugin("old", false)]), ["is starting"]);
        assert_eq!(states(&[plugin("old", true), plugin("new", false)]), ["serves", "is starting"]);
        assert_eq!(
            states(&[plugin("old", false), plugin("new", true)]),
            ["stops: another one serves its key", "serves"]
        );
        assert_eq!(states(&[plugin("new", false)]), ["does not serve any more"]);
        assert_eq!(known.gone("other", &[]), []);
        assert_eq!(known.gone("n", &[plugin("new", false)]), [(KeyId(1), "old".to_owned())]);
        assert_eq!(known.gone("n", &[plugin("new", false)]), [], "each is returned once");
    }
}
