//! `keyward pause` and `keyward resume`: write `spec.paused`, on condition that the object is as it was read.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args as ClapArgs;
use keyward_core::api::{ClusterEncryption, EncryptionNode, Pause as Paused};
use serde_json::json;

use crate::connection::Connection;
use crate::output::print;
use crate::wishes::{cluster_encryption, write};

/// Pause.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "The operator finishes its current reconcile pass, the migration engine its writes in flight; then both stop. Health and\nstatus continue. Agents continue too: to pause the agent of a node, create /etc/kubernetes/keyward/paused on it.\n\nExample:\n  keyward pause --reason 'the KMS is being moved' --by ada"
)]
pub(crate) struct Pause {
    /// Why; shown to everybody who finds the cluster paused
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who pauses it [default: the user of this shell]
    #[arg(long, value_name = "NAME", env = "USER")]
    by: String,
    /// Replace the pause of somebody else
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Resume.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "It first lists the withheld writes, as keyward status does. The operator decides again before it writes.\n\nExample:\n  keyward resume"
)]
pub(crate) struct Resume {
    #[command(flatten)]
    connection: Connection,
}

/// Sets `spec.paused`.
pub(crate) async fn pause(args: Pause) -> Result<ExitCode> {
    for (name, text) in [("--reason", &args.reason), ("--by", &args.by)] {
        ensure!(!text.trim().is_empty(), "{name} is empty; say who pauses Keyward, and why");
    }
    let client = args.connection.client().await?;
    let found = cluster_encryption(&client).await?;
    if let Some(other) = found.spec.paused.as_ref().filter(|other| other.by != args.by && !args.replace) {
        bail!(
            "Keyward is already paused by {}: {}; to replace that pause, add --replace",
            other.by,
            other.reason
        );
    }
    let paused = Paused { reason: args.reason, by: args.by };
    write(&client, &found, json!({ "paused": paused })).await?;
    print(
        "paused: the operator finishes its current reconcile pass, then writes only the status; keyward status lists what it withholds\n",
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Removes `spec.paused`.
pub(crate) async fn resume(args: Resume) -> Result<ExitCode> {
    let client = args.connection.client().await?;
    let found = cluster_encryption(&client).await?;
    if found.spec.paused.is_none() {
        print("Keyward is not paused\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&withheld(&found))?;
    write(&client, &found, json!({ "paused": null })).await.context("the pause was not removed")?;
    print("resumed\n")?;
    Ok(ExitCode::SUCCESS)
}

/// The pause and the writes that follow it; empty if there is no pause.
pub(crate) fn withheld(cluster: &ClusterEncryption) -> String {
    let mut text = String::new();
    let Some(paused) = &cluster.spec.paused else { return text };
    let status = cluster.status.as_ref();
    // The list of another generation is about another spec.
    let current =
        status.is_some_and(|status| Some(status.observed_generation) == cluster.metadata.generation);
    let seen = status.and_then(|status| status.paused.as_ref()).filter(|_| current);
    let since =
        seen.and_then(|seen| seen.since.as_ref()).map(|at| format!(" since {at}")).unwrap_or_default();
    let _ = writeln!(text, "paused: by {}{since}: {}", paused.by, paused.reason);
    match seen {
        None => text.push_str("  the operator has not yet reported what it withholds\n"),
        Some(seen) if seen.withheld.is_empty() => {
            text.push_str("  if you resume now, nothing is written\n");
        }
        Some(seen) => {
            text.push_str("  after resume the operator first writes:\n");
            list(&mut text, &seen.withheld);
        }
    }
    text
}

/// Nodes whose agents are paused, and what these agents withhold.
pub(crate) fn nodes(nodes: &[EncryptionNode]) -> String {
    let mut text = String::new();
    for node in nodes {
        let Some(paused) = node.status.as_ref().and_then(|status| status.paused.as_ref()) else { continue };
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let since = paused.since.as_ref().map(|at| format!(" since {at}")).unwrap_or_default();
        let _ = writeln!(text, "paused: the agent of node {name}{since}: {}", paused.reason);
        if paused.withheld.is_empty() {
            text.push_str("  it withholds nothing\n");
        } else {
            text.push_str("  it withholds, until /etc/kubernetes/keyward/paused on the node is deleted:\n");
            list(&mut text, &paused.withheld);
        }
    }
    text
}

fn list(text: &mut String, lines: &[String]) {
    for (index, line) in (1..).zip(lines) {
        let _ = writeln!(text, "    {index}. {line}");
    }
}

#[cfg(test)]
mod tests {
    use keyward_core::api::{ClusterEncryptionSpec, ClusterEncryptionStatus, PauseStatus};
    use keyward_core::names;

    use super::*;

    fn paused(observed: i64) -> ClusterEncryption {
        let pause = Paused { reason: "the KMS moves".into(), by: "ada".into() };
        let spec = ClusterEncryptionSpec { paused: Some(pause), ..Default::default() };
        let mut cluster = ClusterEncryption::new(names::CLUSTER, spec);
        cluster.metadata.generation = Some(2);
        let seen = PauseStatus {
            by: "ada".into(),
            reason: "the KMS moves".into(),
            since: Some("2026-05-08T12:34:56Z".into()),
            withheld: vec!["ApplyConfig revision 4".into()],
        };
        let status = ClusterEncryptionStatus {
            observed_generation: observed,
            paused: Some(seen),
            ..Default::default()
        };
        cluster.status = Some(status);
        cluster
    }

    #[test]
    fn withheld_writes_are_listed_only_if_they_were_decided_for_this_spec() {
        let text = withheld(&paused(2));
        assert!(text.starts_with("paused: by ada since 2026-05-08T12:34:56Z: the KMS moves\n"), "{text}");
        assert!(text.contains("    1. ApplyConfig revision 4\n"), "{text}");
        let text = withheld(&paused(1));
        assert!(text.contains("has not yet reported") && !text.contains("ApplyConfig"), "{text}");
        let mut other = paused(2);
        other.spec.paused = None;
        assert_eq!(withheld(&other), "");
    }
}
