//! Tells each step as it happens, from what Keyward writes into its own objects.

use std::time::Duration;

use anyhow::Result;
use keyward_core::api::{
    ClusterEncryption, ConditionStatus, EncryptionMigration, EncryptionNode, MigrationPhase,
};
use keyward_core::names;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

/// How often it looks.
const PERIOD: Duration = Duration::from_millis(250);

/// Prints until it is dropped.
pub struct Narrator(JoinHandle<()>);

impl Drop for Narrator {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Narrator {
    /// Begins; times are told from now.
    pub fn start(client: Client) -> Self {
        let began = Instant::now();
        Self(tokio::spawn(async move {
            let mut told: Vec<String> = Vec::new();
            let mut pace = tokio::time::interval(PERIOD);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                pace.tick().await;
                let Ok(now) = look(&client).await else { continue };
                for line in &now {
                    if !told.contains(line) {
                        println!("  {:>6.1} s  {line}", began.elapsed().as_secs_f64());
                    }
                }
                told = now;
            }
        }))
    }
}

async fn look(client: &Client) -> Result<Vec<String>> {
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
        let trouble = condition.type_.ends_with("Degraded");
        if (waits || trouble) && condition.status == ConditionStatus::True {
            lines.push(format!("{}: {}", condition.reason, condition.message));
        }
    }
    for node in Api::<EncryptionNode>::all(client.clone()).list(&ListParams::default()).await? {
        let name = node.name_any();
        let Some(status) = node.status else { continue };
        lines.push(format!("{name}: revision {} is loaded", status.revision));
        for plugin in status.plugins {
            let digest: String = plugin.digest.0.chars().take(8).collect();
            let ready = if plugin.ready { "serves" } else { "is starting" };
            lines.push(format!("{name}: plugin of key {} ({digest}) {ready}", plugin.key_id));
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

fn role(role: &str) -> &str {
    match role {
        "write" => "the write key",
        "read" => "a read key",
        other => other,
    }
}
