//! `keyward status`: the state of keys, nodes, plugins and migrations, from the statuses that the operator
//! and the agents wrote.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args as ClapArgs;
use keyward_core::api::{
    ClusterEncryption, Condition, ConditionStatus, EncryptionMigration, EncryptionNode, KeyStatus,
    MigrationPhase, PluginSummary,
};
use keyward_core::provider::Failure;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use crate::connection::Connection;
use crate::live::Found;
use crate::operator_seen::OperatorSeen;
use crate::output::{print, print_json, print_yaml};
use crate::plan::Output;

/// Flags that select the cluster and the output format.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  keyward status\n  keyward status -o json")]
pub(crate) struct Args {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// Reads and prints the status.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let client = args.connection.client().await?;
    let cluster = match crate::live::find(&client).await? {
        Found::Object(cluster) => *cluster,
        absent => {
            let gone = crate::gone::look(&client, !matches!(absent, Found::NotServed)).await;
            match args.output {
                Output::Json => print_json(&gone.document())?,
                Output::Yaml => print_yaml(&gone.document())?,
                Output::Table => print(&gone.render())?,
            }
            return Ok(gone.exit_code());
        }
    };
    let operator = OperatorSeen::look(&client).await;
    let nodes = Api::<EncryptionNode>::all(client.clone()).list(&ListParams::default()).await?.items;
    let migrations = Api::<EncryptionMigration>::all(client).list(&ListParams::default()).await?.items;
    let documents = || {
        let spec: Vec<_> = nodes
            .iter()
            .map(|n| json!({"name": n.metadata.name, "spec": n.spec, "status": n.status}))
            .collect();
        let work: Vec<_> = migrations.iter().map(|m| json!({"spec": m.spec, "status": m.status})).collect();
        json!({"spec": cluster.spec, "status": cluster.status, "nodes": spec, "migrations": work, "operator": operator})
    };
    match args.output {
        Output::Json => print_json(&documents())?,
        Output::Yaml => print_yaml(&documents())?,
        Output::Table => print(&render(&cluster, &nodes, &migrations, &operator))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Text for people.
pub(crate) fn render(
    cluster: &ClusterEncryption,
    nodes: &[EncryptionNode],
    migrations: &[EncryptionMigration],
    operator: &OperatorSeen,
) -> String {
    let mut text = operator.warning();
    let mode = cluster.spec.encryption.type_.as_deref().filter(|mode| !mode.is_empty());
    let mode = mode.unwrap_or("nothing (spec.encryption.type is not set)");
    let Some(status) = &cluster.status else {
        let _ = writeln!(text, "requested: {mode}; the operator has not processed it yet");
        return text;
    };
    let condition = |type_: &str| status.conditions.iter().find(|condition| condition.type_ == type_);
    let _ = writeln!(text, "{}", readiness(cluster, condition("Ready"), operator));
    if let Some(encrypted) = condition("Encrypted") {
        let _ = writeln!(text, "requested: {mode}; {}: {}", encrypted.reason, encrypted.message);
    } else {
        let _ = writeln!(text, "requested: {mode}");
    }
    text.push_str(&crate::pause::withheld(cluster));
    text.push_str(&crate::pause::nodes(nodes));
    for request in &status.forget {
        let _ = writeln!(text, "forget-key {}: {:?}: {}", request.key_id, request.phase, request.message);
    }
    if let Some(progress) = condition("Progressing").filter(|c| c.status == ConditionStatus::True) {
        let since =
            progress.last_transition_time.as_ref().map(|at| format!(" (since {at})")).unwrap_or_default();
        let _ = writeln!(text, "in progress: {}: {}{since}", progress.reason, progress.message);
    }
    for problem in &status.conditions {
        if problem.type_.ends_with("Degraded") && problem.status == ConditionStatus::True {
            let at = problem.last_transition_time.as_ref();
            let since = at.map(|at| format!(" (since {at})")).unwrap_or_default();
            let _ = writeln!(text, "problem: {}{since}: {}", problem.reason, problem.message);
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
            let preflight = report.and_then(|status| status.preflight.as_ref());
            for line in preflight.and_then(|answer| answer.failure.as_ref()).iter().flat_map(|f| &f.log_tail)
            {
                let _ = writeln!(text, "  log of the candidate: {line}");
            }
        }
    }
    plugins(&mut text, &status.plugins, &status.keys, nodes);
    table_of(&mut text, migrations);
    text
}

/// One line for each resource. Lines below it show what failed, was refused, or is waited for.
fn table_of(text: &mut String, migrations: &[EncryptionMigration]) {
    if migrations.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{:<24} {:<5} {:<10} {:<16} FAILED", "RESOURCE", "KEY", "PHASE", "DONE");
    for migration in migrations {
        let (spec, report) = (&migration.spec, migration.status.clone().unwrap_or_default());
        let failed = report.failed.max(u64::try_from(report.failures.len()).unwrap_or_default());
        let _ = writeln!(
            text,
            "{:<24} {:<5} {:<10} {:<16} {}",
            spec.resource,
            spec.key_id.to_string(),
            format!("{:?}", report.phase),
            format!("{} of {}", report.done, report.total),
            if failed == 0 { "–".to_owned() } else { failed.to_string() },
        );
        if migration.metadata.generation.is_some_and(|generation| report.observed_generation < generation) {
            let _ = writeln!(
                text,
                "  this describes an earlier attempt; attempt {} has not started",
                spec.attempt
            );
        }
        if let Some(refused) = &report.refused {
            let _ = writeln!(text, "  refused: {refused}");
        }
        if let Some(waiting) = &report.waiting {
            let _ = writeln!(text, "  waiting since {}: {}", waiting.since, waiting.message);
        }
        if let Some(first) = report.failures.first() {
            let _ = writeln!(text, "  {}: {}", first.object, first.message);
        }
        if failed > 1 {
            let _ = writeln!(
                text,
                "  and {} more; kubectl get encryptionmigrations {} -o yaml names the first hundred",
                failed - 1,
                migration.metadata.name.as_deref().unwrap_or_default()
            );
        }
        if report.phase == MigrationPhase::Failed {
            let _ = writeln!(
                text,
                "  older keys stay in the configuration; the operator retries after at most 30 minutes"
            );
        }
    }
}

/// Whether everything is as the spec asks now. A condition of an earlier generation does not show that.
/// Neither does a condition while no operator runs.
fn readiness(cluster: &ClusterEncryption, ready: Option<&Condition>, operator: &OperatorSeen) -> String {
    let generation = cluster.metadata.generation;
    let Some(ready) = ready else { return "ready: unknown; the operator has not set it yet".to_owned() };
    if ready.observed_generation < generation {
        let of = ready.observed_generation.unwrap_or_default();
        return format!(
            "ready: unknown; the operator has not processed generation {} of the spec yet; for generation {of} it was {:?}",
            generation.unwrap_or_default(),
            ready.status
        );
    }
    let since = ready.last_transition_time.as_ref().map(|at| format!(" (since {at})")).unwrap_or_default();
    let recorded = format!("{:?} {}{since}: {}", ready.status, ready.reason, ready.message);
    if ready.status == ConditionStatus::True && !operator.is_running() {
        return format!("ready: unknown; an operator last recorded {recorded}");
    }
    format!("ready: {recorded}")
}

/// One line for each node and key. Lines below a plugin that is not healthy show what is wrong, what to do,
/// what happens to writes if its key is the write key, and the end of its log.
fn plugins(text: &mut String, plugins: &[PluginSummary], keys: &[KeyStatus], nodes: &[EncryptionNode]) {
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
        if ["Error", "Unhealthy"].contains(&plugin.status.as_str()) {
            if keys.iter().any(|key| key.key_id == plugin.key_id && key.role == "write") {
                text.push_str(&writes(plugin, nodes));
            }
            for line in log_of(nodes, plugin) {
                let _ = writeln!(text, "  log: {line}");
            }
        }
    }
}

/// What happens to writes under a key whose plugin fails. kube-apiserver continues to write as long as Status
/// returns the same key id, even if `healthz` reports an error (kubernetes: unhealthy-status-extends-writes).
fn writes(plugin: &PluginSummary, nodes: &[EncryptionNode]) -> String {
    let fails_later = failures_of(nodes, plugin).any(Failure::is_after_status);
    let when = if plugin.status == "Unhealthy" || fails_later {
        format!("continue on {} while the plugin answers Status with the same key id", plugin.node)
    } else {
        let Some(at) = plugin.since.as_deref().and_then(writes_end) else { return String::new() };
        format!("may fail on {} from {at}", plugin.node)
    };
    format!(
        "  writes under key {} {when}; until its API server restarts, it can read what it has decrypted before: do not restart it\n",
        plugin.key_id
    )
}

/// When writes may begin to fail. kube-apiserver writes for three minutes after the last successful Status
/// (kubernetes: writes-stop-after-three-minutes) and polls Status each minute
/// (kubernetes: status-is-polled-each-minute). With the default probe interval the agent reports a failure
/// up to 35 seconds later.
fn writes_end(since: &str) -> Option<jiff::Timestamp> {
    since.parse::<jiff::Timestamp>().ok()?.checked_add(jiff::SignedDuration::from_secs(180 - 60 - 35)).ok()
}

/// The end of the log of a failing plugin, as its node's agent reports it, without secrets.
fn log_of<'a>(nodes: &'a [EncryptionNode], plugin: &PluginSummary) -> impl Iterator<Item = &'a String> {
    failures_of(nodes, plugin).flat_map(|failure| &failure.log_tail)
}

/// How a plugin fails, as its node's agent reports it.
fn failures_of<'a>(nodes: &'a [EncryptionNode], plugin: &PluginSummary) -> impl Iterator<Item = &'a Failure> {
    let (name, key_id) = (plugin.node.clone(), plugin.key_id);
    let node = nodes.iter().filter(move |node| node.metadata.name.as_deref() == Some(name.as_str()));
    let reported = node.filter_map(|node| node.status.as_ref()).flat_map(|status| &status.plugins);
    let failing = reported.filter(move |reported| reported.key_id == key_id);
    failing.filter_map(|reported| reported.health.failure.as_ref())
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
    use keyward_core::api::{
        ClusterEncryptionSpec, ClusterEncryptionStatus, EncryptionMigrationSpec, EncryptionMigrationStatus,
        EncryptionNodeSpec, EncryptionNodeStatus, HealthStatus, MigrationFailure, MigrationWait, NodePlugin,
        PluginHealth,
    };
    use keyward_core::ids::{KeyId, PluginDigest, RemoteKeyId};

    use super::*;

    #[test]
    fn ready_of_an_earlier_generation_is_shown_as_unknown() {
        let mut cluster = ClusterEncryption::new("cluster", ClusterEncryptionSpec::default());
        cluster.metadata.generation = Some(2);
        let mut ready = Condition::new("Ready", ConditionStatus::True, "AsRequested", "all of it");
        let runs = OperatorSeen::Running;
        ready.observed_generation = Some(1);
        assert!(readiness(&cluster, Some(&ready), &runs).starts_with("ready: unknown;"));
        ready.observed_generation = Some(2);
        assert_eq!(readiness(&cluster, Some(&ready), &runs), "ready: True AsRequested: all of it");
        assert!(readiness(&cluster, None, &runs).starts_with("ready: unknown;"));
    }

    #[test]
    fn ready_is_shown_as_unknown_while_no_operator_runs() {
        let mut cluster = ClusterEncryption::new("cluster", ClusterEncryptionSpec::default());
        cluster.metadata.generation = Some(2);
        let mut ready = Condition::new("Ready", ConditionStatus::True, "AsRequested", "all of it");
        ready.observed_generation = Some(2);
        let status =
            ClusterEncryptionStatus { conditions: vec![ready], ..ClusterEncryptionStatus::default() };
        cluster.status = Some(status);
        let stopped = OperatorSeen::Stopped { last_renewed: "2026-05-08T12:34:56Z".parse().unwrap() };
        let text = render(&cluster, &[], &[], &stopped);
        assert!(text.starts_with("warning: no operator has run since 2026-05-08T12:34:56Z"), "{text}");
        for operator in [stopped, OperatorSeen::Never, OperatorSeen::Unknown { why: "forbidden".into() }] {
            let text = render(&cluster, &[], &[], &operator);
            assert!(text.starts_with("warning: ") && !text.contains("ready: True"), "{text}");
        }
        assert!(render(&cluster, &[], &[], &OperatorSeen::Running).starts_with("ready: True "));
    }

    #[test]
    fn failing_plugin_is_shown_with_the_end_of_writes_and_the_end_of_its_log() {
        let summary = PluginSummary {
            node: "cp-1".into(),
            key_id: KeyId(2),
            status: "Error".into(),
            remote_key_id: None,
            since: Some("2026-05-08T12:34:56Z".into()),
            detail: "start: exit code 3; its log is in keyward status".into(),
            remedy: String::new(),
        };
        let failure = Failure { log_tail: vec!["no such flag".into()], ..Default::default() };
        let plugin = NodePlugin {
            key_id: KeyId(2),
            digest: PluginDigest("d".into()),
            ready: false,
            health: PluginHealth {
                status: HealthStatus::Error,
                remote_key_id: RemoteKeyId("unknown".into()),
                last_checked_time: String::new(),
                detail: None,
                failure: Some(failure),
            },
            repairs: 0,
        };
        let mut node = EncryptionNode::new("cp-1", EncryptionNodeSpec::default());
        node.status = Some(EncryptionNodeStatus { plugins: vec![plugin], ..Default::default() });
        let shown = |summary: &PluginSummary, role: &str| {
            let key = json!({"keyID": 2, "mode": "KMS", "role": role});
            let key: KeyStatus = serde_json::from_value(key).unwrap();
            let mut text = String::new();
            plugins(&mut text, std::slice::from_ref(summary), &[key], std::slice::from_ref(&node));
            text
        };
        let text = shown(&summary, "write");
        let expected = "writes under key 2 may fail on cp-1 from 2026-05-08T12:36:21Z;";
        assert!(text.contains(expected) && text.contains("  log: no such flag\n"), "{text}");
        let text = shown(&summary, "read");
        assert!(!text.contains("writes under key") && text.contains("  log: no such flag\n"), "{text}");
        let text = shown(&PluginSummary { status: "Unhealthy".into(), ..summary }, "write");
        let expected =
            "writes under key 2 continue on cp-1 while the plugin answers Status with the same key id";
        assert!(text.contains(expected) && !text.contains("may fail"), "{text}");
    }

    #[test]
    fn each_plugin_has_one_line_and_below_it_the_error_and_the_remedy() {
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
            &[],
            &[],
        );
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[2], ["cp-1", "2", "Healthy", "2026-05-08T12:34:56Z", "kek-7"]);
        assert_eq!(lines[3], ["cp-2", "2", "Error", "2026-05-08T12:34:56Z", "kek-7"]);
        assert_eq!((lines[4].join(" "), lines[5].join(" ")), ("status: sealed".into(), "Unseal it".into()));
    }

    fn migration(status: EncryptionMigrationStatus) -> EncryptionMigration {
        let spec =
            EncryptionMigrationSpec { resource: "secrets".into(), key_id: KeyId(2), ..Default::default() };
        let mut migration = EncryptionMigration::new("encryption-migration-core-secrets", spec);
        migration.metadata.generation = Some(1);
        migration.status = Some(EncryptionMigrationStatus { observed_generation: 1, ..status });
        migration
    }

    #[test]
    fn failed_migration_is_shown_with_its_first_object_and_the_api_servers_message() {
        let failures = ["n/a", "n/b"].map(|object| MigrationFailure {
            object: object.into(),
            message: "namespaces \"n\" not found; recreate the namespace".into(),
        });
        let status = EncryptionMigrationStatus {
            phase: MigrationPhase::Failed,
            done: 5,
            total: 7,
            failed: 2,
            failures: failures.into(),
            ..Default::default()
        };
        let mut text = String::new();
        table_of(&mut text, &[migration(status)]);
        for line in [
            "secrets                  2     Failed     5 of 7           2\n",
            "  n/a: namespaces \"n\" not found; recreate the namespace\n",
            "  and 1 more; kubectl get encryptionmigrations encryption-migration-core-secrets -o yaml",
            "  older keys stay in the configuration; the operator retries",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn refused_and_waiting_migrations_show_the_reason() {
        let refused = EncryptionMigrationStatus {
            phase: MigrationPhase::Failed,
            refused: Some("widgets.example.com is not served; recreate it".into()),
            ..Default::default()
        };
        let waits = EncryptionMigrationStatus {
            phase: MigrationPhase::Running,
            waiting: Some(MigrationWait {
                since: "2026-05-08T12:34:56Z".into(),
                message: "paused: no".into(),
            }),
            ..Default::default()
        };
        let mut earlier = migration(EncryptionMigrationStatus::default());
        (earlier.metadata.generation, earlier.spec.attempt) = (Some(2), 1);
        let mut text = String::new();
        table_of(&mut text, &[migration(refused), migration(waits), earlier]);
        for line in [
            "  refused: widgets.example.com is not served; recreate it\n",
            "  waiting since 2026-05-08T12:34:56Z: paused: no\n",
            "  this describes an earlier attempt; attempt 1 has not started\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let mut text = String::new();
        let done = EncryptionMigrationStatus { phase: MigrationPhase::Succeeded, ..Default::default() };
        table_of(&mut text, &[migration(done)]);
        assert_eq!(text.trim().lines().count(), 2, "a migration that succeeded has no further line: {text}");
    }
}
