//! `keyward status`: what is, and what is waited for, from the status that the operator and the agents wrote.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args as ClapArgs;
use keyward_core::api::{
    ClusterEncryption, ConditionStatus, EncryptionMigration, EncryptionNode, KeyStatus, PluginSummary,
};
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use crate::connection::Connection;
use crate::output::{print, print_json, print_yaml};
use crate::plan::Output;

/// Which cluster, and how the answer is written.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  keyward status\n  keyward status -o json")]
pub(crate) struct Args {
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// Reads and prints.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let client = args.connection.client().await?;
    let Some(cluster) = crate::live::current(&client).await? else {
        print(
            "there is no ClusterEncryption/cluster: nothing is asked for, and nothing is encrypted by Keyward\n",
        )?;
        return Ok(ExitCode::SUCCESS);
    };
    let nodes = Api::<EncryptionNode>::all(client.clone()).list(&ListParams::default()).await?.items;
    let migrations = Api::<EncryptionMigration>::all(client).list(&ListParams::default()).await?.items;
    let documents = || {
        let spec: Vec<_> = nodes
            .iter()
            .map(|n| json!({"name": n.metadata.name, "spec": n.spec, "status": n.status}))
            .collect();
        let work: Vec<_> = migrations.iter().map(|m| json!({"spec": m.spec, "status": m.status})).collect();
        json!({"spec": cluster.spec, "status": cluster.status, "nodes": spec, "migrations": work})
    };
    match args.output {
        Output::Json => print_json(&documents())?,
        Output::Yaml => print_yaml(&documents())?,
        Output::Table => print(&render(&cluster, &nodes, &migrations))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// For people.
pub(crate) fn render(
    cluster: &ClusterEncryption,
    nodes: &[EncryptionNode],
    migrations: &[EncryptionMigration],
) -> String {
    let mut text = String::new();
    let mode = cluster.spec.encryption.type_.as_deref().filter(|mode| !mode.is_empty()).unwrap_or("identity");
    let Some(status) = &cluster.status else {
        let _ = writeln!(text, "wanted: {mode}; the operator has not looked at it yet");
        return text;
    };
    let condition = |type_: &str| status.conditions.iter().find(|condition| condition.type_ == type_);
    if let Some(encrypted) = condition("Encrypted") {
        let _ = writeln!(text, "wanted: {mode}; {}: {}", encrypted.reason, encrypted.message);
    } else {
        let _ = writeln!(text, "wanted: {mode}");
    }
    if let Some(progress) = condition("Progressing").filter(|c| c.status == ConditionStatus::True) {
        let since =
            progress.last_transition_time.as_ref().map(|at| format!(" (since {at})")).unwrap_or_default();
        let _ = writeln!(text, "now: {}: {}{since}", progress.reason, progress.message);
    }
    for trouble in &status.conditions {
        if trouble.type_.ends_with("Degraded") && trouble.status == ConditionStatus::True {
            let _ = writeln!(text, "trouble: {}: {}", trouble.reason, trouble.message);
        }
    }
    if let Some(expiring) = condition("KMSCredentialsExpiring").filter(|c| c.status == ConditionStatus::True)
    {
        let _ = writeln!(text, "warning: {}: {}", expiring.reason, expiring.message);
    }
    if !status.keys.is_empty() {
        let _ = writeln!(
            text,
            "\n{:<5} {:<9} {:<10} {:<10} {:<24} KEK",
            "KEY", "MODE", "ROLE", "PROVIDER", "MIGRATED"
        );
        for key in &status.keys {
            let _ = writeln!(text, "{}", line(key));
        }
    }
    if !nodes.is_empty() {
        let _ = writeln!(text, "\n{:<24} {:<8} {:<8} PLUGINS", "NODE", "TARGET", "LOADED");
        for node in nodes {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let report = node.status.as_ref();
            let plugins: Vec<String> = report
                .iter()
                .flat_map(|status| &status.plugins)
                .map(|plugin| format!("{}: {:?}", plugin.key_id, plugin.health.status))
                .collect();
            let loaded = report.map_or_else(|| "–".to_owned(), |status| status.revision.to_string());
            let _ = writeln!(
                text,
                "{name:<24} {:<8} {loaded:<8} {}",
                node.spec.revision.to_string(),
                plugins.join(", ")
            );
            if let Some(error) = report.and_then(|status| status.error.as_ref()) {
                let _ = writeln!(text, "  {}: {}", error.reason, error.message);
            }
        }
    }
    plugins(&mut text, &status.plugins);
    if !migrations.is_empty() {
        let _ = writeln!(text, "\n{:<24} {:<5} {:<10} DONE", "RESOURCE", "KEY", "PHASE");
        for migration in migrations {
            let report = migration.status.clone().unwrap_or_default();
            let phase = format!("{:?}", report.phase);
            let _ = writeln!(
                text,
                "{:<24} {:<5} {phase:<10} {} of {}",
                migration.spec.resource,
                migration.spec.key_id.to_string(),
                report.done,
                report.total
            );
        }
    }
    text
}

/// Node by key; below one that is not well what is wrong, and what to do.
fn plugins(text: &mut String, plugins: &[PluginSummary]) {
    if plugins.is_empty() {
        return;
    }
    let _ =
        writeln!(text, "\n{:<24} {:<5} {:<10} {:<22} REMOTE KEY ID", "PLUGIN ON", "KEY", "HEALTH", "SINCE");
    for plugin in plugins {
        let _ = writeln!(
            text,
            "{:<24} {:<5} {:<10} {:<22} {}",
            plugin.node,
            plugin.key_id.to_string(),
            plugin.status,
            plugin.since.as_deref().unwrap_or("–"),
            plugin.remote_key_id.as_ref().map_or("–", |id| id.0.as_str()),
        );
        for line in [&plugin.detail, &plugin.remedy].into_iter().filter(|line| !line.is_empty()) {
            let _ = writeln!(text, "  {line}");
        }
    }
}

fn line(key: &KeyStatus) -> String {
    let kek = key.kek.as_ref().map_or_else(
        || "–".to_owned(),
        |kek| kek.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "),
    );
    format!(
        "{:<5} {:<9} {:<10} {:<10} {:<24} {kek}",
        key.key_id.to_string(),
        key.mode.as_str(),
        key.role,
        key.provider.as_deref().unwrap_or("–"),
        if key.migrated.is_empty() { "–".to_owned() } else { key.migrated.join(", ") },
    )
}

#[cfg(test)]
mod tests {
    use keyward_core::ids::{KeyId, RemoteKeyId};

    use super::*;

    #[test]
    fn one_line_a_node_and_key_and_below_what_is_wrong_and_what_to_do() {
        let plugin = |node: &str, status: &str, detail: &str, remedy: &str| PluginSummary {
            node: node.into(),
            key_id: KeyId(2),
            status: status.into(),
            remote_key_id: Some(RemoteKeyId("kek-7".into())),
            since: Some("2026-05-08T12:34:56Z".into()),
            detail: detail.into(),
            remedy: remedy.into(),
        };
        let mut text = String::new();
        plugins(
            &mut text,
            &[plugin("cp-1", "Healthy", "", ""), plugin("cp-2", "Error", "status: sealed", "Unseal it")],
        );
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[2], ["cp-1", "2", "Healthy", "2026-05-08T12:34:56Z", "kek-7"]);
        assert_eq!(lines[3], ["cp-2", "2", "Error", "2026-05-08T12:34:56Z", "kek-7"]);
        assert_eq!((lines[4].join(" "), lines[5].join(" ")), ("status: sealed".into(), "Unseal it".into()));
    }
}
